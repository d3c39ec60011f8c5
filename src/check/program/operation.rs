//! [`Program`]: a sequence of operations on a cache.

use std::fmt;

use super::data::{Layout, Rows};
use crate::{CacheConfig, Difference, Error, PerSequence, Placement, Side, Write};

/// A cache and the operations to apply to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Shape and formats of every layer.
    pub config: CacheConfig,
    /// Number of layers.
    pub num_layers: usize,
    /// Placements of the first layers. The others have the placement of `config`.
    pub placements: Vec<Placement>,
    /// Whether to fill the whole storage with NaN first, to show that no operation exposes a row that was never
    /// written.
    pub poison: bool,
    /// The operations, in order.
    pub operations: Vec<Operation>,
}

/// One operation of a [`Program`]. An operation that breaks a rule must be refused by the device and by the reference
/// for the same reason, and change neither.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Operation {
    /// Writes rows.
    Update {
        /// The layer.
        layer: usize,
        /// Positions and number of the rows.
        span: Span,
        /// The rows.
        rows: Rows,
        /// How the rows reach the device.
        path: Path,
    },
    /// Writes rows directly to the storage, and makes them valid with
    /// [`KvCache::record_advance`](crate::KvCache::record_advance).
    Advance {
        /// The layer.
        layer: usize,
        /// Positions and number of the rows.
        span: Span,
        /// Seed of the written bits.
        seed: u64,
    },
    /// Writes rows to every layer in one model step, with
    /// [`BatchedKvCache::begin_step`](crate::BatchedKvCache::begin_step).
    Step {
        /// Positions and number of the rows in every layer.
        span: Span,
        /// The rows, which differ between layers.
        rows: Rows,
        /// Number of tokens that the sources have room for, beyond those of the step.
        room: u32,
        /// The layout of the sources, and whether the step is recorded into a compute pass instead of an encoder.
        /// [`Path::Host`] is [`Path::Encoder`] with [`Layout::Bhtd`].
        path: Path,
    },
    /// Applies an operation with a fault. If the fault takes effect, nothing may have changed afterwards.
    Faulty {
        /// The fault.
        fault: Fault,
        /// The operation: an update, a step, or an operation on sequences.
        operation: Box<Operation>,
    },
    /// Copies a range out of a layer.
    Get {
        /// The layer.
        layer: usize,
        /// First position.
        start: u32,
        /// Position after the last.
        end: u32,
        /// Whether to copy into the caller's buffers, at an offset between guard bytes, instead of into new ones.
        guarded: bool,
    },
    /// Copies all valid rows out of a layer.
    GetAll {
        /// The layer.
        layer: usize,
    },
    /// Applies an operation on whole sequences to all layers.
    Sequences {
        /// The operation.
        change: Change,
        /// Whether it is recorded into a compute pass instead of an encoder.
        in_pass: bool,
    },
    /// Copies one sequence out of all layers.
    Extract {
        /// The sequence.
        sequence: u32,
    },
    /// Replaces a sequence in all layers.
    Insert {
        /// The sequence. An index equal to the batch size appends one.
        sequence: u32,
        /// Its length.
        length: u32,
        /// Its valid rows.
        rows: Rows,
    },
    /// Resets every layer.
    Reset,
}

/// A fault to inject into an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The encoder is dropped, and the cache is restored to the [`Checkpoint`](crate::Checkpoint) before the operation.
    Dropped,
    /// Memory runs out after this many resources. The operation succeeds if it creates no more than these.
    OutOfMemory(u32),
}

/// An operation on whole sequences of all layers at once.
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
        /// The sequence to copy.
        from: u32,
        /// The sequence to replace.
        to: u32,
    },
    /// Keeps some of the last rows of a sequence.
    Keep {
        /// The sequence.
        sequence: u32,
        /// Number of last rows.
        last: u32,
        /// Which of them stay.
        indices: Vec<u32>,
    },
    /// [`BatchedKvCache::copy_range`](crate::BatchedKvCache::copy_range).
    CopyRange {
        /// The sequence to copy from.
        from: u32,
        /// First position.
        start: u32,
        /// Position after the last.
        end: u32,
        /// The sequence to copy to.
        to: u32,
        /// Position of the first copied row in `to`.
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
    /// Returns the argument of [`BatchedKvCache::truncate`](crate::BatchedKvCache::truncate).
    pub fn per_sequence(&self) -> PerSequence<'_> {
        match self {
            Lengths::All(length) => PerSequence::All(*length),
            Lengths::Each(lengths) => PerSequence::Each(lengths),
        }
    }
}

