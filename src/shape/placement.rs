//! [`Placement`]: maps positions to slots.

use std::ops::Range;

use crate::{ConfigError, Error, Result};

/// Maps the positions of a sequence to slots of its planes.
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, Placement};
///
/// // Keeps the first 2 and the last 6 positions. 1 more row allows a rollback by 1 token.
/// let ring = Placement::Ring { window: 6, sinks: 2, slack: 1 };
/// let config = CacheConfig::new(1, 1, 4, 0).placement(ring);
/// assert_eq!(config.slots(), 9);
/// assert_eq!(ring.slot(1), 1);     // a sink's slot is its position
/// assert_eq!(ring.slot(8), 8);     // other positions wrap over the other slots
/// assert_eq!(ring.slot(9), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(tag = "kind", rename_all = "snake_case", from = "Form"))]
pub enum Placement {
    /// Stores position `p` in slot `p`, for up to `max_seq_len` positions.
    #[default]
    Linear,
    /// Keeps the last `window` positions and the first `sinks` positions. Positions grow without bound; `max_seq_len`
    /// has no effect. A plane has `sinks + window + slack` slots.
    ///
    /// Sinks are the attention sinks of `StreamingLLM` (Xiao et al., "Efficient Streaming Language Models with
    /// Attention Sinks", 2023).
    Ring {
        /// Number of valid positions before the end.
        window: u32,
        /// Number of first positions that are never evicted.
        sinks: u32,
        /// Number of rows beyond the window. A wrapped sequence can be rolled back by up to `slack` tokens. After an
        /// update of up to `slack + 1` tokens, every key that any of these queries may attend to is still stored.
        slack: u32,
    },
}

/// The form that a placement is deserialised from. `Linear` has braces because serde accepts unknown fields for a unit
/// variant of an internally tagged enum.
#[cfg(feature = "serde")]
#[derive(serde::Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Form {
    Linear {},
    Ring {
        window: u32,
        #[serde(default)]
        sinks: u32,
        #[serde(default)]
        slack: u32,
    },
}

#[cfg(feature = "serde")]
impl From<Form> for Placement {
    fn from(form: Form) -> Self {
        match form {
            Form::Linear {} => Placement::Linear,
            Form::Ring { window, sinks, slack } => Placement::Ring { window, sinks, slack },
        }
    }
}

/// The positions that one query may attend to.
///
/// With linear placement a query attends to itself and to all positions before it. In a ring it attends to itself, to
/// the `window - 1` positions before it, and to the sinks. That is the sliding window of Mistral and of Transformers'
/// caches, and ONNX `Attention` (opset 24) with `is_causal` and a left window of `window - 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visible {
    /// Position of the query.
    pub position: u32,
    /// Sinks that it attends to; empty with linear placement.
    pub sinks: Range<u32>,
    /// The other positions that it attends to; the last one is its own.
    pub window: Range<u32>,
    placement: Placement,
}

impl Visible {
    pub(crate) fn new(placement: Placement, position: u32) -> Self {
        // A written position is below its sequence's length, so this does not saturate.
        let [sinks, window] = placement.valid(position.saturating_add(1));
        Visible { position, sinks, window, placement }
    }

    /// Returns each position that the query attends to, in order, with its slot.
    pub fn slots(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let placement = self.placement;
        self.sinks.clone().chain(self.window.clone()).map(move |position| (position, placement.slot(position)))
    }
}

/// Length of a range; 0 if it ends before it starts.
pub(crate) fn count(range: &Range<u32>) -> u32 {
    range.end.saturating_sub(range.start)
}

/// Maximum number of runs of slots that contiguous positions of a ring occupy: one for the sinks, and up to two for the
/// others, which wrap.
pub(crate) const PIECES: u32 = 3;

impl Placement {
    /// Checks that a ring has a window, and that its slots can be counted.
    pub(crate) fn check(&self) -> Result<()> {
        let Placement::Ring { window, sinks, slack } = *self else { return Ok(()) };
        if window == 0 {
            return Err(Error::Config(ConfigError::ZeroDimension { name: "window" }));
        }
        let slots = window.checked_add(sinks).and_then(|rows| rows.checked_add(slack));
        slots.map(drop).ok_or_else(|| {
            Error::Config(ConfigError::SizeOverflow {
                what: "slots of one plane",
                factors: format!("{sinks} + {window} + {slack}"),
                bits: 32,
            })
        })
    }

    /// Returns the slot of a position.
    #[must_use]
    pub const fn slot(&self, position: u32) -> u32 {
        match *self {
            Placement::Ring { window, sinks, slack } if position >= sinks => {
                match position.saturating_sub(sinks).checked_rem(window.saturating_add(slack)) {
                    Some(row) => sinks.saturating_add(row),
                    None => sinks,
                }
            }
            _ => position,
        }
    }

