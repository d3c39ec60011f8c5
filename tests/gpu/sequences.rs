//! Operations on sequences and rings in worked examples. Some are published, others reproduce bugs of other caches.

use std::ops::Range;

use wgpu_kv_cache::{
    CacheConfig, ConfigError, Error, Format, HostTensor, KvCache, Pair, PerSequence, Placement, RangeError,
    SequenceError, StepError, Write, WriteError,
    program::{Change, Layout, Lengths, Operation, Path, Positions, Program, Rows, Span},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("sequences::tensor_scatter", tensor_scatter),
    ("sequences::a_fork_is_independent", a_fork_is_independent),
    ("sequences::requests_join_and_leave", requests_join_and_leave),
    ("sequences::refusals_change_nothing", refusals_change_nothing),
    ("sequences::a_ring_rolls_back_by_its_slack", a_ring_rolls_back_by_its_slack),
    ("sequences::a_source_serves_every_batch_that_its_buffers_hold", a_source_serves_every_batch_that_its_buffers_hold),
    ("sequences::positions_near_the_last_are_as_any", positions_near_the_last_are_as_any),
];

/// Tests that record into passes, where copies are not possible.
pub const OF_KERNELS: &[Test] = &[
    ("sequences::every_row_width_wraps_and_moves", every_row_width_wraps_and_moves),
    ("sequences::lengths_of_many_layers_in_a_pass", lengths_of_many_layers_in_a_pass),
];

/// Rows of one element: the keys are these numbers, the values are their negatives.
fn rows(numbers: &[f32]) -> (Vec<f32>, Vec<f32>) {
    (numbers.to_vec(), numbers.iter().map(|number| -number).collect())
}

fn update(cache: &mut KvCache, numbers: &[f32], write: Write<'_>) -> Result<(), Error> {
    let (keys, values) = rows(numbers);
    cache.update(&keys[..], &values[..], write)
}

/// Asserts that the keys are `numbers` and the values their negatives.
fn assert_rows(pair: &Pair<HostTensor>, shape: [u32; 4], numbers: &[f32]) {
    assert_eq!((pair.keys.shape(), pair.keys.to_f32()), (shape, numbers.to_vec()));
    let negatives: Vec<f32> = numbers.iter().map(|number| 0.0 - number).collect();
    assert_eq!((pair.values.shape(), pair.values.to_f32()), (shape, negatives));
}

/// A node test of the ONNX operator.
struct Case {
    name: &'static str,
    placement: Placement,
    past: [[f32; 5]; 4],
    updates: &'static [&'static [f32]],
    write_indices: &'static [u32],
    /// For each sequence, the rows of the present cache that differ from the past.
    changes: &'static [&'static [(usize, f32)]],
}

