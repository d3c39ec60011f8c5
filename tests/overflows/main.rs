//! Numbers near 2^32 and 2^64 in every function that takes one, on wgpu's no-op backend. Each call returns an error
//! that names a rule, or the result that wider integers give. A build without overflow checks must do the same:
//!
//!     cargo test --release --config profile.release.package.wgpu-kv-cache.overflow-checks=false --test overflows

mod attention;
#[path = "../common/noop.rs"]
mod noop;
mod sequences;

use std::ops::Range;

use noop::{context, context_with};
use wgpu_kv_cache::{
    BatchedKvCache, BufferError, CacheConfig, ConfigError, Context, Destination, Error, Format, KvCache, Pair,
    Placement, RangeError, RowsIn, SequenceError, Side, Source, Strides, Write,
};

const NUMBERS: [u32; 13] = [
    0,
    1,
    2,
    3,
    5,
    (1 << 16) - 1,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 31) + 1,
    u32::MAX - 2,
    u32::MAX - 1,
    u32::MAX,
];

/// Sizes, offsets and strides.
const WIDE: [u64; 14] = [
    0,
    1,
    4,
    8,
    u32::MAX as u64 - 3,
    u32::MAX as u64,
    1 << 32,
    1 << 61,
    1 << 62,
    (1 << 62) + 1,
    1 << 63,
    u64::MAX - 15,
    u64::MAX - 3,
    u64::MAX,
];

/// The ring has 5 slots, of which 4 positions are valid.
const RING: Placement = Placement::Ring { window: 3, sinks: 1, slack: 1 };
const LINEAR_SLOTS: u32 = 8;

fn buffer(context: &Context, size: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    context.device().create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
}

fn encoder(context: &Context) -> wgpu::CommandEncoder {
    context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
}

/// Two sequences of one head of two elements.
fn config(placement: Placement) -> CacheConfig {
    CacheConfig::new(2, 1, 2, LINEAR_SLOTS).placement(placement).max_batch_size(3)
}

/// Rows whose strides are 0, so that all sequences, heads and tokens read the same one.
fn repeated(buffer: &wgpu::Buffer) -> RowsIn<'_> {
    RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides { sequence: 0, head: 0, token: 0 } }
}

/// A linear cache and a ring with lengths 5 and 2, and two rings with lengths near 2^32 and 2^31.
fn caches(context: &Context) -> Vec<KvCache> {
    let rows = buffer(context, 64);
    let source = Source { keys: repeated(&rows), values: repeated(&rows), tokens: u32::MAX };
    [(Placement::Linear, [5, 2]), (RING, [5, 2]), (RING, [u32::MAX - 1, 7]), (RING, [1 << 31, (1 << 31) - 1])]
        .into_iter()
        .map(|(placement, lengths)| {
            let mut cache = KvCache::new(context, config(placement)).unwrap();
            let bound = cache.bind_source(&source).unwrap();
            let mut encoder = encoder(context);
            let tokens = lengths[0].max(lengths[1]);
            cache.record_update(&mut encoder, &bound, Write::append(tokens).counts(&lengths)).unwrap();
            context.queue().submit([encoder.finish()]);
            assert_eq!(cache.lengths(), lengths);
            cache
        })
        .collect()
}

/// The length after a write, computed with wider integers.
fn written(placement: Placement, length: u32, position: Option<u32>, tokens: u32) -> Option<u32> {
    let end = u64::from(position.unwrap_or(length)) + u64::from(tokens);
    let most = match placement {
        Placement::Linear => u64::from(LINEAR_SLOTS),
        Placement::Ring { .. } => u64::from(u32::MAX) - 1,
    };
    (tokens > 0 && end <= most).then(|| u32::try_from(end).unwrap())
}

