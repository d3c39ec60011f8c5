//! Positions near 2^32, and shapes too large for any memory. Their cost depends on what is stored. No GPU is needed.

use wgpu_kv_cache::{
    CacheConfig, Context, Error, KvCache, Placement, RangeError, ReferenceCache, SequenceError, Side, Write,
    WriteError, attention::Options,
};

/// A ring of 3 sinks and 6 slots over which all other positions wrap.
const RING: Placement = Placement::Ring { window: 4, sinks: 3, slack: 2 };
const SINKS: u32 = 3;
const TURN: u32 = 6;

/// Multiples of the number of wrapping slots, so that equal offsets from them share a slot.
const BASES: [u32; 3] = [TURN * 2, TURN * 1000, 4_000_000_002];

fn ring() -> CacheConfig {
    CacheConfig::new(2, 1, 1, 0).max_batch_size(3).placement(RING)
}

fn context() -> Context {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    Context::new(&device, &queue)
}

/// One row per number.
fn rows(numbers: std::ops::Range<u32>) -> Vec<f32> {
    numbers.map(|number| number as f32).collect()
}

#[test]
fn the_earliest_query_beyond_the_sinks_decides_what_is_evicted() {
    let context = context();
    for base in BASES {
        let mut cache = KvCache::new(&context, ring()).unwrap();
        let end = base + SINKS;
        let valid = rows(0..SINKS + 4);
        cache.insert(0, end, &valid[..], &valid[..]).unwrap();
        // Only the last query has all its visible rows, because an inserted sequence has no slack.
        assert_eq!(cache.visible(0, 1).unwrap().len(), 1);
        let evicted = |position| Error::Range(RangeError::Evicted { sequence: 0, position, oldest: end - 4 });
        assert_eq!(cache.visible(0, 2).unwrap_err(), evicted(end - 5));
        // The earliest query is a sink, which sees only sinks, but a later one sees an evicted position.
        for queries in [end - SINKS, end - 2, end - 1, end] {
            assert_eq!(cache.visible(0, queries).unwrap_err(), evicted(SINKS), "{queries} of {end}");
        }
        let error = cache.visible(0, end + 1).unwrap_err();
        assert_eq!(
            error,
            Error::Sequence(SequenceError::QueriesBeyondLength { sequence: 0, queries: end + 1, length: end })
        );
    }
    // Until something is evicted, every query sees all it may.
    let mut cache = KvCache::new(&context, ring()).unwrap();
    let seven = rows(0..14);
    cache.update(&seven[..], &seven[..], Write::append(7)).unwrap();
    assert_eq!(cache.visible(0, 7).unwrap().len(), 7);
}

/// The results of a series of operations on a reference, with positions relative to `base`.
fn story(base: u32) -> Vec<String> {
    let mut told = Vec::new();
    let mut cache = ReferenceCache::new(ring()).unwrap();
    let near = |position: u32| i64::from(position) - if position < 10 { 0 } else { i64::from(base) };
    let tell = |cache: &ReferenceCache, told: &mut Vec<String>| {
        for sequence in 0..cache.config().batch_size {
            let valid: Vec<i64> = cache.valid_positions(sequence).unwrap().into_iter().map(near).collect();
            told.push(format!("{valid:?} {:?}", cache.extract(sequence).unwrap().keys.to_f32()));
        }
        told.push(format!("{:?}", cache.get_all().values.to_f32()));
    };
    let all = rows(1..100);
    cache.update(&all[..8], &all[10..18], Write::append(4)).unwrap();
    tell(&cache, &mut told);
    // The gap covers every wrapping slot more than once.
    cache.update(&all[..4], &all[10..14], Write::at_each(&[base + 4, base + 5], 2)).unwrap();
    tell(&cache, &mut told);
    cache.update(&all[20..22], &all[30..32], Write::append(1).counts(&[1, 1])).unwrap();
    cache.truncate(&[base + 6, base + 8]).unwrap();
    tell(&cache, &mut told);
    let range = cache.get(base + 6..base + 8).unwrap();
    told.push(format!("{:?}", range.keys.to_f32()));
    // Every operation that needs an evicted row is refused.
    let refused = |error: Error| match error {
        Error::Range(RangeError::Evicted { sequence, position, oldest }) => {
            format!("{sequence} {} {}", near(position), near(oldest))
        }
        Error::Sequence(SequenceError::RollbackEvicted { sequence, length, shortest, oldest, .. }) => {
            format!("{sequence} {length} {} {}", near(shortest), near(oldest))
        }
        error => panic!("{error}"),
    };
    told.push(refused(cache.get(2..base + 8).unwrap_err()));
    told.push(refused(cache.copy_range(0, 0..base, 1, 0).unwrap_err()));
    told.push(refused(cache.truncate(SINKS + 1).unwrap_err()));
    told.push(refused(cache.update(&all[..2], &all[..2], Write::at(5, 1)).unwrap_err()));
    let options = Options::last(1, 5);
    told.push(refused(cache.attend(&options, &all[..10], None).unwrap_err()));
    told.push(format!("{:?}", cache.attend(&Options::last(1, 2), &[0.25; 4], None).unwrap()));
    // Copy within a sequence and between two, over existing rows.
    cache.copy_range(1, base + 5..base + 8, 1, base + 7).unwrap();
    cache.copy_range(1, base + 8..base + 10, 0, base + 40).unwrap();
    tell(&cache, &mut told);
    cache.poke(Side::Keys, [0, 0, 4, 0], 5f32.to_bits()).unwrap();
    cache.advance(Write::at(base + 44, 3 * TURN)).unwrap();
    tell(&cache, &mut told);
    cache.select(&[1, 0, 1]).unwrap();
    cache.insert(2, base + 12, &all[..7], &all[7..14]).unwrap();
    tell(&cache, &mut told);
    cache.truncate(&[2, base + 61, 0]).unwrap();
    tell(&cache, &mut told);
    told
}

