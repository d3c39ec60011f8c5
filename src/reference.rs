//! [`ReferenceCache`]: the cache's contract on the CPU, to check a device against.
//!
//! Written from the contract alone. It plans nothing, computes no address, and shares no code with the device's path
//! beyond the types of its arguments: planes are nested vectors, and rows are taken from the source one after the
//! other.

mod difference;
mod rows;
mod sequence;

use std::ops::Range;

pub use difference::{Difference, compare_tensors};
use rows::{converted, push, stored_row};

use crate::{CacheConfig, Error, Format, HostRows, HostTensor, Pair, Placement, Result, Side, Write, write::Positions};

/// Elements of one row, of a packed format words, as stored bits.
type Row = Vec<u32>;
/// `[sequence][head][slot]` of rows.
type Planes = Vec<Vec<Vec<Row>>>;

/// One layer of the cache on the CPU, with the operations of [`KvCache`](crate::KvCache).
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, ReferenceCache, Write};
///
/// let mut reference = ReferenceCache::new(CacheConfig::new(1, 1, 2, 4))?;
/// reference.update(&[1.0f32, 2.0][..], &[3.0f32, 4.0][..], Write::at(2, 1))?;
/// let read = reference.get(1..3)?;
/// assert_eq!(read.keys.to_f32(), [0.0, 0.0, 1.0, 2.0]);
/// assert_eq!(reference.lengths(), [3]);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReferenceCache {
    config: CacheConfig,
    /// `[max_batch_size][head][slot]`.
    keys: Planes,
    values: Planes,
    /// `[batch]`.
    lengths: Vec<u32>,
    /// `[max_batch_size][slot]`: the position whose row the slot holds.
    held: Vec<Vec<Option<u32>>>,
}

impl ReferenceCache {
    /// An empty cache.
    ///
    /// # Errors
    /// As [`CacheConfig::validate`].
    pub fn new(config: CacheConfig) -> Result<Self> {
        config.validate()?;
        let empty = |side| {
            let plane = vec![vec![0; config.units(side) as usize]; config.slots() as usize];
            vec![vec![plane; config.num_heads as usize]; config.max_batch_size as usize]
        };
        Ok(ReferenceCache {
            keys: empty(Side::Keys),
            values: empty(Side::Values),
            lengths: vec![0; config.batch_size as usize],
            held: vec![vec![None; config.slots() as usize]; config.max_batch_size as usize],
            config,
        })
    }

