//! Updates from host slices and reads to the host: `update`, `get` and `reset` in small literal examples.

use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Format, KvCache, Scale, Write};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("host::new_storage_reads_as_zero", new_storage_reads_as_zero),
    ("host::whole_prompts_are_stored", whole_prompts_are_stored),
    ("host::prompts_of_different_lengths", prompts_of_different_lengths),
    ("host::one_position_per_sequence", one_position_per_sequence),
    ("host::an_earlier_position_rewinds", an_earlier_position_rewinds),
    ("host::a_gap_reads_as_zero", a_gap_reads_as_zero),
    ("host::reset_clears_bytes", reset_clears_bytes),
    ("host::keys_and_values_of_different_sizes", keys_and_values_of_different_sizes),
    ("host::layers_are_apart", layers_are_apart),
    ("host::empty_ranges", empty_ranges),
    ("host::a_copy_outlives_updates", a_copy_outlives_updates),
];

/// Keys `k, k + 1, …` for all rows in order. The values are larger by 1000.
fn rows(first: u32, elements: u32) -> (Vec<f32>, Vec<f32>) {
    let numbers = |from: u32| (0..elements).map(|i| (from + i) as f32).collect();
    (numbers(first), numbers(first + 1000))
}

fn new_storage_reads_as_zero(gpu: &Gpu) -> Outcome {
    for format in Format::ALL {
        let cache = KvCache::new(&gpu.context, CacheConfig::new(2, 3, 5, 7).formats(format, format))?;
        let storage = cache.read_storage()?;
        assert_eq!(storage.keys.shape(), [2, 3, 7, 5]);
        assert_eq!(storage.keys.bits().len(), 42 * format.units(5) as usize);
        assert!(storage.keys.bytes().iter().chain(storage.values.bytes()).all(|&byte| byte == 0));
        assert_eq!(cache.read_lengths()?, [0, 0]);
    }
    DONE
}

/// The original design stored only the first token of a prompt.
fn whole_prompts_are_stored(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 2, 2, 4))?;
    let (keys, values) = rows(1, 2 * 3 * 2);
    cache.update(&keys, &values, Write::append(3))?;
    let storage = cache.read_storage()?;
    #[rustfmt::skip]
    assert_eq!(storage.keys.to_f32(), [
        1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0,
        7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 0.0, 0.0,
    ]);
    #[rustfmt::skip]
    assert_eq!(storage.values.to_f32(), [
        1001.0, 1002.0, 1003.0, 1004.0, 1005.0, 1006.0, 0.0, 0.0,
        1007.0, 1008.0, 1009.0, 1010.0, 1011.0, 1012.0, 0.0, 0.0,
    ]);
    let read = cache.get_all()?.read()?;
    assert_eq!(read.keys.to_f32(), keys);
    assert_eq!(read.values.to_f32(), values);
    assert_eq!((cache.lengths(), cache.write_pos()), (&[3][..], 3));
    assert_eq!(cache.read_lengths()?, [3]);
    DONE
}

/// The original design kept one length for all sequences.
fn prompts_of_different_lengths(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(3, 1, 1, 4))?;
    let (keys, values) = rows(1, 9);
    cache.update(&keys, &values, Write::append(3).counts(&[3, 1, 0]))?;
    assert_eq!((cache.lengths(), cache.write_pos()), (&[3, 1, 0][..], 3));
    assert_eq!(cache.read_lengths()?, [3, 1, 0]);
    #[rustfmt::skip]
    assert_eq!(cache.read_storage()?.keys.to_f32(), [
        1.0, 2.0, 3.0, 0.0,
        4.0, 0.0, 0.0, 0.0,
        0.0, 0.0, 0.0, 0.0,
    ]);
    // Append to each sequence at its own length.
    let (keys, values) = rows(20, 3);
    cache.update(&keys, &values, Write::append(1))?;
    assert_eq!(cache.lengths(), [4, 2, 1]);
    #[rustfmt::skip]
    assert_eq!(cache.get_all()?.read()?.keys.to_f32(), [
        1.0, 2.0, 3.0, 20.0,
        4.0, 21.0, 0.0, 0.0,
        22.0, 0.0, 0.0, 0.0,
    ]);
    assert_eq!(cache.memory_used_bytes(), 7 * 2 * 4);
    DONE
}

fn one_position_per_sequence(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 1, 5))?;
    let (keys, values) = rows(1, 8);
    cache.update(&keys, &values, Write::append(4))?;
    let (keys, values) = rows(50, 4);
    cache.update(&keys, &values, Write::at_each(&[3, 1], 2).counts(&[2, 1]))?;
    assert_eq!(cache.lengths(), [5, 2]);
    // The second sequence was rewound. Its old rows are still in the storage but are no longer read.
    assert_eq!(cache.get_all()?.read()?.keys.to_f32(), [1.0, 2.0, 3.0, 50.0, 51.0, 5.0, 52.0, 0.0, 0.0, 0.0]);
    assert_eq!(cache.read_storage()?.keys.to_f32(), [1.0, 2.0, 3.0, 50.0, 51.0, 5.0, 52.0, 7.0, 8.0, 0.0]);
    DONE
}

fn an_earlier_position_rewinds(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, 1, 8))?;
    let (keys, values) = rows(1, 6);
    cache.update(&keys, &values, Write::append(6))?;
    cache.update(&[9.0f32][..], &[8.0f32][..], Write::at(2, 1))?;
    assert_eq!((cache.write_pos(), cache.lengths()), (3, &[3][..]));
    assert_eq!(cache.get_all()?.read()?.values.to_f32(), [1001.0, 1002.0, 8.0]);
    cache.update(&[7.0f32][..], &[6.0f32][..], Write::append(1))?;
    assert_eq!(cache.get_all()?.read()?.keys.to_f32(), [1.0, 2.0, 9.0, 7.0]);
    DONE
}

