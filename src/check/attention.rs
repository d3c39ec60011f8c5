//! Computes attention on the CPU in f64, over the rows of a reference cache.

use crate::{
    AttentionError, ConfigError, Error, Placement, RangeError, ReferenceCache, Result, Scale, Side, StepError,
    WriteError,
    attention::{Extras, MaskRows, Options, Queries},
};

impl ReferenceCache {
    /// Computes what [`attend`](crate::attention::attend) computes, in f64 and written from its contract: for each
    /// query, over each position that it attends to. The output of rows that are no queries is zero. Packed queries
    /// give a packed output.
    ///
    /// # Errors
    /// The errors of [`attend`](crate::attention::attend) for its arguments.
    pub fn attend<'r>(&self, options: &Options, queries: &[f32], extras: impl Into<Extras<'r>>) -> Result<Vec<f64>> {
        let (cache, Extras { mask, sink_logits }) = (self, extras.into());
        let config = cache.config();
        let (batch, num_heads) = (config.batch_size, config.num_heads);
        let Options { query_heads, tokens, queries: queries_of, causal, scale, softcap, lag, packed, .. } = *options;
        let product =
            |axes: [u32; 4]| axes.into_iter().map(u64::from).try_fold(1, u64::checked_mul).unwrap_or(u64::MAX);
        // The positions just written to each sequence, and its number of queries.
        let written: Vec<_> = (0..batch).map(|sequence| cache.written(sequence)).collect();
        let counts: Vec<u32> = match queries_of {
            Queries::Written => written.iter().map(|rows| rows.end - rows.start).collect(),
            Queries::Last => vec![tokens; batch as usize],
        };
        let total = counts.iter().fold(0u32, |total, &count| total.saturating_add(count));
        if let Some(bound) = packed.filter(|bound| total > *bound) {
            let name = "packed queries";
            return Err(Error::Step(StepError::MoreTokensThanBound { name, tokens: total, bound }));
        }
        if packed.is_some() && total == 0 {
            return Err(Error::Write(WriteError::NoTokens));
        }
        // What queries, output and mask have an axis for.
        let (sequences, rows) = if packed.is_some() { (1, total) } else { (batch, tokens) };
        let expected = product([sequences, query_heads, rows, config.head_dim]);
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
        if let Some(logits) = sink_logits.filter(|logits| logits.len() as u64 != u64::from(query_heads)) {
            let (expected, actual) = (query_heads.into(), logits.len() as u64);
            return Err(Error::Attention(AttentionError::TensorLength { name: "sink logits", expected, actual }));
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
        let limited = options.window.is_some() || config.placement != Placement::Linear;
        if limited && lag >= window {
            return Err(Error::Attention(AttentionError::AttentionLag { window, lag }));
        }
        if let Some(splits) = options.splits.filter(|splits| !(1..=64).contains(splits)) {
            return Err(Error::Attention(AttentionError::Splits { splits, most: 64 }));
        }
        if let Some(MaskRows { shape, .. }) = mask {
            let right = |at: usize, all: u32| shape[at] == 1 || shape[at] == all;
            let most = if packed.is_some() { 1 } else { config.max_batch_size };
            let of_batch = shape[0] == 1 || (sequences..=most).contains(&shape[0]);
            if !of_batch || !right(1, query_heads) || !right(2, rows) || shape[3] == 0 {
                return Err(Error::Attention(AttentionError::MaskShape {
                    batch_size: sequences,
                    query_heads,
                    tokens: rows,
                    shape,
                }));
            }
        }
        let scale = f64::from(scale.unwrap_or_else(|| 1.0 / (config.head_dim as f32).sqrt()));

        // The positions that each query attends to, [sequence, query].
        let ring_sinks = match config.placement {
            Placement::Linear => 0,
            Placement::Ring { sinks, .. } => sinks,
        };
        let most = counts.iter().copied().max().unwrap_or(0);
        if most > tokens {
            return Err(Error::Step(StepError::MoreTokensThanBound { name: "queries", tokens: most, bound: tokens }));
        }
        let write_pos = cache.write_pos();
        if let Some(MaskRows { shape, .. }) = mask.filter(|mask| mask.shape[3] < write_pos) {
            return Err(Error::Attention(AttentionError::MaskTooShort { positions: shape[3], write_pos }));
        }
        let mut seen: Vec<Vec<Vec<u32>>> = Vec::new();
        for (sequence, &length) in (0..).zip(cache.lengths()) {
            let written = &written[sequence as usize];
            let mut of_sequence = Vec::new();
            for row in 0..counts[sequence as usize] {
                let own = match queries_of {
                    _ if !causal => i64::from(length) - 1,
                    Queries::Written => i64::from(written.start) + i64::from(row),
                    Queries::Last => i64::from(length) - i64::from(tokens) + i64::from(row),
                };
                let after = u32::try_from(own + 1).unwrap_or(0);
                let (first, end) = (after.saturating_sub(window), after.saturating_sub(lag));
                let ranges = [0..sinks.min(first).min(end), first..end.max(first)];
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

        let [dim, value_dim] = [config.head_dim, config.value_dim].map(|dim| dim as usize);
        let mut output = vec![0.0; sequences as usize * query_heads as usize * rows as usize * value_dim];
        let mut before = 0;
        for (sequence, of_sequence) in (0..).zip(&seen) {
            for (token, positions) in (0..).zip(of_sequence) {
                for head in 0..query_heads {
                    // Index of the row, and where it is in a mask.
                    let (row, in_mask) = match packed {
                        Some(_) => {
                            ((before + token) as usize * query_heads as usize + head as usize, [0, before + token])
                        }
                        None => {
                            let of_head = sequence as usize * query_heads as usize + head as usize;
                            (of_head * tokens as usize + token as usize, [sequence, token])
                        }
                    };
                    let query = &queries[row * dim..][..dim];
                    // A mask element of -3e38 or less hides its position, even if the key or value is NaN. Such a score
                    // has no weight.
                    let hides = |number: f64| number <= -3.0e38;
                    let kv_head = head / (query_heads / num_heads);
                    let score = |&position: &u32| -> Option<(u32, f64)> {
                        let at = [in_mask[0], head, in_mask[1], position];
                        let added = mask.map_or(0.0, |mask| f64::from(mask_at(&mask, at)));
                        if hides(added) {
                            return None;
                        }
                        let key = cache.numbers(Side::Keys, sequence, kv_head, position);
                        let dot: f64 = query.iter().zip(&key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        let mut score = dot * scale;
                        if let Some(cap) = softcap.map(f64::from) {
                            score = cap * (score / cap).tanh();
                        }
                        Some((position, score + added))
                    };
                    let scores: Vec<(u32, f64)> = positions.iter().filter_map(score).collect();
                    let sink =
                        sink_logits.map(|logits| f64::from(logits[head as usize])).filter(|logit| !hides(*logit));
                    let largest = scores
                        .iter()
                        .map(|(_, score)| *score)
                        .filter(|score| !hides(*score))
                        .chain(sink)
                        .fold(f64::NEG_INFINITY, f64::max);
                    let sums = &mut output[row * value_dim..][..value_dim];
                    let mut total = sink.map_or(0.0, |logit| (logit - largest).exp());
                    for (position, score) in scores {
                        let weight = if hides(score) { 0.0 } else { (score - largest).exp() };
                        total += weight;
                        let value = cache.numbers(Side::Values, sequence, kv_head, position);
                        sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * f64::from(value));
                    }
                    sums.iter_mut().for_each(|sum| *sum = if total == 0.0 { 0.0 } else { *sum / total });
                }
            }
            before += counts[sequence as usize];
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
