//! Paged caches: rows, block tables, attention, copies on write, compared with dense caches and with lists of rows.

use std::ops::Range;

use wgpu_kv_cache::{
    CacheConfig, Context, Error, Format, HostRows, HostTensor, KvCache, PagedConfig, PagedKvCache, Pair, Placement,
    RowsIn, Side, Source, StepError, Strides, Write,
    attention::{Options, Reading, attend},
    pages::{Append, RETURNED, SequenceId},
};

use crate::{DONE, Gpu, Outcome, Test, rows::numbers};

pub const TESTS: &[Test] = &[
    ("paged::attention_is_that_of_a_dense_cache", attention_is_that_of_a_dense_cache),
    ("paged::copies_of_tails_share_memory", copies_of_tails_share_memory),
    ("paged::a_warm_up_changes_nothing", a_warm_up_changes_nothing),
    ("paged::pages_may_have_more_heads_than_a_grid_is_high", pages_may_have_more_heads_than_a_grid_is_high),
    ("paged::rows_move_in_parts_that_fit_a_binding", rows_move_in_parts_that_fit_a_binding),
];

/// Rows of the tokens of a step, packed `[token, head, dim]`, of keys and of values.
fn rows(config: &CacheConfig, tokens: u32, seed: u32) -> [Vec<f32>; 2] {
    let rows = (tokens * config.num_heads) as usize;
    let keys = numbers(rows * config.head_dim as usize, seed);
    [keys, numbers(rows * config.value_dim as usize, seed + 100)]
}

/// Packed rows as `[sequence, head, token, dim]`, with zeros past the counts.
fn dense(packed: &[f32], heads: u32, dim: u32, counts: &[u32], tokens: u32) -> Vec<f32> {
    let (heads, dim, tokens) = (heads as usize, dim as usize, tokens as usize);
    let mut rows = vec![0.0; counts.len() * heads * tokens * dim];
    let mut from = 0;
    for (sequence, &count) in counts.iter().enumerate() {
        for token in 0..count as usize {
            for head in 0..heads {
                let to = ((sequence * heads + head) * tokens + token) * dim;
                rows[to..to + dim].copy_from_slice(&packed[from..from + dim]);
                from += dim;
            }
        }
    }
    rows
}

/// A paged and a dense cache with the same rows.
pub struct Both {
    pub paged: PagedKvCache,
    dense: Vec<KvCache>,
    pub ids: Vec<SequenceId>,
    seed: u32,
}

impl Both {
    pub fn new(context: &Context, large: &Context, config: &PagedConfig) -> Result<Self, Error> {
        let mut paged = PagedKvCache::new(context, config)?;
        let layers = config.layers.iter();
        let dense =
            layers.map(|layer| KvCache::new(large, layer.placement(Placement::Linear))).collect::<Result<_, _>>()?;
        let mut ids = (0..config.layers[0].max_batch_size)
            .map(|_| paged.add(&[], None).map(|added| added.sequence))
            .collect::<Result<Vec<_>, _>>()?;
        // The sequences of a step are in another order than the rows of the table.
        ids.rotate_left(1);
        Ok(Both { paged, dense, ids, seed: 1 })
    }

    pub fn append(&mut self, counts: &[u32]) -> Result<(), Error> {
        let total: u32 = counts.iter().sum();
        let tokens: Vec<u32> = (0..total).map(|token| token * 7 + self.seed).collect();
        let mut rest = &tokens[..];
        let appends: Vec<_> = (self.ids.iter().zip(counts))
            .map(|(&id, &count)| {
                let (own, others) = rest.split_at(count as usize);
                rest = others;
                Append::new(id, own)
            })
            .collect();
        let of_layers: Vec<_> = self
            .dense
            .iter()
            .enumerate()
            .map(|(layer, cache)| rows(cache.config(), total, self.seed + layer as u32 * 10))
            .collect();
        let packed: Vec<_> = of_layers
            .iter()
            .map(|[keys, values]| Pair { keys: HostRows::from(keys), values: HostRows::from(values) })
            .collect();
        self.paged.append(&appends, &packed)?;
        let most = counts.iter().copied().max().unwrap_or(0);
        for (cache, [keys, values]) in self.dense.iter_mut().zip(&of_layers) {
            let config = *cache.config();
            let keys = dense(keys, config.num_heads, config.head_dim, counts, most);
            let values = dense(values, config.num_heads, config.value_dim, counts, most);
            cache.update(&keys, &values, Write::append(most).counts(counts))?;
        }
        self.seed += 1;
        Ok(())
    }