    /// Shape and formats. `batch_size` is the number of sequences in the batch now.
    pub const fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Positions of each sequence.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// The largest length.
    pub fn write_pos(&self) -> u32 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// [`KvCache::update`](crate::KvCache::update).
    ///
    /// # Errors
    /// As there, for the arguments.
    pub fn update<'r>(
        &mut self,
        keys: impl Into<HostRows<'r>>,
        values: impl Into<HostRows<'r>>,
        write: Write<'_>,
    ) -> Result<()> {
        let spans = self.spans(&write)?;
        let (keys, values) = (keys.into(), values.into());
        let rows = self.lengths.len() * self.config.num_heads as usize * write.tokens as usize;
        self.check_source(Side::Keys, keys, rows)?;
        self.check_source(Side::Values, values, rows)?;
        self.write(&spans, write.tokens, keys, values);
        Ok(())
    }

    /// [`KvCache::record_advance`](crate::KvCache::record_advance), for rows put in place by
    /// [`poke`](Self::poke).
    ///
    /// # Errors
    /// As there, for the arguments.
    pub fn advance(&mut self, write: Write<'_>) -> Result<()> {
        for (sequence, span) in self.spans(&write)?.into_iter().enumerate() {
            if !span.is_empty() {
                self.zero_gap(sequence, &span);
                span.for_each(|position| self.hold(sequence, position));
            }
        }
        Ok(())
    }

    /// Sets the bits of one element of the storage, valid or not, as a kernel of the caller's would.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn poke(&mut self, side: Side, [sequence, head, position, element]: [u32; 4], bits: u32) -> Result<()> {
        let out = |name, index, count: usize| Error::IndexOutOfRange {
            name,
            index,
            count: u32::try_from(count).unwrap_or(u32::MAX),
        };
        let planes = match side {
            Side::Keys => &mut self.keys,
            Side::Values => &mut self.values,
        };
        let count = planes.len();
        let heads = planes.get_mut(sequence as usize).ok_or(out("sequence", sequence, count))?;
        let count = heads.len();
        let plane = heads.get_mut(head as usize).ok_or(out("head", head, count))?;
        let count = plane.len();
        let row = plane.get_mut(position as usize).ok_or(out("position", position, count))?;
        let count = row.len();
        *row.get_mut(element as usize).ok_or(out("element", element, count))? = bits;
        Ok(())
    }

    /// Positions `range` of every sequence, `[batch, kv_head, range, dim]`; zero past a sequence's own length.
    ///
    /// # Errors
    /// [`Error::RangeReversed`], [`Error::RangeBeyondWritten`], [`Error::Evicted`].
    pub fn get(&self, range: Range<u32>) -> Result<Pair<HostTensor>> {
        if range.start > range.end {
            return Err(Error::RangeReversed { start: range.start, end: range.end });
        }
        if range.end > self.write_pos() {
            return Err(Error::RangeBeyondWritten { end: range.end, write_pos: self.write_pos() });
        }
        for sequence in 0..self.config.batch_size {
            let length = self.lengths[sequence as usize];
            let mut evicted = range.clone().take_while(|&position| position < length);
            if let Some(position) = evicted.find(|&position| !self.is_valid(length, position)) {
                return Err(Error::Evicted { sequence, position, oldest: self.oldest_valid(length) });
            }
        }
        Ok(self.rows(0..self.lengths.len(), |_| range.clone().collect()))
    }

    /// [`get`](Self::get) in a format of floating point.
    ///
    /// # Errors
    /// As there; [`Error::PackedDestination`].
    pub fn get_as(&self, range: Range<u32>, format: Format) -> Result<Pair<HostTensor>> {
        let rows = self.get(range)?;
        for side in Side::BOTH {
            let stored = self.config.format(side);
            if format.is_packed() && format != stored {
                return Err(Error::PackedDestination { side, stored, wanted: format });
            }
        }
        let side = |tensor: HostTensor| if tensor.format() == format { tensor } else { converted(&tensor, format) };
        Ok(Pair { keys: side(rows.keys), values: side(rows.values) })
    }

    /// Everything that is valid, `[batch, kv_head, rows, dim]`: the rows of each sequence's
    /// [`valid_positions`](Self::valid_positions) in order, then zero.
    pub fn get_all(&self) -> Pair<HostTensor> {
        self.rows(0..self.lengths.len(), |sequence| self.valid(sequence))
    }

    /// The valid positions of a sequence, in order.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    pub fn valid_positions(&self, sequence: u32) -> Result<Vec<u32>> {
        self.check_sequence(sequence)?;
        Ok(self.valid(sequence as usize))
    }

    fn valid(&self, sequence: usize) -> Vec<u32> {
        let length = self.lengths[sequence];
        self.near(length).filter(|&position| self.is_valid(length, position)).collect()
    }

    /// The positions below `length` that a plane could hold at once: sinks, and as many before the end as it has slots.
    fn near(&self, length: u32) -> impl Iterator<Item = u32> + use<> {
        let first = length.saturating_sub(self.config.slots());
        (0..self.sinks().min(first)).chain(first..length)
    }

    /// The first position beyond the sinks that a sequence of this length sees.
    fn oldest_valid(&self, length: u32) -> u32 {
        let sinks = self.sinks();
        self.near(length).find(|&position| position >= sinks && self.is_valid(length, position)).unwrap_or(length)
    }

    /// Whether a sequence of this length sees a position of its own.
    fn is_valid(&self, length: u32, position: u32) -> bool {
        match self.config.placement {
            Placement::Linear => true,
            Placement::Ring { window, sinks, .. } => position < sinks || length - position <= window,
        }
    }

    fn sinks(&self) -> u32 {
        match self.config.placement {
            Placement::Linear => 0,
            Placement::Ring { sinks, .. } => sinks,
        }
    }

    /// The slot of a position: of a ring, sinks keep theirs and the others take turns.
    fn slot(&self, position: u32) -> usize {
        let (slots, sinks) = (self.config.slots(), self.sinks());
        if position < sinks || self.config.placement == Placement::Linear {
            position as usize
        } else {
            (sinks + (position - sinks) % (slots - sinks)) as usize
        }
    }

    /// Rows at positions of some sequences, zero from a sequence's end on and where it names fewer than another.
    fn rows(&self, sequences: Range<usize>, positions: impl Fn(usize) -> Vec<u32>) -> Pair<HostTensor> {
        let wanted: Vec<Vec<u32>> = sequences.clone().map(positions).collect();
        let count = wanted.iter().map(Vec::len).max().unwrap_or(0);
        let copy = |planes: &Planes, side: Side| {
            let (dim, format) = (self.config.dim(side), self.config.format(side));
            let mut bytes = Vec::new();
            for (sequence, wanted) in sequences.clone().zip(&wanted) {
                for plane in &planes[sequence] {
                    for row in 0..count {
                        let position = wanted.get(row).filter(|&&position| position < self.lengths[sequence]);
                        match position {
                            Some(&position) => {
                                plane[self.slot(position)].iter().for_each(|&bits| push(&mut bytes, format, bits));
                            }
                            None => bytes.resize(bytes.len() + plane[0].len() * format.unit_bytes() as usize, 0),
                        }
                    }
                }
            }
            let count = u32::try_from(count).expect("positions are 32 bits wide");
            let batch = u32::try_from(sequences.len()).expect("a batch size is 32 bits wide");
            HostTensor::new([batch, self.config.num_heads, count, dim], format, self.config.scale(side), bytes)
        };
        Pair { keys: copy(&self.keys, Side::Keys), values: copy(&self.values, Side::Values) }
    }

    /// Makes everything as new, bytes included.
    pub fn reset(&mut self) {
        for planes in [&mut self.keys, &mut self.values] {
            planes.iter_mut().flatten().flatten().for_each(|row| row.fill(0));
        }
        self.lengths.fill(0);
        self.held.iter_mut().flatten().for_each(|held| *held = None);
    }

    /// Whether host rows are so many of a side.
    fn check_source(&self, side: Side, source: HostRows<'_>, rows: usize) -> Result<()> {
        let (source_format, stored) = (source.format(), self.config.format(side));
        if source_format.is_packed() && source_format != stored {
            return Err(Error::PackedSource { side, source_format, stored });
        }
        let row_bytes = source_format.row_bytes(self.config.dim(side));
        if source.bytes().len() as u64 == rows as u64 * row_bytes {
            return Ok(());
        }
        let expected = rows as u64 * row_bytes / u64::from(source_format.unit_bytes());
        Err(Error::SliceLength { side, expected, actual: source.len() as u64 })
    }

    /// Whether the row of a position is still stored.
    #[cfg(feature = "attention")]
    pub(crate) fn holds(&self, sequence: u32, position: u32) -> bool {
        self.held[sequence as usize].get(self.slot(position)) == Some(&Some(position))
    }

    /// The numbers of a stored row.
    #[cfg(feature = "attention")]
    pub(crate) fn numbers(&self, side: Side, sequence: u32, head: u32, position: u32) -> Vec<f32> {
        let planes = match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        };
        let (format, mut bytes) = (self.config.format(side), Vec::new());
        planes[sequence as usize][head as usize][self.slot(position)]
            .iter()
            .for_each(|&bits| push(&mut bytes, format, bits));
        format.decode_row(&bytes, self.config.dim(side), self.config.scale(side)).expect("a stored row is whole")
    }

    fn check_sequence(&self, sequence: u32) -> Result<()> {
        let count = self.config.batch_size;
        if sequence < count { Ok(()) } else { Err(Error::IndexOutOfRange { name: "sequence", index: sequence, count }) }
    }

    /// Whether a sequence can be taken back: what it would see then must all be held.
    fn check_rollback(&self, sequence: u32, length: u32) -> Result<()> {
        let current = self.lengths[sequence as usize];
        if length > current {
            return Err(Error::TruncateBeyondLength { sequence, length, current });
        }
        let Placement::Ring { window, sinks, .. } = self.config.placement else { return Ok(()) };
        let held = |position: u32| self.held[sequence as usize][self.slot(position)] == Some(position);
        let mut seen = self.near(length).filter(|&position| self.is_valid(length, position));
        if seen.all(held) {
            return Ok(());
        }
        let mut oldest = current;
        while oldest > sinks && held(oldest - 1) {
            oldest -= 1;
        }
        Err(Error::RollbackEvicted { sequence, length, shortest: oldest.saturating_add(window), sinks, oldest })
    }

    /// Ends a sequence at `length`; its rows stay, but are no longer its own.
    fn cut(&mut self, sequence: usize, length: u32) {
        self.lengths[sequence] = length;
        for held in &mut self.held[sequence] {
            *held = held.filter(|&position| position < length);
        }
    }

    /// Makes a position the end of a sequence and its slot the position's.
    fn hold(&mut self, sequence: usize, position: u32) {
        let slot = self.slot(position);
        self.held[sequence][slot] = Some(position);
        self.lengths[sequence] = position + 1;
    }

    /// Where each sequence's new rows go; empty for a sequence that takes none.
    fn spans(&self, write: &Write<'_>) -> Result<Vec<Range<u32>>> {
        let batch_size = self.config.batch_size;
        if write.tokens == 0 {
            return Err(Error::NoTokens);
        }
        match write.positions {
            Positions::Each(positions) if positions.len() != batch_size as usize => {
                return Err(Error::PerSequenceLength { name: "positions", batch_size, actual: positions.len() });
            }
            _ => {}
        }
        match write.counts {
            Some(counts) if counts.len() != batch_size as usize => {
                return Err(Error::PerSequenceLength { name: "counts", batch_size, actual: counts.len() });
            }
            _ => {}
        }
        let mut spans = Vec::new();
        for sequence in 0..batch_size {
            let b = sequence as usize;
            let position = match write.positions {
                Positions::Append => self.lengths[b],
                Positions::At(position) => position,
                Positions::Each(positions) => positions[b],
            };
            let count = match write.counts {
                Some(counts) => counts[b],
                None => write.tokens,
            };
            if count > write.tokens {
                return Err(Error::CountAboveTokens { sequence, count, tokens: write.tokens });
            }
            let (max_seq_len, end) = (self.config.max_seq_len, u64::from(position) + u64::from(count));
            match self.config.placement {
                _ if count == 0 => {}
                Placement::Linear if end > u64::from(max_seq_len) => {
                    return Err(Error::WriteBeyondCapacity { sequence, position, count, max_seq_len });
                }
                Placement::Ring { .. } if end >= u64::from(u32::MAX) => {
                    return Err(Error::PositionOverflow { sequence, position, count });
                }
                // Of as many tokens as a ring has rows, none is overwritten by a later one.
                Placement::Ring { sinks, .. }
                    if write.whole && end > u64::from(position.max(sinks)) + u64::from(self.config.slots() - sinks) =>
                {
                    let rows = self.config.slots() - sinks;
                    let oldest = position + count - rows;
                    return Err(Error::WriteBeyondRing { sequence, position, count, rows, oldest });
                }
                // A write before the end takes the sequence back first.
                _ => self.check_rollback(sequence, position.min(self.lengths[b]))?,
            }
            spans.push(if count == 0 { 0..0 } else { position..position + count });
        }
        Ok(spans)
    }

    fn write(&mut self, spans: &[Range<u32>], tokens: u32, keys: HostRows<'_>, values: HostRows<'_>) {
        for (sequence, span) in spans.iter().enumerate() {
            if !span.is_empty() {
                self.zero_gap(sequence, span);
            }
        }
        let slots: Vec<Vec<usize>> =
            spans.iter().map(|span| span.clone().map(|position| self.slot(position)).collect()).collect();
        let config = self.config;
        for (planes, source, side) in [(&mut self.keys, keys, Side::Keys), (&mut self.values, values, Side::Values)] {
            let mut units = source.bits();
            let count = source.format().units(config.dim(side)) as usize;
            for (heads, slots) in planes.iter_mut().zip(&slots) {
                for plane in heads {
                    for token in 0..tokens as usize {
                        let row: Row = units.by_ref().take(count).collect();
                        let row = stored_row(&config, side, source.format(), row);
                        // A ring takes every row in turn; the last of a slot stays.
                        if let Some(&slot) = slots.get(token) {
                            plane[slot] = row;
                        }
                    }
                }
            }
        }
        for (sequence, span) in spans.iter().enumerate() {
            span.clone().for_each(|position| self.hold(sequence, position));
        }
    }

    /// Takes a sequence back to a span that starts before its end, or zeroes the rows between its end and the span. Of
    /// those, and of the span, a ring keeps what is not overwritten in the end.
    fn zero_gap(&mut self, sequence: usize, span: &Range<u32>) {
        let length = self.lengths[sequence].min(span.start);
        self.cut(sequence, length);
        let near = span.start.saturating_sub(self.config.slots());
        let gap = (length..span.start).filter(|&position| position < self.sinks() || position >= near);
        for position in gap.collect::<Vec<_>>() {
            let slot = self.slot(position);
            if span.clone().any(|written| self.slot(written) == slot) {
                continue;
            }
            for planes in [&mut self.keys, &mut self.values] {
                for plane in &mut planes[sequence] {
                    plane[slot].fill(0);
                }
            }
            self.hold(sequence, position);
        }
    }
}
