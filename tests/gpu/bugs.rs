//! Bugs found in other KV caches, each with the test that excludes it.
//!
//!  1  a 32-bit index overflows and the output is wrong: [`large`](crate::large), more than 2^16 workgroups, and the
//!     checked arithmetic in `tests/config.rs`
//!  2  a binding over the limit fails silently: `large`, two segments a side
//!  3  a store out of bounds lands anywhere, or on the last element
//!  4  lengths and positions are not checked: `tests/refusals`
//!  5  padding tokens are written into a shared slot
//!  6  NaN leaks from rows that were never written
//!  7  stale rows are read after a reset, a rewind or reuse
//!  8  a clear with the wrong stride wipes a neighbour
//!  9  a failed update still advances the length
//! 13  all sequences share one length: `host`, prompts of different lengths
//! 14  parameters are overwritten before the GPU reads them: `engine`, a late submission
//! 15  one dispatch reads and writes the same buffer: `tests/refusals`, a source in the cache's own storage
//! 16  copies need 4-byte alignment: `large`, odd starts in 16-bit formats
//! 17  a dispatch has more than 65 535 workgroups in one dimension: `large`
//! 18  head sizes are odd, or differ between keys and values: `large`, every head size; `host`
//! 19  the offset of a strided source is ignored
//! 21  an append changes rows that are already stored
//! 22  keys are used as values: every test has different data in the two
//! 24  a file is truncated: `tests/cli/verify.rs`
//! 25  memory accounting underflows
//! 26  the caller's source is modified

use wgpu_kv_cache::{
    CacheConfig, Context, Format, KvCache, RowsIn, Side, Source, Strides, Write,
    program::{Layout, Operation, Path, Positions, Program, Rows, Span},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("bugs::bug_03_nothing_lands_beside_the_rows", bug_03_nothing_lands_beside_the_rows),
    ("bugs::bug_05_padding_is_never_written", bug_05_padding_is_never_written),
    ("bugs::bug_06_nan_never_leaks", bug_06_nan_never_leaks),
    ("bugs::bug_07_stale_rows_are_not_read", bug_07_stale_rows_are_not_read),
    ("bugs::bug_08_a_gap_spares_the_neighbours", bug_08_a_gap_spares_the_neighbours),
    ("bugs::bug_09_a_refused_update_changes_nothing", bug_09_a_refused_update_changes_nothing),
    ("bugs::bug_19_the_offset_of_a_source_counts", bug_19_the_offset_of_a_source_counts),
    ("bugs::bug_21_appending_changes_no_stored_bit", bug_21_appending_changes_no_stored_bit),
    ("bugs::bug_25_accounting_never_underflows", bug_25_accounting_never_underflows),
    ("bugs::bug_26_the_source_stays_as_it_is", bug_26_the_source_stays_as_it_is),
];

const NAN: f32 = f32::NAN;

/// Fills the whole storage, including padding, with NaN.
fn poison(cache: &KvCache) {
    for side in Side::BOTH {
        for segment in cache.view().side(side).segments() {
            let filled = vec![0xffu8; usize::try_from(segment.buffer.size()).unwrap()];
            cache.context().queue().write_buffer(segment.buffer, 0, &filled);
        }
    }
}

fn source_buffer(context: &Context, contents: &[f32]) -> wgpu::Buffer {
    let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: contents.len() as u64 * 4,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    context.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(contents));
    buffer
}

fn bug_03_nothing_lands_beside_the_rows(gpu: &Gpu) -> Outcome {
    // Writes only the last slot of each plane, with row sizes that do not fill a workgroup. The rest must stay
    // poisoned.
    for (dim, format) in [(3, Format::F16), (8, Format::F16), (7, Format::F32), (72, Format::Bf16)] {
        let mut program = Program::new(CacheConfig::new(3, 2, dim, 5).formats(format, format), 2);
        program.poison = true;
        let write = |layer, sequence: usize| Operation::Update {
            layer,
            span: Span {
                tokens: 1,
                positions: Positions::At(4),
                counts: Some((0..3).map(|b| u32::from(b == sequence)).collect()),
                whole: false,
                attended: false,
            },
            rows: Rows { key_format: Format::F32, value_format: format, seed: 9 },
            path: Path::Encoder(Layout::Gaps),
        };
        program.operations = vec![write(0, 2), write(1, 0), write(0, 1)];
        program.run(&gpu.context)?;
        program.run(&gpu.small)?;
    }
    DONE
}

