//! Steps of all layers, and objects that are made once and serve every step.

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, ConfigError, Context, Error, Format, HostTensor, KvCache, Pair,
    Placement, ReferenceCache, RowsIn, SequenceError, Source, StepError, Strides, Write,
    attention::{Attention, Options, Tensors},
};

use crate::{
    DONE, Gpu, Outcome, Test,
    engine::{read, storage},
    rows::{BOUND, distance, numbers},
};

pub const TESTS: &[Test] = &[
    ("steps::one_source_and_one_attention_serve_every_step", one_source_and_one_attention_serve_every_step),
    ("steps::what_an_attention_has_no_room_for_is_named", what_an_attention_has_no_room_for_is_named),
    ("steps::positions_are_right_for_every_layer", positions_are_right_for_every_layer),
    ("steps::layers_that_were_changed_singly", layers_that_were_changed_singly),
    ("steps::rollbacks_and_lengths", rollbacks_and_lengths),
];

pub const HEADS: u32 = 2;
const QUERY_HEADS: u32 = 4;
pub const DIM: u32 = 8;
pub const MOST_BATCH: u32 = 4;
pub const MOST_TOKENS: u32 = 6;
pub const LAYERS: usize = 2;

/// A model's buffers: keys, values, queries and output of every layer.
pub struct Engine {
    pub context: Context,
    pub buffers: Vec<[wgpu::Buffer; 4]>,
    pub sources: Vec<BoundSource>,
    pub attentions: Vec<Attention>,
}

impl Engine {
    pub fn new(cache: &BatchedKvCache) -> Result<Self, Error> {
        let context = cache.context().clone();
        let bytes = |heads: u32| vec![0u8; (MOST_BATCH * heads * MOST_TOKENS * DIM * 4) as usize];
        let buffers: Vec<_> = (0..LAYERS)
            .map(|_| [HEADS, HEADS, QUERY_HEADS, QUERY_HEADS].map(|heads| storage(&context, &bytes(heads))))
            .collect();
        let rows = |buffer, heads| RowsIn {
            buffer,
            offset: 0,
            format: Format::F32,
            strides: Strides::bhtd(heads, MOST_TOKENS, DIM),
        };
        let mut engine = Engine { context, buffers: Vec::new(), sources: Vec::new(), attentions: Vec::new() };
        for (layer, [keys, values, queries, output]) in cache.layers().iter().zip(&buffers) {
            let source = Source { keys: rows(keys, HEADS), values: rows(values, HEADS), tokens: MOST_TOKENS };
            engine.sources.push(layer.bind_source(&source)?);
            let (queries, output) = (rows(queries, QUERY_HEADS), rows(output, QUERY_HEADS));
            let tensors = Tensors { queries, output, mask: None, sink_logits: None };
            engine.attentions.push(Attention::new(layer, &Options::new(QUERY_HEADS, MOST_TOKENS), &tensors)?);
        }
        engine.buffers = buffers;
        Ok(engine)
    }

    /// Fills the buffers of a layer from a seed with dense rows `[batch, heads, MOST_TOKENS, DIM]`, and returns the
    /// rows.
    pub fn fill(&self, layer: usize, seed: u32) -> [Vec<f32>; 3] {
        let rows = [HEADS, HEADS, QUERY_HEADS]
            .map(|heads| (MOST_BATCH * heads * MOST_TOKENS * DIM) as usize)
            .into_iter()
            .zip(0..)
            .map(|(count, part)| numbers(count, seed * 31 + part))
            .collect::<Vec<_>>();
        let queue = self.context.queue();
        for (buffer, rows) in self.buffers[layer].iter().zip(&rows) {
            queue.write_buffer(buffer, 0, bytemuck::cast_slice(rows));
        }
        // Poison the output with bytes that no attention writes.
        let output = &self.buffers[layer][3];
        queue.write_buffer(output, 0, &vec![0xa5; output.size() as usize]);
        rows.try_into().expect("there are three")
    }
}

