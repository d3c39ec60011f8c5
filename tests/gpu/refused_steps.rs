//! Steps that are refused, dropped or fail.

use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, DeviceError, Error, Format, KvCache, Pair, Placement, RangeError,
    ReferenceCache, RowsIn, SequenceError, Source, StepError, Strides, Write, WriteError,
};

use crate::{
    DONE, Gpu, Outcome, Test,
    engine::storage,
    rows::numbers,
    steps::{DIM, Engine, HEADS, LAYERS, MOST_BATCH, MOST_TOKENS, Submit},
};

pub const TESTS: &[Test] = &[
    ("refused_steps::a_step_that_one_layer_refuses_changes_none", a_step_that_one_layer_refuses_changes_none),
    ("refused_steps::a_layer_is_recorded_once", a_layer_is_recorded_once),
    ("refused_steps::a_refused_call_leaves_the_step", a_refused_call_leaves_the_step),
    ("refused_steps::a_dropped_encoder_is_taken_back", a_dropped_encoder_is_taken_back),
    ("refused_steps::an_operation_on_all_layers_is_on_all_or_none", an_operation_on_all_layers_is_on_all_or_none),
    ("refused_steps::memory_that_runs_out_at_every_point", memory_that_runs_out_at_every_point),
];

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
