//! Numbers near 2^32 in ranges, lengths and operations on sequences.

use super::*;

fn ranges() -> impl Iterator<Item = Range<u32>> {
    NUMBERS.into_iter().chain([u32::MAX - 4, (1 << 31) - 2]).flat_map(|start| NUMBERS.map(|end| start..end))
}

#[test]
fn ranges_and_destinations() {
    let context = context();
    let (keys, values) = (buffer(&context, 256), buffer(&context, 256));
    for cache in &caches(&context) {
        for range in ranges() {
            let refused = |error: &Error| match error {
                Error::Range(RangeError::RangeReversed { .. }) => range.start > range.end,
                Error::Range(RangeError::RangeBeyondWritten { .. }) => range.end > cache.write_pos(),
                Error::Range(RangeError::Evicted { .. }) => cache.config().placement == RING,
                _ => false,
            };
            match cache.get(range.clone()) {
                Ok(pair) => assert_eq!(pair.keys.shape(), [2, 1, range.end - range.start, 2]),
                Err(error) => assert!(refused(&error), "{range:?}: {error}"),
            }
            drop(cache.range_form(range.clone()));
            for offset in WIDE {
                let mut encoder = encoder(&context);
                let destinations = Pair { keys: Destination::new(&keys, offset), values: Destination::new(&values, 0) };
                let bytes = u128::from(range.end.saturating_sub(range.start)) * 2 * 2 * 4;
                let fits = u128::from(offset) + bytes <= u128::from(keys.size());
                match cache.record_get(&mut encoder, range.clone(), destinations) {
                    Ok(()) => assert!(fits && offset % 4 == 0, "{range:?} {offset}"),
                    Err(Error::Buffer(BufferError::BufferRange { .. })) => assert!(!fits, "{range:?} {offset}"),
                    Err(Error::Buffer(BufferError::Misaligned { .. })) => assert!(offset % 4 != 0),
                    Err(error) => assert!(refused(&error), "{range:?}: {error}"),
                }
                drop(cache.record_get_all(&mut encoder, destinations));
            }
        }
    }
}

