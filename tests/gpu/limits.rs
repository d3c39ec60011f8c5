//! Device limits: grids, bindings, and the number of loop iterations that a software driver allows.

use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, DeviceError, Error, Format, HostRows, KvCache, PagedConfig, PagedKvCache,
    Pair, Placement, ReferenceCache, RowsIn, Side, Strides, Write,
    attention::{Attention, Options, Tensors, attend},
    compare_tensors,
    pages::Append,
};

use crate::{
    DONE, Gpu, Outcome, Test,
    engine::storage,
    rows::{BOUND, numbers},
};

pub const TESTS: &[Test] = &[
    ("limits::grids_that_are_too_large_are_refused", grids_that_are_too_large_are_refused),
    ("limits::splits_fit_the_grid", splits_fit_the_grid),
    ("limits::selections_of_many_sequences_in_small_bindings", selections_of_many_sequences_in_small_bindings),
    ("limits::attention_of_long_sequences", attention_of_long_sequences),
    ("limits::more_sequences_than_a_workgroup_has_threads", more_sequences_than_a_workgroup_has_threads),
    ("limits::long_runs_in_narrow_grids", long_runs_in_narrow_grids),
    ("limits::more_runs_of_pages_than_a_grid_is_high", more_runs_of_pages_than_a_grid_is_high),
    ("limits::a_plane_of_output_larger_than_a_binding", a_plane_of_output_larger_than_a_binding),
];

const LIMIT: &str = "max_compute_workgroups_per_dimension";

fn narrow(gpu: &Gpu, most: u32) -> wgpu_kv_cache::Result<Context> {
    let limits = wgpu::Limits { max_compute_workgroups_per_dimension: most, ..gpu.adapter.limits() };
    Gpu::open(&gpu.adapter, limits, gpu.costs)
}

/// Two sequences of 8192 rows of 64 elements need more workgroups than 16 × 16.
fn grids_that_are_too_large_are_refused(gpu: &Gpu) -> Outcome {
    let context = narrow(gpu, 16)?;
    let mut cache = KvCache::new(&context, CacheConfig::new(2, 1, 64, 8192))?;
    let rows = numbers(2 * 64, 1);
    cache.update(&rows, &rows, Write::append(1).counts(&[1, 0]))?;
    let too_large = |done: Result<(), Error>| match done {
        Err(Error::Device(DeviceError::DeviceLimit { limit: LIMIT, needed, available: 16 })) => {
            assert!(needed > 16, "{needed}");
        }
        done => panic!("{done:?}"),
    };
    let mut encoder = context.device().create_command_encoder(&Default::default());
    // Leaves a gap of 8099 rows.
    too_large(cache.record_advance(&mut encoder.begin_compute_pass(&Default::default()), Write::at(8100, 1)));
    context.queue().submit([encoder.finish()]);
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&[1, 0][..], vec![1, 0]));
    // Planes too large to move in place go through scratch memory, which holds only the rows that exist.
    cache.select(&[1, 0])?;
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&[0, 1][..], vec![0, 1]));
    assert_eq!(cache.get_all()?.read()?.keys.to_f32()[64..], rows[..64]);
    DONE
}

fn splits_fit_the_grid(gpu: &Gpu) -> Outcome {
    let context = narrow(gpu, 8)?;
    let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 4, 8192))?;
    let rows = numbers(4, 1);
    // Use two updates, because the gap before each must fit the grid too.
    cache.update(&rows, &rows, Write::at(4000, 1))?;
    cache.update(&rows, &rows, Write::at(8000, 1))?;
    let (queries, output) = (storage(&context, &[0; 16]), storage(&context, &[0; 16]));
    let row = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 1, 4) };
    let tensors = Tensors { queries: row(&queries), output: row(&output), mask: None, sink_logits: None };
    let options = Options { splits: Some(9), ..Options::last(1, 1) };
    let refused = Attention::new(&cache, &options, &tensors).map(drop);
    assert_eq!(refused, Err(Error::Device(DeviceError::DeviceLimit { limit: LIMIT, needed: 9, available: 8 })));
    // Without a given number, the splits are limited to what the grid allows.
    attend(&cache, &Options::last(1, 1), &rows, None)?;
    DONE
}

