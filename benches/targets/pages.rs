//! Paged caches, beside dense ones with the same rows.

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, Format, PagedConfig, PagedKvCache, PagedSource, Result, RowsIn,
    Source, Strides, Write,
    attention::{Attention, Options, Tensors},
    pages::{Append, SequenceId},
};

use crate::{DIM, HEADS, LAYERS, Reach, Table, buffer, medians};

/// A dense cache with sources for its layers.
struct Dense {
    cache: BatchedKvCache,
    sources: Vec<BoundSource>,
}

impl Dense {
    fn new(context: &Context, config: CacheConfig, layers: usize, source: &Source<'_>) -> Result<Self> {
        let cache = BatchedKvCache::new(context, config, layers)?;
        let sources = cache.layers().iter().map(|layer| layer.bind_source(source)).collect::<Result<_>>()?;
        Ok(Dense { cache, sources })
    }

    fn record(&mut self, encoder: &mut wgpu::CommandEncoder, write: Write<'_>) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.cache.begin_step(&mut pass, write)?;
        let mut sources = self.sources.iter().enumerate();
        sources.try_for_each(|(layer, source)| self.cache.record_update(layer, &mut pass, source))
    }
}

/// A paged and a dense cache with the same sequences.
struct Both {
    paged: PagedKvCache,
    ids: Vec<SequenceId>,
    paged_sources: Vec<PagedSource>,
    dense: Dense,
    /// Another, whose sequences have different lengths.
    ragged: Dense,
    /// Tokens that a step appends to each sequence, and those before.
    tokens: Vec<u32>,
    before: u32,
}

impl Both {
    /// `batch` sequences of `before` positions, to each of which steps append `tokens`, in pages of `page_size`.
    fn new(context: &Context, [batch, before, tokens, page_size]: [u32; 4], layers: usize) -> Result<Self> {
        // As much memory for each.
        let room = (before + tokens).next_multiple_of(page_size);
        let config = CacheConfig::new(batch, HEADS, DIM, room).formats(Format::F16, Format::F16);
        let pages = PagedConfig::new(config, layers, page_size, batch * room.div_ceil(page_size));
        let mut paged = PagedKvCache::new(context, &pages)?;
        let bytes = u64::from(batch * HEADS * before.max(tokens) * DIM) * 2;
        let (keys, values) = (buffer(context, bytes), buffer(context, bytes));
        let most = batch * before.max(tokens);
        let packed =
            |buffer| RowsIn { buffer, offset: 0, format: Format::F16, strides: Strides::bthd(HEADS, most, DIM) };
        let source = Source { keys: packed(&keys), values: packed(&values), tokens: most };
        // The same rows: each sequence has its tokens after those of the sequence before it.
        let most_of_one = before.max(tokens);
        let strided = |buffer| RowsIn { strides: Strides::bthd(HEADS, most_of_one, DIM), ..packed(buffer) };
        let dense_source = Source { keys: strided(&keys), values: strided(&values), tokens: most_of_one };
        let ids = (0..batch).map(|_| paged.add(&[], None).map(|added| added.sequence)).collect::<Result<_>>()?;
        let mut both = Both {
            paged_sources: (0..layers).map(|layer| paged.bind_source(layer, &source)).collect::<Result<_>>()?,
            dense: Dense::new(context, config, layers, &dense_source)?,
            ragged: Dense::new(context, config, layers, &dense_source)?,
            paged,
            ids,
            tokens: vec![7; tokens as usize],
            before,
        };
        let first = vec![7; before as usize];
        if before > 0 {
            let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            both.record_paged(&mut encoder, &first)?;
            both.dense.record(&mut encoder, Write::at(0, before))?;
            both.ragged.record(&mut encoder, Write::at(0, before))?;
            context.queue().submit([encoder.finish()]);
            both.paged.submitted()?;
        }
        Ok(both)
    }

    fn record_paged(&mut self, encoder: &mut wgpu::CommandEncoder, tokens: &[u32]) -> Result<()> {
        let appends: Vec<_> = self.ids.iter().map(|&id| Append::new(id, tokens)).collect();
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.paged.begin_step(&mut pass, &appends)?;
        let mut sources = self.paged_sources.iter().enumerate();
        sources.try_for_each(|(layer, source)| self.paged.record_update(layer, &mut pass, source))
    }