    /// Compares the rows that are there.
    pub fn compare(&self) -> Outcome {
        for (layer, cache) in self.dense.iter().enumerate() {
            for (sequence, &id) in (0..).zip(&self.ids) {
                let length = cache.lengths()[sequence as usize];
                assert_eq!(self.paged.sequences().length(id)?, length);
                if length == 0 {
                    continue;
                }
                let pages = self.paged.sequences().pages(id, self.paged.layer(layer)?.group())?;
                let returned = pages.iter().rposition(|page| *page == RETURNED).map_or(0, |last| last as u32 + 1);
                let oldest = returned * self.paged.config().page_size;
                let (paged, dense) =
                    (self.paged.get(layer, id, oldest..length)?.read()?, cache.extract(sequence)?.read()?);
                for side in Side::BOTH {
                    let [_, heads, _, _] = dense.side(side).shape();
                    let (all, rows) = (dense.side(side).bytes(), heads * length);
                    let row = all.len() / rows as usize;
                    let expected: Vec<u8> = all
                        .chunks(length as usize * row)
                        .flat_map(|head| &head[oldest as usize * row..])
                        .copied()
                        .collect();
                    assert_eq!(paged.side(side).bytes(), expected, "{side} of layer {layer}, sequence {sequence}");
                }
            }
        }
        DONE
    }

    pub fn attend(&self, options: &Options, rows: u32) -> Outcome {
        for (layer, cache) in self.dense.iter().enumerate() {
            let queries = numbers((rows * options.query_heads * cache.config().head_dim) as usize, 7);
            let expected = attend(cache, options, &queries, None)?;
            let actual = attend(&self.paged.layer(layer)?, options, &queries, None)?;
            assert_eq!(expected.bytes(), actual.bytes(), "layer {layer}, {options:?}");
        }
        DONE
    }
}

fn attention_is_that_of_a_dense_cache(gpu: &Gpu) -> Outcome {
    // Drivers take seconds for each kernel, so each shape has one attention.
    let packed = Options { splits: Some(1), ..Options::packed(4, 60) };
    let strided = Options { reading: Some(Reading::Coalesced), splits: Some(3), ..Options::new(4, 60) };
    let last = Options { window: Some(9), sinks: 2, splits: Some(1), ..Options::last(2, 3) };
    let (many, few) = (
        [[5, 0, 33, 1], [1, 1, 1, 1], [0, 20, 3, 1], [2, 1, 0, 40]],
        [[5, 0, 7, 1], [1; 4], [0, 6, 3, 1], [2, 1, 0, 6]],
    );
    for (context, [page_size, pages], formats, dims, counts, options) in [
        (&gpu.context, [16, 12], [Format::F16, Format::F16], [64, 64], many, packed),
        (&gpu.context, [4, 50], [Format::Q8_0, Format::Q4_0], [32, 64], many, strided),
        (&gpu.context, [2, 100], [Format::Fp8E4M3, Format::F32], [20, 6], many, last),
        // Several segments.
        (
            &gpu.small,
            [4, 30],
            [Format::F32, Format::F16],
            [8, 8],
            few,
            Options { splits: Some(1), ..Options::packed(2, 13) },
        ),
        (&gpu.small, [1, 160], [Format::Bf16, Format::Fp8E4M3], [5, 7], few, Options { splits: Some(2), ..last }),
    ] {
        let layer =
            CacheConfig::new(4, 2, dims[0], 100).value_dim(dims[1]).formats(formats[0], formats[1]).scales(0.5, 2.0);
        let mut both = Both::new(context, &gpu.context, &PagedConfig::new(layer, 2, page_size, pages))?;
        for counts in counts {
            both.append(&counts)?;
            both.compare()?;
            let rows = match options {
                Options { packed: Some(_), .. } => counts.iter().sum(),
                Options { tokens, .. } => 4 * tokens,
            };
            both.attend(&options, rows)?;
        }
    }
    DONE
}

