//! [`RowError`].

use crate::Format;

/// Rows on the host are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// Bytes that are no row.
    #[error("a row of {dim} elements in {format} takes {expected} bytes, but there are {actual}")]
    RowBytes {
        /// Format of the row.
        format: Format,
        /// Its elements.
        dim: u32,
        /// Bytes that it takes.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
    /// A head size or format for which two tensors cannot be compared.
    #[error("tensors must have equal shapes and formats to be compared, but are {left} and {right}")]
    NotComparable {
        /// Shape and format of the one.
        left: String,
        /// Shape and format of the other.
        right: String,
    },
}
