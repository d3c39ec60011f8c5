//! [`AttentionError`].

use crate::{Format, Scale};

/// Options or tensors of an attention are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttentionError {
    /// Query heads that do not share KV heads evenly.
    #[error("query heads must be a multiple of the {num_heads} KV heads, and at least as many, but are {query_heads}")]
    QueryHeads {
        /// The query heads given.
        query_heads: u32,
        /// KV heads of the cache.
        num_heads: u32,
    },
    /// An attention's scale that is not finite.
    #[error("the scale of scores must be finite, but is {scale}")]
    AttentionScale {
        /// The scale given.
        scale: Scale,
    },
    /// A soft cap that caps nothing.
    #[error("a soft cap must be positive, finite and not subnormal, but is {softcap}")]
    Softcap {
        /// The cap given.
        softcap: Scale,
    },
    /// An attention in no parts, or in too many.
    #[error("positions must be read in 1 to {most} parts, but {splits} are asked for")]
    Splits {
        /// The parts asked for.
        splits: u32,
        /// The most that there can be.
        most: u32,
    },
    /// A window that a ring does not keep.
    #[error(
        "an attention may see at most what the ring keeps, window {window} and sinks {sinks}, but asks for {wanted} and {wanted_sinks}"
    )]
    AttentionWindow {
        /// Window of the ring.
        window: u32,
        /// Its sinks.
        sinks: u32,
        /// Window asked for.
        wanted: u32,
        /// Sinks asked for.
        wanted_sinks: u32,
    },
    /// A window that ends before it begins.
    #[error("a window must be larger than the lag, {lag}, but is {window}")]
    AttentionLag {
        /// Positions of the window, counted from the query.
        window: u32,
        /// How many of them the query does not attend to.
        lag: u32,
    },
    /// A mask that cannot be broadcast.
    #[error("a mask must be [1 or {batch_size}, 1 or {query_heads}, 1 or {tokens}, positions], but is {shape:?}")]
    MaskShape {
        /// The batch.
        batch_size: u32,
        /// Query heads.
        query_heads: u32,
        /// Queries of each sequence.
        tokens: u32,
        /// The shape given.
        shape: [u32; 4],
    },
    /// A mask that does not reach the end of the longest sequence.
    #[error("a mask must have a column for each position, write_pos = {write_pos}, but has {positions}")]
    MaskTooShort {
        /// Columns of the mask.
        positions: u32,
        /// The largest length.
        write_pos: u32,
    },
    /// A slice of an attention has the wrong number of elements.
    #[error("the {name} must hold {expected} elements, but hold {actual}")]
    TensorLength {
        /// `queries`, `mask` or `sink logits`.
        name: &'static str,
        /// The product of the shape.
        expected: u64,
        /// The slice's length.
        actual: u64,
    },
    /// A buffer of an attention lacks a usage.
    #[error("the buffer of the {name} must have {needed}, but has {actual:?}")]
    TensorUsage {
        /// `queries`, `output`, `mask` or `sink logits`.
        name: &'static str,
        /// The missing usage.
        needed: &'static str,
        /// The usages it has.
        actual: wgpu::BufferUsages,
    },
    /// A buffer of an attention ends before the last row.
    #[error(
        "the buffer of the {name} must hold {needed} bytes for this offset, these strides and tokens, but holds {actual}"
    )]
    TensorRange {
        /// `queries`, `output`, `mask` or `sink logits`.
        name: &'static str,
        /// Bytes from the buffer's start to the end of the last row, rounded up to 4.
        needed: u64,
        /// The buffer's size.
        actual: u64,
    },
    /// An offset or stride of an attention is not a multiple of what it must be.
    #[error("{what} must be a multiple of {alignment}, but is {value}")]
    TensorMisaligned {
        /// The offset, a stride, or the head size of a tensor, such as `the offset of the output`.
        what: &'static str,
        /// The value given.
        value: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A tensor of an attention in a format that it does not take.
    #[error("the {name} must be in f32, f16 or bf16, but are in {format}")]
    TensorFormat {
        /// `queries` or `output`.
        name: &'static str,
        /// The format given.
        format: Format,
    },
    /// The output of an attention would be written over what it reads.
    #[error(
        "the output must have a buffer of its own, not that of the {name}: one dispatch cannot read and write one buffer"
    )]
    OutputShared {
        /// `queries`, `mask`, `sink logits` or `cache`.
        name: &'static str,
    },
}
