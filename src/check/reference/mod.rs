//! [`ReferenceCache`]: the contract of the cache on the CPU, to check a device against.
//!
//! It is written from the contract alone. It plans nothing, computes no addresses, and shares no code with the device's
//! path beyond the types of its arguments and the checks of the configuration: rows are stored by sequence, head and
//! slot, and are read from the source one after the other. A row that was never written is zero and takes no memory.

mod difference;
mod held;
pub(super) mod rows;
mod sequence;

use std::{collections::BTreeMap, ops::Range};

pub use difference::{Difference, compare_tensors};
use rows::{converted, push, stored_row};

use crate::{
    CacheConfig, ConfigError, DeviceError, Error, Format, HostRows, HostTensor, Pair, Placement, RangeError, Result,
    SequenceError, Side, Write, WriteError, shape::write::Positions,
};

/// Stored bits of one row: its elements, or the words of a packed row.
type Row = Vec<u32>;
/// Rows by `[sequence, head, slot]`. Absent rows are zero.
type Planes = BTreeMap<[u32; 3], Row>;

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
    keys: Planes,
    values: Planes,
    /// `[batch]`.
    lengths: Vec<u32>,
    /// The positions that the slots of each sequence hold, in order. A sequence without an entry holds none.
    held: BTreeMap<u32, Vec<Range<u32>>>,
    /// The positions that the last write wrote to each sequence, `[batch]`. Empty after an operation on sequences.
    written: Vec<Range<u32>>,
}

impl ReferenceCache {
    /// Creates an empty cache. It takes 4 bytes per sequence, and grows with the rows that are written.
    ///
    /// # Errors
    /// The errors of [`CacheConfig::validate`]; [`ConfigError::SizeOverflow`] if the lengths of `max_batch_size`
    /// sequences take 2^31 bytes or more; [`DeviceError::OutOfMemory`] if the host has no memory for the lengths.
    pub fn new(config: CacheConfig) -> Result<Self> {
        config.validate()?;
        if config.max_batch_size > u32::MAX >> 3 {
            let factors = format!("{} × 4", config.max_batch_size);
            return Err(Error::Config(ConfigError::SizeOverflow { what: "bytes of all lengths", factors, bits: 31 }));
        }
        let (batch, mut lengths) = (config.batch_size as usize, Vec::new());
        let out =
            |_| Error::Device(DeviceError::OutOfMemory { what: "lengths", bytes: u64::from(config.batch_size) * 4 });
        lengths.try_reserve_exact(batch).map_err(out)?;
        lengths.resize(batch, 0);
        let (keys, values, held) = (Planes::new(), Planes::new(), BTreeMap::new());
        Ok(ReferenceCache { config, keys, values, lengths, held, written: Vec::new() })
    }

    /// Shape and formats. `batch_size` is the current number of sequences in the batch.
    pub const fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// The length of each sequence, `[batch]`.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// The largest length.
    pub fn write_pos(&self) -> u32 {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Reference for [`KvCache::update`](crate::KvCache::update).
    ///
    /// # Errors
    /// The errors of [`KvCache::update`](crate::KvCache::update) for its arguments.
    pub fn update<'r>(
        &mut self,
        keys: impl Into<HostRows<'r>>,
        values: impl Into<HostRows<'r>>,
        write: Write<'_>,
    ) -> Result<()> {
        let spans = self.spans(&write)?;
        let (keys, values) = (keys.into(), values.into());
        let rows = [self.config.batch_size, write.tokens];
        self.check_source(Side::Keys, keys, rows)?;
        self.check_source(Side::Values, values, rows)?;
        self.write(&spans, write.tokens, keys, values);
        self.written = spans;
        Ok(())
    }

    /// Reference for [`KvCache::record_advance`](crate::KvCache::record_advance), for rows that [`poke`](Self::poke)
    /// wrote.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_advance`](crate::KvCache::record_advance) for its arguments.
    pub fn advance(&mut self, write: Write<'_>) -> Result<()> {
        let spans = self.spans(&write)?;
        for (sequence, span) in (0..).zip(&spans).filter(|(_, span)| !span.is_empty()) {
            self.zero_gap(sequence, span);
            self.hold(sequence, span);
        }
        self.written = spans;
        Ok(())
    }