#[test]
fn the_reference_tells_the_same_story_at_any_position() {
    let [near, middle, far] = BASES.map(story);
    assert_eq!(near, middle);
    assert_eq!(near, far);
}

#[test]
fn a_reference_of_any_shape_takes_memory_for_what_is_written() {
    let wide = Placement::Ring { window: u32::MAX - 2, sinks: 1, slack: 1 };
    for (config, last) in [
        (CacheConfig::new(1, 1, 1, u32::MAX), u32::MAX - 1),
        (CacheConfig::new(1, 1, 1, 0).placement(wide), u32::MAX - 2),
        (CacheConfig::new(1, 1, 1, 1 << 30).max_batch_size(1 << 28), (1 << 30) - 1),
    ] {
        let mut cache = ReferenceCache::new(config).unwrap();
        cache.update(&[1f32, 2.][..], &[3f32, 4.][..], Write::append(2)).unwrap();
        cache.update(&[5f32][..], &[6f32][..], Write::at(last, 1)).unwrap();
        assert_eq!(cache.lengths(), [last + 1]);
        let read = cache.get(last - 1..last + 1).unwrap();
        assert_eq!((read.keys.to_f32(), read.values.to_f32()), (vec![0., 5.], vec![0., 6.]));
        cache.copy_range(0, 0..2, 0, last - 9).unwrap();
        cache.advance(Write::at(last, 1)).unwrap();
        cache.truncate(last - 6).unwrap();
        assert_eq!(cache.get(last - 9..last - 6).unwrap().keys.to_f32(), [1., 2., 0.]);
        cache.truncate(2).unwrap();
        assert_eq!(cache.get_all().keys.to_f32(), [1., 2.]);
        cache.reset();
        assert_eq!(cache.lengths(), [0]);
    }
    // More heads than one allocation could hold.
    let heads = CacheConfig::new(1, u32::MAX, 1, 1);
    let error = ReferenceCache::new(heads).unwrap().update(&[][..] as &[f32], &[0f32][..], Write::append(1));
    assert_eq!(
        error,
        Err(Error::Write(WriteError::SliceLength { side: Side::Keys, expected: u32::MAX.into(), actual: 0 }))
    );
    // Lengths take an entry per sequence even when nothing is stored.
    let error = ReferenceCache::new(CacheConfig::new(1, 1, 1, 1).max_batch_size(u32::MAX)).unwrap_err();
    assert_eq!(error.to_string(), "bytes of all lengths must fit 31 bits, but 4294967295 × 4 does not");
}

#[test]
fn numbers_of_elements_beyond_64_bits_are_refused() {
    let config = CacheConfig::new(1, 1 << 16, 1 << 14, 0).placement(Placement::Ring { window: 1, sinks: 0, slack: 0 });
    let rows = [1f32; 2];
    let error = Error::Write(WriteError::SliceLength {
        side: Side::Keys,
        expected: (u64::from(u32::MAX) - 1) << 30,
        actual: 2,
    });
    let write = Write::append(u32::MAX - 1);
    assert_eq!(ReferenceCache::new(config).unwrap().update(&rows[..], &rows[..], write), Err(error));
}
