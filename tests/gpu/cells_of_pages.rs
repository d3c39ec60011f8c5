//! The column of pages in the README's table. Each cell is a test of that name. What a dense cache does by index, a
//! pool does by handles: `select` is forks, `clear_sequence` ends a sequence and adds another.

use libtest_mimic::Failed;
use wgpu_kv_cache::{
    CacheConfig, Context, Format, GpuTensor, HostTensor, KvCache, PagedConfig, PagedKvCache, Pair, RowsIn, Side,
    Source, Strides, Write,
    attention::{Options, attend},
    pages::{Append, SequenceId},
    wgpu,
};

use crate::{
    reading::{How, read_by_text},
    rows::numbers,
};

/// Keys fill two blocks and part of a third, and values part of one, as in the other cells.
fn config(format: Format) -> CacheConfig {
    CacheConfig::new(2, 2, 72, 40).value_dim(24).max_batch_size(4).formats(format, format).scales(0.37, 1.9)
}

/// A dense cache of two sequences, and a pool with the same rows in pages of 4.
struct Both {
    dense: KvCache,
    paged: PagedKvCache,
    ids: Vec<SequenceId>,
}

/// Rows of tokens, `[token, head, dim]`, which follow from the tokens and their positions.
fn rows(config: &CacheConfig, side: Side, parts: &[(u32, &[u32])]) -> Vec<f32> {
    let row = |position: u32, token: u32, head: u32| {
        let seed = 1 + token * 64 + position + if side == Side::Keys { 0 } else { 100_000 };
        numbers(config.dim(side) as usize, seed * 2 + head)
    };
    let of = |&(start, tokens): &(u32, &[u32])| {
        let tokens = (start..).zip(tokens.to_vec());
        tokens
            .flat_map(|(position, token)| (0..config.num_heads).flat_map(move |head| row(position, token, head)))
            .collect::<Vec<f32>>()
    };
    parts.iter().flat_map(of).collect()
}

impl Both {
    fn new(context: &Context, format: Format) -> Result<Self, Failed> {
        let config = config(format);
        let dense = KvCache::new(context, config)?;
        let mut paged = PagedKvCache::new(context, &PagedConfig::new(config, 1, 4, 40))?;
        let ids = vec![paged.add(&[], None)?.sequence, paged.add(&[], None)?.sequence];
        let mut both = Both { dense, paged, ids };
        both.append(&[&[5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6], &[3, 1, 4, 1, 5, 9, 2, 6, 5]])?;
        Ok(both)
    }

    /// Appends tokens to each sequence of both.
    fn append(&mut self, tokens: &[&[u32]]) -> Result<(), Failed> {
        let config = *self.dense.config();
        let starts = self.dense.lengths().to_vec();
        let parts: Vec<_> = starts.iter().copied().zip(tokens.iter().copied()).collect();
        let packed = Side::BOTH.map(|side| rows(&config, side, &parts));
        let appends: Vec<_> = self.ids.iter().zip(tokens).map(|(&id, tokens)| Append::new(id, tokens)).collect();
        self.paged.append(&appends, &[Pair { keys: (&packed[0]).into(), values: (&packed[1]).into() }])?;
        let most = tokens.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let counts: Vec<u32> = tokens.iter().map(|tokens| tokens.len() as u32).collect();
        let strided = Side::BOTH.map(|side| {
            let (heads, dim) = (config.num_heads as usize, config.dim(side) as usize);
            let mut strided = vec![0.0; tokens.len() * heads * most * dim];
            for (sequence, part) in parts.iter().enumerate() {
                for (at, row) in rows(&config, side, &[*part]).chunks_exact(dim).enumerate() {
                    let to = ((sequence * heads + at % heads) * most + at / heads) * dim;
                    strided[to..to + dim].copy_from_slice(row);
                }
            }
            strided
        });
        self.dense.update(&strided[0], &strided[1], Write::append(most as u32).counts(&counts))?;
        Ok(())
    }

    /// Compares all rows.
    fn compare(&self) -> Result<(), Failed> {
        for (sequence, &id) in (0..).zip(&self.ids) {
            let length = self.dense.lengths()[sequence as usize];
            assert_eq!(self.paged.sequences().length(id)?, length, "length of sequence {sequence}");
            if length > 0 {
                same(&self.paged.get(0, id, 0..length)?, &self.dense.extract(sequence)?)?;
            }
        }
        Ok(())
    }
}

fn same(a: &Pair<GpuTensor>, b: &Pair<GpuTensor>) -> Result<(), Failed> {
    let (a, b) = (a.read()?, b.read()?);
    assert_eq!(a.keys.bytes(), b.keys.bytes(), "keys");
    assert_eq!(a.values.bytes(), b.values.bytes(), "values");
    Ok(())
}

