//! [`PageError`].

/// A sequence of a pool of pages, or what it asks for, is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// Pages of a size that is no power of two.
    #[error("the page size must be a power of two, but is {page_size}")]
    PageSize {
        /// Tokens of a page.
        page_size: u32,
    },
    /// A pool without pages or sequences, or with too many.
    #[error("the number of {name} must be from 1 to 4294967294, but is {number}")]
    NoPages {
        /// `pages`, `sequences`, `positions` or `groups`.
        name: &'static str,
        /// The number given.
        number: u32,
    },
    /// More pages than the host has memory to keep books of.
    #[error("the host has no memory for the books of {pages} pages")]
    BooksTooLarge {
        /// The number of pages.
        pages: u32,
    },
    /// Bytes that hold no page.
    #[error("a pool must hold at least one page, of {page_bytes} bytes, but has {bytes} bytes")]
    PoolTooSmall {
        /// Bytes of the pool.
        bytes: u64,
        /// Bytes of a page.
        page_bytes: u64,
    },
    /// A step is to be ended that was not begun.
    #[error("there is no step under way; begin one first")]
    NoStepUnderWay,
    /// A group of layers that there is not.
    #[error("the group must be below {groups}, but is {group}")]
    NoGroup {
        /// The group given.
        group: usize,
        /// Number of groups.
        groups: usize,
    },
    /// A step of which a layer was not recorded.
    #[error("all layers of a step must be recorded before it is submitted, but layer {layer} was not")]
    LayerNotRecorded {
        /// The first such layer.
        layer: usize,
    },
    /// A pool has no room for what a step appends.
    #[error(
        "the step needs {needed} more pages, but {free} are free, and {evictable} more that hold prefixes without a sequence"
    )]
    OutOfPages {
        /// Pages that the step needs.
        needed: u64,
        /// Pages without references and without a key.
        free: u32,
        /// Pages without references that have a key.
        evictable: u32,
    },
    /// More sequences than there are rows in a table.
    #[error("there must be at most {most} sequences at a time")]
    TooManySequences {
        /// The number of rows.
        most: u32,
    },
    /// More tokens of a sequence than positions.
    #[error("a sequence must have at most {most} tokens, but would have {tokens}")]
    TooManyTokens {
        /// The tokens that it would have.
        tokens: u64,
        /// The most that a sequence has room for: `max_seq_len`.
        most: u32,
    },
    /// The handle of a sequence that was freed.
    #[error("the sequence must not be freed, but the one of row {row}, generation {generation}, was")]
    FreedSequence {
        /// Its row.
        row: u32,
        /// Which of the sequences that had the row it is.
        generation: u32,
    },
    /// The handle of a sequence of another pool.
    #[error("the sequence must be of this pool, but is of another")]
    ForeignSequence,
    /// A sequence that appends twice in one step.
    #[error("a sequence must appear once in a step, but that of row {row} appears again")]
    SequenceTwice {
        /// Its row.
        row: u32,
    },
    /// A step is planned of which nobody has said whether it was submitted.
    #[error("the step under way must be submitted or dropped first")]
    StepUnderWay,
    /// Drafts of which nobody has said how many stay.
    #[error("the {drafts} drafts of the sequence must be decided first, by accept")]
    DraftsUndecided {
        /// How many there are.
        drafts: u32,
    },
    /// More drafts than tokens.
    #[error("drafts must be among the {tokens} tokens that are appended, but are {drafts}")]
    MoreDraftsThanTokens {
        /// Drafts given.
        drafts: u32,
        /// Tokens given.
        tokens: u32,
    },
    /// More drafts accepted than there are.
    #[error("at most the {drafts} undecided drafts of the sequence can be accepted, but {accepted} are")]
    MoreAccepted {
        /// Drafts accepted.
        accepted: u32,
        /// Drafts of the sequence.
        drafts: u32,
    },
    /// A position after the end of a sequence.
    #[error("a length must be at most that of the sequence, {length}, but is {position}")]
    BeyondEnd {
        /// The length given.
        position: u32,
        /// The length of the sequence.
        length: u32,
    },
}
