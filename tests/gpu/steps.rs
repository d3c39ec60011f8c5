//! Steps of all layers, and objects that are made once and serve every step.

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, ConfigError, Context, DeviceError, Error, Format, HostTensor, KvCache,
    Pair, Placement, RangeError, ReferenceCache, RowsIn, SequenceError, Source, StepError, Strides, Write, WriteError,
    attention::{Attention, Options, Tensors},
};

use crate::{
    DONE, Gpu, Outcome, Test,
    attention::{BOUND, distance, numbers},
    engine::{read, storage},
};

pub const TESTS: &[Test] = &[
    ("steps::one_source_and_one_attention_serve_every_step", one_source_and_one_attention_serve_every_step),
    ("steps::what_an_attention_has_no_room_for_is_named", what_an_attention_has_no_room_for_is_named),
    ("steps::positions_are_right_for_every_layer", positions_are_right_for_every_layer),
    ("steps::a_step_that_one_layer_refuses_changes_none", a_step_that_one_layer_refuses_changes_none),
    ("steps::a_layer_is_recorded_once", a_layer_is_recorded_once),
    ("steps::a_refused_call_leaves_the_step", a_refused_call_leaves_the_step),
    ("steps::layers_that_were_changed_singly", layers_that_were_changed_singly),
    ("steps::a_dropped_encoder_is_taken_back", a_dropped_encoder_is_taken_back),
    ("steps::an_operation_on_all_layers_is_on_all_or_none", an_operation_on_all_layers_is_on_all_or_none),
    ("steps::memory_that_runs_out_at_every_point", memory_that_runs_out_at_every_point),
    ("steps::rollbacks_and_lengths", rollbacks_and_lengths),
];

const HEADS: u32 = 2;
const QUERY_HEADS: u32 = 4;
const DIM: u32 = 8;
const MOST_BATCH: u32 = 4;
const MOST_TOKENS: u32 = 6;
const LAYERS: usize = 2;

/// A model's buffers: keys, values, queries and output of every layer.
struct Engine {
    context: Context,
    buffers: Vec<[wgpu::Buffer; 4]>,
    sources: Vec<BoundSource>,
    attentions: Vec<Attention>,
}

impl Engine {
    fn new(cache: &BatchedKvCache) -> Result<Self, Error> {
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
    fn fill(&self, layer: usize, seed: u32) -> [Vec<f32>; 3] {
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

trait Submit {
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

fn a_step_that_one_layer_refuses_changes_none(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(2, 1, DIM, 8);
    let sliding = config.placement(Placement::Ring { window: 3, sinks: 1, slack: 1 });
    let short = CacheConfig { max_seq_len: 4, ..config };
    let mut cache = BatchedKvCache::with_layers(&gpu.context, &[config, sliding, short])?;
    let rows = numbers((2 * 2 * DIM) as usize, 1);
    for layer in 0..3 {
        cache.update(layer, &rows, &rows, Write::append(2))?;
    }
    let state = |cache: &BatchedKvCache| -> Result<Vec<_>, Error> {
        cache.layers().iter().map(|layer| Ok((layer.read_lengths()?, layer.read_storage()?))).collect()
    };
    let before = state(&cache)?;
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    for (write, expected) in [
        (Write::append(0), Error::Write(WriteError::NoTokens)),
        (
            Write::append(3),
            Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, position: 2, count: 3, max_seq_len: 4 }),
        ),
        (
            Write::append(7),
            Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, position: 2, count: 7, max_seq_len: 8 }),
        ),
        // The query at position 4 sees position 2, whose slot position 6 overwrites in the ring.
        (Write::at(4, 3).attended(), Error::Range(RangeError::Evicted { sequence: 0, position: 2, oldest: 3 })),
        (
            Write::append(2).counts(&[2, 3]),
            Error::Write(WriteError::CountAboveTokens { sequence: 1, count: 3, tokens: 2 }),
        ),
    ] {
        assert_eq!(cache.begin_step(&mut encoder, write), Err(expected));
    }
    gpu.context.submit_of_test(encoder);
    assert_eq!(state(&cache)?, before);
    DONE
}