/// Positions and number of rows: an owned [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of rows of the source for each sequence and head.
    pub tokens: u32,
    /// Positions of the rows.
    pub positions: Positions,
    /// Number of rows that each sequence takes. `None` means all.
    pub counts: Option<Vec<u32>>,
    /// Whether the write is [`whole`](Write::whole).
    pub whole: bool,
    /// Whether the write is [`attended`](Write::attended).
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
    /// [`KvCache::update`](crate::KvCache::update) from slices.
    Host,
    /// [`KvCache::record_update`](crate::KvCache::record_update) from buffers into an encoder.
    Encoder(Layout),
    /// [`KvCache::record_update`](crate::KvCache::record_update) from buffers into a compute pass.
    Pass(Layout),
}

/// The first difference between the device and the reference.
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
    /// An element of the storage or of a copied range differs.
    Element {
        /// `storage` or `range`.
        place: &'static str,
        /// The element.
        difference: Difference,
    },
    /// The lengths of a layer differ, or its starts: the positions of the first rows that the last update wrote.
    Lengths {
        /// `lengths` or `starts`.
        what: &'static str,
        /// The layer.
        layer: usize,
        /// Numbers of the reference.
        expected: Vec<u32>,
        /// Numbers on the host.
        host: Vec<u32>,
        /// Numbers on the device.
        device: Vec<u32>,
    },
    /// Only one of the two refused the operation, or both for different reasons.
    Refusal {
        /// Error of the reference, if it refused.
        expected: Option<Box<Error>>,
        /// Error of the device, if it refused.
        actual: Option<Box<Error>>,
    },
    /// A byte outside the range in the caller's destination changed.
    Guard {
        /// Keys or values.
        side: Side,
        /// Offset of the first changed byte in the caller's buffer.
        byte: usize,
    },
    /// What the two say of pages or sequences differs.
    Books(String),
    /// The device failed to set up or to carry out the comparison.
    Device(Error),
}

impl FailureKind {
    /// What each of the two said.
    pub(super) fn refusal(expected: Option<Error>, actual: Option<Error>) -> Self {
        FailureKind::Refusal { expected: expected.map(Box::new), actual: actual.map(Box::new) }
    }
}

impl Program {
    /// Creates an empty program.
    pub fn new(config: CacheConfig, num_layers: usize) -> Self {
        Program { config, num_layers, placements: Vec::new(), poison: false, operations: Vec::new() }
    }

    /// Returns the configuration of each layer.
    pub fn layers(&self) -> Vec<CacheConfig> {
        let placement = |layer: usize| self.placements.get(layer).copied().unwrap_or(self.config.placement);
        (0..self.num_layers).map(|layer| self.config.placement(placement(layer))).collect()
    }
}

impl Span {
    /// Appends all tokens of the source to each sequence.
    pub fn append(tokens: u32) -> Self {
        Span { tokens, positions: Positions::Append, counts: None, whole: false, attended: false }
    }

    /// Returns the argument of an update.
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
        write!(f, "operation {}: {}", self.operation, self.kind)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Element { place, difference } => write!(f, "{place}: {difference}"),
            FailureKind::Lengths { what, layer, expected, host, device } => {
                write!(f, "layer {layer}: {what} should be {expected:?}, the host has {host:?}, the device {device:?}")
            }
            FailureKind::Refusal { expected, actual } => {
                let text = |error: &Option<Box<Error>>| match error {
                    Some(error) => format!("refused: {error}"),
                    None => "accepted".to_owned(),
                };
                write!(f, "the reference {}; the device {}", text(expected), text(actual))
            }
            FailureKind::Guard { side, byte } => {
                write!(f, "byte {byte} of the destination of {side} lies outside the range, but changed")
            }
            FailureKind::Books(text) => f.write_str(text),
            FailureKind::Device(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Failure {}