/// ONNX `TensorScatter` (opset 24): the node tests published with `onnx` 1.23, in both modes. The past cache is written
/// first, which makes all of it valid, then the update goes to `write_indices`. Mode `circular` is a ring of
/// `max_sequence_length`.
fn tensor_scatter(gpu: &Gpu) -> Outcome {
    const PAST: [[f32; 5]; 4] =
        [[1., 2., 3., 4., 5.], [5., 6., 7., 8., 9.], [8., 7., 6., 5., 4.], [4., 3., 2., 1., 0.]];
    const PAST_3D: [[f32; 5]; 4] =
        [[1., 2., 3., 4., 5.], [5., 6., 7., 8., 9.], [8., 7., 6., 5., 4.], [5., 4., 3., 2., 1.]];
    let circular = Placement::Ring { window: 4, sinks: 0, slack: 0 };
    // Each row of an update repeats one number five times and changes one row of the past.
    let cases = [
        Case {
            name: "tensorscatter",
            placement: Placement::Linear,
            past: PAST,
            updates: &[&[5.], &[1.]],
            write_indices: &[1, 2],
            changes: &[&[(1, 5.)], &[(2, 1.)]],
        },
        Case {
            name: "tensorscatter_circular",
            placement: circular,
            past: PAST,
            updates: &[&[5., 6.], &[1., 2.]],
            write_indices: &[1, 3],
            changes: &[&[(1, 5.), (2, 6.)], &[(3, 1.), (0, 2.)]],
        },
        Case {
            name: "tensorscatter_3d",
            placement: Placement::Linear,
            past: PAST_3D,
            updates: &[&[4., 5.], &[6., 7.], &[2., 3.]],
            write_indices: &[1, 2, 0],
            changes: &[&[(1, 4.), (2, 5.)], &[(2, 6.), (3, 7.)], &[(0, 2.), (1, 3.)]],
        },
    ];
    for Case { name, placement, past, updates, write_indices, changes } in cases {
        let batch = updates.len();
        let mut cache = KvCache::new(&gpu.context, CacheConfig::new(batch as u32, 1, 5, 4).placement(placement))?;
        let past: Vec<f32> = (0..batch).flat_map(|_| past).flatten().collect();
        update(&mut cache, &past, Write::append(4))?;
        let rows: Vec<f32> = updates.iter().flat_map(|rows| rows.iter().flat_map(|&number| [number; 5])).collect();
        update(&mut cache, &rows, Write::at_each(write_indices, updates[0].len() as u32).whole())?;
        let mut present = past;
        for (sequence, changes) in changes.iter().enumerate() {
            for &(row, number) in *changes {
                present[(sequence * 4 + row) * 5..][..5].fill(number);
            }
        }
        let storage = cache.read_storage()?;
        assert_eq!(storage.keys.to_f32(), present, "{name}");
        assert!(storage.values.to_f32().iter().zip(&present).all(|(value, key)| *value == -key), "{name}");
    }
    // The operator refuses an update beyond the end and an update longer than the cache.
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, 5, 4))?;
    let refused = update(&mut cache, &[0.; 10], Write::at_each(&[3], 2));
    assert_eq!(
        refused,
        Err(Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, position: 3, count: 2, max_seq_len: 4 }))
    );
    let refused = update(&mut cache, &[0.; 25], Write::at_each(&[0], 5));
    assert_eq!(
        refused,
        Err(Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, position: 0, count: 5, max_seq_len: 4 }))
    );
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, 5, 0).placement(circular))?;
    let refused = update(&mut cache, &[1.; 25], Write::at_each(&[2], 5).whole());
    assert_eq!(
        refused,
        Err(Error::Write(WriteError::WriteBeyondRing { sequence: 0, position: 2, count: 5, rows: 4, oldest: 3 }))
    );
    assert_eq!(cache.lengths(), [0]);
    assert!(cache.read_storage()?.keys.to_f32().iter().all(|key| *key == 0.));
    update(&mut cache, &[1.; 20], Write::at_each(&[2], 4).whole())?;
    assert_eq!(cache.lengths(), [6]);
    DONE
}

fn a_fork_is_independent(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 1, 4).max_batch_size(3))?;
    update(&mut cache, &[1., 2., 3., 4.], Write::append(2))?;
    cache.copy_sequence(0, 1)?;
    update(&mut cache, &[5., 6.], Write::append(1))?;
    assert_rows(&cache.get_all()?.read()?, [2, 1, 3, 1], &[1., 2., 5., 1., 2., 6.]);
    cache.select(&[1, 0, 1])?;
    assert_rows(&cache.get_all()?.read()?, [3, 1, 3, 1], &[1., 2., 6., 1., 2., 5., 1., 2., 6.]);
    // Source and destination overlap within one sequence.
    cache.copy_range(0, 0..3, 0, 1)?;
    assert_rows(&cache.get_all()?.read()?, [3, 1, 4, 1], &[1., 1., 2., 6., 1., 2., 5., 0., 1., 2., 6., 0.]);
    cache.clear_sequence(1)?;
    cache.truncate(&[2, 0, 1])?;
    assert_rows(&cache.get_all()?.read()?, [3, 1, 2, 1], &[1., 1., 0., 0., 1., 0.]);
    assert_eq!(cache.read_lengths()?, [2, 0, 1]);
    DONE
}

fn requests_join_and_leave(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 3, sinks: 1, slack: 1 };
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, 1, 0).max_batch_size(2).placement(ring))?;
    let numbers: Vec<f32> = (0..9u8).map(|position| f32::from(position) + 1.).collect();
    update(&mut cache, &numbers, Write::append(9))?;
    let left = cache.extract(0)?.read()?;
    assert_rows(&left, [1, 1, 4, 1], &[1., 7., 8., 9.]);
    cache.clear_sequence(0)?;
    update(&mut cache, &[50.], Write::append(1))?;
    // Insert it as another sequence, at its old positions.
    cache.insert(1, 9, &left.keys.to_f32()[..], &left.values.to_f32()[..])?;
    assert_eq!(cache.lengths(), [1, 9]);
    update(&mut cache, &[51., 10.], Write::append(1))?;
    assert_rows(&cache.get_all()?.read()?, [2, 1, 4, 1], &[50., 51., 0., 0., 1., 8., 9., 10.]);
    assert_eq!(cache.valid_positions(1)?.collect::<Vec<_>>(), [0, 7, 8, 9]);
    DONE
}