fn a_layer_is_recorded_once(gpu: &Gpu) -> Outcome {
    let mut cache = BatchedKvCache::new(&gpu.context, CacheConfig::new(1, 1, DIM, 8), 2)?;
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    assert_eq!(cache.record_advance(0, &mut encoder), Err(Error::Step(StepError::NoStep { layer: 0 })));
    cache.begin_step(&mut encoder, Write::append(1))?;
    assert_eq!(
        cache.record_advance(2, &mut encoder),
        Err(Error::Sequence(SequenceError::LayerOutOfRange { layer: 2, num_layers: 2 }))
    );
    cache.record_advance(1, &mut encoder)?;
    assert_eq!(cache.record_advance(1, &mut encoder), Err(Error::Step(StepError::NoStep { layer: 1 })));
    let refused = cache.begin_step(&mut encoder, Write::append(1));
    assert_eq!(refused, Err(Error::Step(StepError::LayersOutOfStep { layer: 1, sequence: 0, first: 0, actual: 1 })));
    // The refused call has left the earlier step in place.
    cache.record_advance(0, &mut encoder)?;
    cache.begin_step(&mut encoder, Write::append(1))?;
    cache.layer_mut(0)?.record_truncate(&mut encoder, 0)?;
    assert_eq!(cache.record_advance(0, &mut encoder), Err(Error::Step(StepError::NoStep { layer: 0 })));
    gpu.context.submit_of_test(encoder);
    assert_eq!((cache.layer(0)?.read_lengths()?, cache.layer(1)?.read_lengths()?), (vec![0], vec![1]));
    DONE
}

fn a_refused_call_leaves_the_step(gpu: &Gpu) -> Outcome {
    type Call = (&'static str, fn(&mut BatchedKvCache) -> Result<(), Error>);
    let calls: [Call; 7] = [
        ("truncate", |cache| cache.truncate(9)),
        ("rollback", |cache| cache.rollback(9)),
        ("select", |cache| cache.select(&[])),
        ("clear_sequence", |cache| cache.clear_sequence(9)),
        ("copy_range", |cache| cache.copy_range(0, 0..1, 0, 0)),
        ("truncate of a layer", |cache| cache.layer_mut(0)?.truncate(9)),
        ("update of a layer", |cache| cache.update(0, &[0.0f32; 1], &[0.0f32; 1], Write::append(1))),
    ];
    for (name, call) in calls {
        let mut cache = BatchedKvCache::new(&gpu.context, CacheConfig::new(1, 1, DIM, 16), 2)?;
        let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
        cache.begin_step(&mut encoder, Write::append(1))?;
        assert!(call(&mut cache).is_err(), "{name}");
        for layer in 0..2 {
            assert_eq!(cache.record_advance(layer, &mut encoder), Ok(()), "after {name}");
        }
        gpu.context.submit_of_test(encoder);
        assert_eq!((cache.lengths(), cache.layer(1)?.read_lengths()?), (&[1][..], vec![1]), "{name}");
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
fn a_dropped_encoder_is_taken_back(gpu: &Gpu) -> Outcome {
    let config =
        CacheConfig::new(1, 1, DIM, 0).max_batch_size(2).placement(Placement::Ring { window: 4, sinks: 1, slack: 0 });
    let (mut cache, mut of_reference) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
    let rows = |tokens: u32, seed| numbers((tokens * DIM) as usize, seed);
    cache.update(&rows(7, 1), &rows(7, 2), Write::append(7))?;
    of_reference.update(&rows(7, 1), &rows(7, 2), Write::append(7))?;

    let buffer = storage(&gpu.context, bytemuck::cast_slice(&rows(3, 5)));
    let source = RowsIn { buffer: &buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 3, DIM) };
    let source = cache.bind_source(&Source { keys: source, values: source, tokens: 3 })?;
    let before = cache.checkpoint();
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    cache.record_update(&mut encoder, &source, Write::append(3))?;
    cache.record_repeat(&mut encoder, 2)?;
    drop(encoder);
    assert_eq!((cache.lengths(), cache.config().batch_size), (&[10, 10][..], 2));
    cache.restore(&before)?;
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&[7][..], vec![7]));

    // Record another update and submit it this time.
    cache.update(&rows(2, 3), &rows(2, 4), Write::append(2))?;
    of_reference.update(&rows(2, 3), &rows(2, 4), Write::append(2))?;
    assert_eq!((cache.lengths(), cache.read_lengths()?), (of_reference.lengths(), vec![9]));
    assert_eq!(of_reference.compare_storage(0, &cache.read_storage()?)?, None);
    let mut other = KvCache::new(&gpu.context, config)?;
    assert_eq!(other.restore(&before), Err(Error::Step(StepError::ForeignCheckpoint)));
    DONE
}

