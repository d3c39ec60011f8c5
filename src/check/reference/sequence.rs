//! Operations on whole sequences of the reference.

use std::ops::Range;

use crate::{
    Error, HostRows, HostTensor, Pair, PerSequence, Placement, RangeError, ReferenceCache, Result, SequenceError, Side,
    Write, WriteError,
};

use super::rows::stored_row;

impl ReferenceCache {
    /// Reference for [`KvCache::truncate`](crate::KvCache::truncate).
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// let mut cache = ReferenceCache::new(CacheConfig::new(2, 1, 1, 4).max_batch_size(4))?;
    /// cache.update(&[1f32, 2., 3., 4.][..], &[0f32; 4][..], Write::append(2))?; // [1, 2] and [3, 4]
    /// cache.truncate(&[2, 1])?;
    /// assert_eq!(cache.get(0..2)?.keys.to_f32(), [1., 2., 3., 0.]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::truncate`](crate::KvCache::truncate) for its arguments.
    pub fn truncate<'l>(&mut self, lengths: impl Into<PerSequence<'l>>) -> Result<()> {
        let lengths = match lengths.into() {
            PerSequence::All(length) => vec![length; self.lengths.len()],
            PerSequence::Each(lengths) if lengths.len() == self.lengths.len() => lengths.to_vec(),
            PerSequence::Each(lengths) => {
                let (batch_size, actual) = (self.config.batch_size, lengths.len());
                return Err(Error::Sequence(SequenceError::PerSequenceLength { name: "lengths", batch_size, actual }));
            }
        };
        for (sequence, &length) in (0..).zip(&lengths) {
            self.check_rollback(sequence, length)?;
        }
        for (sequence, &length) in (0..).zip(&lengths) {
            self.cut(sequence, length);
        }
        self.written.clear();
        Ok(())
    }

    /// Reference for [`KvCache::clear_sequence`](crate::KvCache::clear_sequence).
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// let mut cache = ReferenceCache::new(CacheConfig::new(2, 1, 1, 4).max_batch_size(4))?;
    /// cache.update(&[1f32, 2., 3., 4.][..], &[0f32; 4][..], Write::append(2))?; // [1, 2] and [3, 4]
    /// cache.clear_sequence(0)?;
    /// assert_eq!(cache.get(0..2)?.keys.to_f32(), [0., 0., 3., 4.]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::clear_sequence`](crate::KvCache::clear_sequence) for its arguments.
    pub fn clear_sequence(&mut self, sequence: u32) -> Result<()> {
        self.check_sequence(sequence)?;
        self.cut(sequence, 0);
        self.written.clear();
        Ok(())
    }

    /// Reference for [`KvCache::select`](crate::KvCache::select).
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// let mut cache = ReferenceCache::new(CacheConfig::new(2, 1, 1, 4).max_batch_size(4))?;
    /// cache.update(&[1f32, 2., 3., 4.][..], &[0f32; 4][..], Write::append(2))?; // [1, 2] and [3, 4]
    /// cache.select(&[1, 1, 0])?;
    /// assert_eq!(cache.get_all().keys.to_f32(), [3., 4., 3., 4., 1., 2.]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::select`](crate::KvCache::select) for its arguments.
    pub fn select(&mut self, sources: &[u32]) -> Result<()> {
        if sources.is_empty() {
            return Err(Error::Sequence(SequenceError::EmptySelection));
        }
        let max_batch_size = self.config.max_batch_size;
        let batch_size = u32::try_from(sources.len()).unwrap_or(u32::MAX);
        if batch_size > max_batch_size {
            return Err(Error::Sequence(SequenceError::BatchTooLarge { batch_size, max_batch_size }));
        }
        for &source in sources {
            self.check_sequence(source)?;
        }
        let before = self.clone();
        for (sequence, &source) in (0..).zip(sources) {
            // Only the slots that the source holds are overwritten. The rows in the other slots stay.
            self.zero(sequence, |_, slot| before.is_held(source, slot));
            for (side, old) in [(Side::Keys, &before.keys), (Side::Values, &before.values)] {
                let rows = old.range([source, 0, 0]..=[source, u32::MAX, u32::MAX]);
                let held = rows.filter(|(at, _)| before.is_held(source, at[2]));
                self.planes(side).extend(held.map(|(&[_, head, slot], row)| ([sequence, head, slot], row.clone())));
            }
            match before.held.get(&source) {
                Some(held) => self.held.insert(sequence, held.clone()),
                None => self.held.remove(&sequence),
            };
        }
        self.lengths = sources.iter().map(|&source| before.lengths[source as usize]).collect();
        self.config.batch_size = batch_size;
        self.written.clear();
        Ok(())
    }

    /// Reference for [`KvCache::reorder`](crate::KvCache::reorder).
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// let mut cache = ReferenceCache::new(CacheConfig::new(2, 1, 1, 4).max_batch_size(4))?;
    /// cache.update(&[1f32, 2., 3., 4.][..], &[0f32; 4][..], Write::append(2))?; // [1, 2] and [3, 4]
    /// cache.reorder(&[1, 0])?;
    /// assert_eq!(cache.get_all().keys.to_f32(), [3., 4., 1., 2.]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::reorder`](crate::KvCache::reorder) for its arguments.
    pub fn reorder(&mut self, sources: &[u32]) -> Result<()> {
        if sources.len() != self.lengths.len() {
            let (batch_size, actual) = (self.config.batch_size, sources.len());
            return Err(Error::Sequence(SequenceError::PerSequenceLength { name: "sources", batch_size, actual }));
        }
        self.select(sources)
    }

    /// Reference for [`KvCache::repeat`](crate::KvCache::repeat).
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// let mut cache = ReferenceCache::new(CacheConfig::new(2, 1, 1, 4).max_batch_size(4))?;
    /// cache.update(&[1f32, 2., 3., 4.][..], &[0f32; 4][..], Write::append(2))?; // [1, 2] and [3, 4]
    /// cache.repeat(2)?;
    /// assert_eq!(cache.get_all().keys.to_f32(), [1., 2., 1., 2., 3., 4., 3., 4.]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::repeat`](crate::KvCache::repeat) for its arguments.
    pub fn repeat(&mut self, times: u32) -> Result<()> {
        let (batch_size, max_batch_size) = (self.config.batch_size, self.config.max_batch_size);
        let wanted = batch_size.saturating_mul(times);
        if wanted > max_batch_size {
            return Err(Error::Sequence(SequenceError::BatchTooLarge { batch_size: wanted, max_batch_size }));
        }
        let neighbours = |sequence| std::iter::repeat_n(sequence, times as usize);
        self.select(&(0..batch_size).flat_map(neighbours).collect::<Vec<_>>())
    }

    /// Reference for [`KvCache::copy_sequence`](crate::KvCache::copy_sequence).
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// let mut cache = ReferenceCache::new(CacheConfig::new(2, 1, 1, 4).max_batch_size(4))?;
    /// cache.update(&[1f32, 2., 3., 4.][..], &[0f32; 4][..], Write::append(2))?; // [1, 2] and [3, 4]
    /// cache.copy_sequence(0, 1)?;
    /// assert_eq!(cache.get_all().keys.to_f32(), [1., 2., 1., 2.]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::copy_sequence`](crate::KvCache::copy_sequence) for its arguments.
    pub fn copy_sequence(&mut self, from: u32, to: u32) -> Result<()> {
        self.check_sequence(from)?;
        self.check_sequence(to)?;
        let sources: Vec<u32> =
            (0..self.config.batch_size).map(|sequence| if sequence == to { from } else { sequence }).collect();
        self.select(&sources)
    }

    /// Reference for [`KvCache::copy_range`](crate::KvCache::copy_range).
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// let mut cache = ReferenceCache::new(CacheConfig::new(2, 1, 1, 4).max_batch_size(4))?;
    /// cache.update(&[1f32, 2., 3., 4.][..], &[0f32; 4][..], Write::append(2))?; // [1, 2] and [3, 4]
    /// cache.copy_range(0, 0..2, 1, 1)?; // replaces position 1 and what follows
    /// assert_eq!(cache.get_all().keys.to_f32(), [1., 2., 0., 3., 1., 2.]);
    /// cache.copy_range(1, 0..2, 1, 1)?; // overlapping ranges: copied as if through a temporary
    /// assert_eq!(cache.get(0..3)?.keys.to_f32()[3..], [3., 3., 1.]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::copy_range`](crate::KvCache::copy_range) for its arguments.
    pub fn copy_range(&mut self, from: u32, range: Range<u32>, to: u32, position: u32) -> Result<()> {
        self.check_sequence(from)?;
        self.check_sequence(to)?;
        let length = self.lengths[from as usize];
        if range.start > range.end {
            return Err(Error::Range(RangeError::RangeReversed { start: range.start, end: range.end }));
        }
        if range.end > length {
            return Err(Error::Range(RangeError::RangeBeyondWritten { end: range.end, write_pos: length }));
        }
        self.check_valid(from, range.clone())?;
        let count = range.end - range.start;
        if count == 0 {
            return Err(Error::Write(WriteError::NoTokens));
        }
        let mut counts = vec![0; self.lengths.len()];
        counts[to as usize] = count;
        let spans = self.spans(&Write::at(position, count).counts(&counts))?;
        let span = &spans[to as usize];
        let old = self.clone();
        self.zero_gap(to, span);
        self.zero(to, |cache, slot| cache.last_in(span, slot).is_some());
        for (side, old) in [(Side::Keys, &old.keys), (Side::Values, &old.values)] {
            for (&[_, head, slot], row) in old.range([from, 0, 0]..=[from, u32::MAX, u32::MAX]) {
                let Some(source) = self.last_in(&range, slot) else { continue };
                let target = span.start + (source - range.start);
                let slot = self.slot(target);
                // In a ring, several rows may map to a slot; the last one stays.
                if self.last_in(span, slot) == Some(target) {
                    self.planes(side).insert([to, head, slot], row.clone());
                }
            }
        }
        self.hold(to, span);
        self.written.clear();
        Ok(())
    }

    /// Reference for [`KvCache::keep`](crate::KvCache::keep).
    ///
    /// # Errors
    /// The errors of [`KvCache::keep`](crate::KvCache::keep) for its arguments.
    pub fn keep(&mut self, sequence: u32, last: u32, indices: &[u32]) -> Result<()> {
        self.check_sequence(sequence)?;
        let number = |count: usize| u32::try_from(count).expect("increasing indices below a 32-bit number");
        let wrong = |at: usize| indices[at] >= last || at > 0 && indices[at] <= indices[at - 1];
        if let Some(at) = (0..indices.len()).find(|&at| wrong(at)) {
            return Err(Error::Sequence(SequenceError::KeptIndex { at: number(at), index: indices[at], last }));
        }
        let length = self.lengths[sequence as usize];
        if last > length {
            return Err(Error::Sequence(SequenceError::KeptBeyondLength { sequence, last, length }));
        }
        let first = length - last;
        let moved: Vec<(u32, u32)> =
            (first..).zip(indices).map(|(to, index)| (first + index, to)).skip_while(|(from, to)| from == to).collect();
        let Some(&(_, position)) = moved.first() else {
            let mut lengths = self.lengths.clone();
            lengths[sequence as usize] = first + number(indices.len());
            return self.truncate(&lengths[..]);
        };
        for &(from, _) in &moved {
            if self.first_missing(sequence, from..from + 1).is_some() {
                let oldest = self.oldest_held(sequence, self.sinks());
                return Err(Error::Range(RangeError::Evicted { sequence, position: from, oldest }));
            }
        }
        let count = number(moved.len());
        let mut counts = vec![0; self.lengths.len()];
        counts[sequence as usize] = count;
        let spans = self.spans(&Write::at(position, count).counts(&counts))?;
        let (old, span) = (self.clone(), &spans[sequence as usize]);
        self.zero_gap(sequence, span);
        for side in Side::BOTH {
            for head in 0..self.config.num_heads {
                for &(from, to) in &moved {
                    let rows = if side == Side::Keys { &old.keys } else { &old.values };
                    let row = rows.get(&[sequence, head, self.slot(from)]).cloned();
                    let at = [sequence, head, self.slot(to)];
                    match row {
                        Some(row) => drop(self.planes(side).insert(at, row)),
                        None => drop(self.planes(side).remove(&at)),
                    }
                }
            }
        }
        self.hold(sequence, span);
        self.written.clear();
        Ok(())
    }

    /// Reference for [`KvCache::extract`](crate::KvCache::extract): returns the valid rows of a sequence, `[1, kv_head,
    /// rows, dim]`.
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
    ///
    /// # use wgpu_kv_cache::Placement;
    /// let ring = Placement::Ring { window: 2, sinks: 1, slack: 0 };
    /// let mut cache = ReferenceCache::new(CacheConfig::new(1, 1, 1, 0).max_batch_size(2).placement(ring))?;
    /// cache.update(&[1f32, 2., 3., 4., 5.][..], &[0f32; 5][..], Write::append(5))?;
    /// let left = cache.extract(0)?;
    /// assert_eq!(left.keys.to_f32(), [1., 4., 5.]); // positions 0, 3 and 4
    /// cache.clear_sequence(0)?;
    /// cache.insert(1, 5, &left.keys.to_f32()[..], &left.values.to_f32()[..])?; // restored as another sequence
    /// assert_eq!((cache.lengths(), cache.extract(1)?), (&[0, 5][..], left));
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`KvCache::extract`](crate::KvCache::extract) for its arguments.
    pub fn extract(&self, sequence: u32) -> Result<Pair<HostTensor>> {
        self.check_sequence(sequence)?;
        self.rows(sequence..sequence + 1, |length| self.valid(length).to_vec())
    }

    /// Reference for [`KvCache::insert`](crate::KvCache::insert).
    ///
    /// # Errors
    /// The errors of [`KvCache::insert`](crate::KvCache::insert) for its arguments.
    pub fn insert<'r>(
        &mut self,
        sequence: u32,
        length: u32,
        keys: impl Into<HostRows<'r>>,
        values: impl Into<HostRows<'r>>,
    ) -> Result<()> {
        let batch_size = self.config.batch_size.max(sequence.saturating_add(1));
        if sequence > self.config.batch_size {
            return Err(Error::Sequence(SequenceError::IndexOutOfRange {
                name: "sequence",
                index: sequence,
                count: self.config.batch_size,
            }));
        }
        if batch_size > self.config.max_batch_size {
            return Err(Error::Sequence(SequenceError::BatchTooLarge {
                batch_size,
                max_batch_size: self.config.max_batch_size,
            }));
        }
        if length == 0 {
            return Err(Error::Write(WriteError::NoTokens));
        }
        let max_seq_len = self.config.max_seq_len;
        match self.config.placement {
            Placement::Linear if length > max_seq_len => {
                return Err(Error::Write(WriteError::WriteBeyondCapacity {
                    sequence,
                    position: 0,
                    count: length,
                    max_seq_len,
                }));
            }
            Placement::Ring { .. } if length == u32::MAX => {
                return Err(Error::Write(WriteError::PositionOverflow { sequence, position: 0, count: length }));
            }
            _ => {}
        }
        let positions = self.valid(length);
        let (keys, values) = (keys.into(), values.into());
        let rows = [1, positions.iter().map(|range| range.end - range.start).sum()];
        self.check_source(Side::Keys, keys, rows)?;
        self.check_source(Side::Values, values, rows)?;
        self.lengths.resize(batch_size as usize, 0);
        self.config.batch_size = batch_size;
        self.cut(sequence, 0);
        let config = self.config;
        for (source, side) in [(keys, Side::Keys), (values, Side::Values)] {
            let mut units = source.bits();
            let count = source.format().units(config.dim(side)) as usize;
            for head in 0..config.num_heads {
                for position in positions.iter().cloned().flatten() {
                    let row = stored_row(&config, side, source.format(), units.by_ref().take(count).collect());
                    let slot = self.slot(position);
                    self.planes(side).insert([sequence, head, slot], row);
                }
            }
        }
        positions.iter().filter(|range| !range.is_empty()).for_each(|range| self.hold(sequence, range));
        self.written.clear();
        Ok(())
    }
}