fn refusals_change_nothing(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 2, sinks: 1, slack: 0 };
    let config = CacheConfig::new(2, 1, 1, 0).max_batch_size(3).placement(ring).formats(Format::F16, Format::Bf16);
    let mut cache = KvCache::new(&gpu.context, config)?;
    update(&mut cache, &[1., 2., 3., 4., 5., 6., 7., 8., 9., 10.], Write::append(5).counts(&[5, 3]))?;
    let before = cache.read_storage()?;
    let index = |index| Err(Error::Sequence(SequenceError::IndexOutOfRange { name: "sequence", index, count: 2 }));
    let refused = [
        (cache.select(&[]), Err(Error::Sequence(SequenceError::EmptySelection))),
        (cache.select(&[0, 2]), index(2)),
        (
            cache.select(&[0; 4]),
            Err(Error::Sequence(SequenceError::BatchTooLarge { batch_size: 4, max_batch_size: 3 })),
        ),
        (cache.repeat(0), Err(Error::Sequence(SequenceError::EmptySelection))),
        (cache.repeat(2), Err(Error::Sequence(SequenceError::BatchTooLarge { batch_size: 4, max_batch_size: 3 }))),
        (
            cache.repeat(u32::MAX),
            Err(Error::Sequence(SequenceError::BatchTooLarge { batch_size: u32::MAX, max_batch_size: 3 })),
        ),
        (
            cache.reorder(&[0]),
            Err(Error::Sequence(SequenceError::PerSequenceLength { name: "sources", batch_size: 2, actual: 1 })),
        ),
        (cache.copy_sequence(2, 0), index(2)),
        (cache.copy_sequence(0, 2), index(2)),
        (cache.clear_sequence(7), index(7)),
        (
            cache.truncate(&[1]),
            Err(Error::Sequence(SequenceError::PerSequenceLength { name: "lengths", batch_size: 2, actual: 1 })),
        ),
        (
            cache.truncate(&[5, 4]),
            Err(Error::Sequence(SequenceError::TruncateBeyondLength { sequence: 1, length: 4, current: 3 })),
        ),
        (
            cache.truncate(PerSequence::Each(&[4, 3])),
            Err(Error::Sequence(SequenceError::RollbackEvicted {
                sequence: 0,
                length: 4,
                shortest: 5,
                sinks: 1,
                oldest: 3,
            })),
        ),
        (
            cache.copy_range(0, 1..4, 1, 3),
            Err(Error::Range(RangeError::Evicted { sequence: 0, position: 1, oldest: 3 })),
        ),
        (cache.copy_range(0, 4..6, 1, 3), Err(Error::Range(RangeError::RangeBeyondWritten { end: 6, write_pos: 5 }))),
        (
            cache.copy_range(0, Range { start: 5, end: 4 }, 1, 3),
            Err(Error::Range(RangeError::RangeReversed { start: 5, end: 4 })),
        ),
        (cache.copy_range(0, 4..4, 1, 3), Err(Error::Write(WriteError::NoTokens))),
        (
            cache.insert(3, 1, &[0f32][..], &[0f32][..]),
            Err(Error::Sequence(SequenceError::IndexOutOfRange { name: "sequence", index: 3, count: 2 })),
        ),
        (cache.insert(0, 0, &[0f32; 0][..], &[0f32; 0][..]), Err(Error::Write(WriteError::NoTokens))),
        (
            cache.insert(0, 9, &[0f32; 9][..], &[0f32; 3][..]),
            Err(Error::Write(WriteError::SliceLength { side: wgpu_kv_cache::Side::Keys, expected: 3, actual: 9 })),
        ),
        (cache.get(1..5).map(drop), Err(Error::Range(RangeError::Evicted { sequence: 0, position: 1, oldest: 3 }))),
        (
            cache.visible(0, 6).map(drop),
            Err(Error::Sequence(SequenceError::QueriesBeyondLength { sequence: 0, queries: 6, length: 5 })),
        ),
        (cache.visible(0, 2).map(drop), Err(Error::Range(RangeError::Evicted { sequence: 0, position: 2, oldest: 3 }))),
    ];
    for (number, (actual, expected)) in refused.into_iter().enumerate() {
        assert_eq!(actual, expected, "refusal {number}");
    }
    assert_eq!(cache.read_storage()?, before);
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&[5, 3][..], vec![5, 3]));
    let zero = CacheConfig::new(1, 1, 1, 0).placement(Placement::Ring { window: 0, sinks: 4, slack: 4 });
    assert_eq!(
        KvCache::new(&gpu.context, zero).err(),
        Some(Error::Config(ConfigError::ZeroDimension { name: "window" }))
    );
    let large = CacheConfig::new(2, 1, 1, 4).max_batch_size(1);
    let refused = Error::Sequence(SequenceError::BatchTooLarge { batch_size: 2, max_batch_size: 1 });
    assert_eq!(KvCache::new(&gpu.context, large).err(), Some(refused));
    DONE
}

