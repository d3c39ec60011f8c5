//! [`PlannedStep`]: what the sequences of one forward pass append, and where.

use super::{id::SequenceId, key::PageKey};

/// Tokens that a sequence appends in a step.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens; any number, also none.
    pub tokens: &'a [u32],
    /// How many of them, the last ones, are drafts: others find none of their pages before
    /// [`accept`](super::PagedSequences::accept) says which stay.
    pub drafts: u32,
}

impl<'a> Append<'a> {
    /// Tokens that stay.
    #[must_use]
    pub const fn new(sequence: SequenceId, tokens: &'a [u32]) -> Self {
        Append { sequence, tokens, drafts: 0 }
    }

    /// The last `drafts` of the tokens are drafts.
    #[must_use]
    pub const fn drafts(self, drafts: u32) -> Self {
        Append { drafts, ..self }
    }
}

/// Rows of a page that must be copied, in all layers, before the rows of the step are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// The page that holds them.
    pub from: u32,
    /// The page that the sequence has in its place.
    pub to: u32,
    /// Number of rows, from the page's first.
    pub rows: u32,
}

/// What one sequence appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedAppend {
    /// The sequence.
    pub sequence: SequenceId,
    /// Position of the first of its rows. They lie in the sequence's [pages](super::PagedSequences::pages).
    pub start: u32,
    /// Number of its rows.
    pub tokens: u32,
}

/// What a step writes: see [`PagedSequences::begin_step`](super::PagedSequences::begin_step).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlannedStep {
    /// In the order of the call.
    pub appends: Vec<PlannedAppend>,
    /// Copies to record first.
    pub copies: Vec<PageCopy>,
}

impl PlannedStep {
    pub(super) fn clear(&mut self) {
        self.appends.clear();
        self.copies.clear();
    }
}

/// How to go back, of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    pub slot: u32,
    /// Its length and its number of pages before.
    pub length: u32,
    pub pages: u32,
    /// Its last page before and that page's filled rows, if rows were appended to it.
    pub tail: Option<(u32, u32)>,
    /// Whether another page is in its place.
    pub copied: bool,
    pub drafts: u32,
    /// How many of its pages a table was told of before.
    pub told: u32,
}

/// A key, and the number of what pages with it hold.
pub(super) type Numbered = (PageKey, u64);

/// How to go back from a step that moves rows: what the sequence had from the first page on that it changes.
#[derive(Debug)]
pub(super) struct Kept {
    pub slot: u32,
    pub first_page: usize,
    /// Tokens from the first position on that changes.
    pub start: u32,
    pub tokens: Vec<u32>,
    pub pages: Vec<u32>,
    pub keys: Vec<Numbered>,
    /// Pages that are written in place, and their filled rows.
    pub filled: Vec<(u32, u32)>,
    pub drafts: u32,
    pub told: u32,
}