/// The rows of `[batch, heads, MOST_TOKENS, DIM]` that a smaller batch and fewer tokens use.
fn part(rows: &[f32], heads: u32, batch: u32, tokens: u32) -> Vec<f32> {
    let row = |plane: u32, token: u32| {
        let at = ((plane * MOST_TOKENS + token) * DIM) as usize;
        rows[at..at + DIM as usize].to_vec()
    };
    (0..batch * heads).flat_map(|plane| (0..tokens).flat_map(move |token| row(plane, token))).collect()
}

fn one_source_and_one_attention_serve_every_step(gpu: &Gpu) -> Outcome {
    for placement in [Placement::Linear, Placement::Ring { window: 9, sinks: 2, slack: MOST_TOKENS - 1 }] {
        {
            let context = &gpu.context;
            let config = CacheConfig::new(2, HEADS, DIM, 100).max_batch_size(MOST_BATCH).placement(placement);
            let mut cache = BatchedKvCache::new(context, config, LAYERS)?;
            let mut references = vec![ReferenceCache::new(config)?; LAYERS];
            let engine = Engine::new(&cache)?;
            cache.warm_up(&engine.sources)?;
            let short = cache.warm_up(&engine.sources[1..]);
            assert_eq!(short, Err(Error::Step(StepError::LayerCount { name: "a source", num_layers: 2, actual: 1 })));
            // (selection before the step, tokens, counts)
            let steps: [(&[u32], u32, &[u32]); 9] = [
                (&[0, 1], 6, &[6, 3]),
                (&[0, 1], 1, &[1, 1]),
                (&[1, 0, 1, 1], 3, &[2, 0, 3, 1]),
                (&[0, 1, 2, 3], 1, &[1, 0, 1, 1]),
                (&[3], 6, &[6]),
                (&[0], 1, &[1]),
                (&[0, 0, 0], 2, &[0, 0, 0]),
                (&[0, 1, 2], 4, &[4, 1, 2]),
                (&[2, 1], 5, &[5, 5]),
            ];
            for (step, (selected, tokens, counts)) in (0..).zip(steps) {
                let same = selected.len() == cache.lengths().len() && (0..).zip(selected).all(|(to, from)| to == *from);
                if !same {
                    cache.select(selected)?;
                    references.iter_mut().try_for_each(|reference| reference.select(selected))?;
                }
                let (batch, write) = (selected.len() as u32, Write::append(tokens).counts(counts).attended());
                let mut given = Vec::new();
                let mut encoder = context.device().create_command_encoder(&Default::default());
                cache.begin_step(&mut encoder, write)?;
                for (layer, reference) in references.iter_mut().enumerate() {
                    let [keys, values, queries] = engine.fill(layer, step * 7 + layer as u32);
                    let rows = |rows: &[f32]| part(rows, HEADS, batch, tokens);
                    reference.update(&rows(&keys), &rows(&values), write)?;
                    given.push(part(&queries, QUERY_HEADS, batch, MOST_TOKENS));
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    let early = engine.attentions[layer].record(cache.layer(layer)?, &mut pass);
                    assert_eq!(early, Err(Error::Step(StepError::StepNotRecorded)));
                    cache.record_update(layer, &mut pass, &engine.sources[layer])?;
                    engine.attentions[layer].record(cache.layer(layer)?, &mut pass)?;
                }
                context.submit_of_test(encoder);
                for layer in 0..LAYERS {
                    let options = Options::new(QUERY_HEADS, MOST_TOKENS);
                    let expected = references[layer].attend(&options, &given[layer], None)?;
                    let output: Vec<f32> = read(context, &engine.buffers[layer][3]);
                    let row = (MOST_TOKENS * DIM) as usize;
                    for (plane, (expected, actual)) in
                        expected.chunks_exact(row).zip(output.chunks_exact(row)).enumerate()
                    {
                        let written = (counts[plane / QUERY_HEADS as usize] * DIM) as usize;
                        let apart = distance(&expected[..written], &actual[..written]);
                        assert!(apart < BOUND, "{placement:?}, step {step}, layer {layer}, plane {plane}: {apart:.1e}");
                        let bits = actual[written..].iter().map(|number| number.to_bits());
                        assert!(bits.into_iter().all(|bits| bits == 0xa5a5_a5a5), "rows past the count stay");
                    }
                    let of_others = &output[(batch * QUERY_HEADS) as usize * row..];
                    assert!(of_others.iter().all(|number| number.to_bits() == 0xa5a5_a5a5), "other sequences stay");
                    compare(layer, &references[layer], &cache)?;
                }
            }
        }
    }
    DONE
}