    /// Ends the step before, takes its tokens back, and records the same again.
    fn record_paged_again(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if self.paged.sequences().step().is_some() {
            self.paged.submitted()?;
        }
        self.ids.iter().try_for_each(|&id| self.paged.truncate(id, self.before))?;
        let tokens = std::mem::take(&mut self.tokens);
        let recorded = self.record_paged(encoder, &tokens);
        self.tokens = tokens;
        recorded
    }

    fn record_dense(&mut self, encoder: &mut wgpu::CommandEncoder, position: u32, tokens: u32) -> Result<()> {
        self.dense.record(encoder, Write::at(position, tokens))
    }

    /// As a batch of a server, whose sequences have different lengths.
    fn record_ragged(&mut self, encoder: &mut wgpu::CommandEncoder, position: u32, tokens: u32) -> Result<()> {
        let positions: Vec<u32> = (0..).zip(&self.ids).map(|(index, _)| position.saturating_sub(index % 7)).collect();
        self.ragged.record(encoder, Write::at_each(&positions, tokens))
    }
}

/// All rows about pages.
pub fn rows(context: &Context, repetitions: usize, whole: bool, table: &mut Table) -> Result<()> {
    for page_size in if whole { vec![8, 16, 32, 64, 256] } else { vec![16] } {
        let of_pages = format!("pages of {page_size}");
        for (what, shape, layers, most) in [
            (format!("decode step, {LAYERS} layers, batch 32, {of_pages}"), [32, 64, 1, page_size], LAYERS, 1.05),
            (format!("prefill of 2048 tokens, {of_pages}"), [1, 0, 2048, page_size], 1, 1.1),
        ] {
            let both = std::cell::RefCell::new(Both::new(context, shape, layers)?);
            let [_, before, tokens, _] = shape;
            let times = medians(
                context,
                repetitions,
                &mut [
                    Box::new(|encoder| both.borrow_mut().record_paged_again(encoder)),
                    Box::new(|encoder| both.borrow_mut().record_dense(encoder, before, tokens)),
                    Box::new(|encoder| both.borrow_mut().record_ragged(encoder, before, tokens)),
                ],
            )?;
            table.row(&what, "the dense kernels", Reach::AtMost(most), times[0] / times[1], " × its time");
            if shape[0] > 1 {
                table.row(&what, "dense, of other lengths", Reach::AtMost(most), times[0] / times[2], " × its time");
            }
        }
        attention(context, repetitions.min(21), page_size, table)?;
    }
    Ok(())
}

/// Attention of one token over 8192 positions.
fn attention(context: &Context, repetitions: usize, page_size: u32, table: &mut Table) -> Result<()> {
    let mut both = Both::new(context, [1, 8191, 1, page_size], 1)?;
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    both.record_paged_again(&mut encoder)?;
    both.record_dense(&mut encoder, 8191, 1)?;
    context.queue().submit([encoder.finish()]);
    both.paged.submitted()?;
    let heads = 4 * HEADS;
    let bytes = u64::from(heads * DIM) * 4;
    let (queries, output) = (buffer(context, bytes), buffer(context, bytes));
    let dense = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(heads, 1, DIM) };
    let tensors = Tensors { queries: dense(&queries), output: dense(&output), mask: None, sink_logits: None };
    let (paged, linear) = (both.paged.layer(0)?, both.dense.cache.layer(0)?);
    let over_pages = Attention::new(&paged, &Options::last(heads, 1), &tensors)?;
    let over_linear = Attention::new(linear, &Options::last(heads, 1), &tensors)?;
    let times = medians(
        context,
        repetitions,
        &mut [
            Box::new(|encoder| over_pages.record(&paged, encoder)),
            Box::new(|encoder| over_linear.record(linear, encoder)),
        ],
    )?;
    let what = format!("attention over 8192 positions, pages of {page_size}");
    table.row(&what, "over linear placement", Reach::AtMost(1.1), times[0] / times[1], " × its time");
    Ok(())
}