    /// Sets the bits of one element of the storage, valid or not, as a kernel of the caller would. `position` is a slot
    /// of the plane; `element` is a word in a packed format.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if an index is out of range.
    pub fn poke(&mut self, side: Side, [sequence, head, position, element]: [u32; 4], bits: u32) -> Result<()> {
        let (config, units) = (self.config, self.config.units(side));
        for (name, index, count) in [
            ("sequence", sequence, config.max_batch_size),
            ("head", head, config.num_heads),
            ("position", position, config.slots()),
            ("element", element, units),
        ] {
            if index >= count {
                return Err(Error::Sequence(SequenceError::IndexOutOfRange { name, index, count }));
            }
        }
        let row = self.planes(side).entry([sequence, head, position]).or_insert_with(|| vec![0; units as usize]);
        row[element as usize] = bits;
        Ok(())
    }

    fn planes(&mut self, side: Side) -> &mut Planes {
        match side {
            Side::Keys => &mut self.keys,
            Side::Values => &mut self.values,
        }
    }

    /// Returns positions `range` of every sequence, `[batch, kv_head, range, dim]`. Rows past a sequence's own length
    /// are zero.
    ///
    /// # Errors
    /// [`RangeError::RangeReversed`] if the range starts after its end; [`RangeError::RangeBeyondWritten`] if it ends
    /// after [`write_pos`](Self::write_pos); [`RangeError::Evicted`] if a ring has evicted a position of it;
    /// [`DeviceError::OutOfMemory`] if the host has no memory for the rows.
    pub fn get(&self, range: Range<u32>) -> Result<Pair<HostTensor>> {
        if range.start > range.end {
            return Err(Error::Range(RangeError::RangeReversed { start: range.start, end: range.end }));
        }
        if range.end > self.write_pos() {
            return Err(Error::Range(RangeError::RangeBeyondWritten { end: range.end, write_pos: self.write_pos() }));
        }
        for (sequence, &length) in (0..).zip(&self.lengths) {
            self.check_valid(sequence, range.start..range.end.min(length))?;
        }
        self.rows(0..self.config.batch_size, |_| vec![range.clone()])
    }

    /// Returns a range like [`get`](Self::get), converted to f32, f16 or bf16.
    ///
    /// # Errors
    /// The errors of [`get`](Self::get); [`RangeError::PackedDestination`] if `format` is packed and is not the cache's
    /// own.
    pub fn get_as(&self, range: Range<u32>, format: Format) -> Result<Pair<HostTensor>> {
        let rows = self.get(range)?;
        for side in Side::BOTH {
            let stored = self.config.format(side);
            if format.is_packed() && format != stored {
                return Err(Error::Range(RangeError::PackedDestination { side, stored, wanted: format }));
            }
        }
        let side = |tensor: HostTensor| if tensor.format() == format { tensor } else { converted(&tensor, format) };
        Ok(Pair { keys: side(rows.keys), values: side(rows.values) })
    }

    /// Returns all valid rows, `[batch, kv_head, rows, dim]`: for each sequence the rows of its
    /// [`valid_positions`](Self::valid_positions) in order, padded with zero rows.
    ///
    /// # Panics
    /// Panics if there is no memory for the rows.
    pub fn get_all(&self) -> Pair<HostTensor> {
        let all = self.rows(0..self.config.batch_size, |length| self.valid(length).to_vec());
        all.expect("there is memory for all that is valid")
    }

    /// Returns the valid positions of a sequence, in order.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no such sequence.
    pub fn valid_positions(&self, sequence: u32) -> Result<Vec<u32>> {
        self.check_sequence(sequence)?;
        Ok(self.valid(self.lengths[sequence as usize]).into_iter().flatten().collect())
    }

