//! [`BufferError`].

use crate::Side;

/// A buffer of the caller is unsuitable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// The caller's buffer lacks a usage.
    #[error("the buffer of {side} must have {needed}, but has {actual:?}")]
    BufferUsage {
        /// Keys or values.
        side: Side,
        /// The missing usage.
        needed: &'static str,
        /// The usages it has.
        actual: wgpu::BufferUsages,
    },
    /// The caller's buffer ends before the last row.
    #[error(
        "the buffer of {side} must hold {needed} bytes for this offset, these strides and tokens (bindings end on \
         a multiple of 4), but holds {actual}"
    )]
    BufferRange {
        /// Keys or values.
        side: Side,
        /// Bytes from the buffer's start to the end of the last row, rounded up to 4.
        needed: u64,
        /// The buffer's size.
        actual: u64,
    },
    /// An offset is not a multiple of what it must be.
    #[error("the offset of {side} must be a multiple of {alignment} bytes, but is {offset}")]
    Misaligned {
        /// Keys or values.
        side: Side,
        /// The offset given, in bytes.
        offset: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// The cache's own storage was given as source or destination.
    #[error("the buffer of {side} must not be the cache's own storage: one dispatch cannot read and write one buffer")]
    OwnStorage {
        /// Keys or values.
        side: Side,
    },
    /// Keys and values of a `get` would be written over each other.
    #[error("the destinations of keys and values must not overlap, but both hold byte {byte} of one buffer")]
    DestinationsOverlap {
        /// The first byte that both hold.
        byte: u64,
    },
}
