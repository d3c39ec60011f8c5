//! [`Options`] and [`Tensors`]: what an attention is, and the buffers that it reads and writes.

use crate::RowsIn;

/// What queries see and how it is weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Query heads, a multiple of the KV heads; query head `h` reads KV head `h ÷ (query_heads ÷ num_heads)`.
    pub query_heads: u32,
    /// Queries of each sequence that there is room for.
    pub tokens: u32,
    /// Which rows are queries, and where they stand.
    pub queries: Queries,
    /// Queries see none after their own position. Otherwise all see what the last position sees.
    pub causal: bool,
    /// Sees its own position and so many minus one before it, and `sinks`; of a ring at most what it keeps, which is
    /// the default.
    pub window: Option<u32>,
    /// With a window: the first positions, which are always seen.
    pub sinks: u32,
    /// What scores are multiplied by; 1 ÷ √`head_dim` unless said.
    pub scale: Option<f32>,
    /// Scores become `softcap × tanh(score ÷ softcap)`, before the mask. No subnormal number.
    pub softcap: Option<f32>,
    /// Parts in which the positions are read; in each step chosen by the size of the device unless said. More are taken
    /// where a driver on the CPU could not take so many positions in one part.
    pub splits: Option<u32>,
}

/// Which rows of the queries there are in a step, and where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Queries {
    /// Those of the update before: the query at row `t` is the `t`-th row that it wrote of the sequence, for any
    /// [`counts`](crate::Write::counts). Rows past a sequence's count are neither read nor written. After an operation
    /// on sequences there are none.
    #[default]
    Written,
    /// Always `tokens` rows, at the last `tokens` positions of each sequence. A sequence that has fewer positions has
    /// queries that see nothing.
    Last,
}

impl Options {
    /// Causal attention of up to `tokens` queries a sequence, those that were just written.
    #[must_use]
    pub const fn new(query_heads: u32, tokens: u32) -> Self {
        Options {
            query_heads,
            tokens,
            queries: Queries::Written,
            causal: true,
            window: None,
            sinks: 0,
            scale: None,
            softcap: None,
            splits: None,
        }
    }

    /// Causal attention of `tokens` queries at the last positions of each sequence, regardless of the last update.
    #[must_use]
    pub const fn last(query_heads: u32, tokens: u32) -> Self {
        Options { queries: Queries::Last, ..Options::new(query_heads, tokens) }
    }
}

/// A mask that is added to the scores, f32, dense: `[1 or batch, 1 or query_heads, 1 or tokens, positions]`.
///
/// Column `p` is position `p`, so there must be as many as the longest sequence has positions. Minus infinity, or any
/// number up to −3 × 10³⁸, hides a position: it has no part in the result, whatever key and value hold. `batch` may be
/// any number of sequences from the present batch to `max_batch_size`, `tokens` is that of the [`Options`].
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of 4.
    pub offset: u64,
    /// Its shape; axes of 1 are for all.
    pub shape: [u32; 4],
}

/// The caller's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Tensors<'a> {
    /// Queries, `[batch, query_heads, tokens, head_dim]` by strides, in f32, f16 or bf16.
    pub queries: RowsIn<'a>,
    /// The output, `[batch, query_heads, tokens, value_dim]` by strides, in f32, f16 or bf16; of 16 bits with an even
    /// `value_dim`, even strides, and an offset of whole words. Rows must not overlap.
    pub output: RowsIn<'a>,
    /// Added to the scores.
    pub mask: Option<Mask<'a>>,
}