#[test]
fn sequences_and_lengths() {
    let context = context();
    let rows = buffer(&context, 64);
    let source = |tokens| Source { keys: repeated(&rows), values: repeated(&rows), tokens };
    let count = caches(&context).len();
    let mut caches = caches(&context);
    for (index, cache) in caches.iter_mut().enumerate() {
        let before = cache.checkpoint();
        let lengths = cache.lengths().to_vec();
        let longest = cache.write_pos();
        for number in NUMBERS {
            let mut encoder = encoder(&context);
            let case = format!("cache {index} of {count}, {number}");
            let done = cache.record_truncate(&mut encoder, number);
            assert!(done.is_err() || cache.lengths() == [number; 2], "{case}");
            assert!(done.is_ok() || cache.lengths() == lengths, "{case}");
            cache.restore(&before).unwrap();
            drop(cache.record_clear_sequence(&mut encoder, number));
            cache.restore(&before).unwrap();
            for other in NUMBERS {
                let selected = cache.record_select(&mut encoder, &[number, other, 0]);
                assert_eq!(selected.is_ok(), number < 2 && other < 2, "{case} {other}");
                cache.restore(&before).unwrap();
                assert_eq!(
                    cache.record_copy_sequence(&mut encoder, number, other).is_ok(),
                    number < 2 && other < 2,
                    "{case} {other}"
                );
                cache.restore(&before).unwrap();
                for tokens in [1, 3, 4, 5, u32::MAX] {
                    match cache.record_insert(&mut encoder, number, other, &source(tokens)) {
                        Ok(()) => assert_eq!(cache.lengths()[number as usize], other),
                        Err(_) => assert_eq!(cache.lengths(), lengths),
                    }
                    cache.restore(&before).unwrap();
                }
                drop(cache.insert(number, other, &[0f32; 8][..], &[0f32; 8][..]));
                cache.restore(&before).unwrap();
                // Queries must exist, and every position they see must be stored.
                match cache.visible(number, other) {
                    Ok(visible) => assert_eq!(visible.len(), other as usize),
                    Err(Error::Sequence(SequenceError::IndexOutOfRange { .. })) => assert!(number > 1),
                    Err(Error::Sequence(SequenceError::QueriesBeyondLength { .. })) => {
                        assert!(other > lengths[number as usize]);
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::Range(RangeError::Evicted { .. })), "{case} {other}: {error}");
                    }
                }
            }
            for times in NUMBERS {
                let repeated = cache.record_repeat(&mut encoder, times);
                assert_eq!(repeated.is_ok(), times == 1, "{case}");
                cache.restore(&before).unwrap();
            }
            assert_eq!(cache.valid_positions(number).is_ok(), number < 2);
            drop(cache.extract(number));
            for side in Side::BOTH {
                let view = cache.view();
                let slots = cache.config().slots();
                let at =
                    view.side(side).slots_at(number).map(|slots| slots.map(|slot| slot.offset).collect::<Vec<_>>());
                let slot = cache.config().placement.slot(number);
                assert_eq!(at.ok(), (slot < slots).then(|| vec![u64::from(slot) * 8]), "{case}");
                for other in NUMBERS {
                    for position in NUMBERS {
                        let slot = cache.config().placement.slot(position);
                        let row = view.side(side).row(number, other, position);
                        let there = number < 3 && other < 1 && slot < slots;
                        let expected = there.then(|| (u64::from(number * slots) + u64::from(slot)) * 8);
                        assert_eq!(row.ok().map(|row| row.offset), expected, "{case} {other} {position}");
                    }
                }
            }
            for range in ranges() {
                for (from, to) in [(0, 1), (1, 1), (number, 0), (0, number)] {
                    match cache.record_copy_range(&mut encoder, from, range.clone(), to, number) {
                        Ok(()) => assert_eq!(
                            u64::from(cache.lengths()[to as usize]),
                            u64::from(number) + u64::from(range.end - range.start),
                            "{case}"
                        ),
                        Err(_) => assert_eq!(cache.lengths(), lengths),
                    }
                    cache.restore(&before).unwrap();
                }
            }
        }
        assert_eq!(cache.write_pos(), longest);
    }
}

#[test]
fn rollbacks() {
    let context = context();
    let rows = buffer(&context, 64);
    let source = Source { keys: repeated(&rows), values: repeated(&rows), tokens: u32::MAX };
    for length in [0, 5, 1 << 31, u32::MAX - 1] {
        let mut cache = BatchedKvCache::new(&context, config(RING), 1).unwrap();
        let bound = cache.layer(0).unwrap().bind_source(&source).unwrap();
        let mut encoder = encoder(&context);
        if length > 0 {
            cache.begin_step(&mut encoder, Write::append(length)).unwrap();
            cache.record_update(0, &mut encoder, &bound).unwrap();
        }
        let before = cache.checkpoint();
        for tokens in NUMBERS {
            match cache.record_rollback(&mut encoder, tokens) {
                Ok(()) => assert_eq!(cache.lengths(), [length - tokens; 2]),
                Err(Error::Sequence(SequenceError::RollbackBeyondStart { .. })) => assert!(tokens > length),
                Err(error) => assert!(
                    matches!(error, Error::Sequence(SequenceError::RollbackEvicted { .. })) && tokens > 1,
                    "{error}"
                ),
            }
            cache.restore(&before).unwrap();
        }
        for (layer, number) in [(usize::MAX, u32::MAX), (1, 0)] {
            assert!(cache.layer(layer).is_err());
            assert!(cache.record_update(layer, &mut encoder, &bound).is_err());
            drop(cache.record_clear_sequence(&mut encoder, number));
        }
    }
}
