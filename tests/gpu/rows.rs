//! Rows that tests write, and how far results are from those expected.

use wgpu_kv_cache::{CacheConfig, Context, Error, KvCache, Placement, ReferenceCache, Write};

pub const RING: Placement = Placement::Ring { window: 11, sinks: 3, slack: 4 };

/// Deterministic pseudo-random numbers in [-1, 1).
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|index| {
            let bits = (index.wrapping_add(seed.wrapping_mul(7919))).wrapping_mul(2_654_435_761);
            (bits >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// A cache and a reference with the same rows: `counts` tokens of each sequence, then one more.
pub fn filled(context: &Context, config: CacheConfig, counts: &[u32]) -> Result<(KvCache, ReferenceCache), Error> {
    let (mut cache, mut reference) = (KvCache::new(context, config)?, ReferenceCache::new(config)?);
    let tokens = counts.iter().copied().max().unwrap_or(1).max(1);
    for (tokens, counts) in [(tokens, counts), (1, &vec![1; counts.len()][..])] {
        let rows = (config.batch_size * config.num_heads * tokens) as usize;
        let keys = numbers(rows * config.head_dim as usize, tokens);
        let values = numbers(rows * config.value_dim as usize, tokens + 1);
        let write = Write::append(tokens).counts(counts);
        cache.update(&keys, &values, write)?;
        reference.update(&keys, &values, write)?;
    }
    Ok((cache, reference))
}

/// Root mean square of the difference, relative to that of `expected`.
pub fn distance(expected: &[f64], actual: &[f32]) -> f64 {
    assert_eq!(expected.len(), actual.len());
    let square = |sum: f64| sum.max(1e-30);
    let difference: f64 = expected.iter().zip(actual).map(|(e, a)| (e - f64::from(*a)).powi(2)).sum();
    let size: f64 = expected.iter().map(|e| e * e).sum();
    (difference / square(size)).sqrt()
}

/// The largest distance allowed between device and reference, in any format.
pub const BOUND: f64 = 1e-5;