/// 600 rows of 64 elements are more units than 8 workgroups have threads, so a grid goes on in z.
fn long_runs_in_narrow_grids(gpu: &Gpu) -> Outcome {
    let context = narrow(gpu, 8)?;
    for counts in [[600, 600], [450, 600]] {
        let config = CacheConfig::new(2, 1, 64, 640).formats(Format::F32, Format::F16);
        let (mut cache, mut reference) = (KvCache::new(&context, config)?, ReferenceCache::new(config)?);
        let (keys, values) = (numbers(2 * 600 * 64, 1), numbers(2 * 600 * 64, 2));
        let write = Write::append(600).counts(&counts);
        cache.update(&keys, &values, write)?;
        reference.update(&keys, &values, write)?;
        assert_eq!(reference.compare_storage(0, &cache.read_storage()?)?, None);
        assert_eq!(cache.read_lengths()?, counts);
    }
    DONE
}

/// 45 pages of two tokens with two heads, where a grid is 24 high.
fn more_runs_of_pages_than_a_grid_is_high(gpu: &Gpu) -> Outcome {
    let context = narrow(gpu, 24)?;
    let layer = CacheConfig::new(2, 2, 3, 100);
    let mut cache = PagedKvCache::new(&context, &PagedConfig::new(layer, 1, 2, 50))?;
    let (keys, values) = (numbers(90 * 6, 1), numbers(90 * 6, 2));
    let rows = [Pair { keys: HostRows::from(&keys), values: HostRows::from(&values) }];
    let sequence = cache.add(&[], None)?.sequence;
    cache.append(&[Append::new(sequence, &(0..90).collect::<Vec<_>>())], &rows)?;
    let stored = cache.read_storage(0)?;
    for (index, &page) in cache.sequences().pages(sequence, 0)?.iter().enumerate() {
        for (side, rows) in [(&stored.keys, &keys), (&stored.values, &values)] {
            // A page is [head, token, dim], and the source [token, head, dim].
            let stored = side.to_f32();
            for (head, slot) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let row = &stored[((page as usize * 2 + head) * 2 + slot) * 3..][..3];
                assert_eq!(row, &rows[((index * 2 + slot) * 2 + head) * 3..][..3], "page {index}, row {slot}");
            }
        }
    }
    let read = cache.get(0, sequence, 0..90)?.read()?;
    let head = |head: usize| keys.chunks_exact(6).flat_map(move |token| token[head * 3..][..3].to_vec());
    assert_eq!(read.keys.to_f32(), head(0).chain(head(1)).collect::<Vec<_>>());
    DONE
}

/// The moves of all sequences exceed a binding, so rows and lengths take the fallback path.
fn selections_of_many_sequences_in_small_bindings(gpu: &Gpu) -> Outcome {
    let count = 70;
    let config = CacheConfig::new(count, 1, 4, 2);
    let mut cache = BatchedKvCache::new(&gpu.small, config, 3)?;
    let rows = numbers((count * 4) as usize, 1);
    for layer in 0..3 {
        cache.update(layer, &rows, &rows, Write::append(1))?;
    }
    let sources: Vec<u32> = (0..count).rev().collect();
    cache.select(&sources)?;
    let reversed: Vec<f32> = rows.chunks_exact(4).rev().flatten().copied().collect();
    for layer in cache.layers() {
        assert_eq!(layer.get_all()?.read()?.keys.to_f32(), reversed);
    }
    let mut encoder = gpu.small.device().create_command_encoder(&Default::default());
    cache.record_truncate(&mut encoder.begin_compute_pass(&Default::default()), 0)?;
    gpu.small.queue().submit([encoder.finish()]);
    for layer in cache.layers() {
        assert_eq!((layer.lengths(), layer.read_lengths()?), (&[0; 70][..], vec![0; 70]));
    }
    DONE
}