/// Rows that move go through scratch memory that stays, has room for one layer and grows with what a step moves.
fn copies_of_tails_share_memory(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(6, 3, 4, 40).formats(Format::F16, Format::F32);
    let mut paged = PagedKvCache::new(&gpu.context, &PagedConfig::new(config, 3, 4, 24))?;
    let append = |paged: &mut PagedKvCache, ids: &[SequenceId], tokens: &[u32]| {
        let appends: Vec<_> = ids.iter().map(|&id| Append::new(id, tokens)).collect();
        let of_layer = |layer| rows(&config, (tokens.len() * ids.len()) as u32, tokens[0] + layer);
        let of_layers = [0, 1, 2].map(of_layer);
        let packed = of_layers
            .each_ref()
            .map(|[keys, values]| Pair { keys: HostRows::from(keys), values: HostRows::from(values) });
        paged.append(&appends, &packed)
    };
    let read = |paged: &PagedKvCache, id| (0..3).map(|layer| paged.get(layer, id, 0..6)?.read()).collect();
    let prompt = paged.add(&[], None)?.sequence;
    append(&mut paged, &[prompt], &[1, 2, 3, 4, 5, 6, 7])?;
    let before = paged.overhead_bytes();
    // Six tokens: two of them in a page that the prompt has written to as well.
    let prefix: Result<Vec<_>, Error> = read(&paged, prompt);
    let (prefix, mut overheads) = (prefix?, Vec::new());
    for writers in [1, 1, 1, 4] {
        let forks = (0..writers).map(|_| paged.fork(prompt, 6)).collect::<Result<Vec<_>, _>>()?;
        append(&mut paged, &forks, &[50])?;
        overheads.push(paged.overhead_bytes());
        for id in forks {
            let rows: Result<Vec<_>, Error> = read(&paged, id);
            for (layer, (rows, prefix)) in rows?.iter().zip(&prefix).enumerate() {
                for side in Side::BOTH {
                    assert_eq!(rows.side(side).bytes(), prefix.side(side).bytes(), "{side} of layer {layer}");
                }
            }
            paged.free(id)?;
        }
    }
    // Two rows of 3 heads with 4 elements of 2 and of 4 bytes, once for all layers, and then eight. The first steps
    // also need more slots.
    let bytes = |rows: u64| rows * 3 * 4 * (2 + 4);
    assert!(overheads[0] > before + bytes(2));
    assert_eq!(overheads[2..], [overheads[1], overheads[1] + bytes(8) - bytes(2)]);
    DONE
}

/// Also between a step's commands and their submission, with sources of several formats, in one segment and in several.
fn a_warm_up_changes_nothing(gpu: &Gpu) -> Outcome {
    for (context, formats) in [(&gpu.context, [Format::Q8_0, Format::F16]), (&gpu.small, [Format::F32, Format::Q4_0])] {
        let config = CacheConfig::new(2, 2, 32, 100).formats(formats[0], formats[1]);
        let mut both = Both::new(context, &gpu.context, &PagedConfig::new(config, 2, 4, 40))?;
        both.append(&[9, 3])?;
        let rows = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 5 * 2 * 32 * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        context.queue().write_buffer(&rows, 0, &[0x3c; 5 * 2 * 32 * 4]);
        let rows_in = RowsIn { buffer: &rows, offset: 0, format: Format::F32, strides: Strides::bthd(2, 5, 32) };
        let source = Source { keys: rows_in, values: rows_in, tokens: 5 };
        let sources = [both.paged.bind_source(0, &source)?, both.paged.bind_source(1, &source)?];
        let storage = |cache: &PagedKvCache| Ok::<_, Error>([cache.read_storage(0)?, cache.read_storage(1)?]);
        let before = storage(&both.paged)?;
        both.paged.warm_up(&sources)?;
        assert_eq!(storage(&both.paged)?, before);
        let count = StepError::LayerCount { name: "a source", num_layers: 2, actual: 1 };
        assert_eq!(both.paged.warm_up(&sources[1..]), Err(count.into()));
        assert_eq!(both.paged.warm_up([&sources[1], &sources[0]]), Err(StepError::ForeignSource.into()));

        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        both.paged.begin_step(&mut encoder, &[Append::new(both.ids[0], &[1, 2, 3, 4, 5])])?;
        both.paged.record_update(0, &mut encoder, &sources[0])?;
        both.paged.warm_up(&sources)?;
        assert_eq!(storage(&both.paged)?, before);
        drop(encoder);
        both.paged.dropped();
        both.compare()?;
        both.append(&[1, 7])?;
        both.compare()?;
    }
    DONE
}