/// Speculative decoding in a ring that has wrapped: a rollback of drafts must restore the full window.
fn a_ring_rolls_back_by_its_slack(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 3, sinks: 0, slack: 2 };
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, 1, 0).placement(ring))?;
    update(&mut cache, &[1., 2., 3., 4., 5., 6., 7., 8.], Write::append(8))?;
    // Write two drafts, both refused later.
    update(&mut cache, &[90., 91.], Write::append(2))?;
    assert_rows(&cache.get_all()?.read()?, [1, 1, 3, 1], &[8., 90., 91.]);
    cache.truncate(8)?;
    assert_rows(&cache.get_all()?.read()?, [1, 1, 3, 1], &[6., 7., 8.]);
    update(&mut cache, &[9.], Write::append(1))?;
    assert_rows(&cache.get_all()?.read()?, [1, 1, 3, 1], &[7., 8., 9.]);
    // Ten positions were written, so the ring stores 5 to 9, and 8 is the shortest length with a whole window. Since
    // the rollback the length is 9.
    let refused =
        Error::Sequence(SequenceError::RollbackEvicted { sequence: 0, length: 7, shortest: 8, sinks: 0, oldest: 5 });
    assert_eq!(cache.truncate(7), Err(refused));
    cache.truncate(0)?;
    update(&mut cache, &[1.], Write::append(1))?;
    assert_rows(&cache.get_all()?.read()?, [1, 1, 1, 1], &[1.]);
    DONE
}

fn a_source_serves_every_batch_that_its_buffers_hold(gpu: &Gpu) -> Outcome {
    use wgpu_kv_cache::{RowsIn, Source, Strides};
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 4, 4).max_batch_size(4))?;
    let buffer = gpu.context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 3 * 4 * 4,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let rows = || RowsIn { buffer: &buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 1, 4) };
    let source = cache.bind_source(&Source { keys: rows(), values: rows(), tokens: 1 })?;
    assert_eq!(source.sequences(), 3, "as many as the buffer holds");
    for (sources, lengths) in [(&[1][..], &[1][..]), (&[0, 0, 0], &[2, 2, 2]), (&[2, 1], &[3, 3])] {
        cache.select(sources)?;
        let mut encoder = gpu.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        cache.record_update(&mut encoder, &source, Write::append(1))?;
        gpu.context.queue().submit([encoder.finish()]);
        assert_eq!((cache.lengths(), cache.read_lengths()?), (lengths, lengths.to_vec()));
    }
    cache.select(&[0, 0, 0, 0])?;
    let mut encoder = gpu.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let refused = cache.record_update(&mut encoder, &source, Write::append(1));
    assert_eq!(refused, Err(Error::Step(StepError::BatchBeyondBound { name: "source", bound: 3, batch_size: 4 })));
    assert_eq!(cache.lengths(), [3, 3, 3, 3]);
    DONE
}

/// Uses more layers than one dispatch handles, with two placements and different lengths per layer.
fn lengths_of_many_layers_in_a_pass(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 4, sinks: 1, slack: 2 };
    let mut program = Program::new(CacheConfig::new(3, 2, 8, 12), 40);
    program.placements = (0..40).map(|layer| if layer % 7 < 5 { Placement::Linear } else { ring }).collect();
    program.poison = true;
    program.operations.extend((0..40).map(|layer| Operation::Update {
        layer,
        span: Span {
            tokens: 9,
            positions: Positions::Append,
            counts: Some([8, 7, 6].map(|count| count + u32::from(layer % 3 == 1)).to_vec()),
            whole: false,
            attended: false,
        },
        rows: Rows { key_format: Format::F32, value_format: Format::Bf16, seed: layer as u64 },
        path: Path::Pass(Layout::Fused),
    }));
    program.operations.extend(
        [
            Change::Truncate(Lengths::Each(vec![8, 6, 6])),
            Change::Clear(1),
            Change::Truncate(Lengths::Each(vec![9, 0, 6])),
        ]
        .map(|change| Operation::Sequences { change, in_pass: true }),
    );
    program.operations.push(Operation::GetAll { layer: 39 });
    program.run(&gpu.context)?;
    program.run(&gpu.small)?;
    DONE
}

