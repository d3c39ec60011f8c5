//! Attention at the limits of its numbers: positions up to 2^32, windows larger than any sequence, NaN and infinities
//! at hidden positions, and tiles that fill the workgroup memory.

use wgpu_kv_cache::{
    CacheConfig, Context, DeviceError, Error, Format, KvCache, Placement, ReferenceCache, Write,
    attention::{MaskRows, Options, attend},
};

use crate::{
    DONE, Gpu, Outcome, Test,
    rows::{BOUND, distance, filled, numbers},
};

pub const TESTS: &[Test] = &[
    ("extremes::a_window_of_any_size_on_linear_placement", a_window_of_any_size_on_linear_placement),
    ("extremes::positions_up_to_the_last_of_a_ring", positions_up_to_the_last_of_a_ring),
    ("extremes::what_is_hidden_has_no_part", what_is_hidden_has_no_part),
    ("extremes::a_score_of_minus_infinity_has_no_weight", a_score_of_minus_infinity_has_no_weight),
    ("extremes::a_nan_that_is_seen_is_told", a_nan_that_is_seen_is_told),
    ("extremes::a_query_of_nan_stays_in_its_head", a_query_of_nan_stays_in_its_head),
    ("extremes::tiles_fill_the_workgroup_memory", tiles_fill_the_workgroup_memory),
    ("extremes::a_device_with_little_workgroup_memory", a_device_with_little_workgroup_memory),
    ("extremes::sinks_of_the_ring_that_an_attention_does_not_see", sinks_of_the_ring_that_an_attention_does_not_see),
];

/// The distance between the result and the reference's.
fn apart(
    (cache, of_reference): &(KvCache, ReferenceCache),
    options: &Options,
    mask: Option<MaskRows<'_>>,
) -> Result<f64, Error> {
    let config = cache.config();
    let queries = numbers((config.batch_size * options.query_heads * options.tokens * config.head_dim) as usize, 99);
    let expected = of_reference.attend(options, &queries, mask)?;
    assert!(expected.iter().any(|number| *number != 0.0), "there is something to compare");
    Ok(distance(&expected, &attend(cache, options, &queries, mask)?.to_f32()))
}

fn a_window_of_any_size_on_linear_placement(gpu: &Gpu) -> Outcome {
    let both = filled(&gpu.context, CacheConfig::new(2, 1, 8, 64), &[40, 9])?;
    for window in [1, 2, 39, 40, i32::MAX as u32 - 1, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX] {
        for (splits, causal) in [(1, true), (2, false)] {
            let options =
                Options { window: Some(window), sinks: 1, splits: Some(splits), causal, ..Options::last(2, 3) };
            let distance = apart(&both, &options, None)?;
            assert!(distance < BOUND, "window {window}: {distance:.1e}");
        }
    }
    DONE
}

fn positions_up_to_the_last_of_a_ring(gpu: &Gpu) -> Outcome {
    let placement = Placement::Ring { window: 5, sinks: 2, slack: 2 };
    let config = CacheConfig::new(1, 1, 8, 0).placement(placement);
    for length in [20, i32::MAX as u32 - 2, i32::MAX as u32, 1 << 31, 3_000_000_000, u32::MAX - 4] {
        let (mut cache, mut of_reference) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
        let (keys, values) = (numbers(7 * 8, 1), numbers(7 * 8, 2));
        cache.insert(0, length, &keys, &values)?;
        of_reference.insert(0, length, &keys, &values)?;
        let (keys, values) = (numbers(3 * 8, 3), numbers(3 * 8, 4));
        cache.update(&keys, &values, Write::append(3))?;
        of_reference.update(&keys, &values, Write::append(3))?;
        let both = (cache, of_reference);
        for options in [Options::new(2, 3), Options::last(2, 2), Options { causal: false, ..Options::last(2, 1) }] {
            for splits in [1, 2] {
                let distance = apart(&both, &Options { splits: Some(splits), ..options }, None)?;
                assert!(distance < BOUND, "length {length}, {options:?}: {distance:.1e}");
            }
        }
    }
    DONE
}

/// A layer of 5 positions with the given numbers at the third.
fn with_row(context: &Context, key: f32, value: f32) -> Result<(KvCache, ReferenceCache), Error> {
    let config = CacheConfig::new(1, 1, 8, 8);
    let (mut cache, mut of_reference) = (KvCache::new(context, config)?, ReferenceCache::new(config)?);
    let (mut keys, mut values) = (numbers(5 * 8, 1), numbers(5 * 8, 2));
    keys[2 * 8..3 * 8].fill(key);
    values[2 * 8 + 3] = value;
    cache.update(&keys, &values, Write::append(5))?;
    of_reference.update(&keys, &values, Write::append(5))?;
    Ok((cache, of_reference))
}

