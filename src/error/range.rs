//! [`RangeError`].

use crate::{Format, Side};

/// A range to read is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// `start` of a range lies after its `end`.
    #[error("a range must start at or before its end, but {start} > {end}")]
    RangeReversed {
        /// Start of the range.
        start: u32,
        /// End of the range.
        end: u32,
    },
    /// A range ends after the longest sequence.
    #[error("a range must end at or before write_pos = {write_pos}, but ends at {end}")]
    RangeBeyondWritten {
        /// End of the range.
        end: u32,
        /// The largest length of any sequence.
        write_pos: u32,
    },
    /// A position that a ring has evicted.
    #[error(
        "position {position} of sequence {sequence} is not kept; beyond the sinks the oldest that is kept is {oldest}: \
         a ring with a larger window or slack keeps more"
    )]
    Evicted {
        /// The sequence.
        sequence: u32,
        /// The position asked for.
        position: u32,
        /// The oldest position beyond the sinks that can be read: the oldest valid one for a range, the oldest stored
        /// one for queries.
        oldest: u32,
    },
    /// A range cannot be converted to a packed format.
    #[error("{side} can be copied out in f32, f16, bf16 or as they are stored, in {stored}, but not in {wanted}")]
    PackedDestination {
        /// Keys or values.
        side: Side,
        /// Format of the cache.
        stored: Format,
        /// Format asked for.
        wanted: Format,
    },
}