fn bug_05_padding_is_never_written(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 1, 4))?;
    poison(&cache);
    // Padding tokens are NaN. The second sequence consists of padding only.
    let keys = [1.0, 2.0, NAN, NAN, NAN, NAN];
    let values = [3.0, 4.0, NAN, NAN, NAN, NAN];
    cache.update(&keys[..], &values[..], Write::append(3).counts(&[2, 0]))?;
    let storage = cache.read_storage()?;
    let poisoned = 0xffff_ffffu32;
    let bits = |tensor: &wgpu_kv_cache::HostTensor| tensor.bits().collect::<Vec<_>>();
    let expected =
        |a: f32, b: f32| [a.to_bits(), b.to_bits(), poisoned, poisoned, poisoned, poisoned, poisoned, poisoned];
    assert_eq!(bits(&storage.keys), expected(1.0, 2.0));
    assert_eq!(bits(&storage.values), expected(3.0, 4.0));
    DONE
}

fn bug_06_nan_never_leaks(gpu: &Gpu) -> Outcome {
    for (dim, format) in [(1, Format::F16), (4, Format::F32), (64, Format::Bf16)] {
        let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 2, dim, 6).formats(format, format))?;
        poison(&cache);
        let elements = 2 * 2 * 3 * dim as usize;
        let (keys, values) = (vec![1.0f32; elements], vec![2.0f32; elements]);
        cache.update(&keys, &values, Write::append(3).counts(&[3, 1]))?;
        // Leaves a gap before the next rows of the second sequence.
        cache.update(&keys, &values, Write::at_each(&[3, 3], 3).counts(&[1, 3]))?;
        assert_eq!(cache.lengths(), [4, 6]);
        for tensor in [cache.get_all()?.read()?.keys, cache.get(1..5)?.read()?.values] {
            assert!(tensor.to_f32().iter().all(|x| x.is_finite()), "head size {dim}, {format}");
        }
    }
    DONE
}

fn bug_07_stale_rows_are_not_read(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 1, 4))?;
    let (keys, values) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [9.0f32; 8]);
    cache.update(&keys[..], &values[..], Write::append(4))?;
    // Rewinds the first sequence and leaves the second at its length.
    cache.update(&[20.0f32, 0.0][..], &[21.0f32, 0.0][..], Write::at(1, 1).counts(&[1, 0]))?;
    assert_eq!(cache.get_all()?.read()?.keys.to_f32(), [1.0, 20.0, 0.0, 0.0, 5.0, 6.0, 7.0, 8.0]);
    cache.reset()?;
    cache.update(&[30.0f32, 31.0][..], &[32.0f32, 33.0][..], Write::at(2, 1))?;
    assert_eq!(cache.get_all()?.read()?.keys.to_f32(), [0.0, 0.0, 30.0, 0.0, 0.0, 31.0]);
    DONE
}

fn bug_08_a_gap_spares_the_neighbours(gpu: &Gpu) -> Outcome {
    for (dim, format) in [(1, Format::F16), (3, Format::Bf16), (8, Format::F32)] {
        let config = CacheConfig::new(3, 2, dim, 8).value_dim(dim + 1).formats(format, Format::F16);
        let mut program = Program::new(config, 1);
        program.poison = true;
        let rows = Rows { key_format: Format::F32, value_format: Format::F16, seed: 4 };
        let update = |span, path| Operation::Update { layer: 0, span, rows, path };
        program.operations = vec![
            update(Span::append(2), Path::Host),
            update(
                Span {
                    tokens: 2,
                    positions: Positions::Each(vec![2, 6, 2]),
                    counts: Some(vec![0, 2, 1]),
                    whole: false,
                    attended: false,
                },
                Path::Pass(Layout::Bthd),
            ),
            Operation::Advance {
                layer: 0,
                span: Span {
                    tokens: 1,
                    positions: Positions::At(7),
                    counts: Some(vec![1, 0, 0]),
                    whole: false,
                    attended: false,
                },
                seed: 5,
            },
        ];
        program.run(&gpu.context)?;
        program.run(&gpu.small)?;
    }
    DONE
}

fn bug_09_a_refused_update_changes_nothing(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 2, 4))?;
    let (keys, values) = ([1.0f32; 12], [2.0f32; 12]);
    cache.update(&keys[..], &values[..], Write::append(3).counts(&[3, 1]))?;
    let (storage, lengths) = (cache.read_storage()?, cache.lengths().to_vec());
    // A violation by one sequence refuses the whole call.
    cache.update(&keys[..], &values[..], Write::append(3).counts(&[2, 3])).unwrap_err();
    cache.update(&keys[..], &values[..], Write::at_each(&[0, 2], 3)).unwrap_err();
    cache.update(&keys[..], &values[..11], Write::append(3).counts(&[1, 3])).unwrap_err();
    cache.update(&keys[..], &values[..], Write::append(3).counts(&[1, 4])).unwrap_err();
    assert_eq!(cache.lengths(), lengths);
    assert_eq!(cache.read_lengths()?, lengths);
    assert_eq!(cache.read_storage()?, storage);
    DONE
}