fn what_is_hidden_has_no_part(gpu: &Gpu) -> Outcome {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        for (key, value) in [(odd, 0.5), (0.5, odd), (odd, odd)] {
            let both = with_row(&gpu.context, key, value)?;
            for hiding in [f32::NEG_INFINITY, f32::MIN] {
                let mask = [0.5, 0.0, hiding, -1.0, 0.25];
                let mask = MaskRows { numbers: &mask, shape: [1, 1, 1, 5] };
                for (softcap, splits) in [(None, 1), (None, 2), (Some(3.0), 1)] {
                    let options = Options { softcap, splits: Some(splits), ..Options::last(2, 1) };
                    let distance = apart(&both, &options, Some(mask))?;
                    assert!(distance < BOUND, "key {key}, value {value}: {distance:.1e}");
                }
            }
            // The window hides the position too.
            let options = Options { window: Some(2), ..Options::last(2, 1) };
            let distance = apart(&both, &options, None)?;
            assert!(distance < BOUND, "key {key}, value {value}, behind the window: {distance:.1e}");
        }
    }
    DONE
}

/// An infinite key gives one query a score of minus infinity, whose weight is zero, and the other one of infinity. It
/// does not hide a NaN, wherever it lies: among positions that every row sees, or at their edge.
fn a_score_of_minus_infinity_has_no_weight(gpu: &Gpu) -> Outcome {
    const ROWS: usize = 150;
    let config = CacheConfig::new(1, 1, 8, ROWS as u32);
    for (at, value) in [(2, 0.5), (2, f32::NAN), (ROWS - 1, 0.5), (ROWS - 1, f32::NAN)] {
        let (mut cache, mut of_reference) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
        let (mut keys, mut values) = (numbers(ROWS * 8, 1), numbers(ROWS * 8, 2));
        keys[at * 8] = f32::INFINITY;
        values[at * 8 + 3] = value;
        cache.update(&keys, &values, Write::append(ROWS as u32))?;
        of_reference.update(&keys, &values, Write::append(ROWS as u32))?;
        let mut queries = numbers(2 * 8, 99);
        (queries[0], queries[8]) = (-0.5, 0.5);
        let mask = [0.0; ROWS];
        let masked = Some(MaskRows { numbers: &mask, shape: [1, 1, 1, ROWS as u32] });
        for (splits, mask) in [(1, None), (2, masked)] {
            let options = Options { splits: Some(splits), ..Options::last(2, 1) };
            let expected = of_reference.attend(&options, &queries, mask)?;
            let actual = attend(&cache, &options, &queries, mask)?.to_f32();
            for (index, (expected, actual)) in expected.iter().zip(&actual).enumerate() {
                let nan = index >= 8 || index == 3 && value.is_nan();
                assert!(expected.is_nan() == nan && actual.is_nan() == nan, "row {at}, {value}: {actual:?}");
                assert!(nan || (expected - f64::from(*actual)).abs() < 1e-5, "row {at}, {value}: {actual:?}");
            }
        }
    }
    DONE
}

fn a_nan_that_is_seen_is_told(gpu: &Gpu) -> Outcome {
    for (key, value, mask) in [(f32::NAN, 0.5, 0.0), (0.5, f32::NAN, 0.0), (0.5, 0.5, f32::NAN), (f32::NAN, 0.5, -50.0)]
    {
        let (cache, of_reference) = with_row(&gpu.context, key, value)?;
        let mask = [0.0, 0.0, mask, 0.0, 0.0];
        let mask = MaskRows { numbers: &mask, shape: [1, 1, 1, 5] };
        for (softcap, splits) in [(None, 1), (None, 2), (Some(3.0), 2)] {
            let options = Options { softcap, splits: Some(splits), ..Options::last(1, 1) };
            let queries = numbers(8, 99);
            let expected = of_reference.attend(&options, &queries, Some(mask))?;
            let actual = attend(&cache, &options, &queries, Some(mask))?.to_f32();
            let nans = |index: usize| expected[index].is_nan();
            assert!((0..8).any(nans), "the reference tells it");
            for (index, number) in actual.iter().enumerate() {
                assert_eq!(number.is_nan(), nans(index), "key {key}, value {value}, {options:?}: {actual:?}");
            }
        }
    }
    // A weight that underflows to zero in f32 does not hide a NaN.
    let (cache, of_reference) = with_row(&gpu.context, 0.5, f32::NAN)?;
    let mask = [0.0, 0.0, -200.0, 0.0, 0.0];
    let mask = MaskRows { numbers: &mask, shape: [1, 1, 1, 5] };
    let (options, queries) = (Options::last(1, 1), numbers(8, 99));
    assert!(of_reference.attend(&options, &queries, Some(mask))?[3].is_nan());
    assert!(attend(&cache, &options, &queries, Some(mask))?.to_f32()[3].is_nan());
    DONE
}