/// All keys are equal, so the result is the mean of the values.
fn attention_of_long_sequences(gpu: &Gpu) -> Outcome {
    for (dim, group, positions) in [(8u32, 1u32, 32_768u32), (64, 4, 32_768), (256, 32, 1024), (256, 32, 8192)] {
        let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, dim, positions))?;
        let value = |row: u32| 1.0 + 2.0 * row as f32 / positions as f32;
        let keys = vec![0.5f32; (positions * dim) as usize];
        let values: Vec<f32> = (0..positions).flat_map(|row| vec![value(row); dim as usize]).collect();
        cache.update(&keys, &values, Write::append(positions))?;
        let mean = (0..positions).map(|row| f64::from(value(row))).sum::<f64>() / f64::from(positions);
        let queries = vec![0.25f32; (group * dim) as usize];
        for splits in [Some(1), None] {
            let options = Options { splits, ..Options::last(group, 1) };
            for number in attend(&cache, &options, &queries, None)?.to_f32() {
                let apart = (f64::from(number) - mean).abs() / mean;
                assert!(apart < BOUND, "{group} heads of {dim}, {positions} positions, {splits:?} splits: {apart:.1e}");
            }
        }
    }
    DONE
}

/// A workgroup sets 256 lengths, so 600 sequences need three: in updates of several rows, with counts and without, in
/// an update of one row, and in a truncation, which writes no row.
fn more_sequences_than_a_workgroup_has_threads(gpu: &Gpu) -> Outcome {
    let count = 600u32;
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(count, 1, 1, 8))?;
    let counts: Vec<u32> = (0..count).map(|sequence| sequence % 3).collect();
    let rows = numbers((count * 2) as usize, 1);
    let mut expected = vec![0; count as usize];
    for (tokens, counts) in [(2, Some(&counts)), (1, None), (2, None)] {
        let write = Write::append(tokens);
        let rows = &rows[..(count * tokens) as usize];
        cache.update(rows, rows, counts.map_or(write, |counts| write.counts(counts)))?;
        for (sequence, length) in expected.iter_mut().enumerate() {
            *length += counts.map_or(tokens, |counts| counts[sequence]);
        }
        assert_eq!((cache.lengths(), cache.read_lengths()?), (&expected[..], expected.clone()));
    }
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    cache.record_truncate(&mut encoder.begin_compute_pass(&Default::default()), &counts)?;
    gpu.context.queue().submit([encoder.finish()]);
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&counts[..], counts.clone()));
    DONE
}

/// The f32 rows of one plane exceed a binding and are written in parts. A run may begin before its part.
fn a_plane_of_output_larger_than_a_binding(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 27, sinks: 2, slack: 1 };
    for (dim, format) in [(64, Format::F16), (63, Format::Bf16), (128, Format::Q8_0)] {
        for placement in [Placement::Linear, ring] {
            let config = CacheConfig::new(2, 1, dim, 30).formats(format, format).placement(placement);
            let mut cache = KvCache::new(&gpu.small, config)?;
            let mut reference = ReferenceCache::new(config)?;
            let (keys, values) = (numbers((2 * 30 * dim) as usize, 1), numbers((2 * 30 * dim) as usize, 2));
            let first = if placement == ring { 11 } else { 0 };
            let writes: &[u32] = if placement == ring { &[30, 7] } else { &[30] };
            for &tokens in writes {
                let size = (2 * tokens * dim) as usize;
                let counts = [tokens, tokens - 3];
                let write = Write::append(tokens).counts(&counts);
                cache.update(&keys[..size], &values[..size], write)?;
                reference.update(&keys[..size], &values[..size], write)?;
            }
            let range = first..cache.write_pos();
            assert!(u64::from(range.end - range.start) * u64::from(dim) * 4 > 4096, "the parts are more than one");
            let (expected, actual) =
                (reference.get_as(range.clone(), Format::F32)?, cache.get_as(range, Format::F32)?.read()?);
            for side in Side::BOTH {
                let difference = compare_tensors(0, side, expected.side(side), actual.side(side))?;
                assert_eq!(difference, None, "{format}, {placement:?}");
            }
        }
    }
    DONE
}