#[test]
fn writes() {
    let context = context();
    let rows = buffer(&context, 64);
    let source = Source { keys: repeated(&rows), values: repeated(&rows), tokens: u32::MAX };
    for placement in [Placement::Linear, RING] {
        let mut cache = KvCache::new(&context, config(placement)).unwrap();
        let mut layers = BatchedKvCache::new(&context, config(placement), 2).unwrap();
        let bound = cache.bind_source(&source).unwrap();
        let bound_layers: Vec<_> =
            (0..2).map(|layer| layers.layer(layer).unwrap().bind_source(&source).unwrap()).collect();
        for tokens in NUMBERS {
            for position in NUMBERS.map(Some).into_iter().chain([None]) {
                for start in [0, 5, 4_000_000_000] {
                    if placement == Placement::Linear && start > LINEAR_SLOTS {
                        continue;
                    }
                    let positions = position.map(|position| [position; 2]);
                    let write = match &positions {
                        Some(positions) => Write::at_each(positions, tokens),
                        None => Write::append(tokens),
                    };
                    let before = [0, start];
                    let mut encoder = encoder(&context);
                    // Append `start` tokens to the second sequence. In a ring, this may go far beyond all rows and
                    // leave no row to go back to.
                    cache.record_reset(&mut encoder);
                    if start > 0 {
                        cache.record_update(&mut encoder, &bound, Write::append(start).counts(&[0, start])).unwrap();
                    }
                    layers.record_reset(&mut encoder);
                    if start > 0 {
                        layers.begin_step(&mut encoder, Write::append(start).counts(&[0, start])).unwrap();
                        for (layer, source) in bound_layers.iter().enumerate() {
                            layers.record_update(layer, &mut encoder, source).unwrap();
                        }
                    }
                    let expected = before.map(|length| written(placement, length, position, tokens));
                    let case = format!("{placement:?}: {tokens} at {position:?} after {before:?}");
                    let check = |result: &Result<(), Error>, lengths: &[u32]| match (result, expected) {
                        (Ok(()), [Some(first), Some(second)]) => assert_eq!(lengths, [first, second], "{case}"),
                        (Err(error), expected) => {
                            assert_eq!(lengths, before, "{case}: {error}");
                            // Otherwise only a row evicted from a ring may be the reason.
                            let evicted = matches!(error, Error::Sequence(SequenceError::RollbackEvicted { .. }));
                            assert!(evicted || expected.contains(&None), "{case}: {error}");
                        }
                        (Ok(()), _) => panic!("{case} was taken: {lengths:?}"),
                    };
                    let done = layers.begin_step(&mut encoder, write).and_then(|()| {
                        (0..2).try_for_each(|layer| layers.record_update(layer, &mut encoder, &bound_layers[layer]))
                    });
                    check(&done, layers.lengths());
                    drop(cache.form(&bound, write));
                    drop(cache.form(&bound, write.whole()));
                    drop(cache.form(&bound, write.attended()));
                    let done = if tokens % 2 == 0 {
                        cache.record_update(&mut encoder, &bound, write)
                    } else {
                        cache.record_update(&mut encoder.begin_compute_pass(&Default::default()), &bound, write)
                    };
                    check(&done, cache.lengths());
                    if done.is_ok() {
                        let valid: Vec<_> = cache.valid_positions(1).unwrap().collect();
                        assert_eq!(valid.last(), cache.lengths()[1].checked_sub(1).as_ref(), "{case}");
                        cache.record_advance(&mut encoder, Write::at(cache.lengths()[1], 1).counts(&[0, 0])).unwrap();
                    }
                    context.queue().submit([encoder.finish()]);
                }
            }
        }
    }
}

/// Bytes up to the end of the rows, computed with wider integers.
fn reach(rows: &RowsIn<'_>, [batch, heads, tokens, dim]: [u32; 4]) -> u128 {
    let Strides { sequence, head, token } = rows.strides;
    let steps = [(batch, sequence), (heads, head), (tokens, token)];
    let elements: u128 = steps.iter().map(|&(count, stride)| u128::from(count - 1) * u128::from(stride)).sum();
    (u128::from(rows.offset) + (elements + u128::from(dim)) * u128::from(rows.format.unit_bytes())).next_multiple_of(4)
}

