//! [`Program`]: operations on a cache.

use std::fmt;

use super::data::{Layout, Rows};
use crate::{CacheConfig, Difference, Error, PerSequence, Placement, Side, Write};

/// A cache and what is done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Shape and formats of every layer.
    pub config: CacheConfig,
    /// Number of layers.
    pub num_layers: usize,
    /// Placement of the first layers, instead of that of `config`.
    pub placements: Vec<Placement>,
    /// Fills every byte of the storage with NaN first, to show that no operation lets such a row out.
    pub poison: bool,
    /// What is done, in order.
    pub operations: Vec<Operation>,
}

/// One operation of a [`Program`]. An operation that breaks a rule must be refused by the device and the reference for
/// the same reason and change neither.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Operation {
    /// Writes rows.
    Update {
        /// The layer.
        layer: usize,
        /// Where and how many.
        span: Span,
        /// The rows.
        rows: Rows,
        /// How they reach the device.
        path: Path,
    },
    /// Writes rows straight into the storage and makes them valid by
    /// [`KvCache::record_advance`](crate::KvCache::record_advance).
    Advance {
        /// The layer.
        layer: usize,
        /// Where and how many.
        span: Span,
        /// Seed of the bits that are written.
        seed: u64,
    },
    /// Writes rows to every layer: one step of a model, by
    /// [`BatchedKvCache::begin_step`](crate::BatchedKvCache::begin_step).
    Step {
        /// Where and how many, of every layer.
        span: Span,
        /// The rows; those of each layer differ.
        rows: Rows,
        /// Tokens that the sources have room for beyond those of the step.
        room: u32,
        /// How the sources lie, and whether they are recorded into a compute pass instead of an encoder.
        path: Path,
    },
    /// Does an operation that something goes wrong with: nothing may have changed afterwards.
    Faulty {
        /// What goes wrong.
        fault: Fault,
        /// The operation: an update, a step, or one on sequences.
        operation: Box<Operation>,
    },
    /// Copies a range out.
    Get {
        /// The layer.
        layer: usize,
        /// First position.
        start: u32,
        /// Position after the last.
        end: u32,
        /// Into buffers of the caller's, at an offset between guards, instead of new ones.
        guarded: bool,
    },
    /// Copies everything out.
    GetAll {
        /// The layer.
        layer: usize,
    },
    /// An operation on whole sequences of all layers.
    Sequences {
        /// What is done.
        change: Change,
        /// Recorded into a compute pass instead of an encoder.
        in_pass: bool,
    },
    /// Copies one sequence of all layers out.
    Extract {
        /// The sequence.
        sequence: u32,
    },
    /// Makes a sequence of all layers one of some length.
    Insert {
        /// The sequence; the first that is not there makes the batch larger.
        sequence: u32,
        /// Its length.
        length: u32,
        /// Its valid rows.
        rows: Rows,
    },
    /// Makes every layer as new.
    Reset,
}

/// What goes wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its encoder is dropped, and the cache restored to the [`Checkpoint`](crate::Checkpoint) before it.
    Dropped,
    /// Memory is short after so many resources. The operation is done where it needs no more.
    OutOfMemory(u32),
}

/// What is done to whole sequences, of all layers at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// [`BatchedKvCache::truncate`](crate::BatchedKvCache::truncate).
    Truncate(Lengths),
    /// [`BatchedKvCache::clear_sequence`](crate::BatchedKvCache::clear_sequence).
    Clear(u32),
    /// [`BatchedKvCache::select`](crate::BatchedKvCache::select).
    Select(Vec<u32>),
    /// [`BatchedKvCache::reorder`](crate::BatchedKvCache::reorder).
    Reorder(Vec<u32>),
    /// [`BatchedKvCache::repeat`](crate::BatchedKvCache::repeat).
    Repeat(u32),
    /// [`BatchedKvCache::copy_sequence`](crate::BatchedKvCache::copy_sequence).
    CopySequence {
        /// The sequence copied.
        from: u32,
        /// The sequence that becomes like it.
        to: u32,
    },
    /// [`BatchedKvCache::copy_range`](crate::BatchedKvCache::copy_range).
    CopyRange {
        /// The sequence copied from.
        from: u32,
        /// First position.
        start: u32,
        /// Position after the last.
        end: u32,
        /// The sequence copied to.
        to: u32,
        /// Position of the first row there.
        position: u32,
    },
}