    /// Copies rows of some sequences, at the positions that `positions` returns for a sequence's length. Rows past a
    /// sequence's length are zero, and a sequence with fewer positions than another is padded with zero rows.
    fn rows(&self, sequences: Range<u32>, positions: impl Fn(u32) -> Vec<Range<u32>>) -> Result<Pair<HostTensor>> {
        let wanted: Vec<(u32, Vec<Range<u32>>)> =
            sequences.map(|sequence| (sequence, positions(self.lengths[sequence as usize]))).collect();
        let count = |ranges: &Vec<Range<u32>>| ranges.iter().map(|range| range.end - range.start).sum();
        let rows: u32 = wanted.iter().map(|(_, ranges)| count(ranges)).max().unwrap_or(0);
        let batch = u32::try_from(wanted.len()).expect("a batch size is 32 bits wide");
        let copy = |planes: &Planes, what, side: Side| {
            let (dim, format) = (self.config.dim(side), self.config.format(side));
            let shape = [batch, self.config.num_heads, rows, dim];
            let row_bytes = usize::try_from(format.row_bytes(dim)).unwrap_or(usize::MAX);
            let planes_wanted = batch as usize * self.config.num_heads as usize;
            let plane_bytes = (rows as usize).checked_mul(row_bytes);
            let size = plane_bytes.and_then(|bytes| bytes.checked_mul(planes_wanted));
            let out = || Error::Device(DeviceError::OutOfMemory { what, bytes: size.unwrap_or(usize::MAX) as u64 });
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(size.ok_or_else(out)?).map_err(|_| out())?;
            for (sequence, ranges) in wanted.iter().filter(|_| rows > 0) {
                let length = self.lengths[*sequence as usize];
                for head in 0..self.config.num_heads {
                    let end = bytes.len() + rows as usize * row_bytes;
                    let stored = |position| planes.get(&[*sequence, head, self.slot(position)]);
                    for position in ranges.iter().cloned().flatten().take_while(|&position| position < length) {
                        match stored(position) {
                            Some(row) => row.iter().for_each(|&bits| push(&mut bytes, format, bits)),
                            None => bytes.resize(bytes.len() + row_bytes, 0),
                        }
                    }
                    bytes.resize(end, 0);
                }
            }
            Ok::<_, Error>(HostTensor::new(shape, format, self.config.scale(side), bytes))
        };
        let keys = copy(&self.keys, "copied keys", Side::Keys)?;
        Ok(Pair { keys, values: copy(&self.values, "copied values", Side::Values)? })
    }

    /// Resets all lengths to zero and clears the storage.
    pub fn reset(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.lengths.fill(0);
        self.held.clear();
        self.written.clear();
    }

    /// Checks that host rows hold exactly one side of `batch` sequences and `tokens` tokens, in a format that is not
    /// packed or is the cache's own.
    fn check_source(&self, side: Side, source: HostRows<'_>, [batch, tokens]: [u32; 2]) -> Result<()> {
        let (source_format, stored) = (source.format(), self.config.format(side));
        if source_format.is_packed() && source_format != stored {
            return Err(Error::Write(WriteError::PackedSource { side, source_format, stored }));
        }
        let units = source_format.units(self.config.dim(side));
        let expected = [batch, self.config.num_heads, tokens, units].into_iter().map(u128::from).product::<u128>();
        if source.bytes().len() as u128 == expected * u128::from(source_format.unit_bytes()) {
            return Ok(());
        }
        let expected = u64::try_from(expected).unwrap_or(u64::MAX);
        Err(Error::Write(WriteError::SliceLength { side, expected, actual: source.len() as u64 }))
    }

    /// Returns the position of the first row that the last write wrote to each sequence, or the length if it wrote
    /// none.
    pub(crate) fn starts(&self) -> Vec<u32> {
        let start = |(sequence, &length): (usize, &u32)| match self.written.get(sequence) {
            Some(span) if !span.is_empty() => span.start,
            _ => length,
        };
        self.lengths.iter().enumerate().map(start).collect()
    }

    /// Returns the positions that the last write wrote to a sequence.
    #[cfg(feature = "attention")]
    pub(crate) fn written(&self, sequence: u32) -> Range<u32> {
        self.written.get(sequence as usize).cloned().unwrap_or_default()
    }

