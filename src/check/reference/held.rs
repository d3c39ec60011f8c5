//! Determines which positions are valid, which slots they occupy, and which of them are still held. Positions are kept
//! as ranges, so that those near 2^32 cost no more than those near 0.

use std::ops::Range;

use crate::{Error, Placement, RangeError, ReferenceCache, Result, SequenceError};

impl ReferenceCache {
    pub(super) fn check_sequence(&self, sequence: u32) -> Result<()> {
        let count = self.config.batch_size;
        if sequence < count {
            Ok(())
        } else {
            Err(Error::Sequence(SequenceError::IndexOutOfRange { name: "sequence", index: sequence, count }))
        }
    }

    /// Returns the valid positions of a sequence of this length: all of them, or in a ring the sinks and the last
    /// `window`.
    pub(super) fn valid(&self, length: u32) -> [Range<u32>; 2] {
        match self.config.placement {
            Placement::Linear => [0..0, 0..length],
            Placement::Ring { window, sinks, .. } => {
                let first = length.saturating_sub(window);
                [0..sinks.min(first), first..length]
            }
        }
    }

    /// Checks that a range of a sequence is valid.
    pub(super) fn check_valid(&self, sequence: u32, range: Range<u32>) -> Result<()> {
        let length = self.lengths[sequence as usize];
        let valid = self.valid(length);
        match first_missing(&valid, range) {
            Some(position) => {
                Err(Error::Range(RangeError::Evicted { sequence, position, oldest: valid[1].start.max(self.sinks()) }))
            }
            None => Ok(()),
        }
    }

    pub(super) fn sinks(&self) -> u32 {
        match self.config.placement {
            Placement::Linear => 0,
            Placement::Ring { sinks, .. } => sinks,
        }
    }

    /// Returns the slot of a position. In a ring, a sink's slot is its position, and the other positions wrap over the
    /// other slots.
    pub(super) fn slot(&self, position: u32) -> u32 {
        let (slots, sinks) = (self.config.slots(), self.sinks());
        if position < sinks || self.config.placement == Placement::Linear {
            position
        } else {
            sinks + (position - sinks) % (slots - sinks)
        }
    }

    /// Returns the last of some positions that is stored in a slot, if any is.
    pub(super) fn last_in(&self, positions: &Range<u32>, slot: u32) -> Option<u32> {
        let (slots, sinks) = (self.config.slots(), self.sinks());
        if slot < sinks || self.config.placement == Placement::Linear {
            return positions.contains(&slot).then_some(slot);
        }
        let last = positions.end.checked_sub(1).filter(|&last| last >= slot)?;
        let position = last - (last - slot) % (slots - sinks);
        positions.contains(&position).then_some(position)
    }

    /// Returns the first position of a range that a sequence does not hold, or `None` if it holds all of them.
    pub(crate) fn first_missing(&self, sequence: u32, range: Range<u32>) -> Option<u32> {
        first_missing(self.held.get(&sequence).map_or(&[], Vec::as_slice), range)
    }

    /// Returns the position, at or after the given sinks, from which on a sequence holds everything up to its end.
    pub(crate) fn oldest_held(&self, sequence: u32, sinks: u32) -> u32 {
        let length = self.lengths[sequence as usize];
        let last = self.held.get(&sequence).and_then(|held| held.last()).filter(|last| last.end == length);
        last.map_or(length, |last| last.start).max(sinks).min(length)
    }

    /// Whether a slot of a sequence holds a position.
    pub(super) fn is_held(&self, sequence: u32, slot: u32) -> bool {
        self.held.get(&sequence).is_some_and(|held| held.iter().any(|range| self.last_in(range, slot).is_some()))
    }

    /// Checks that a sequence can be rolled back: everything that is valid at the new length must still be held.
    pub(super) fn check_rollback(&self, sequence: u32, length: u32) -> Result<()> {
        let current = self.lengths[sequence as usize];
        if length > current {
            return Err(Error::Sequence(SequenceError::TruncateBeyondLength { sequence, length, current }));
        }
        let Placement::Ring { window, sinks, .. } = self.config.placement else { return Ok(()) };
        if self.valid(length).into_iter().all(|seen| self.first_missing(sequence, seen).is_none()) {
            return Ok(());
        }
        let oldest = self.oldest_held(sequence, sinks);
        Err(Error::Sequence(SequenceError::RollbackEvicted {
            sequence,
            length,
            shortest: oldest.saturating_add(window),
            sinks,
            oldest,
        }))
    }

    /// Checks that each row of a span, as a query, attends only to positions that are still held after the span is
    /// written.
    pub(super) fn check_attended(&self, sequence: u32, span: &Range<u32>) -> Result<()> {
        let Placement::Ring { window, sinks, .. } = self.config.placement else { return Ok(()) };
        // A query within the sinks attends to sinks only. Of the others, the first one attends farthest back.
        let query = span.start.max(sinks);
        if query >= span.end {
            return Ok(());
        }
        let held = self.held.get(&sequence).map(|held| (sequence, held.clone())).into_iter().collect();
        let (lengths, config) = (self.lengths.clone(), self.config);
        let (keys, values, written) = Default::default();
        let mut after = ReferenceCache { config, keys, values, lengths, held, written };
        after.zero_gap(sequence, span);
        after.hold(sequence, span);
        let first = (query + 1).saturating_sub(window).max(sinks);
        match after.first_missing(sequence, first..query + 1) {
            Some(position) => Err(Error::Range(RangeError::Evicted {
                sequence,
                position,
                oldest: after.oldest_held(sequence, sinks),
            })),
            None => Ok(()),
        }
    }

    /// Truncates a sequence to `length`. Its rows stay in the storage, but it no longer holds the positions from
    /// `length` on.
    pub(super) fn cut(&mut self, sequence: u32, length: u32) {
        self.lengths[sequence as usize] = length;
        if let Some(held) = self.held.get_mut(&sequence) {
            held.iter_mut().for_each(|range| range.end = range.end.min(length));
            held.retain(|range| range.start < range.end);
        }
    }

    /// Appends positions to a sequence, which then holds them in their slots. Of positions that share a slot, only the
    /// last is held.
    pub(super) fn hold(&mut self, sequence: u32, positions: &Range<u32>) {
        let (sinks, before) = (self.sinks(), self.held.remove(&sequence).unwrap_or_default());
        let turn = match self.config.placement {
            Placement::Linear => u32::MAX,
            Placement::Ring { .. } => self.config.slots() - sinks,
        };
        let mut held = Vec::new();
        for range in before.into_iter().chain([positions.clone()]) {
            let of_sinks = range.start..range.end.min(sinks);
            let beyond = range.start.max(sinks).max(positions.end.saturating_sub(turn))..range.end;
            for range in [of_sinks, beyond] {
                push(&mut held, range);
            }
        }
        self.held.insert(sequence, held);
        self.lengths[sequence as usize] = positions.end;
    }
}

/// Appends a range to sorted ranges, joined with the last one if they are adjacent.
fn push(ranges: &mut Vec<Range<u32>>, range: Range<u32>) {
    match ranges.last_mut() {
        _ if range.start >= range.end => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Returns the first position of a range that lies in none of `ranges`, which are in order.
fn first_missing(ranges: &[Range<u32>], range: Range<u32>) -> Option<u32> {
    let mut first = range.start;
    for known in ranges {
        if known.contains(&first) {
            first = known.end;
        }
    }
    (first < range.end).then_some(first)
}