#[test]
fn sources() {
    let context = context();
    let small = buffer(&context, 256);
    let mut caches =
        [1, 2].map(|batch| KvCache::new(&context, CacheConfig::new(batch, batch, 2, 8).max_batch_size(5)).unwrap());
    for cache in &mut caches {
        let &CacheConfig { batch_size, num_heads, .. } = cache.config();
        for format in [Format::F32, Format::F16] {
            for offset in WIDE {
                for (sequence, head, token) in
                    WIDE.into_iter().flat_map(|one| [(one, 0, 0), (0, one, 0), (0, 0, one), (one, one, one)])
                {
                    for tokens in [1, 2, 3, u32::MAX] {
                        let rows =
                            RowsIn { buffer: &small, offset, format, strides: Strides { sequence, head, token } };
                        let needed = reach(&rows, [batch_size, num_heads, tokens, 2]);
                        let fits = needed <= u128::from(small.size());
                        let aligned = offset.is_multiple_of(format.unit_bytes().into());
                        match cache.bind_source(&Source { keys: rows, values: rows, tokens }) {
                            Ok(source) => {
                                assert!(fits && aligned, "{rows:?} {tokens}");
                                let most = (batch_size..=5)
                                    .rev()
                                    .find(|&batch| {
                                        reach(&rows, [batch, num_heads, tokens, 2]) <= u128::from(small.size())
                                    })
                                    .unwrap();
                                assert_eq!(source.sequences(), most, "{rows:?} {tokens}");
                                let mut encoder = encoder(&context);
                                let tokens = tokens.min(8);
                                cache.record_update(&mut encoder, &source, Write::at(0, tokens)).unwrap();
                                context.queue().submit([encoder.finish()]);
                            }
                            Err(Error::Buffer(BufferError::BufferRange { needed: told, .. })) => {
                                assert!(!fits && aligned, "{rows:?} {tokens}");
                                assert_eq!(u128::from(told), needed.min(u64::MAX.into()), "{rows:?} {tokens}");
                            }
                            Err(Error::Buffer(BufferError::Misaligned { .. })) => assert!(!aligned),
                            Err(error) => panic!("{rows:?} {tokens}: {error}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn strides_of_dense_tensors() {
    for heads in NUMBERS {
        for tokens in NUMBERS {
            for dim in NUMBERS {
                let product =
                    |factors: &[u32]| u64::try_from(factors.iter().map(|&factor| u128::from(factor)).product::<u128>());
                let all = product(&[heads, tokens, dim]).unwrap_or(u64::MAX);
                let (bhtd, bthd) = (Strides::bhtd(heads, tokens, dim), Strides::bthd(heads, tokens, dim));
                assert_eq!((bhtd.sequence, bhtd.token), (all, dim.into()));
                assert_eq!(Ok(bhtd.head), product(&[tokens, dim]));
                assert_eq!((bthd.sequence, bthd.head), (all, dim.into()));
                assert_eq!(Ok(bthd.token), product(&[heads, dim]));
            }
        }
    }
}

#[test]
fn configurations() {
    let unlimited = context_with(wgpu::Limits::default()).limits().clone();
    let huge = wgpu::Limits {
        max_storage_buffer_binding_size: u64::MAX,
        max_buffer_size: u64::MAX,
        max_compute_workgroups_per_dimension: u32::MAX,
        ..unlimited.clone()
    };
    let wide = |values: [u32; 4]| values.map(u128::from);
    for (keys, values) in [(Format::F32, Format::F16), (Format::Q8_0, Format::Q4_0), (Format::Fp8E4M3, Format::Bf16)] {
        for batch in NUMBERS {
            for heads in NUMBERS {
                for dim in NUMBERS {
                    for slots in NUMBERS {
                        let config = CacheConfig::new(batch, heads, dim, slots).formats(keys, values).value_dim(dim);
                        drop((config.required_limits(&unlimited), config.required_limits(&huge)));
                        let ring = Placement::Ring { window: slots, sinks: dim, slack: heads };
                        drop(config.placement(ring).required_limits(&huge));
                        let valid = config.validate();
                        let [batch, heads, _, slots] = wide([batch, heads, dim, slots]);
                        let plane = |side| {
                            let align = if config.format(side).is_packed() { 16 } else { 4 };
                            let bytes = u128::from(config.format(side).row_bytes(dim)) * slots;
                            bytes.next_multiple_of(align)
                        };
                        let (key, value) = (plane(Side::Keys), plane(Side::Values));
                        let bytes = ((key + value) * batch).saturating_mul(heads);
                        let limit = u128::from(u64::MAX);
                        let fits = batch * heads <= u128::from(u32::MAX) && bytes <= limit;
                        if batch.min(heads).min(dim.into()).min(slots) == 0 {
                            assert!(
                                matches!(valid, Err(Error::Config(ConfigError::ZeroDimension { .. }))),
                                "{config:?}"
                            );
                        } else if fits {
                            assert_eq!(u128::from(config.bytes_per_layer().unwrap()), bytes, "{config:?}");
                            assert_eq!(u128::from(config.bytes_per_plane(Side::Keys).unwrap()), key, "{config:?}");
                            let row = u128::from(keys.row_bytes(dim)) + u128::from(values.row_bytes(dim));
                            assert_eq!(u128::from(config.bytes_per_token().unwrap()), row * batch * heads);
                        } else {
                            assert!(
                                matches!(valid, Err(Error::Config(ConfigError::SizeOverflow { .. }))),
                                "{config:?} {valid:?}"
                            );
                        }
                    }
                }
            }
        }
    }
    for window in NUMBERS {
        for sinks in NUMBERS {
            for slack in NUMBERS {
                let ring = Placement::Ring { window, sinks, slack };
                let slots = u64::from(window) + u64::from(sinks) + u64::from(slack);
                let config = CacheConfig::new(1, 1, 1, 0).placement(ring);
                assert_eq!(config.validate().is_ok(), window > 0 && u32::try_from(slots).is_ok(), "{ring:?}");
                if config.validate().is_ok() {
                    assert_eq!(u64::from(config.slots()), slots);
                }
                for position in NUMBERS {
                    let slot = ring.slot(position);
                    if config.validate().is_ok() {
                        assert!(slot < config.slots(), "{ring:?} {position}");
                    }
                }
            }
        }
    }
}

#[test]
fn layers_of_large_rings() {
    // Caches that the device can hold are made, and others give an error.
    let context = context();
    for window in NUMBERS {
        for sinks in NUMBERS {
            let ring = Placement::Ring { window, sinks, slack: window };
            let config = CacheConfig::new(1, 1, 1, 0).placement(ring);
            if config.bytes_per_layer().is_ok_and(|bytes| bytes < 1 << 24) {
                KvCache::new(&context, config).unwrap();
            } else {
                KvCache::new(&context, config).unwrap_err();
            }
            BatchedKvCache::new(&context, config, usize::MAX).unwrap_err();
        }
    }
}
