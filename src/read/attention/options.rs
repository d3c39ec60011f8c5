//! [`Options`] of an attention, and [`Tensors`]: the buffers that it reads and writes.

use crate::{
    AttentionError, ConfigError, Error, Placement, Result, RowsIn, StepError, device::binding::clamp_u32,
    plan::sequences::Sequences,
};

/// Which positions queries attend to, and how scores are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Number of query heads, a multiple of the KV heads. Query head `h` reads KV head `h ÷ (query_heads ÷ num_heads)`.
    pub query_heads: u32,
    /// Maximum number of queries of each sequence in a step, packed or not.
    pub tokens: u32,
    /// Which rows are queries, and at which positions.
    pub queries: Queries,
    /// Hides the positions after that of a query. Without it, every query attends to what the last position attends to.
    pub causal: bool,
    /// Limits a query to its own position, the `window - 1` positions before it, and the `sinks`. The default is no
    /// limit with linear placement, and in a ring the window that the ring keeps, which is also the maximum.
    pub window: Option<u32>,
    /// With a window: number of first positions that every query attends to.
    pub sinks: u32,
    /// Number of positions, the query's own and those before it, that a query does not attend to, as with an attention
    /// over the newest rows that the caller computes and joins itself; 0 by default. A window, if there is one, is
    /// counted from the query as before, so it must be larger; in the terms of `FlashAttention` its size is `(window -
    /// 1, -lag)`. Sinks within the lag are hidden.
    pub lag: u32,
    /// Rows of queries and of the output are packed: `[rows, query_heads, dim]`, where the rows of each sequence follow
    /// those of the sequence before it, as many as it has queries. At most so many rows in a step, and at most
    /// [`tokens`](Self::tokens) of each sequence. Dense rows have the strides `Strides::bthd(query_heads, rows, dim)`;
    /// that of sequences is not used.
    pub packed: Option<u32>,
    /// Factor of the scores. The default is 1 ÷ √`head_dim`.
    pub scale: Option<f32>,
    /// Replaces scores by `softcap × tanh(score ÷ softcap)`, before the mask is added. It must not be subnormal.
    pub softcap: Option<f32>,
    /// Number of parts that the positions are split into. By default each step chooses it by the size of the device. A
    /// software driver that cannot process so many positions in one part gets more parts.
    pub splits: Option<u32>,
    /// How threads share the rows of the cache. The default is [`Reading::Sequential`] on a driver that runs on the
    /// CPU, and [`Reading::Coalesced`] on any other device.
    pub reading: Option<Reading>,
    /// Whether threads share scores by shuffles where the device has `wgpu::Features::SUBGROUP`, outside of browsers,
    /// and its subgroups hold the threads that share a row. Otherwise they share them in workgroup memory. The default
    /// is true.
    pub subgroups: bool,
}

/// How the threads of a workgroup share the rows of the cache. Both give the same result up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// Neighbouring threads read neighbouring 16 bytes of a row, as a GPU fetches memory.
    Coalesced,
    /// Each thread reads neighbouring bytes of a row, as the caches of a CPU fetch memory.
    Sequential,
}

/// Which rows are queries in a step, and at which positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Queries {
    /// The rows of the last update: the query at row `t` is the `t`-th row that the update wrote to the sequence, for
    /// any [`counts`](crate::Write::counts). Rows past the count of a sequence are neither read nor written. After an
    /// operation on sequences there are no queries.
    #[default]
    Written,
    /// Always `tokens` rows, at the last `tokens` positions of each sequence. In a sequence with fewer positions, some
    /// queries attend to nothing.
    Last,
}

impl Options {
    /// Causal attention of up to `tokens` queries per sequence, which are the rows of the last update.
    #[must_use]
    pub const fn new(query_heads: u32, tokens: u32) -> Self {
        Options {
            query_heads,
            tokens,
            queries: Queries::Written,
            causal: true,
            window: None,
            sinks: 0,
            lag: 0,
            packed: None,
            scale: None,
            softcap: None,
            splits: None,
            reading: None,
            subgroups: true,
        }
    }

    /// Causal attention of the rows of the last update, packed: up to `rows` of all sequences together, or of one. See
    /// the [field](Options#structfield.packed).
    #[must_use]
    pub const fn packed(query_heads: u32, rows: u32) -> Self {
        Options { packed: Some(rows), ..Options::new(query_heads, rows) }
    }

    /// Causal attention of `tokens` queries at the last positions of each sequence, regardless of the last update.
    #[must_use]
    pub const fn last(query_heads: u32, tokens: u32) -> Self {
        Options { queries: Queries::Last, ..Options::new(query_heads, tokens) }
    }

