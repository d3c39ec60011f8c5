//! What a device's limits leave room for: grids, bindings, and the turns of loops that a software driver takes.

use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, DeviceError, Error, Format, KvCache, RowsIn, Strides, Write,
    attention::{Attention, Options, Tensors, attend},
};

use crate::{
    DONE, Gpu, Outcome, Test,
    attention::{BOUND, numbers},
    engine::storage,
};

pub const TESTS: &[Test] = &[
    ("limits::grids_that_are_too_large_are_refused", grids_that_are_too_large_are_refused),
    ("limits::splits_fit_the_grid", splits_fit_the_grid),
    ("limits::selections_of_many_sequences_in_small_bindings", selections_of_many_sequences_in_small_bindings),
    ("limits::attention_of_long_sequences", attention_of_long_sequences),
];

const LIMIT: &str = "max_compute_workgroups_per_dimension";

fn narrow(gpu: &Gpu, most: u32) -> wgpu_kv_cache::Result<Context> {
    let limits = wgpu::Limits { max_compute_workgroups_per_dimension: most, ..gpu.adapter.limits() };
    Gpu::open(&gpu.adapter, limits, gpu.costs)
}

/// Two sequences of 8192 rows of 64: more workgroups than 16 × 16.
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
    // A gap of 8099 rows.
    too_large(cache.record_advance(&mut encoder.begin_compute_pass(&Default::default()), Write::at(8100, 1)));
    context.queue().submit([encoder.finish()]);
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&[1, 0][..], vec![1, 0]));
    // Planes that are too large to move in place go through scratch memory, which takes the rows that there are.
    cache.select(&[1, 0])?;
    assert_eq!((cache.lengths(), cache.read_lengths()?), (&[0, 1][..], vec![0, 1]));
    assert_eq!(cache.get_all()?.read()?.keys.to_f32()[64..], rows[..64]);
    DONE
}

fn splits_fit_the_grid(gpu: &Gpu) -> Outcome {
    let context = narrow(gpu, 8)?;
    let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 4, 8192))?;
    let rows = numbers(4, 1);
    // In two, because a gap too must fit the grid.
    cache.update(&rows, &rows, Write::at(4000, 1))?;
    cache.update(&rows, &rows, Write::at(8000, 1))?;
    let (queries, output) = (storage(&context, &[0; 16]), storage(&context, &[0; 16]));
    let row = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(1, 1, 4) };
    let tensors = Tensors { queries: row(&queries), output: row(&output), mask: None };
    let options = Options { splits: Some(9), ..Options::last(1, 1) };
    let refused = Attention::new(&cache, &options, &tensors).map(drop);
    assert_eq!(refused, Err(Error::Device(DeviceError::DeviceLimit { limit: LIMIT, needed: 9, available: 8 })));
    // Where it chooses by itself it takes no more than there are.
    attend(&cache, &Options::last(1, 1), &rows, None)?;
    DONE
}

/// The moves of all sequences are more than a binding holds, so rows and lengths take another way.
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

/// All keys are alike, so that the result is the mean of the values.
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