    /// Number of first positions that are never evicted.
    pub(crate) const fn sinks(&self) -> u32 {
        match *self {
            Placement::Linear => 0,
            Placement::Ring { sinks, .. } => sinks,
        }
    }

    /// Returns the first valid position beyond the sinks in a sequence of this length.
    pub(crate) fn first_valid(&self, length: u32) -> u32 {
        match *self {
            Placement::Linear => 0,
            Placement::Ring { window, sinks, .. } => length.saturating_sub(window).max(sinks),
        }
    }

    /// Returns the first position beyond the sinks that is stored directly after a write that ends at `end`.
    pub(crate) fn first_stored(&self, end: u32) -> u32 {
        match *self {
            Placement::Linear => 0,
            Placement::Ring { window, sinks, slack } => end.saturating_sub(window.saturating_add(slack)).max(sinks),
        }
    }

    /// Returns the first position beyond the sinks that queries at positions `first_query..end` attend to, or `None` if
    /// they attend to sinks only.
    pub(crate) fn first_seen(&self, first_query: u32, end: u32) -> Option<u32> {
        let query = first_query.max(self.sinks());
        (query < end).then(|| self.first_valid(query.saturating_add(1)))
    }

    /// Returns the valid positions of a sequence of this length, in order.
    pub(crate) fn valid(&self, length: u32) -> [Range<u32>; 2] {
        let sinks = self.sinks().min(length);
        [0..sinks, self.first_valid(length).clamp(sinks, length)..length]
    }

    /// Splits positions, all of them stored, into pieces of contiguous slots. Each piece has its first position and its
    /// slots.
    pub(crate) const fn pieces(&self, positions: Range<u32>) -> Pieces {
        Pieces { placement: *self, positions }
    }

    /// Number of positions from this one on that lie in adjacent slots.
    fn contiguous(&self, position: u32) -> u32 {
        match *self {
            Placement::Linear => u32::MAX,
            Placement::Ring { sinks, .. } if position < sinks => sinks.saturating_sub(position),
            Placement::Ring { window, sinks, slack } => {
                let row = self.slot(position).saturating_sub(sinks);
                window.saturating_add(slack).saturating_sub(row)
            }
        }
    }
}

/// Iterates over contiguous positions, in pieces of contiguous slots.
pub(crate) struct Pieces {
    placement: Placement,
    positions: Range<u32>,
}

impl Iterator for Pieces {
    type Item = (u32, Range<u32>);

    fn next(&mut self) -> Option<Self::Item> {
        let Range { start, end } = self.positions;
        if start >= end {
            return None;
        }
        let rows = self.placement.contiguous(start).min(count(&(start..end)));
        self.positions.start = start.saturating_add(rows);
        let slot = self.placement.slot(start);
        Some((start, slot..slot.saturating_add(rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_positions_in_order_and_wrap_over_the_rest() {
        for (window, sinks, slack) in [(1, 0, 0), (3, 0, 0), (3, 2, 0), (4, 1, 2), (1, 3, 1)] {
            let ring = Placement::Ring { window, sinks, slack };
            let rows = window + slack;
            for start in 0..30 {
                for length in 0..=rows {
                    // At most `rows` positions, because a longer range may span evicted positions, which have no slot.
                    let end = start + length;
                    let slots: Vec<_> =
                        ring.pieces(start..end).flat_map(|(first, slots)| (first..).zip(slots)).collect();
                    let expected: Vec<_> = (start..end).map(|position| (position, ring.slot(position))).collect();
                    assert_eq!(slots, expected, "{ring:?} {start}..{end}");
                    assert!(slots.iter().all(|&(_, slot)| slot < sinks + rows));
                    assert!(ring.pieces(start..end).count() <= PIECES as usize);
                }
            }
        }
        assert_eq!(Placement::Linear.pieces(3..7).collect::<Vec<_>>(), [(3, 3..7)]);
    }

    #[test]
    fn valid_positions_are_the_sinks_and_the_window() {
        let ring = Placement::Ring { window: 3, sinks: 2, slack: 4 };
        for (length, expected) in [
            (0, [0..0, 0..0]),
            (1, [0..1, 1..1]),
            (2, [0..2, 2..2]),
            (4, [0..2, 2..4]),
            (5, [0..2, 2..5]),
            (6, [0..2, 3..6]),
            (100, [0..2, 97..100]),
        ] {
            assert_eq!(ring.valid(length), expected, "{length}");
        }
        assert_eq!(Placement::Linear.valid(5), [0..0, 0..5]);
    }
}