/// Rows that share words with their neighbours where a ring's runs end, and rows of whole vectors. Permutations with
/// cycles and duplicates move rows in all three runs of a ring.
fn every_row_width_wraps_and_moves(gpu: &Gpu) -> Outcome {
    for (dim, value_dim, format) in
        [(1, 3, Format::F16), (3, 1, Format::Bf16), (4, 8, Format::F32), (8, 1, Format::F16), (1, 4, Format::F32)]
    {
        for sinks in [1, 2] {
            let config = CacheConfig::new(2, 2, dim, 0)
                .max_batch_size(4)
                .value_dim(value_dim)
                .formats(format, format)
                .placement(Placement::Ring { window: 3, sinks, slack: 1 });
            let mut program = Program::new(config, 2);
            program.poison = true;
            let update = |layer, tokens, counts, seed| Operation::Update {
                layer,
                span: Span { tokens, positions: Positions::Append, counts, whole: false, attended: false },
                rows: Rows { key_format: format, value_format: Format::F32, seed },
                path: Path::Pass(Layout::Bthd),
            };
            let change = |change| Operation::Sequences { change, in_pass: true };
            for tokens in 1..=9 {
                program.operations.extend([
                    Operation::Reset,
                    update(0, tokens, None, 1),
                    update(1, tokens, Some(vec![tokens, tokens / 2]), 2),
                    change(Change::Reorder(vec![1, 0])),
                    update(0, 1, None, 3),
                    change(Change::Select(vec![1, 0, 1, 0])),
                    change(Change::Reorder(vec![3, 2, 0, 1])),
                    update(1, 2, Some(vec![1, 2, 0, 1]), 4),
                    Operation::GetAll { layer: 0 },
                    Operation::GetAll { layer: 1 },
                    change(Change::Select(vec![2, 0])),
                ]);
            }
            program.run(&gpu.context).map_err(|failure| format!("{config:?}: {failure}"))?;
        }
    }
    DONE
}

/// Positions are 32 bits wide, enough for 4 000 000 000 tokens. An operation there costs what it costs at position 10.
fn positions_near_the_last_are_as_any(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 4, sinks: 3, slack: 2 };
    for base in [10, 4_000_000_000, u32::MAX - 60] {
        let mut program = Program::new(CacheConfig::new(2, 2, 5, 0).max_batch_size(3).placement(ring), 2);
        program.poison = true;
        let rows = |seed| Rows { key_format: Format::F32, value_format: Format::F16, seed };
        let span = |positions, tokens| Span { tokens, positions, counts: None, whole: false, attended: false };
        let at = |position| Positions::At(position);
        let change = |change| Operation::Sequences { change, in_pass: false };
        let get = |start, end| Operation::Get { layer: 0, start, end, guarded: false };
        let update = |layer, span, seed| Operation::Update { layer, span, rows: rows(seed), path: Path::Host };
        program.operations = vec![
            update(0, span(Positions::Append, 4), 1),
            update(0, span(Positions::Each(vec![base + 4, base]), 2), 2),
            update(1, span(at(base), 6), 3),
            update(0, span(Positions::Append, 1), 4),
            Operation::Advance { layer: 0, span: span(at(base + 9), 2), seed: 5 },
            Operation::Advance { layer: 1, span: span(at(base + 12), 30), seed: 6 },
            get(base + 8, base + 11),
            get(0, 3),
            get(0, base + 11),
            get(base, u32::MAX),
            Operation::GetAll { layer: 0 },
            Operation::Extract { sequence: 1 },
            update(0, span(at(u32::MAX - 1), 1), 7),
            update(0, span(at(0), u32::MAX - 1), 8),
            change(Change::Truncate(Lengths::All(base + 9))),
            change(Change::CopyRange { from: 0, start: 0, end: base + 9, to: 1, position: 0 }),
            change(Change::CopyRange { from: 0, start: 0, end: u32::MAX, to: 1, position: 0 }),
            Operation::Insert { sequence: 2, length: base + 40, rows: rows(9) },
            change(Change::CopyRange { from: 2, start: base + 37, end: base + 40, to: 0, position: base + 41 }),
            change(Change::Select(vec![2, 0])),
            change(Change::Truncate(Lengths::Each(vec![base + 40, 2]))),
            Operation::GetAll { layer: 1 },
        ];
        program.run(&gpu.context).map_err(|failure| format!("{base}: {failure}"))?;
        program.run(&gpu.small).map_err(|failure| format!("{base}: {failure}"))?;
    }
    DONE
}