/// The second layer is too large for the scratch memory that a selection, a copy or an insertion needs.
fn an_operation_on_all_layers_is_on_all_or_none(gpu: &Gpu) -> Outcome {
    let limits =
        wgpu::Limits { max_buffer_size: 65_536, max_storage_buffer_binding_size: 65_536, ..gpu.adapter.limits() };
    let context = Gpu::open(&gpu.adapter, limits, gpu.costs)?;
    // Planes have 128 slots: 2 KiB per sequence in the small layer, and 32 KiB per head, 4 heads, in the large one.
    let small = CacheConfig::new(2, 1, 4, 128).max_batch_size(3);
    let large = CacheConfig::new(2, 4, 64, 128).max_batch_size(3);
    let mut cache = BatchedKvCache::with_layers(&context, &[small, large])?;
    for (layer, config) in [small, large].into_iter().enumerate() {
        let count = (2 * config.num_heads * config.head_dim) as usize;
        for _ in 0..120 {
            let rows = numbers(count, layer as u32);
            cache.update(layer, &rows, &rows, Write::append(1))?;
        }
        let counts = Write::append(1).counts(&[1, 0]);
        cache.update(layer, &numbers(count, 7), &numbers(count, 8), counts)?;
    }
    let state = |cache: &BatchedKvCache| -> Result<Vec<_>, Error> {
        let of = |layer: &KvCache| Ok((layer.lengths().to_vec(), layer.read_lengths()?, layer.read_storage()?));
        cache.layers().iter().map(of).collect()
    };
    let before = state(&cache)?;
    let too_large = |done: Result<(), Error>| {
        assert!(matches!(done, Err(Error::Device(DeviceError::BufferTooLarge { .. }))), "{done:?}");
    };
    too_large(cache.reorder(&[1, 0]));
    assert_eq!(state(&cache)?, before, "after reorder");
    too_large(cache.copy_range(0, 0..120, 1, 0));
    assert_eq!(state(&cache)?, before, "after copy_range");
    let rows = [small, large].map(|config| numbers((config.num_heads * 128 * config.head_dim) as usize, 3));
    let rows: Vec<_> = rows.iter().map(|rows| Pair { keys: rows.into(), values: rows.into() }).collect();
    too_large(cache.insert(1, 128, &rows));
    assert_eq!(state(&cache)?, before, "after insert");
    DONE
}

fn memory_that_runs_out_at_every_point(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(2, HEADS, DIM, 64).max_batch_size(MOST_BATCH);
    let sliding = config.placement(Placement::Ring { window: 9, sinks: 2, slack: MOST_TOKENS });
    let mut points = 0;
    for after in 0.. {
        // Every object is new, so that each step makes everything it needs.
        let context = Context::with_costs(gpu.context.device(), gpu.context.queue(), gpu.costs);
        let mut cache = BatchedKvCache::with_layers(&context, &[config, sliding])?;
        let engine = Engine::new(&cache)?;
        let before = cache.checkpoint();
        context.fail_creations_after(Some(after));
        let mut encoder = context.device().create_command_encoder(&Default::default());
        let mut step = || {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            cache.begin_step(&mut pass, Write::append(3).counts(&[3, 1]).attended())?;
            for layer in 0..LAYERS {
                cache.record_update(layer, &mut pass, &engine.sources[layer])?;
                engine.attentions[layer].record(&cache.layers()[layer], &mut pass)?;
            }
            Ok(())
        };
        let done: Result<(), Error> = step();
        context.fail_creations_after(None);
        if done.is_ok() {
            break;
        }
        assert!(matches!(done, Err(Error::Device(DeviceError::OutOfMemory { .. }))), "{done:?}");
        points += 1;
        drop(encoder);
        cache.restore(&before)?;
        for layer in 0..LAYERS {
            assert_eq!(
                (cache.layers()[layer].lengths(), cache.layers()[layer].read_lengths()?),
                (&[0, 0][..], vec![0, 0])
            );
        }
        // After `restore` the cache works as if nothing had happened.
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.begin_step(&mut encoder, Write::append(2))?;
        for layer in 0..LAYERS {
            cache.record_update(layer, &mut encoder, &engine.sources[layer])?;
            engine.attentions[layer].record(&cache.layers()[layer], &mut encoder)?;
        }
        context.submit_of_test(encoder);
        assert_eq!(cache.layers()[1].read_lengths()?, [2, 2]);
    }
    assert!(points >= 4, "a step makes pipelines of positions, updates and attention, but only {points} were refused");
    DONE
}

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