    /// Decodes a stored row.
    #[cfg(feature = "attention")]
    pub(crate) fn numbers(&self, side: Side, sequence: u32, head: u32, position: u32) -> Vec<f32> {
        let planes = match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        };
        let (format, dim, mut bytes) = (self.config.format(side), self.config.dim(side), Vec::new());
        match planes.get(&[sequence, head, self.slot(position)]) {
            Some(row) => row.iter().for_each(|&bits| push(&mut bytes, format, bits)),
            None => bytes.resize(usize::try_from(format.row_bytes(dim)).expect("a row fits memory"), 0),
        }
        format.decode_row(&bytes, dim, self.config.scale(side)).expect("a stored row is whole")
    }

    /// Returns the positions of each sequence's new rows. The range is empty for a sequence that takes none.
    fn spans(&self, write: &Write<'_>) -> Result<Vec<Range<u32>>> {
        let batch_size = self.config.batch_size;
        if write.tokens == 0 {
            return Err(Error::Write(WriteError::NoTokens));
        }
        match write.positions {
            Positions::Each(positions) if positions.len() != batch_size as usize => {
                return Err(Error::Sequence(SequenceError::PerSequenceLength {
                    name: "positions",
                    batch_size,
                    actual: positions.len(),
                }));
            }
            _ => {}
        }
        match write.counts {
            Some(counts) if counts.len() != batch_size as usize => {
                return Err(Error::Sequence(SequenceError::PerSequenceLength {
                    name: "counts",
                    batch_size,
                    actual: counts.len(),
                }));
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
                return Err(Error::Write(WriteError::CountAboveTokens { sequence, count, tokens: write.tokens }));
            }
            let (max_seq_len, end) = (self.config.max_seq_len, u64::from(position) + u64::from(count));
            match self.config.placement {
                _ if count == 0 => {}
                Placement::Linear if end > u64::from(max_seq_len) => {
                    return Err(Error::Write(WriteError::WriteBeyondCapacity {
                        sequence,
                        position,
                        count,
                        max_seq_len,
                    }));
                }
                Placement::Ring { .. } if end >= u64::from(u32::MAX) => {
                    return Err(Error::Write(WriteError::PositionOverflow { sequence, position, count }));
                }
                // A write of no more tokens than a ring has slots beyond its sinks overwrites none of its own rows.
                Placement::Ring { sinks, .. }
                    if write.whole && end > u64::from(position.max(sinks)) + u64::from(self.config.slots() - sinks) =>
                {
                    let rows = self.config.slots() - sinks;
                    let oldest = position + count - rows;
                    return Err(Error::Write(WriteError::WriteBeyondRing { sequence, position, count, rows, oldest }));
                }
                // A write before the end first rolls the sequence back.
                _ => self.check_rollback(sequence, position.min(self.lengths[b]))?,
            }
            let span = if count == 0 { 0..0 } else { position..position + count };
            if write.attended && !span.is_empty() {
                self.check_attended(sequence, &span)?;
            }
            spans.push(span);
        }
        Ok(spans)
    }

    fn write(&mut self, spans: &[Range<u32>], tokens: u32, keys: HostRows<'_>, values: HostRows<'_>) {
        for (sequence, span) in (0..).zip(spans) {
            if !span.is_empty() {
                self.zero_gap(sequence, span);
            }
        }
        let config = self.config;
        for (source, side) in [(keys, Side::Keys), (values, Side::Values)] {
            let mut units = source.bits();
            let count = source.format().units(config.dim(side)) as usize;
            for (sequence, span) in (0..).zip(spans) {
                for head in 0..config.num_heads {
                    for token in 0..tokens {
                        let row: Row = units.by_ref().take(count).collect();
                        // In a ring, several rows may map to a slot; the last one stays.
                        if token < span.end - span.start {
                            let at = [sequence, head, self.slot(span.start + token)];
                            self.planes(side).insert(at, stored_row(&config, side, source.format(), row));
                        }
                    }
                }
            }
        }
        for (sequence, span) in (0..).zip(spans) {
            if !span.is_empty() {
                self.hold(sequence, span);
            }
        }
    }

    /// Rolls a sequence back to the start of a span that starts before its end, or zeroes the gap between its end and
    /// the span. A ring zeroes only the slots of the gap that the span does not overwrite.
    fn zero_gap(&mut self, sequence: u32, span: &Range<u32>) {
        let length = self.lengths[sequence as usize].min(span.start);
        self.cut(sequence, length);
        let gap = length..span.start;
        if !gap.is_empty() {
            self.zero(sequence, |cache, slot| {
                cache.last_in(&gap, slot).is_some() && cache.last_in(span, slot).is_none()
            });
            self.hold(sequence, &gap);
        }
    }

    /// Zeroes the rows of a sequence in the slots for which `slots` holds.
    fn zero(&mut self, sequence: u32, slots: impl Fn(&Self, u32) -> bool) {
        let first = [sequence, 0, 0];
        for side in Side::BOTH {
            let mut rest = self.planes(side).split_off(&first);
            let mut after = sequence.checked_add(1).map(|next| rest.split_off(&[next, 0, 0])).unwrap_or_default();
            rest.retain(|&[_, _, slot], _| !slots(self, slot));
            self.planes(side).append(&mut rest);
            self.planes(side).append(&mut after);
        }
    }
}
