//! [`Sequences`]: what the host tracks of the sequences of a layer.

use crate::{CacheConfig, Error, Placement, Result, SequenceError};

/// The length of each sequence, and which of its positions are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequences {
    /// Number of positions of each sequence, including evicted ones.
    pub lengths: Vec<u32>,
    /// The first stored position beyond the sinks. It advances as positions are overwritten, and a rollback does not
    /// lower it, except to the sinks.
    pub oldest: Vec<u32>,
    /// The position of the first row of the last write. Equals the length if that write had no row, and after any
    /// operation on sequences.
    pub starts: Vec<u32>,
}

impl Sequences {
    /// Creates the empty sequences of a batch.
    pub fn new(config: &CacheConfig) -> Self {
        let room = config.max_batch_size as usize;
        let new = || Vec::with_capacity(room);
        let mut sequences = Sequences { lengths: new(), oldest: new(), starts: new() };
        sequences.grow(config.batch_size, config.placement);
        sequences
    }

    /// Adds empty sequences up to `count`.
    pub fn grow(&mut self, count: u32, placement: Placement) {
        self.lengths.resize(count as usize, 0);
        self.oldest.resize(count as usize, placement.sinks());
        self.starts.resize(count as usize, 0);
    }

    /// Empties every sequence.
    pub fn clear(&mut self, placement: Placement) {
        self.lengths.fill(0);
        self.oldest.fill(placement.sinks());
        self.starts.fill(0);
    }

    /// Returns the sequences of a selection. None of their rows counts as just written.
    pub fn selected(&self, sources: &[u32]) -> Self {
        let of = |known: &[u32]| sources.iter().map(|&source| known[source as usize]).collect::<Vec<_>>();
        let lengths = of(&self.lengths);
        Sequences { starts: lengths.clone(), lengths, oldest: of(&self.oldest) }
    }

    /// Number of sequences.
    pub fn count(&self) -> u32 {
        u32::try_from(self.lengths.len()).expect("a batch size is 32 bits wide")
    }

    /// The largest length.
    pub fn longest(&self) -> u32 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Returns the length of a sequence and its first stored position beyond the sinks.
    pub fn get(&self, sequence: u32) -> Result<(u32, u32)> {
        let index = sequence as usize;
        match (self.lengths.get(index), self.oldest.get(index)) {
            (Some(&length), Some(&oldest)) => Ok((length, oldest)),
            _ => Err(Error::Sequence(SequenceError::IndexOutOfRange {
                name: "sequence",
                index: sequence,
                count: self.count(),
            })),
        }
    }

    /// Returns the first stored position beyond the sinks after a rollback to `length`, which is less than the current
    /// length.
    ///
    /// A ring must still store the whole window at that length, unless `length` is within the sinks.
    pub fn rollback(placement: Placement, sequence: u32, oldest: u32, length: u32) -> Result<u32> {
        let Placement::Ring { window, sinks, .. } = placement else { return Ok(oldest) };
        if length <= sinks {
            return Ok(sinks);
        }
        if placement.first_valid(length) < oldest {
            let shortest = oldest.saturating_add(window);
            return Err(Error::Sequence(SequenceError::RollbackEvicted { sequence, length, shortest, sinks, oldest }));
        }
        Ok(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_ring_goes_back_by_its_slack_or_to_its_sinks() {
        let ring = Placement::Ring { window: 4, sinks: 2, slack: 3 };
        // At 20 positions the slots beyond the sinks hold 13 to 19.
        let oldest = ring.first_stored(20);
        assert_eq!(oldest, 13);
        for length in 17..20 {
            assert_eq!(Sequences::rollback(ring, 0, oldest, length), Ok(13));
        }
        let refused = Error::Sequence(SequenceError::RollbackEvicted {
            sequence: 5,
            length: 16,
            shortest: 17,
            sinks: 2,
            oldest: 13,
        });
        assert_eq!(Sequences::rollback(ring, 5, oldest, 16), Err(refused));
        assert!(Sequences::rollback(ring, 0, oldest, 3).is_err());
        for length in 0..=2 {
            assert_eq!(Sequences::rollback(ring, 0, oldest, length), Ok(2));
        }
        // A ring that has not wrapped can be rolled back to any length.
        for length in 0..9 {
            assert!(Sequences::rollback(ring, 0, ring.first_stored(9), length).is_ok());
        }
    }
}
