//! Numbers near 2^32 and 2^64 in attention.

use wgpu_kv_cache::attention::{Attention, Mask, MaskRows, Options, Queries, Tensors, attend};

use super::*;

fn options(query_heads: u32, tokens: u32) -> Options {
    Options { queries: Queries::Last, ..Options::new(query_heads, tokens) }
}

#[test]
fn attentions() {
    let context = context();
    let small = [(); 3].map(|()| buffer(&context, 256));
    for cache in &caches(&context) {
        for query_heads in NUMBERS {
            for tokens in NUMBERS {
                for splits in [None, Some(1), Some(64), Some(u32::MAX)] {
                    for (window, sinks) in [(None, 0), (Some(1), 0), (Some(u32::MAX), u32::MAX), (Some(3), 1)] {
                        for causal in [true, false] {
                            let (queries, output) = (repeated(&small[0]), repeated(&small[1]));
                            let tensors = Tensors { queries, output, mask: None, sink_logits: None };
                            let options = Options { splits, window, sinks, causal, ..options(query_heads, tokens) };
                            if let Ok(attention) = Attention::new(cache, &options, &tensors) {
                                drop(attention.record(cache, &mut encoder(&context)));
                            }
                        }
                    }
                }
            }
        }
        for offset in WIDE {
            for (sequence, head, token) in
                WIDE.into_iter().flat_map(|one| [(one, 0, 0), (0, one, 0), (0, 0, one), (one, one, one)])
            {
                let strides = Strides { sequence, head, token };
                let queries = RowsIn { offset, strides, ..repeated(&small[0]) };
                let tensors = Tensors { queries, output: repeated(&small[1]), mask: None, sink_logits: None };
                let fits = reach(&queries, [2, 2, 2, 2]) <= 256 && offset % 4 == 0;
                let made = Attention::new(cache, &options(2, 2), &tensors);
                assert_eq!(made.is_ok(), fits, "{queries:?}");
                let tensors = Tensors { queries: tensors.output, output: queries, mask: None, sink_logits: None };
                assert_eq!(Attention::new(cache, &options(2, 2), &tensors).is_ok(), fits, "{queries:?}");
            }
            for batch in [1, 2, u32::MAX] {
                for positions in NUMBERS {
                    for (heads, tokens) in [(1, 1), (2, 2), (u32::MAX, u32::MAX), (1, u32::MAX)] {
                        let shape = [batch, heads, tokens, positions];
                        let mask = Some(Mask { buffer: &small[2], offset, shape });
                        let tensors = Tensors {
                            queries: repeated(&small[0]),
                            output: repeated(&small[1]),
                            mask,
                            sink_logits: None,
                        };
                        let elements: u128 = shape[..3].iter().map(|&axis| u128::from(axis)).product();
                        let bytes = elements.saturating_mul(positions.into()).saturating_mul(4);
                        let fits = u128::from(offset).saturating_add(bytes) <= 256 && offset % 4 == 0;
                        let made = Attention::new(cache, &options(2, 2), &tensors);
                        let shaped = positions > 0 && heads != u32::MAX && tokens != u32::MAX && batch < 3;
                        assert_eq!(made.is_ok(), fits && shaped, "{shape:?} at {offset}");
                    }
                }
            }
        }
    }
}

#[test]
fn attention_of_host_slices() {
    let context = context();
    for cache in &caches(&context) {
        for query_heads in NUMBERS {
            for tokens in NUMBERS {
                for length in [0, 4, 8] {
                    let numbers = vec![0.5f32; length];
                    let elements = 2 * 2 * u128::from(query_heads) * u128::from(tokens);
                    let done = attend(cache, &options(query_heads, tokens), &numbers, None);
                    assert!(done.is_err() || elements == length as u128, "{query_heads} {tokens} {length}");
                    for shape in [[u32::MAX; 4], [0, u32::MAX, u32::MAX, u32::MAX], [u32::MAX, u32::MAX, 0, 1]] {
                        let mask = MaskRows { numbers: &[], shape };
                        attend(cache, &options(query_heads, tokens), &numbers, Some(mask)).unwrap_err();
                    }
                }
            }
        }
    }
}

#[test]
fn grids_of_a_device_without_limits() {
    // 16 query heads of 2^29 tokens are 2^33 rows in 2^29 tiles, which this grid accepts.
    let i32_max = (1 << 31) - 1;
    let most = wgpu::Limits { max_compute_workgroups_per_dimension: i32_max, ..wgpu::Limits::default() };
    let context = context_with(most);
    let small = [(); 2].map(|()| buffer(&context, 256));
    let cache = KvCache::new(&context, CacheConfig::new(1, 1, 2, 8)).unwrap();
    for query_heads in NUMBERS.into_iter().chain([16]) {
        for tokens in NUMBERS.into_iter().chain([1 << 27, 1 << 28, 1 << 29]) {
            for splits in [None, Some(1), Some(2)] {
                let tensors = Tensors {
                    queries: repeated(&small[0]),
                    output: repeated(&small[1]),
                    mask: None,
                    sink_logits: None,
                };
                let options = Options { splits, ..options(query_heads, tokens) };
                let rows = u64::from(query_heads) * u64::from(tokens);
                match Attention::new(&cache, &options, &tensors) {
                    Ok(attention) => {
                        assert!(rows <= u64::from(u32::MAX), "{query_heads} {tokens}");
                        attention.record(&cache, &mut encoder(&context)).unwrap();
                    }
                    Err(error) => assert!(
                        rows == 0 || splits.is_some() || rows > u64::from(u32::MAX) - 32,
                        "{query_heads} {tokens}: {error}"
                    ),
                }
            }
        }
    }
}