/// Appends one token to a sequence of a cache of one layer.
fn append_one(paged: &mut PagedKvCache, id: SequenceId, token: u32) -> Result<(), Error> {
    let [keys, values] = rows(&paged.config().layers[0], 1, token);
    let rows = Pair { keys: HostRows::from(&keys), values: HostRows::from(&values) };
    paged.append(&[Append::new(id, &[token])], &[rows])
}

fn read(paged: &PagedKvCache, id: SequenceId, range: Range<u32>) -> Result<Pair<HostTensor>, Error> {
    paged.get(0, id, range)?.read()
}

fn pages_may_have_more_heads_than_a_grid_is_high(gpu: &Gpu) -> Outcome {
    let high = gpu.small.limits().max_compute_workgroups_per_dimension;
    for heads in [high / 2 + 1, high, high + 1, 2 * high + 3] {
        let config = CacheConfig::new(2, heads, 4, 40).formats(Format::F16, Format::Fp8E4M3);
        let mut both = Both::new(&gpu.small, &gpu.context, &PagedConfig::new(config, 1, 4, 16))?;
        for counts in [[7, 2], [1, 1], [0, 9]] {
            both.append(&counts)?;
            both.compare()?;
        }
        let (paged, [id, other]) = (&mut both.paged, [both.ids[0], both.ids[1]]);
        paged.free(other)?;
        // Position 6 is in a page that the sequence has written to.
        let (prefix, fork) = (read(paged, id, 0..6)?, paged.fork(id, 6)?);
        append_one(paged, fork, 77)?;
        assert_eq!(read(paged, fork, 0..6)?, prefix, "{heads} heads");
        let last = read(paged, fork, 6..7)?;
        paged.keep(fork, 4, &[3])?;
        assert_eq!(read(paged, fork, 3..4)?, last, "{heads} heads");
        assert_eq!(read(paged, id, 0..6)?, prefix, "{heads} heads");
    }
    DONE
}

/// Rows one by one, because all of them may not fit a binding.
fn read_each(paged: &PagedKvCache, id: SequenceId, range: Range<u32>) -> Result<Vec<Pair<HostTensor>>, Error> {
    range.map(|position| read(paged, id, position..position + 1)).collect()
}

/// A page of all heads is larger than a binding, and has six rows that fit one.
fn rows_move_in_parts_that_fit_a_binding(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(3, 5, 32, 40).formats(Format::F32, Format::F16);
    for shared in 1..8 {
        let mut paged = PagedKvCache::new(&gpu.small, &PagedConfig::new(config, 1, 8, 16))?;
        let prompt = paged.add(&[], None)?.sequence;
        (0..7).try_for_each(|token| append_one(&mut paged, prompt, token))?;
        let all = read_each(&paged, prompt, 0..7)?;
        // The prompt has gone on, or else takes its copy when it does.
        let (prefix, fork) = (read_each(&paged, prompt, 0..shared)?, paged.fork(prompt, shared)?);
        append_one(&mut paged, fork, 50 + shared)?;
        append_one(&mut paged, prompt, 70)?;
        assert_eq!(read_each(&paged, fork, 0..shared)?, prefix, "{shared} rows");
        assert_eq!(read_each(&paged, prompt, 0..7)?, all, "{shared} rows");
    }
    for moved in 1..8 {
        let mut paged = PagedKvCache::new(&gpu.small, &PagedConfig::new(config, 1, 8, 16))?;
        let sequence = paged.add(&[], None)?.sequence;
        (0..16).try_for_each(|token| append_one(&mut paged, sequence, token))?;
        let rows = read_each(&paged, sequence, 16 - moved..16)?;
        paged.keep(sequence, 15, &(15 - moved..15).collect::<Vec<_>>())?;
        assert_eq!(read_each(&paged, sequence, 1..1 + moved)?, rows, "{moved} rows");
    }
    DONE
}