pub fn cell(context: &Context, format: Format, operation: &str) -> Result<(), Failed> {
    let mut both = Both::new(context, format)?;
    match operation {
        "update" => {
            both.append(&[&[], &[1, 2, 3, 4, 5]])?;
            record(&mut both)?;
        }
        "record_advance" => advance(&mut both)?,
        "get" => {
            let positions = |tensor: &HostTensor, range: std::ops::Range<usize>| {
                let row = tensor.bytes().len() / (2 * 11);
                let of_head =
                    |head: usize| &tensor.bytes()[(head * 11 + range.start) * row..(head * 11 + range.end) * row];
                [of_head(0), of_head(1)].concat()
            };
            let all = both.dense.extract(0)?.read()?;
            let part = both.paged.get(0, both.ids[0], 3..9)?.read()?;
            assert_eq!(part.keys.bytes(), positions(&all.keys, 3..9));
            assert_eq!(part.values.bytes(), positions(&all.values, 3..9));
        }
        "get_as" => {
            for wanted in Format::FLOATS {
                let dense = both.dense.get_as(0..11, wanted)?.read()?;
                let paged = both.paged.get_as(0, both.ids[0], 0..11, wanted)?.read()?;
                assert_eq!(paged.keys.bytes(), &dense.keys.bytes()[..paged.keys.bytes().len()], "keys as {wanted}");
                assert_eq!(paged.values.bytes(), &dense.values.bytes()[..paged.values.bytes().len()]);
            }
        }
        "get_all" | "extract" => {
            let (dense, paged) = (both.dense.extract(1)?, both.paged.extract(both.ids[1])?);
            same(&paged[0], &dense)?;
        }
        "truncate" => {
            both.dense.truncate(wgpu_kv_cache::PerSequence::Each(&[9, 4]))?;
            both.paged.truncate(both.ids[0], 9)?;
            both.paged.truncate(both.ids[1], 4)?;
        }
        "clear_sequence" => {
            both.dense.clear_sequence(1)?;
            both.paged.free(both.ids[1])?;
            assert!(both.paged.sequences().tokens(both.ids[1]).is_err());
            both.ids[1] = both.paged.add(&[], None)?.sequence;
        }
        "select" => forks(&mut both, &[1, 0, 1])?,
        "reorder" => forks(&mut both, &[1, 0])?,
        "repeat" => forks(&mut both, &[0, 0, 1, 1])?,
        "copy_sequence" => {
            both.dense.copy_sequence(0, 1)?;
            both.paged.free(both.ids[1])?;
            both.ids[1] = both.paged.fork(both.ids[0], 11)?;
        }
        "copy_range" => {
            both.dense.clear_sequence(1)?;
            both.dense.copy_range(0, 0..6, 1, 0)?;
            both.paged.free(both.ids[1])?;
            both.ids[1] = both.paged.fork(both.ids[0], 6)?;
        }
        "keep" => {
            both.dense.keep(0, 5, &[0, 2, 4])?;
            both.paged.keep(both.ids[0], 5, &[0, 2, 4])?;
        }
        "insert" => {
            // From dense to pages and back.
            let rows = both.dense.extract(0)?.read()?;
            let tokens = [5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6];
            let stored = [Pair { keys: rows.keys.rows(), values: rows.values.rows() }];
            let other = both.paged.insert(&tokens, Some("other"), &stored)?;
            let again = both.paged.insert(&tokens, None, &stored)?;
            assert_eq!(
                both.paged.sequences().pages(again, 0)?[..2],
                both.paged.sequences().pages(both.ids[0], 0)?[..2]
            );
            let back = both.paged.extract(other)?.remove(0).read()?;
            both.dense.insert(2, 11, back.keys.rows(), back.values.rows())?;
            same(&both.dense.extract(2)?, &both.dense.extract(0)?)?;
            both.ids.push(again);
        }
        "reset" => {
            both.dense.reset()?;
            both.paged.reset();
            assert_eq!(both.paged.sequences().free_pages(), 40);
            assert_eq!(both.paged.sequences().cached_pages(), 0);
            both.ids = vec![both.paged.add(&[], None)?.sequence, both.paged.add(&[], None)?.sequence];
        }
        "wgsl" => {
            both.append(&[&[4], &[]])?;
            for how in [How::Vectors, How::Units { wide: true }, How::Groups { elements: 16, wide: false }] {
                assert_eq!(read_by_text(&both.paged.layer(0)?, how)?, read_by_text(&both.dense, how)?, "{how:?}");
            }
        }
        "attention" => {
            both.append(&[&[4], &[5, 6]])?;
            let options = Options { splits: Some(1), ..Options::packed(4, 3) };
            let queries = numbers(3 * 4 * 72, 3);
            let actual = attend(&both.paged.layer(0)?, &options, &queries, None)?;
            assert_eq!(actual.bytes(), attend(&both.dense, &options, &queries, None)?.bytes());
        }
        other => return Err(format!("{other} is no operation").into()),
    }
    both.compare()?;
    // It goes on.
    let tokens: Vec<&[u32]> = both.ids.iter().map(|_| &[7u32, 8][..]).collect();
    both.append(&tokens)?;
    both.compare()
}

