//! [`PagedProgram`]: what is done to a paged cache.

use super::rows::TokenRows;
use crate::{Error, HostTensor, PagedConfig, Pair, pages::PageKey};

/// A paged cache and the operations to apply to it.
#[derive(Clone, Debug, PartialEq)]
pub struct PagedProgram {
    /// Its shape.
    pub config: PagedConfig,
    /// The rows of tokens.
    pub rows: TokenRows,
    /// The operations, in order.
    pub operations: Vec<PagedOperation>,
}

/// One operation of a [`PagedProgram`]. Sequences have names. An operation that breaks a rule must be refused by the
/// device and by the reference for the same reason, and change neither.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PagedOperation {
    /// Looks for the longest cached prefix.
    Match {
        /// The tokens.
        tokens: Vec<u32>,
        /// Their namespace.
        namespace: Option<String>,
    },
    /// Adds a sequence, and writes the rows of the tokens that were not cached.
    Add {
        /// Its name, which no other has.
        sequence: String,
        /// Its tokens; maybe none.
        tokens: Vec<u32>,
        /// Their namespace.
        namespace: Option<String>,
        /// Rows of all of the tokens, `[layer, token, head, dim]`, in place of those of the program.
        rows: Option<Pair<Vec<f32>>>,
    },
    /// Appends tokens to several sequences in one step.
    Step {
        /// Sequences and tokens.
        appends: Vec<(String, Vec<u32>)>,
        /// Rows of all of the tokens, one sequence after the other, `[layer, token, head, dim]`.
        rows: Option<Pair<Vec<f32>>>,
        /// Whether the commands of the step are dropped instead of submitted.
        dropped: bool,
    },
    /// Appends drafts, of which the first `accepted` stay.
    Draft {
        /// The sequence.
        sequence: String,
        /// The drafts.
        tokens: Vec<u32>,
        /// How many stay.
        accepted: u32,
        /// Rows of all of the drafts, `[layer, token, head, dim]`.
        rows: Option<Pair<Vec<f32>>>,
    },
    /// Keeps some of the last rows of a sequence.
    Keep {
        /// The sequence.
        sequence: String,
        /// Number of last rows.
        last: u32,
        /// Which of them stay.
        indices: Vec<u32>,
    },
    /// Adds a sequence with the first tokens of another.
    Fork {
        /// The other.
        from: String,
        /// Its name.
        to: String,
        /// How many; all if absent.
        length: Option<u32>,
    },
    /// Cuts a sequence.
    Truncate {
        /// The sequence.
        sequence: String,
        /// Its length afterwards.
        length: u32,
    },
    /// Ends a sequence.
    Free {
        /// The sequence.
        sequence: String,
    },
    /// Forgets all prefixes.
    ClearPrefixes,
    /// Copies the valid rows of a sequence out of a layer.
    Rows {
        /// The sequence.
        sequence: String,
        /// The layer.
        layer: usize,
    },
}

/// Why an operation was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PagedRefusal {
    /// The cache refuses it.
    #[error(transparent)]
    Cache(#[from] Error),
    /// No sequence has this name.
    #[error("there is no sequence {0:?}")]
    NoSequence(String),
    /// A sequence has this name already.
    #[error("there is a sequence {0:?} already")]
    SequenceExists(String),
}

impl PagedRefusal {
    /// The rule, as [`Error::kind`] names it.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            PagedRefusal::Cache(error) => error.kind(),
            PagedRefusal::NoSequence(_) => "no_sequence".to_owned(),
            PagedRefusal::SequenceExists(_) => "sequence_exists".to_owned(),
        }
    }
}

/// What an operation gave.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PagedOutcome {
    /// Why it was refused.
    pub refused: Option<PagedRefusal>,
    /// Tokens that were found, of `Match` and `Add`.
    pub cached: Option<u32>,
    /// The key of every full page of the tokens, of `Match` and `Add`.
    pub keys: Vec<PageKey>,
    /// Tokens of the prefix of each page that was evicted, in order.
    pub evicted: Vec<u32>,
    /// Rows and their positions, of `Rows`.
    pub rows: Option<(Pair<HostTensor>, Vec<u32>)>,
}

impl PagedOperation {
    /// The sequences that must be there.
    pub(super) fn sequences(&self) -> impl Iterator<Item = &String> {
        let (one, many) = match self {
            PagedOperation::Step { appends, .. } => (None, &appends[..]),
            PagedOperation::Draft { sequence, .. }
            | PagedOperation::Keep { sequence, .. }
            | PagedOperation::Truncate { sequence, .. }
            | PagedOperation::Free { sequence }
            | PagedOperation::Rows { sequence, .. }
            | PagedOperation::Fork { from: sequence, .. } => (Some(sequence), &[][..]),
            PagedOperation::Match { .. } | PagedOperation::Add { .. } | PagedOperation::ClearPrefixes => {
                (None, &[][..])
            }
        };
        one.into_iter().chain(many.iter().map(|(name, _)| name))
    }
}

impl PagedOperation {
    /// The name that it gives to a new sequence.
    pub(super) const fn new_name(&self) -> Option<&String> {
        match self {
            PagedOperation::Add { sequence: name, .. } | PagedOperation::Fork { to: name, .. } => Some(name),
            _ => None,
        }
    }
}
