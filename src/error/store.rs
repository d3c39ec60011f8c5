//! [`StoreError`].

/// A store of pages cannot be opened. Once it is open, whatever goes wrong with it is a miss.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refused to open a store.
    #[error("opening {path} failed: {reason}")]
    Open {
        /// The folder.
        path: Box<str>,
        /// The system's words.
        reason: Box<str>,
    },
    /// A budget that holds nothing.
    #[error("a store must have room for at least one byte, but has none")]
    NoBudget,
}
