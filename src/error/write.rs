//! [`WriteError`].

use crate::{Format, Side};

/// Rows or positions of a write are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// An update, an insertion or an attention of zero tokens.
    #[error("there must be at least 1 token, but there are 0")]
    NoTokens,
    /// A sequence's count is larger than the number of tokens in the source.
    #[error("the count of sequence {sequence} must be at most tokens = {tokens}, but is {count}")]
    CountAboveTokens {
        /// The sequence.
        sequence: u32,
        /// Its count.
        count: u32,
        /// Tokens in the source.
        tokens: u32,
    },
    /// A write would end after the last slot. One such sequence refuses the whole call.
    #[error(
        "sequence {sequence} must end at or before max_seq_len = {max_seq_len}, but {count} tokens at position \
         {position} end at {}",
        u64::from(*position).saturating_add((*count).into())
    )]
    WriteBeyondCapacity {
        /// The sequence.
        sequence: u32,
        /// Where its write starts.
        position: u32,
        /// How many tokens it writes.
        count: u32,
        /// The capacity.
        max_seq_len: u32,
    },
    /// A write of which every row must be kept is longer than a ring.
    #[error(
        "sequence {sequence} must keep all {count} tokens at position {position}, but of what ends at {} a ring of {rows} \
         rows beyond its sinks keeps nothing before {oldest}",
        u64::from(*position).saturating_add((*count).into())
    )]
    WriteBeyondRing {
        /// The sequence.
        sequence: u32,
        /// Where its write starts.
        position: u32,
        /// How many tokens it writes.
        count: u32,
        /// Rows of the ring, window and slack.
        rows: u32,
        /// The first position beyond the sinks that would be stored.
        oldest: u32,
    },
    /// A position in a ring would exceed 32 bits.
    #[error(
        "positions must stay below 2^32 - 1, but {count} tokens of sequence {sequence} at position {position} do not"
    )]
    PositionOverflow {
        /// The sequence.
        sequence: u32,
        /// Where its write starts.
        position: u32,
        /// How many tokens it writes.
        count: u32,
    },
    /// A slice of rows has the wrong number of elements.
    #[error("{side} must hold batch × heads × tokens × dim = {expected} elements, but hold {actual}")]
    SliceLength {
        /// Keys or values.
        side: Side,
        /// `batch_size × num_heads × tokens × dim`.
        expected: u64,
        /// The slice's length.
        actual: u64,
    },
    /// Rows that are no sequence of this length.
    #[error("a sequence of length {length} has {expected} valid rows here, but {tokens} are given")]
    InsertedRows {
        /// The length.
        length: u32,
        /// Its number of valid rows: in a ring, the sinks and the window.
        expected: u32,
        /// The rows of the source.
        tokens: u32,
    },
    /// Rows of a packed format for a cache of another.
    #[error("rows in {source_format} can only go to {side} stored in the same format, but they are stored in {stored}")]
    PackedSource {
        /// Keys or values.
        side: Side,
        /// Format of the rows.
        source_format: Format,
        /// Format of the cache.
        stored: Format,
    },
}