    /// Window and sinks that queries see, where that is not all.
    pub(super) fn visible_window(&self, placement: Placement) -> Result<Option<(u32, u32)>> {
        let visible = self.window_and_sinks(placement)?;
        match (visible, self.lag) {
            (Some((window, _)), lag) if lag >= window => {
                Err(Error::Attention(AttentionError::AttentionLag { window, lag }))
            }
            _ => Ok(visible),
        }
    }

    fn window_and_sinks(&self, placement: Placement) -> Result<Option<(u32, u32)>> {
        match (placement, self.window) {
            (_, Some(0)) => Err(Error::Config(ConfigError::ZeroDimension { name: "window" })),
            (Placement::Linear, None) => Ok(None),
            (Placement::Linear, Some(window)) => Ok(Some((window, self.sinks))),
            (Placement::Ring { window, sinks, .. }, None) => Ok(Some((window, sinks))),
            (Placement::Ring { window, sinks, .. }, Some(wanted)) => {
                let wanted_sinks = self.sinks;
                if wanted > window || wanted_sinks > sinks {
                    return Err(Error::Attention(AttentionError::AttentionWindow {
                        window,
                        sinks,
                        wanted,
                        wanted_sinks,
                    }));
                }
                Ok(Some((wanted, wanted_sinks)))
            }
        }
    }

    /// Queries of each sequence.
    fn counts(&self, sequences: &Sequences) -> impl Iterator<Item = u32> {
        let Options { queries, tokens, .. } = *self;
        sequences.lengths.iter().zip(&sequences.starts).map(move |(length, start)| match queries {
            Queries::Written => length.saturating_sub(*start),
            Queries::Last => tokens,
        })
    }

    /// The most queries that a sequence has; no more than there may be.
    pub(super) fn most_queries(&self, sequences: &Sequences) -> Result<u32> {
        let (tokens, bound) = (self.counts(sequences).max().unwrap_or(0), self.tokens);
        if tokens > bound {
            return Err(Error::Step(StepError::MoreTokensThanBound { name: "queries", tokens, bound }));
        }
        Ok(tokens)
    }

    /// Rows of packed queries of all sequences; no more than there may be.
    pub(super) fn packed_rows(&self, sequences: &Sequences) -> Result<u32> {
        let rows = clamp_u32(self.counts(sequences).map(u64::from).fold(0, u64::saturating_add));
        match self.packed {
            Some(bound) if rows > bound => {
                let name = "packed queries";
                Err(Error::Step(StepError::MoreTokensThanBound { name, tokens: rows, bound }))
            }
            _ => Ok(rows),
        }
    }

    /// Tiles of packed queries of all sequences, where `tiles_of` tells those of a count.
    pub(super) fn packed_tiles(&self, sequences: &Sequences, tiles_of: impl Fn(u32) -> u64) -> u64 {
        self.counts(sequences).map(tiles_of).fold(0, u64::saturating_add)
    }
}

/// A mask that is added to the scores, f32, dense: `[1 or batch, 1 or query_heads, 1 or tokens, positions]`, or with
/// [packed](Options::packed) queries `[1, 1 or query_heads, 1 or rows, positions]`, where the rows are as many as there
/// may be, and in [`attend`](crate::attention::attend) as many as there are.
///
/// Column `p` belongs to position `p`, so a mask needs at least as many columns as the longest sequence has positions.
/// Minus infinity, or any number up to −3 × 10³⁸, hides a position: it has no part in the result, even if its key or
/// value is NaN. `batch` may be any number of sequences from the current batch to `max_batch_size`; `tokens` is that of
/// the [`Options`].
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of 4.
    pub offset: u64,
    /// Its shape. Axes of length 1 are broadcast.
    pub shape: [u32; 4],
}

/// One learned number for each query head, `[query_heads]` in f32, that joins the sum of the softmax and has no value:
/// an attention sink without a position, as gpt-oss has (its model card, `OpenAI`, 2025). It is neither scaled nor
/// capped. Minus infinity, or any number up to −3 × 10³⁸, adds nothing. A query that attends to no position gives
/// zeros.
#[derive(Clone, Copy, Debug)]
pub struct SinkLogits<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of 4.
    pub offset: u64,
}

/// The caller's buffers that an attention reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct Tensors<'a> {
    /// Queries, `[batch, query_heads, tokens, head_dim]` by strides, in f32, f16 or bf16; or
    /// [packed](Options::packed).
    pub queries: RowsIn<'a>,
    /// The output, `[batch, query_heads, tokens, value_dim]` by strides, in f32, f16 or bf16; or packed. A 16-bit
    /// output needs an even `value_dim`, even strides, and an offset of whole words. Rows must not overlap.
    pub output: RowsIn<'a>,
    /// A mask that is added to the scores.
    pub mask: Option<Mask<'a>>,
    /// A logit of each query head that joins the sum of the softmax.
    pub sink_logits: Option<SinkLogits<'a>>,
}
