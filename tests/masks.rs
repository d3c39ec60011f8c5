//! What queries may see, compared with ONNX `Attention` (opset 25) with a causal mask and a left window.
//! `scripts/record_masks.py` recorded it from the operator's reference implementation. No GPU is needed.

use serde_json::Value;
use wgpu_kv_cache::{CacheConfig, Context, KvCache, Placement, Visible, Write};

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

#[test]
fn queries_see_what_those_of_onnx_attention_do() {
    let recorded: Value = serde_json::from_str(include_str!("data/onnx_windows.json")).unwrap();
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let context = Context::new(&device, &queue);
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let window = case["window"].as_u64().unwrap() as u32;
        let queries = case["queries"].as_u64().unwrap() as u32;
        let lengths = numbers(&case["lengths"]);
        let ring = Placement::Ring { window, sinks: 0, slack: queries - 1 };
        // A window as large as the capacity hides nothing, so linear placement must agree too.
        let placements = if window == 12 { vec![ring, Placement::Linear] } else { vec![ring] };
        for placement in placements {
            let config = CacheConfig::new(lengths.len() as u32, 1, 1, 12).placement(placement);
            let mut cache = KvCache::new(&context, config).unwrap();
            // The queries belong to the last update, as in a step of speculative decoding.
            let before: Vec<u32> = lengths.iter().map(|length| length - queries).collect();
            let rows = vec![0f32; lengths.len() * 12];
            if before.iter().any(|count| *count > 0) {
                cache.update(&rows[..], &rows[..], Write::append(12).counts(&before)).unwrap();
            }
            let rows = vec![0f32; lengths.len() * queries as usize];
            cache.update(&rows[..], &rows[..], Write::append(queries)).unwrap();
            for (sequence, expected) in (0..).zip(case["visible"].as_array().unwrap()) {
                let visible = cache.visible(sequence, queries).unwrap();
                let positions: Vec<Vec<u32>> =
                    visible.iter().map(|query| query.slots().map(|(position, _)| position).collect()).collect();
                let expected: Vec<Vec<u32>> = expected.as_array().unwrap().iter().map(numbers).collect();
                assert_eq!(positions, expected, "{placement:?}, sequence {sequence} of {case}");
                for (position, slot) in visible.iter().flat_map(Visible::slots) {
                    assert_eq!(slot, placement.slot(position));
                }
            }
        }
    }
}

#[test]
fn sinks_are_seen_by_every_query_after_them() {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let ring = Placement::Ring { window: 2, sinks: 2, slack: 8 };
    let mut cache = KvCache::new(&Context::new(&device, &queue), CacheConfig::new(1, 1, 1, 0).placement(ring)).unwrap();
    cache.update(&[0f32; 6][..], &[0f32; 6][..], Write::append(6)).unwrap();
    let seen: Vec<Vec<u32>> = cache
        .visible(0, 6)
        .unwrap()
        .iter()
        .map(|query| query.slots().map(|(position, _)| position).collect())
        .collect();
    assert_eq!(seen, [vec![0], vec![0, 1], vec![0, 1, 2], vec![0, 1, 2, 3], vec![0, 1, 3, 4], vec![0, 1, 4, 5]]);
}

/// Transformers 5.23: a query sees what `sliding_window_overlay` (`masking_utils.py`) and a causal mask allow, among
/// the keys that `DynamicSlidingWindowLayer.get_mask_sizes` (`cache_utils.py`) says the cache returns.
#[test]
fn queries_see_what_those_of_transformers_sliding_caches_do() {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let context = Context::new(&device, &queue);
    for (window, before, queries) in
        (1..=5u32).flat_map(|w| (0..=12u32).flat_map(move |b| (1..=4u32).map(move |q| (w, b, q))))
    {
        let ring = Placement::Ring { window, sinks: 0, slack: queries - 1 };
        let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 1, 0).placement(ring)).unwrap();
        for tokens in [before, queries].into_iter().filter(|tokens| *tokens > 0) {
            let rows = vec![0f32; tokens as usize];
            cache.update(&rows[..], &rows[..], Write::append(tokens)).unwrap();
        }
        let visible = cache.visible(0, queries).unwrap();
        // `get_mask_sizes` is called before the update.
        let kv_offset = (before + 1).saturating_sub(window);
        let kv_length = if before >= window { window - 1 + queries } else { before + queries };
        assert_eq!(visible[0].window.start, kv_offset);
        assert_eq!(visible[visible.len() - 1].window.end - kv_offset, kv_length);
        for (query, q_idx) in visible.iter().zip(before..) {
            let causal = |kv_idx: &u32| *kv_idx <= q_idx;
            let overlay = |kv_idx: &u32| i64::from(*kv_idx) > i64::from(q_idx) - i64::from(window);
            let expected: Vec<u32> = (kv_offset..kv_offset + kv_length).filter(causal).filter(overlay).collect();
            assert_eq!(query.slots().map(|(position, _)| position).collect::<Vec<_>>(), expected);
        }
    }
}