/// An owned [`PerSequence`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// The same for every sequence.
    All(u32),
    /// `[batch]`.
    Each(Vec<u32>),
}

impl Lengths {
    /// The same as the argument of a truncation.
    pub fn per_sequence(&self) -> PerSequence<'_> {
        match self {
            Lengths::All(length) => PerSequence::All(*length),
            Lengths::Each(lengths) => PerSequence::Each(lengths),
        }
    }
}

/// Where rows go and how many: an owned [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of the source for each sequence and head.
    pub tokens: u32,
    /// Where they go.
    pub positions: Positions,
    /// How many each sequence takes, instead of all.
    pub counts: Option<Vec<u32>>,
    /// Every row must be stored afterwards.
    pub whole: bool,
    /// What its rows see as queries must be stored afterwards.
    pub attended: bool,
}

/// Positions of a [`Span`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Positions {
    /// After each sequence's own length.
    Append,
    /// One position for all sequences.
    At(u32),
    /// One position per sequence.
    Each(Vec<u32>),
}

/// How rows reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// [`KvCache::update`](crate::KvCache::update) with slices.
    Host,
    /// [`KvCache::record_update`](crate::KvCache::record_update) into an encoder, from buffers.
    Encoder(Layout),
    /// The same into a compute pass.
    Pass(Layout),
}

/// Where device and reference parted.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Index of the operation after which they differ.
    pub operation: usize,
    /// How they differ.
    pub kind: FailureKind,
}

/// How device and reference differ.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FailureKind {
    /// An element of the storage or of a copied range.
    Element {
        /// `storage` or `range`.
        place: &'static str,
        /// Where.
        difference: Difference,
    },
    /// The lengths of a layer, or the positions of the first rows that the last update wrote.
    Lengths {
        /// `lengths` or `starts`.
        what: &'static str,
        /// The layer.
        layer: usize,
        /// Those of the reference.
        expected: Vec<u32>,
        /// Those on the host.
        host: Vec<u32>,
        /// Those on the device.
        device: Vec<u32>,
    },
    /// One of the two refused the operation, or for another reason.
    Refusal {
        /// What the reference said.
        expected: Option<Error>,
        /// What the device said.
        actual: Option<Error>,
    },
    /// Bytes around the caller's destination changed.
    Guard {
        /// Keys or values.
        side: Side,
        /// Offset of the first changed byte in the caller's buffer.
        byte: usize,
    },
    /// The device could not carry out the comparison.
    Device(Error),
}

impl Program {
    /// An empty program.
    pub fn new(config: CacheConfig, num_layers: usize) -> Self {
        Program { config, num_layers, placements: Vec::new(), poison: false, operations: Vec::new() }
    }

    /// Shape and formats of each layer.
    pub fn layers(&self) -> Vec<CacheConfig> {
        let placement = |layer: usize| self.placements.get(layer).copied().unwrap_or(self.config.placement);
        (0..self.num_layers).map(|layer| self.config.placement(placement(layer))).collect()
    }
}

impl Span {
    /// All tokens of the source after each sequence's own length.
    pub fn append(tokens: u32) -> Self {
        Span { tokens, positions: Positions::Append, counts: None, whole: false, attended: false }
    }

    /// The same as the argument of an update.
    pub fn write(&self) -> Write<'_> {
        let write = match &self.positions {
            Positions::Append => Write::append(self.tokens),
            Positions::At(position) => Write::at(*position, self.tokens),
            Positions::Each(positions) => Write::at_each(positions, self.tokens),
        };
        let write = if self.whole { write.whole() } else { write };
        let write = if self.attended { write.attended() } else { write };
        match &self.counts {
            Some(counts) => write.counts(counts),
            None => write,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}: ", self.operation)?;
        match &self.kind {
            FailureKind::Element { place, difference } => write!(f, "{place}: {difference}"),
            FailureKind::Lengths { what, layer, expected, host, device } => {
                write!(f, "layer {layer}: {what} should be {expected:?}, the host has {host:?}, the device {device:?}")
            }
            FailureKind::Refusal { expected, actual } => {
                let text = |error: &Option<Error>| match error {
                    Some(error) => format!("refused: {error}"),
                    None => "accepted".to_owned(),
                };
                write!(f, "the reference {}; the device {}", text(expected), text(actual))
            }
            FailureKind::Guard { side, byte } => {
                write!(f, "byte {byte} of the destination of {side} lies outside the range, but changed")
            }
            FailureKind::Device(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Failure {}
