//! [`SequenceId`].

/// The handle of a sequence. It is never valid for another: not after the sequence was freed, and not in another pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId {
    pub(super) pool: u64,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl SequenceId {
    /// Its row in tables, below `max_sequences`.
    #[must_use]
    pub const fn row(&self) -> u32 {
        self.slot
    }
}
