//! [`SequenceError`].

/// A sequence, a layer, or a length is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SequenceError {
    /// The cache has no such sequence or head.
    #[error("{name} must be below {count}, but is {index}")]
    IndexOutOfRange {
        /// `sequence`, `head` or `position`.
        name: &'static str,
        /// The index asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// The cache has no such layer.
    #[error("layer must be below num_layers = {num_layers}, but is {layer}")]
    LayerOutOfRange {
        /// The layer asked for.
        layer: usize,
        /// How many there are.
        num_layers: usize,
    },
    /// A list with one entry per sequence has another number of entries.
    #[error("{name} must have one entry per sequence, {batch_size}, but has {actual}")]
    PerSequenceLength {
        /// `positions`, `counts`, `lengths`, `tokens` or `sources`.
        name: &'static str,
        /// The batch size.
        batch_size: u32,
        /// The entries given.
        actual: usize,
    },
    /// The batch would exceed the capacity of the cache.
    #[error("the batch must have at most max_batch_size = {max_batch_size} sequences, but would have {batch_size}")]
    BatchTooLarge {
        /// The sequences wanted.
        batch_size: u32,
        /// The room.
        max_batch_size: u32,
    },
    /// A batch of no sequence.
    #[error("a selection must have at least 1 sequence, but has 0")]
    EmptySelection,
    /// A sequence would be cut to more than it has.
    #[error("sequence {sequence} must be cut to at most its length {current}, but to {length} was asked")]
    TruncateBeyondLength {
        /// The sequence.
        sequence: u32,
        /// The length asked for.
        length: u32,
        /// Its length.
        current: u32,
    },
    /// More tokens would be taken back than a sequence has.
    #[error("sequence {sequence} has {length} tokens, of which {tokens} cannot be taken back")]
    RollbackBeyondStart {
        /// The sequence.
        sequence: u32,
        /// The tokens to take back.
        tokens: u32,
        /// Its length.
        length: u32,
    },
    /// A sequence would be taken back to where rows of its window are overwritten.
    #[error(
        "sequence {sequence} must keep at least {shortest} positions (or at most {sinks}, the sinks alone), because its \
         window needs positions from {oldest} on, but {length} was asked; a ring with more slack goes farther back"
    )]
    RollbackEvicted {
        /// The sequence.
        sequence: u32,
        /// The length asked for.
        length: u32,
        /// The least length that can be reached with a whole window.
        shortest: u32,
        /// Positions that are never evicted.
        sinks: u32,
        /// The first position beyond the sinks that is stored.
        oldest: u32,
    },
    /// An index of a row to keep is not below the number of rows, or not above the index before it.
    #[error("the indices of rows to keep must increase and be below {last}, but index {at} of them is {index}")]
    KeptIndex {
        /// Which of the indices.
        at: u32,
        /// The index.
        index: u32,
        /// Number of rows of which some are kept.
        last: u32,
    },
    /// Rows of which some are kept are more than a sequence has.
    #[error("sequence {sequence} has {length} positions, of which the last {last} cannot be taken")]
    KeptBeyondLength {
        /// The sequence; of a paged cache, its row.
        sequence: u32,
        /// Number of rows of which some are kept.
        last: u32,
        /// Its length.
        length: u32,
    },
    /// More queries than a sequence has tokens.
    #[error("sequence {sequence} has {length} tokens, but {queries} queries are asked for")]
    QueriesBeyondLength {
        /// The sequence.
        sequence: u32,
        /// The queries.
        queries: u32,
        /// Its length.
        length: u32,
    },
}
