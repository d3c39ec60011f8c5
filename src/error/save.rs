//! [`SaveError`].

/// A saved sequence cannot be written or read, or is not what the cache needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The system refused to read or write.
    #[error("{during} failed: {reason}")]
    Io {
        /// What was done, with the path if there is one.
        during: Box<str>,
        /// The system's words.
        reason: Box<str>,
    },
    /// A file that holds no saved sequence, or one that was damaged.
    #[error("this is no saved sequence: {reason}")]
    Malformed {
        /// What is wrong.
        reason: Box<str>,
    },
    /// A file that ends too early.
    #[error("the file must have {expected} bytes, but has {actual}")]
    Cut {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// A part of the file is not what was written.
    #[error("the checksum of {part} is wrong")]
    Checksum {
        /// The header or a tensor.
        part: Box<str>,
    },
    /// The saved sequence is not of this cache or of this model.
    #[error("{field} must be {expected}, but the saved sequence has {saved}")]
    Differs {
        /// The field.
        field: Box<str>,
        /// What the cache, or the caller, has.
        expected: Box<str>,
        /// What the file has.
        saved: Box<str>,
    },
    /// Tokens that do not belong to a sequence.
    #[error("a sequence of length {length} must be saved with as many tokens or with none, but {tokens} are given")]
    TokenCount {
        /// The length.
        length: u32,
        /// The tokens given.
        tokens: usize,
    },
    /// A sequence without positions, of which nothing can be saved.
    #[error("a sequence must have positions to be saved, but its length is 0")]
    Empty,
    /// A sequence cannot be loaded in the place of another.
    #[error("a sequence is loaded into an empty one, but that at {sequence} has length {length}")]
    Occupied {
        /// The index.
        sequence: u32,
        /// Its length.
        length: u32,
    },
    /// A sequence without tokens has no place in a paged cache.
    #[error("a paged cache needs the tokens of a sequence, but it was saved without")]
    NoTokens,
}