/// Replaces the sequences by forks of them.
fn forks(both: &mut Both, sources: &[u32]) -> Result<(), Failed> {
    both.dense.select(sources)?;
    let before = std::mem::take(&mut both.ids);
    let mut references = before.clone();
    for &source in sources {
        // There is room for four, so the first use takes the sequence itself.
        let id = before[source as usize];
        let fresh = match references.iter().position(|&other| other == id) {
            Some(at) => references.remove(at),
            None => both.paged.fork(id, both.paged.sequences().length(id)?)?,
        };
        both.ids.push(fresh);
    }
    Ok(())
}

/// A step from the caller's buffers, packed, in a pass.
fn record(both: &mut Both) -> Result<(), Failed> {
    let (config, context) = (*both.dense.config(), both.dense.context().clone());
    let tokens: [&[u32]; 2] = [&[9, 8, 7], &[6]];
    let starts = both.dense.lengths().to_vec();
    let parts: Vec<_> = starts.iter().copied().zip(tokens).collect();
    let buffers = Side::BOTH.map(|side| {
        let numbers = rows(&config, side, &parts);
        let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: numbers.len() as u64 * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        context.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(&numbers));
        buffer
    });
    let rows_in = |buffer, dim| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bthd(2, 4, dim) };
    let source = Source { keys: rows_in(&buffers[0], 72), values: rows_in(&buffers[1], 24), tokens: 4 };
    let bound = both.paged.bind_source(0, &source)?;
    let appends = [Append::new(both.ids[0], tokens[0]), Append::new(both.ids[1], tokens[1])];
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        both.paged.begin_step(&mut pass, &appends)?;
        both.paged.record_update(0, &mut pass, &bound)?;
    }
    context.queue().submit([encoder.finish()]);
    both.paged.submitted()?;
    assert_eq!(positions(&both.paged)[..3], [starts[0], starts[1], 0], "positions of the first rows");
    let mut strided = Side::BOTH.map(|side| vec![0.0; 2 * 2 * 3 * config.dim(side) as usize]);
    for (side, strided) in Side::BOTH.into_iter().zip(&mut strided) {
        let dim = config.dim(side) as usize;
        for (sequence, part) in parts.iter().enumerate() {
            for (at, row) in rows(&config, side, &[*part]).chunks_exact(dim).enumerate() {
                let to = ((sequence * 2 + at % 2) * 3 + at / 2) * dim;
                strided[to..to + dim].copy_from_slice(row);
            }
        }
    }
    both.dense.update(&strided[0], &strided[1], Write::append(3).counts(&[3, 1]))?;
    Ok(())
}

/// What a shader finds in the buffer of positions.
fn positions(cache: &PagedKvCache) -> Vec<u32> {
    let (context, positions) = (cache.context(), cache.positions());
    let device = context.device();
    let text = "@group(0) @binding(0) var<storage, read> source: array<u32>;
        @group(0) @binding(1) var<storage, read_write> to: array<u32>;
        @compute @workgroup_size(4) fn main(@builtin(local_invocation_index) i: u32) { to[i] = source[i]; }";
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let out = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: positions.binding() },
            wgpu::BindGroupEntry { binding: 1, resource: out.as_entire_binding() },
        ],
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }
    context.queue().submit([encoder.finish()]);
    crate::engine::read(context, &out)
}

/// Rows that the caller writes into the storage, where the view says.
fn advance(both: &mut Both) -> Result<(), Failed> {
    let context = both.dense.context().clone();
    // The rows of a dense cache that went on: one more token for each sequence.
    let (config, lengths) = (*both.dense.config(), both.dense.lengths().to_vec());
    let parts = [(lengths[0], &[3u32][..]), (lengths[1], &[2][..])];
    let packed = Side::BOTH.map(|side| rows(&config, side, &parts));
    both.dense.update(&packed[0], &packed[1], Write::append(1))?;
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    both.paged.begin_step(&mut encoder, &[Append::new(both.ids[0], &[3]), Append::new(both.ids[1], &[2])])?;
    for (sequence, &id) in (0..).zip(&both.ids) {
        let position = lengths[sequence as usize];
        let (page, slot) = (both.paged.sequences().pages(id, 0)?[position as usize / 4], position % 4);
        let stored = both.dense.extract(sequence)?.read()?;
        for side in Side::BOTH {
            let (tensor, view) = (stored.side(side), both.paged.layer(0)?.view().side(side));
            let row_bytes = tensor.bytes().len() / (2 * (position as usize + 1));
            for head in 0..2u32 {
                let row = &tensor.bytes()[((head + 1) * (position + 1) - 1) as usize * row_bytes..][..row_bytes];
                let place = view.row(page, head, slot)?;
                let (codes, scales) = row.split_at(place.bytes as usize);
                context.queue().write_buffer(place.buffer, place.offset, codes);
                if !scales.is_empty() {
                    context.queue().write_buffer(place.buffer, place.scales.start, scales);
                }
            }
        }
    }
    both.paged.record_advance(0)?;
    context.queue().submit([encoder.finish()]);
    both.paged.submitted()?;
    Ok(())
}