/// 32 rows of 64 or more elements take, with their scores, more than the 16 384 bytes that WebGPU guarantees.
/// The last vector of a head's query ends inside of the next one's.
fn a_query_of_nan_stays_in_its_head(gpu: &Gpu) -> Outcome {
    for (head_dim, tokens) in [(3, 1), (46, 2)] {
        let (cache, of_reference) = filled(&gpu.context, CacheConfig::new(1, 1, head_dim, 16), &[9])?;
        let of_head = (head_dim * tokens) as usize;
        let mut queries = numbers(2 * of_head, 5);
        queries[of_head..].fill(f32::NAN);
        let options = Options::last(2, tokens);
        let expected = of_reference.attend(&options, &queries, None)?;
        let actual = attend(&cache, &options, &queries, None)?.to_f32();
        let (of_first, of_second) = actual.split_at(actual.len() / 2);
        assert!(distance(&expected[..of_first.len()], of_first) < BOUND, "{head_dim}: {of_first:?}");
        assert!(of_second.iter().all(|number| number.is_nan()), "{of_second:?}");
    }
    DONE
}

fn tiles_fill_the_workgroup_memory(gpu: &Gpu) -> Outcome {
    for (heads, dim, tokens) in [(32, 64, 1), (32, 48, 2), (16, 128, 2), (1, 128, 16), (4, 120, 5)] {
        let both = filled(&gpu.context, CacheConfig::new(1, 1, dim, 80), &[70])?;
        let distance = apart(&both, &Options::last(heads, tokens), None)?;
        assert!(distance < BOUND, "{heads} heads of {dim}, {tokens} queries: {distance:.1e}");
    }
    DONE
}

fn a_device_with_little_workgroup_memory(gpu: &Gpu) -> Outcome {
    let limits = |bytes| wgpu::Limits { max_compute_workgroup_storage_size: bytes, ..gpu.adapter.limits() };
    // This limit allows a tile of fewer rows.
    let context = Gpu::open(&gpu.adapter, limits(4 << 10), gpu.costs)?;
    let both = filled(&context, CacheConfig::new(1, 1, 64, 80), &[70])?;
    let distance = apart(&both, &Options::last(32, 1), None)?;
    assert!(distance < BOUND, "{distance:.1e}");
    // This limit allows no tile at all. The error names the limit and the bytes needed.
    let context = Gpu::open(&gpu.adapter, limits(1 << 10), gpu.costs)?;
    let (cache, _) = filled(&context, CacheConfig::new(1, 1, 64, 80), &[70])?;
    let refused = attend(&cache, &Options::last(1, 1), &numbers(64, 1), None).map(drop);
    let limit = "max_compute_workgroup_storage_size";
    assert_eq!(refused, Err(Error::Device(DeviceError::DeviceLimit { limit, needed: 1792, available: 1024 })));
    // Block formats quantise in workgroup memory.
    let config = CacheConfig::new(1, 1, 64, 8).formats(Format::Q8_0, Format::Q4_0);
    let refused = KvCache::new(&context, config).map(drop);
    assert_eq!(refused, Err(Error::Device(DeviceError::DeviceLimit { limit, needed: 6144, available: 1024 })));
    let config = CacheConfig::new(1, 1, 64, 8).formats(Format::F16, Format::Fp8E4M3);
    assert!(KvCache::new(&context, config).is_ok());
    DONE
}

fn sinks_of_the_ring_that_an_attention_does_not_see(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(1, 1, 8, 0).placement(Placement::Ring { window: 6, sinks: 4, slack: 0 });
    for count in [4, 7, 9, 30] {
        let both = filled(&gpu.context, config, &[count])?;
        for sinks in 0..=4 {
            let options = Options { window: Some(3), sinks, ..Options::last(1, 2) };
            let distance = apart(&both, &options, None)?;
            assert!(distance < BOUND, "{count} and {sinks} sinks: {distance:.1e}");
        }
    }
    DONE
}
