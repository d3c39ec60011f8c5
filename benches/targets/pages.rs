//! Paged caches, beside dense ones with the same rows.

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, Format, PagedConfig, PagedKvCache, PagedSource, Result, RowsIn,
    Source, Strides, Write,
    attention::{Attention, Options, Tensors},
    pages::{Append, SequenceId},
};

use crate::{DIM, HEADS, LAYERS, Reach, Table, buffer, extra_of_first, medians};

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
        // A batch of one sequence would be in lockstep: beside it is one that gets no rows.
        let ragged_batch = batch.max(2);
        let bytes = u64::from(ragged_batch * HEADS * before.max(tokens) * DIM) * 2;
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
            ragged: Dense::new(
                context,
                CacheConfig { batch_size: ragged_batch, max_batch_size: ragged_batch, ..config },
                layers,
                &dense_source,
            )?,
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
        if self.ids.len() == 1 {
            return self.ragged.record(encoder, Write::at(position, tokens).counts(&[tokens, 0]));
        }
        let positions: Vec<u32> = (0..).zip(&self.ids).map(|(index, _)| position.saturating_sub(index % 7)).collect();
        self.ragged.record(encoder, Write::at_each(&positions, tokens))
    }
}

/// The medians of what some caches took, one after the other, with a part of the repetitions each: how fast a cache is
/// depends on where its memory lies.
fn of_caches(repetitions: usize, mut measure: impl FnMut(usize) -> Result<Vec<f64>>) -> Result<Vec<f64>> {
    let caches = repetitions.min(7);
    let mut times: Vec<Vec<f64>> = Vec::new();
    for _ in 0..caches {
        let medians = measure(repetitions.div_ceil(caches))?;
        times.resize(medians.len(), Vec::new());
        times.iter_mut().zip(medians).for_each(|(times, median)| times.push(median));
    }
    let median = |mut times: Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok(times.into_iter().map(median).collect())
}

/// All rows about pages.
pub fn rows(context: &Context, repetitions: usize, whole: bool, table: &mut Table) -> Result<()> {
    for page_size in if whole { vec![8, 16, 32, 64, 256] } else { vec![16] } {
        let of_pages = format!("pages of {page_size}");
        for (what, shape, layers, most) in [
            (format!("decode step, {LAYERS} layers, batch 32, {of_pages}"), [32, 64, 1, page_size], LAYERS, 1.05),
            (format!("prefill of 2048 tokens, 8 layers, {of_pages}"), [1, 0, 2048, page_size], 8, 1.1),
        ] {
            let [_, before, tokens, _] = shape;
            let times = of_caches(repetitions, |repetitions| {
                let both = std::cell::RefCell::new(Both::new(context, shape, layers)?);
                medians(
                    context,
                    repetitions,
                    &mut [
                        Box::new(|encoder| both.borrow_mut().record_paged_again(encoder)),
                        Box::new(|encoder| both.borrow_mut().record_dense(encoder, before, tokens)),
                        Box::new(|encoder| both.borrow_mut().record_ragged(encoder, before, tokens)),
                    ],
                )
            })?;
            table.row(&what, "the dense kernels", Reach::AtMost(most), times[0] / times[1], " × its time");
            table.row(&what, "dense, of other lengths", Reach::AtMost(most), times[0] / times[2], " × its time");
        }
        attention(context, repetitions.min(49), page_size, table)?;
    }
    first_step(context, table)?;
    forks(context, repetitions.min(21), table)
}

/// The extra time of the first step, with and without a warm-up.
fn first_step(context: &Context, table: &mut Table) -> Result<()> {
    let mut extra = Vec::new();
    for warm in [false, true] {
        // A new context has no pipelines yet, so the first step makes them.
        let context = Context::new(context.device(), context.queue());
        let mut both = Both::new(&context, [1, 0, 2048, 16], 1)?;
        if warm {
            both.paged.warm_up(&both.paged_sources)?;
        }
        extra.push(extra_of_first(&context, |encoder, _| both.record_paged_again(encoder))?);
    }
    let what = "first step of 2048 tokens after warm_up, pages of 16, extra time";
    table.row(what, "a later step", Reach::AtMost(2.0), extra[1], " ms");
    table.note(&format!("without warm_up {:.3} ms", extra[0]));
    Ok(())
}

/// A prompt with a partly filled last page, and sequences that are forked from it.
struct Forks {
    cache: PagedKvCache,
    sources: Vec<PagedSource>,
    prompt: SequenceId,
    forks: Vec<SequenceId>,
}

impl Forks {
    const PAGE: u32 = 16;
    /// Tokens that forks have of the prompt: the last page is filled by half.
    const SHARED: u32 = 72;

