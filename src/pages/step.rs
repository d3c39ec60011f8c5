//! [`PlannedStep`]: what the sequences of one forward pass append, and where.

use super::{id::SequenceId, prefixes::Prefix};

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

/// What the rows of a step are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepKind {
    /// Of all tokens that are appended.
    Append,
    /// Of those that are valid afterwards: none of those that a window has passed already.
    Insert,
    /// Of the whole pages that a hit of as many tokens would have.
    #[cfg(feature = "store")]
    Pages,
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
    pub drafts: u32,
}

/// Likewise, of one group of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct UndoGroup {
    pub group: usize,
    /// Its last page before and that page's filled rows, if rows were appended to it.
    pub tail: Option<(u32, u32)>,
    /// Whether another page is in its place.
    pub copied: bool,
    /// How many of its pages a table was told of before.
    pub told: u32,
}

/// A page that a sequence returned at the beginning of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned {
    pub slot: u32,
    pub group: usize,
    pub index: u32,
    pub page: u32,
    pub filled: u32,
    /// Index of the first page that the group had before.
    pub first: u32,
}

/// How to go back from a step that moves rows: what the sequence had from the first page on that it changes.
#[derive(Debug)]
pub(super) struct Kept {
    pub slot: u32,
    pub first_page: usize,
    /// Tokens from the first position on that changes.
    pub start: u32,
    pub tokens: Vec<u32>,
    /// Pages of each group, and how many of all its pages a table was told of.
    pub pages: Vec<(Vec<u32>, u32)>,
    pub prefixes: Vec<Prefix>,
    /// Pages that are written in place, and their filled rows.
    pub filled: Vec<(u32, u32)>,
    pub drafts: u32,
}