fn what_an_attention_has_no_room_for_is_named(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(2, 1, DIM, 16).max_batch_size(MOST_BATCH);
    let mut cache = KvCache::new(&gpu.context, config)?;
    let rows = numbers((2 * 3 * DIM) as usize, 1);
    cache.update(&rows, &rows, Write::append(3))?;
    // The queries have rows for four sequences and the output for three, both for two tokens.
    let bytes = |sequences: u32| vec![0u8; (sequences * 2 * DIM * 4) as usize];
    let (queries, output) = (storage(&gpu.context, &bytes(4)), storage(&gpu.context, &bytes(3)));
    let rows_in = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 2, DIM) };
    let tensors = Tensors { queries: rows_in(&queries), output: rows_in(&output), mask: None, sink_logits: None };
    let attention = Attention::new(&cache, &Options::new(1, 2), &tensors)?;
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    let refused = attention.record(&cache, &mut encoder);
    assert_eq!(refused, Err(Error::Step(StepError::MoreTokensThanBound { name: "queries", tokens: 3, bound: 2 })));
    cache.repeat(2)?;
    let refused = attention.record(&cache, &mut encoder);
    assert_eq!(refused, Err(Error::Step(StepError::BatchBeyondBound { name: "output", bound: 3, batch_size: 4 })));
    let message = refused.unwrap_err().to_string();
    assert_eq!(
        message,
        "the output must hold rows for each sequence of the batch, 4, within one binding, but holds them for 3"
    );
    cache.select(&[0, 1, 3])?;
    attention.record(&cache, &mut encoder)?;
    gpu.context.submit_of_test(encoder);
    DONE
}

pub trait Submit {
    fn submit_of_test(&self, encoder: wgpu::CommandEncoder);
}

impl Submit for Context {
    fn submit_of_test(&self, encoder: wgpu::CommandEncoder) {
        self.queue().submit([encoder.finish()]);
    }
}

fn compare(layer: usize, reference: &ReferenceCache, cache: &BatchedKvCache) -> Result<(), Error> {
    let device = cache.layer(layer)?;
    assert_eq!((device.lengths(), &device.read_lengths()?[..]), (reference.lengths(), reference.lengths()));
    let storage: Pair<HostTensor> = device.read_storage()?;
    assert_eq!(reference.compare_storage(layer, &storage)?, None);
    Ok(())
}