    /// A prompt that is one token longer than what forks have of it.
    fn new(context: &Context, forks: u32) -> Result<Self> {
        let length = Self::SHARED + 1;
        let config = CacheConfig::new(forks + 1, HEADS, DIM, 128).formats(Format::F16, Format::F16);
        let mut cache = PagedKvCache::new(context, &PagedConfig::new(config, LAYERS, Self::PAGE, 8 + 2 * forks))?;
        let bytes = u64::from(length.max(forks) * HEADS * DIM) * 2;
        let (keys, values) = (buffer(context, bytes), buffer(context, bytes));
        let tokens = length.max(forks);
        let rows_in =
            |buffer| RowsIn { buffer, offset: 0, format: Format::F16, strides: Strides::bthd(HEADS, tokens, DIM) };
        let source = Source { keys: rows_in(&keys), values: rows_in(&values), tokens };
        let sources = (0..LAYERS).map(|layer| cache.bind_source(layer, &source)).collect::<Result<_>>()?;
        let prompt = cache.add(&[], None)?.sequence;
        let mut forks = Forks { cache, sources, prompt, forks: Vec::new() };
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        forks.append(&mut encoder, &[Append::new(prompt, &vec![7; length as usize])])?;
        context.queue().submit([encoder.finish()]);
        forks.cache.submitted()?;
        Ok(forks)
    }

    fn append(&mut self, encoder: &mut wgpu::CommandEncoder, appends: &[Append<'_>]) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.cache.begin_step(&mut pass, appends)?;
        let mut sources = self.sources.iter().enumerate();
        sources.try_for_each(|(layer, source)| self.cache.record_update(layer, &mut pass, source))
    }

    /// Ends the step and the forks before, and forks again.
    fn fork(&mut self, count: u32) -> Result<()> {
        if self.cache.sequences().step().is_some() {
            self.cache.submitted()?;
        }
        self.forks.drain(..).try_for_each(|id| self.cache.free(id))?;
        self.forks = (0..count).map(|_| self.cache.fork(self.prompt, Self::SHARED)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Appends a token to the first of the forks, and checks how many rows are copied for that.
    fn write(&mut self, encoder: &mut wgpu::CommandEncoder, writers: u32, copied: u32) -> Result<()> {
        let appends: Vec<_> = self.forks[..writers as usize].iter().map(|&id| Append::new(id, &[7])).collect();
        self.append(encoder, &appends)?;
        let copies = &self.cache.sequences().step().expect("it was begun").copies;
        assert_eq!(copies.iter().map(|copy| copy.rows).sum::<u32>(), copied);
        Ok(())
    }

    /// Ends the step before, and appends a token to the prompt, which needs no copy.
    fn go_on(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.fork(0)?;
        self.cache.truncate(self.prompt, Self::SHARED + 1)?;
        self.append(encoder, &[Append::new(self.prompt, &[7])])
    }

    /// Gives every fork a tail of its own, as a copy at the fork would.
    fn copy_tails(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let appends: Vec<_> = self.forks.iter().map(|&id| Append::new(id, &[7])).collect();
        let copies = self.cache.begin_step(encoder, &appends)?.copies.len();
        assert_eq!(copies, self.forks.len());
        (0..LAYERS).try_for_each(|layer| self.cache.record_advance(layer))?;
        self.cache.submitted()
    }
}

/// Copies of a shared tail on write, which writers pay for, against copies at the fork, which every fork pays for. The
/// prompt has gone on, so that no fork may write to its page.
pub fn forks(context: &Context, repetitions: usize, table: &mut Table) -> Result<()> {
    let (mut one, mut none) = (Forks::new(context, 1)?, Forks::new(context, 1)?);
    let times = medians(
        context,
        repetitions,
        &mut [
            Box::new(|encoder| {
                one.fork(1)?;
                one.write(encoder, 1, Forks::SHARED % Forks::PAGE)
            }),
            Box::new(|encoder| none.go_on(encoder)),
        ],
    )?;
    let what = format!("a step that copies one tail, {LAYERS} layers");
    table.row(&what, "a step that copies none", Reach::AtMost(2.0), times[0] / times[1], " × its time");
    for count in [8, 32] {
        for writers in [1, count / 2, count] {
            let mut on_write = Forks::new(context, count)?;
            let mut at_fork = Forks::new(context, count)?;
            let tail = Forks::SHARED % Forks::PAGE;
            let times = medians(
                context,
                repetitions,
                &mut [
                    Box::new(|encoder| {
                        on_write.fork(count)?;
                        on_write.write(encoder, writers, writers * tail)
                    }),
                    Box::new(|encoder| {
                        at_fork.fork(count)?;
                        at_fork.copy_tails(encoder)?;
                        at_fork.write(encoder, writers, 0)
                    }),
                ],
            )?;
            let what = format!("{count} forks, of which {writers} write, {LAYERS} layers");
            table.row(&what, "tails copied at the fork", Reach::AtMost(1.0), times[0] / times[1], " × its time");
            table.note(&format!("copied on write {:.3} ms, at the fork {:.3} ms", times[0] * 1e3, times[1] * 1e3));
        }
    }
    Ok(())
}

/// Attention of one token over 8192 positions.
fn attention(context: &Context, repetitions: usize, page_size: u32, table: &mut Table) -> Result<()> {
    let times = of_caches(repetitions, |repetitions| attention_over(context, repetitions, page_size))?;
    let what = format!("attention over 8192 positions, pages of {page_size}");
    table.row(&what, "over linear placement", Reach::AtMost(1.1), times[0] / times[1], " × its time");
    Ok(())
}

/// Seconds over pages, and over linear placement.
fn attention_over(context: &Context, repetitions: usize, page_size: u32) -> Result<Vec<f64>> {
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
    medians(
        context,
        repetitions,
        &mut [
            Box::new(|encoder| over_pages.record(&paged, encoder)),
            Box::new(|encoder| over_linear.record(linear, encoder)),
        ],
    )
}