/// The row as it is read back after storing.
fn stored(format: Format, row: &[f32]) -> Vec<f32> {
    let bytes = format.encode_row(row, Scale::ONE).unwrap();
    format.decode_row(&bytes, row.len() as u32, Scale::ONE).unwrap()
}

fn a_gap_reads_as_zero(gpu: &Gpu) -> Outcome {
    for format in Format::ALL {
        let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, 1, 8).formats(format, format))?;
        let (keys, values) = rows(1, 7);
        cache.update(&keys, &values, Write::append(7))?;
        // Rewind to one row, then write far ahead. Rows 1 to 4 hold old data and lie in the gap.
        cache.update(&[1.0f32][..], &[1001.0f32][..], Write::at(0, 1))?;
        cache.update(&[9.0f32][..], &[5.0f32][..], Write::at(5, 1))?;
        assert_eq!(cache.lengths(), [6]);
        let read = |numbers: &[f32]| -> Vec<f32> {
            let row = |&number: &f32| if number == 0.0 { vec![0.0] } else { stored(format, &[number]) };
            numbers.iter().flat_map(row).collect()
        };
        assert_eq!(cache.get_all()?.read()?.keys.to_f32(), read(&[1.0, 0.0, 0.0, 0.0, 0.0, 9.0]));
        assert_eq!(cache.read_storage()?.keys.to_f32(), read(&[1.0, 0.0, 0.0, 0.0, 0.0, 9.0, 7.0, 0.0]));
    }
    DONE
}

fn reset_clears_bytes(gpu: &Gpu) -> Outcome {
    let mut cache =
        BatchedKvCache::new(&gpu.context, CacheConfig::new(1, 2, 3, 4).formats(Format::F16, Format::Bf16), 2)?;
    let (keys, values) = rows(1, 2 * 4 * 3);
    for layer in 0..2 {
        cache.update(layer, &keys, &values, Write::append(4))?;
    }
    assert_eq!(cache.memory_used_bytes(), cache.memory_allocated_bytes());
    cache.reset()?;
    assert_eq!((cache.write_pos(), cache.memory_used_bytes()), (0, 0));
    for layer in cache.layers() {
        let storage = layer.read_storage()?;
        assert!(storage.keys.bytes().iter().chain(storage.values.bytes()).all(|&byte| byte == 0));
        assert_eq!(layer.read_lengths()?, [0]);
    }
    DONE
}

fn keys_and_values_of_different_sizes(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(1, 1, 2, 3).value_dim(3).formats(Format::F32, Format::F16);
    let mut cache = KvCache::new(&gpu.context, config)?;
    cache.update(&[1.0f32, 2.0, 3.0, 4.0][..], &[5.0f32, 6.0, 7.0, 8.0, 9.0, 10.0][..], Write::append(2))?;
    let read = cache.get(1..2)?.read()?;
    assert_eq!((read.keys.shape(), read.keys.to_f32()), ([1, 1, 1, 2], vec![3.0, 4.0]));
    assert_eq!((read.values.shape(), read.values.to_f32()), ([1, 1, 1, 3], vec![8.0, 9.0, 10.0]));
    assert_eq!(cache.memory_used_bytes(), 2 * (2 * 4 + 3 * 2));
    // A plane has nine 16-bit values and is padded to ten, so that it ends on a word.
    assert_eq!(cache.memory_allocated_bytes(), 3 * 2 * 4 + 10 * 2);
    DONE
}

fn layers_are_apart(gpu: &Gpu) -> Outcome {
    let mut cache = BatchedKvCache::new(&gpu.context, CacheConfig::new(1, 1, 2, 2), 3)?;
    cache.update(1, &[1.0f32, 2.0][..], &[3.0f32, 4.0][..], Write::append(1))?;
    let lengths: Vec<_> = cache.layers().iter().map(KvCache::write_pos).collect();
    assert_eq!(lengths, [0, 1, 0]);
    assert!(cache.layer(0)?.read_storage()?.keys.bytes().iter().all(|&byte| byte == 0));
    assert_eq!(cache.get_all(1)?.read()?.values.to_f32(), [3.0, 4.0]);
    DONE
}

fn empty_ranges(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(2, 1, 3, 4))?;
    let read = cache.get_all()?.read()?;
    assert_eq!((read.keys.shape(), read.keys.bytes().len()), ([2, 1, 0, 3], 0));
    let (keys, values) = rows(1, 6);
    cache.update(&keys, &values, Write::append(1))?;
    assert_eq!(cache.get(1..1)?.read()?.values.shape(), [2, 1, 0, 3]);
    DONE
}

fn a_copy_outlives_updates(gpu: &Gpu) -> Outcome {
    let mut cache = KvCache::new(&gpu.context, CacheConfig::new(1, 1, 1, 4))?;
    cache.update(&[1.0f32][..], &[2.0f32][..], Write::append(1))?;
    let copy = cache.get_all()?;
    cache.update(&[3.0f32][..], &[4.0f32][..], Write::at(0, 1))?;
    assert_eq!(copy.read()?.keys.to_f32(), [1.0]);
    assert_eq!(cache.get_all()?.read()?.keys.to_f32(), [3.0]);
    DONE
}