/// Another cache ignored where the source's view begins and always wrote lane 0.
fn bug_19_the_offset_of_a_source_counts(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(1, 1, 8, 4))?;
    let lanes: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let buffer = source_buffer(context, &lanes);
    for (step, lane) in (0..).zip([1u64, 5, 3]) {
        let rows_in = |offset| RowsIn { buffer: &buffer, offset, format: Format::F32, strides: Strides::bhtd(1, 1, 8) };
        let source = Source { keys: rows_in(lane * 32), values: rows_in(lane * 32 + 32), tokens: 1 };
        let source = cache.bind_source(&source)?;
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.record_update(&mut encoder, &source, Write::append(1))?;
        context.queue().submit([encoder.finish()]);
        let read = cache.get(step..step + 1)?.read()?;
        let first = lane as usize * 8;
        assert_eq!(read.keys.to_f32(), lanes[first..first + 8]);
        assert_eq!(read.values.to_f32(), lanes[first + 8..first + 16]);
    }
    DONE
}

fn bug_21_appending_changes_no_stored_bit(gpu: &Gpu) -> Outcome {
    for format in Format::ALL {
        for dim in [1, 3, 8, 70] {
            let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, dim, 9).formats(format, format))?;
            let mut stored: Vec<Vec<u32>> = Vec::new();
            for step in 0..9 {
                let keys: Vec<f32> = (0..dim).map(|i| (step * dim + i) as f32 * 0.3).collect();
                let values: Vec<f32> = keys.iter().map(|x| 1.0 - x).collect();
                cache.update(&keys, &values, Write::append(1))?;
                let storage = cache.read_storage()?;
                let bits: Vec<u32> = storage.keys.bits().chain(storage.values.bits()).collect();
                let units = format.units(dim) as usize;
                let plane = 9 * units;
                for (before, row) in stored.iter().zip(0..) {
                    let row: usize = row;
                    let at = row * units;
                    assert_eq!(before[at..at + units], bits[at..at + units], "{format}, row {row}");
                    let at = plane + at;
                    assert_eq!(before[at..at + units], bits[at..at + units], "{format}, row {row}");
                }
                stored.push(bits);
            }
        }
    }
    DONE
}

fn bug_25_accounting_never_underflows(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 4, 8).formats(Format::F16, Format::F32))?;
    let row = 4 * 2 + 4 * 4;
    let used = |cache: &KvCache| cache.memory_used_bytes();
    assert_eq!(used(&cache), 0);
    let rows = [0.0f32; 2 * 4 * 4];
    cache.update(&rows[..], &rows[..], Write::append(4))?;
    assert_eq!(used(&cache), 8 * row);
    cache.update(&rows[..8], &rows[..8], Write::at(0, 1))?;
    assert_eq!(used(&cache), 2 * row);
    cache.reset()?;
    assert_eq!(used(&cache), 0);
    cache.reset()?;
    assert_eq!((used(&cache), cache.memory_allocated_bytes()), (0, 2 * 8 * row));
    DONE
}

fn bug_26_the_source_stays_as_it_is(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let mut cache = KvCache::new(context, CacheConfig::new(1, 1, 4, 8).formats(Format::Bf16, Format::F16))?;
    let contents: Vec<f32> = (0..16).map(|i| i as f32 + 0.1).collect();
    let (keys, values) = (source_buffer(context, &contents), source_buffer(context, &contents));
    let rows_in = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 4, 4) };
    let source = cache.bind_source(&Source { keys: rows_in(&keys), values: rows_in(&values), tokens: 4 })?;
    let mut encoder = context.device().create_command_encoder(&Default::default());
    cache.record_update(&mut encoder, &source, Write::append(4))?;
    context.queue().submit([encoder.finish()]);
    // A second cache with the same layout as the source buffers copies their current contents, for comparison.
    let mut copy = KvCache::new(context, CacheConfig::new(1, 1, 4, 4))?;
    let source = copy.bind_source(&Source { keys: rows_in(&keys), values: rows_in(&values), tokens: 4 })?;
    let mut encoder = context.device().create_command_encoder(&Default::default());
    copy.record_update(&mut encoder, &source, Write::append(4))?;
    context.queue().submit([encoder.finish()]);
    assert_eq!(copy.read_storage()?.keys.to_f32(), contents);
    DONE
}