fn positions_are_right_for_every_layer(gpu: &Gpu) -> Outcome {
    for (in_pass, ring_first) in [(false, false), (true, false), (true, true)] {
        let config = CacheConfig::new(3, 1, DIM, 64).max_batch_size(MOST_BATCH);
        let sliding = config.placement(Placement::Ring { window: 8, sinks: 1, slack: 0 });
        // Where a ring wraps, it has more than one run of rows.
        let layers = if ring_first { [sliding, config, config] } else { [config, sliding, config] };
        let mut cache = BatchedKvCache::with_layers(&gpu.context, &layers)?;
        let mut expected = vec![0; 3];
        for (tokens, counts) in [(5, [5, 2, 0]), (1, [1, 1, 1]), (1, [1, 1, 1]), (3, [0, 3, 1]), (4, [4, 3, 4])] {
            let write = Write::append(tokens).counts(&counts);
            let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
            if in_pass {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                cache.begin_step(&mut pass, write)?;
                (0..3).try_for_each(|layer| cache.record_advance(layer, &mut pass))?;
            } else {
                cache.begin_step(&mut encoder, write)?;
                (0..3).try_for_each(|layer| cache.record_advance(layer, &mut encoder))?;
            }
            gpu.context.submit_of_test(encoder);
            let view = cache.positions();
            assert_eq!((view.offset, view.bytes), (0, 4 * u64::from(MOST_BATCH)));
            let positions: Vec<u32> = read(&gpu.context, view.buffer);
            assert_eq!(positions[..3], expected);
            expected.iter_mut().zip(counts).for_each(|(length, count)| *length += count);
            for layer in 0..3 {
                assert_eq!(cache.layer(layer)?.read_lengths()?, expected);
            }
        }
    }
    DONE
}

fn layers_that_were_changed_singly(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(2, 1, DIM, 8);
    let mut cache = BatchedKvCache::new(&gpu.context, config, 3)?;
    let rows = numbers((2 * 3 * DIM) as usize, 1);
    for layer in 0..3 {
        cache.update(layer, &rows, &rows, Write::append(3))?;
    }
    // Give one layer another batch size. Truncation handles each layer by its own batch, but a step refuses them.
    cache.layer_mut(2)?.select(&[1])?;
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    let refused = cache.begin_step(&mut encoder, Write::append(1));
    assert_eq!(
        refused,
        Err(Error::Config(ConfigError::LayersDiffer { layer: 2, name: "batch_size", first: 2, actual: 1 }))
    );
    cache.record_truncate(&mut encoder.begin_compute_pass(&Default::default()), 2)?;
    gpu.context.submit_of_test(encoder);
    for (layer, lengths) in cache.layers().iter().zip([&[2, 2][..], &[2, 2], &[2]]) {
        assert_eq!((layer.lengths(), layer.read_lengths()?), (lengths, lengths.to_vec()));
    }
    // Operations that depend on the batch are refused and change no layer.
    let differ = || Err(Error::Config(ConfigError::LayersDiffer { layer: 2, name: "batch_size", first: 2, actual: 1 }));
    assert_eq!(cache.copy_sequence(0, 1), differ());
    assert_eq!(cache.repeat(1), differ());
    assert_eq!(cache.layers()[2].config().batch_size, 1);
    // Replace a layer by one whose steps are larger than the cache has room for.
    *cache.layer_mut(1)? = KvCache::new(&gpu.context, CacheConfig::new(3000, 1, DIM, 8))?;
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    assert_eq!(
        cache.begin_step(&mut encoder, Write::append(1)),
        Err(Error::Step(StepError::ForeignLayer { layer: 1 }))
    );
    cache.truncate(0)?;
    DONE
}

/// Without slack, an update evicts rows that a rollback would need, so the host cannot restore the state by truncating.
/// The second layer is too large for the scratch memory that a selection, a copy or an insertion needs.
fn rollbacks_and_lengths(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(2, 1, DIM, 16);
    let mut cache = BatchedKvCache::new(&gpu.context, config, 2)?;
    let rows = numbers((2 * 5 * DIM) as usize, 1);
    for layer in 0..2 {
        cache.update(layer, &rows, &rows, Write::append(5).counts(&[5, 3]))?;
    }
    assert_eq!(cache.lengths(), [5, 3]);
    cache.rollback(2)?;
    assert_eq!(cache.lengths(), [3, 1]);
    let refused = cache.rollback(&[0, 2]);
    assert_eq!(refused, Err(Error::Sequence(SequenceError::RollbackBeyondStart { sequence: 1, tokens: 2, length: 1 })));
    cache.rollback(&[3, 0])?;
    for layer in cache.layers() {
        assert_eq!((layer.lengths(), layer.read_lengths()?), (&[0, 1][..], vec![0, 1]));
    }
    DONE
}
