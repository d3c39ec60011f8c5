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
    /// A budget for pages that does not hold the largest of them.
    #[error("host memory for pages must hold at least one, of {page_bytes} bytes, but has {bytes}")]
    BudgetTooSmall {
        /// The budget.
        bytes: u64,
        /// Bytes of the largest page.
        page_bytes: u64,
    },
    /// The tiers are not those of the cache.
    #[error(
        "these tiers are not attached to this cache: it is another one, has others by now, or its prefixes were cleared"
    )]
    Detached,
    /// The system has no thread for the tiers.
    #[error("starting a thread failed: {reason}")]
    Thread {
        /// The system's words.
        reason: Box<str>,
    },
    /// A budget that holds nothing.
    #[error("a store must have room for at least one byte, but has none")]
    NoBudget,
}
