//! Computes attention on the CPU in f64, over the rows of a reference cache.

use crate::{
    AttentionError, ConfigError, Error, Placement, RangeError, ReferenceCache, Result, Scale, Side, StepError,
    WriteError,
    attention::{MaskRows, Options, Queries},
};

impl ReferenceCache {
    /// Computes what [`attend`](crate::attention::attend) computes, in f64 and written from its contract: for each
    /// query, over each position that it attends to. The output of rows that are no queries is zero.
    ///
    /// # Errors
    /// The errors of [`attend`](crate::attention::attend) for its arguments.
    pub fn attend(&self, options: &Options, queries: &[f32], mask: Option<MaskRows<'_>>) -> Result<Vec<f64>> {
        let cache = self;
        let config = cache.config();
        let (batch, num_heads) = (config.batch_size, config.num_heads);
        let Options { query_heads, tokens, queries: queries_of, causal, scale, softcap, .. } = *options;
        let product =
            |axes: [u32; 4]| axes.into_iter().map(u64::from).try_fold(1, u64::checked_mul).unwrap_or(u64::MAX);
        let expected = product([batch, query_heads, tokens, config.head_dim]);
        if queries.len() as u64 != expected {
            return Err(Error::Attention(AttentionError::TensorLength {
                name: "queries",
                expected,
                actual: queries.len() as u64,
            }));
        }
        if let Some(mask) = mask.filter(|mask| mask.numbers.len() as u64 != product(mask.shape)) {
            let actual = mask.numbers.len() as u64;
            return Err(Error::Attention(AttentionError::TensorLength {
                name: "mask",
                expected: product(mask.shape),
                actual,
            }));
        }
        if query_heads == 0 || query_heads % num_heads != 0 {
            return Err(Error::Attention(AttentionError::QueryHeads { query_heads, num_heads }));
        }
        if tokens == 0 {
            return Err(Error::Write(WriteError::NoTokens));
        }
        if let Some(scale) = scale.filter(|scale| !scale.is_finite()) {
            return Err(Error::Attention(AttentionError::AttentionScale { scale: Scale::new(scale) }));
        }
        if let Some(cap) = softcap.filter(|cap| !cap.is_normal() || *cap <= 0.0) {
            return Err(Error::Attention(AttentionError::Softcap { softcap: Scale::new(cap) }));
        }
        let (window, sinks) = match (config.placement, options.window) {
            (_, Some(0)) => return Err(Error::Config(ConfigError::ZeroDimension { name: "window" })),
            (Placement::Linear, None) => (u32::MAX, 0),
            (Placement::Ring { window, sinks, .. }, None) => (window, sinks),
            (Placement::Ring { window, sinks, .. }, Some(wanted)) if wanted > window || options.sinks > sinks => {
                return Err(Error::Attention(AttentionError::AttentionWindow {
                    window,
                    sinks,
                    wanted,
                    wanted_sinks: options.sinks,
                }));
            }
            (_, Some(window)) => (window, options.sinks),
        };
        if let Some(MaskRows { shape, .. }) = mask {
            let right = |at: usize, all: u32| shape[at] == 1 || shape[at] == all;
            let of_batch = shape[0] == 1 || (batch..=config.max_batch_size).contains(&shape[0]);
            if !of_batch || !right(1, query_heads) || !right(2, tokens) || shape[3] == 0 {
                return Err(Error::Attention(AttentionError::MaskShape {
                    batch_size: batch,
                    query_heads,
                    tokens,
                    shape,
                }));
            }
            let write_pos = cache.write_pos();
            if shape[3] < write_pos {
                return Err(Error::Attention(AttentionError::MaskTooShort { positions: shape[3], write_pos }));
            }
        }
        let scale = f64::from(scale.unwrap_or_else(|| 1.0 / (config.head_dim as f32).sqrt()));

        // The positions that each query attends to, [sequence, query].
        let ring_sinks = match config.placement {
            Placement::Linear => 0,
            Placement::Ring { sinks, .. } => sinks,
        };
        let written = (0..batch).map(|sequence| cache.written(sequence));
        let most = written.map(|rows| rows.end - rows.start).max().unwrap_or(0);
        if queries_of == Queries::Written && most > tokens {
            return Err(Error::Step(StepError::MoreTokensThanBound { name: "queries", tokens: most, bound: tokens }));
        }
        let mut seen: Vec<Vec<Vec<u32>>> = Vec::new();
        for (sequence, &length) in (0..).zip(cache.lengths()) {
            let written = cache.written(sequence);
            let rows = match queries_of {
                Queries::Written => written.end - written.start,
                Queries::Last => tokens,
            };
            let mut of_sequence = Vec::new();
            for row in 0..rows {
                let own = match queries_of {
                    _ if !causal => i64::from(length) - 1,
                    Queries::Written => i64::from(written.start) + i64::from(row),
                    Queries::Last => i64::from(length) - i64::from(tokens) + i64::from(row),
                };
                let end = u32::try_from(own + 1).unwrap_or(0);
                let first = end.saturating_sub(window);
                let ranges = [0..sinks.min(first), first..end];
                if let Some(position) = ranges.iter().find_map(|range| cache.first_missing(sequence, range.clone())) {
                    return Err(Error::Range(RangeError::Evicted {
                        sequence,
                        position,
                        oldest: cache.oldest_held(sequence, ring_sinks),
                    }));
                }
                let positions: Vec<u32> = ranges.into_iter().flatten().collect();
                of_sequence.push(positions);
            }
            seen.push(of_sequence);
        }

        let mut output = Vec::new();
        for sequence in 0..batch {
            for head in 0..query_heads {
                let kv_head = head / (query_heads / num_heads);
                for token in 0..tokens {
                    let [head_index, heads] = [head, query_heads].map(|number| number as usize);
                    let row = (sequence as usize * heads + head_index) * tokens as usize + token as usize;
                    let at = row * config.head_dim as usize;
                    let query = &queries[at..at + config.head_dim as usize];
                    // A mask element or score of -3e38 or less hides its position, even if the key or value is NaN. A
                    // score of NaN does not.
                    let hides = |number: f64| number <= -3.0e38;
                    let score = |&position: &u32| -> Option<(u32, f64)> {
                        let added =
                            mask.map_or(0.0, |mask| f64::from(mask_at(&mask, [sequence, head, token, position])));
                        if hides(added) {
                            return None;
                        }
                        let key = cache.numbers(Side::Keys, sequence, kv_head, position);
                        let dot: f64 = query.iter().zip(&key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        let mut score = dot * scale;
                        if let Some(cap) = softcap.map(f64::from) {
                            score = cap * (score / cap).tanh();
                        }
                        Some((position, score + added)).filter(|(_, score)| !hides(*score))
                    };
                    let Some(positions) = seen[sequence as usize].get(token as usize) else {
                        output.extend(vec![0.0; config.value_dim as usize]);
                        continue;
                    };
                    let scores: Vec<(u32, f64)> = positions.iter().filter_map(score).collect();
                    let largest = scores.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
                    let mut sums = vec![0.0; config.value_dim as usize];
                    let mut total = 0.0;
                    for (position, score) in scores {
                        let weight = (score - largest).exp();
                        total += weight;
                        let value = cache.numbers(Side::Values, sequence, kv_head, position);
                        sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * f64::from(value));
                    }
                    output.extend(sums.into_iter().map(|sum| if total == 0.0 { 0.0 } else { sum / total }));
                }
            }
        }
        Ok(output)
    }
}

/// Returns an element of a mask. Axes of length 1 are broadcast.
fn mask_at(mask: &MaskRows<'_>, at: [u32; 4]) -> f32 {
    let index = at.into_iter().zip(mask.shape).fold(0, |index, (at, axis)| {
        let at = if axis == 1 { 0 } else { at };
        index * axis as usize + at as usize
    });
    mask.numbers[index]
}
