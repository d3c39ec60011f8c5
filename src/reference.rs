//! [`ReferenceCache`]: the cache's contract on the CPU, to check a device against.
//!
//! Written from the contract alone. It plans nothing, computes no address, and shares no code with the device's path
//! beyond the types of its arguments: planes are nested vectors, and rows are taken from the source one after the
//! other.

use std::{fmt, ops::Range};

use half::{bf16, f16};

use crate::{
    CacheConfig, Error, Format, HostRows, HostTensor, Pair, Result, Side, Write, format::low_half, write::Positions,
};

/// Elements of one row, as stored bits.
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
    keys: Planes,
    values: Planes,
    lengths: Vec<u32>,
}

/// The first element in which two caches differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The layer.
    pub layer: usize,
    /// Keys or values.
    pub side: Side,
    /// The sequence.
    pub sequence: usize,
    /// The KV head.
    pub head: usize,
    /// The position; in a copied range, counted from the range's start.
    pub position: usize,
    /// The element of the row.
    pub element: usize,
    /// Format of both.
    pub format: Format,
    /// Bits of the reference.
    pub expected: u32,
    /// Bits of the device.
    pub actual: u32,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { layer, side, sequence, head, position, element, format, expected, actual } = *self;
        let digits = format.element_bytes() as usize * 2;
        write!(
            f,
            "layer {layer}, {side}, sequence {sequence}, head {head}, position {position}, element {element}: expected \
             {} (0x{expected:0digits$x}), the device has {} (0x{actual:0digits$x})",
            format.decode(expected),
            format.decode(actual),
        )
    }
}

impl ReferenceCache {
    /// An empty cache.
    ///
    /// # Errors
    /// As [`CacheConfig::validate`].
    pub fn new(config: CacheConfig) -> Result<Self> {
        config.validate()?;
        let empty = |dim: u32| {
            let plane = vec![vec![0; dim as usize]; config.max_seq_len as usize];
            vec![vec![plane; config.num_heads as usize]; config.batch_size as usize]
        };
        Ok(ReferenceCache {
            keys: empty(config.head_dim),
            values: empty(config.value_dim),
            lengths: vec![0; config.batch_size as usize],
            config,
        })
    }

    /// Shape and formats.
    pub const fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Valid positions of each sequence.
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
        for (side, source, dim) in
            [(Side::Keys, keys, self.config.head_dim), (Side::Values, values, self.config.value_dim)]
        {
            if source.len() != rows * dim as usize {
                let (expected, actual) = ((rows * dim as usize) as u64, source.len() as u64);
                return Err(Error::SliceLength { side, expected, actual });
            }
        }
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
                self.zero_gap(sequence, span.start);
                self.lengths[sequence] = span.end;
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
    /// [`Error::RangeReversed`], [`Error::RangeBeyondWritten`].
    pub fn get(&self, range: Range<u32>) -> Result<Pair<HostTensor>> {
        if range.start > range.end {
            return Err(Error::RangeReversed { start: range.start, end: range.end });
        }
        if range.end > self.write_pos() {
            return Err(Error::RangeBeyondWritten { end: range.end, write_pos: self.write_pos() });
        }
        let copy = |planes: &Planes, dim: u32, format: Format| {
            let mut bytes = Vec::new();
            for (sequence, &length) in planes.iter().zip(&self.lengths) {
                for plane in sequence {
                    for position in range.clone() {
                        let row = &plane[position as usize];
                        for &bits in row {
                            push(&mut bytes, format, if position < length { bits } else { 0 });
                        }
                    }
                }
            }
            let shape = [self.config.batch_size, self.config.num_heads, range.end - range.start, dim];
            HostTensor::new(shape, format, bytes)
        };
        Ok(Pair {
            keys: copy(&self.keys, self.config.head_dim, self.config.key_format),
            values: copy(&self.values, self.config.value_dim, self.config.value_format),
        })
    }

    /// Makes everything as new, bytes included.
    pub fn reset(&mut self) {
        for planes in [&mut self.keys, &mut self.values] {
            planes.iter_mut().flatten().flatten().for_each(|row| row.fill(0));
        }
        self.lengths.fill(0);
    }

    /// The first difference between this cache's whole storage and a device's, as
    /// [`KvCache::read_storage`](crate::KvCache::read_storage) reads it.
    ///
    /// # Errors
    /// [`Error::NotComparable`] where shapes or formats differ.
    pub fn compare_storage(&self, layer: usize, device: &Pair<HostTensor>) -> Result<Option<Difference>> {
        for (side, planes, actual) in
            [(Side::Keys, &self.keys, &device.keys), (Side::Values, &self.values, &device.values)]
        {
            let (shape, format) = (self.config.shape(side), self.config.format(side));
            if (shape, format) != (actual.shape(), actual.format()) {
                return Err(not_comparable((shape, format), (actual.shape(), actual.format())));
            }
            let mut actual = actual.bits();
            for (sequence, heads) in planes.iter().enumerate() {
                for (head, plane) in heads.iter().enumerate() {
                    for (position, row) in plane.iter().enumerate() {
                        for (element, &expected) in row.iter().enumerate() {
                            let actual = actual.next().expect("equal shapes have equal numbers of elements");
                            if expected != actual {
                                return Ok(Some(Difference {
                                    layer,
                                    side,
                                    sequence,
                                    head,
                                    position,
                                    element,
                                    format,
                                    expected,
                                    actual,
                                }));
                            }
                        }
                    }
                }
            }
        }
        Ok(None)
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
            let max_seq_len = self.config.max_seq_len;
            if count > 0 && u64::from(position) + u64::from(count) > u64::from(max_seq_len) {
                return Err(Error::WriteBeyondCapacity { sequence, position, count, max_seq_len });
            }
            spans.push(if count == 0 { 0..0 } else { position..position + count });
        }
        Ok(spans)
    }

    fn write(&mut self, spans: &[Range<u32>], tokens: u32, keys: HostRows<'_>, values: HostRows<'_>) {
        for (sequence, span) in spans.iter().enumerate() {
            if !span.is_empty() {
                self.zero_gap(sequence, span.start);
            }
        }
        let sides =
            [(&mut self.keys, keys, self.config.key_format), (&mut self.values, values, self.config.value_format)];
        for (planes, source, stored) in sides {
            let mut elements = source.bits();
            for (heads, span) in planes.iter_mut().zip(spans) {
                for plane in heads {
                    for token in 0..tokens {
                        let slot = span.start.checked_add(token).filter(|slot| span.contains(slot));
                        let dim = plane[0].len();
                        let row: Row =
                            elements.by_ref().take(dim).map(|bits| convert(bits, source.format(), stored)).collect();
                        if let Some(slot) = slot {
                            plane[slot as usize] = row;
                        }
                    }
                }
            }
        }
        for (length, span) in self.lengths.iter_mut().zip(spans) {
            if !span.is_empty() {
                *length = span.end;
            }
        }
    }

    /// Zeroes the rows between a sequence's end and `start`.
    fn zero_gap(&mut self, sequence: usize, start: u32) {
        let length = self.lengths[sequence];
        for planes in [&mut self.keys, &mut self.values] {
            for plane in &mut planes[sequence] {
                for slot in length..start {
                    plane[slot as usize].fill(0);
                }
            }
        }
    }
}

/// The first difference between two tensors of one side, such as two results of a `get`.
///
/// # Errors
/// [`Error::NotComparable`] where shapes or formats differ.
pub fn compare_tensors(
    layer: usize,
    side: Side,
    expected: &HostTensor,
    actual: &HostTensor,
) -> Result<Option<Difference>> {
    if (expected.shape(), expected.format()) != (actual.shape(), actual.format()) {
        return Err(not_comparable((expected.shape(), expected.format()), (actual.shape(), actual.format())));
    }
    let [_, heads, rows, dim] = expected.shape().map(|axis| axis as usize);
    let differing = expected.bits().zip(actual.bits()).enumerate().find(|(_, (expected, actual))| expected != actual);
    Ok(differing.map(|(index, (expected_bits, actual_bits))| Difference {
        layer,
        side,
        sequence: index / dim / rows / heads,
        head: index / dim / rows % heads,
        position: index / dim % rows,
        element: index % dim,
        format: expected.format(),
        expected: expected_bits,
        actual: actual_bits,
    }))
}

fn not_comparable(left: ([u32; 4], Format), right: ([u32; 4], Format)) -> Error {
    let text = |(shape, format): ([u32; 4], Format)| format!("{shape:?} of {format}");
    Error::NotComparable { left: text(left), right: text(right) }
}

/// The stored bits of a source element, by the crate `half`. Equal formats keep their bits.
fn convert(bits: u32, source: Format, stored: Format) -> u32 {
    let half = low_half(bits);
    match (source, stored) {
        (Format::F32, Format::F32) | (Format::F16, Format::F16) | (Format::Bf16, Format::Bf16) => bits,
        (Format::F32, Format::F16) => f16::from_f32(f32::from_bits(bits)).to_bits().into(),
        (Format::F32, Format::Bf16) => bf16::from_f32(f32::from_bits(bits)).to_bits().into(),
        (Format::F16, Format::F32) => f16::from_bits(half).to_f32().to_bits(),
        (Format::F16, Format::Bf16) => bf16::from_f32(f16::from_bits(half).to_f32()).to_bits().into(),
        (Format::Bf16, Format::F32) => bf16::from_bits(half).to_f32().to_bits(),
        (Format::Bf16, Format::F16) => f16::from_f32(bf16::from_bits(half).to_f32()).to_bits().into(),
    }
}

fn push(bytes: &mut Vec<u8>, format: Format, bits: u32) {
    match format {
        Format::F32 => bytes.extend_from_slice(&bits.to_le_bytes()),
        Format::F16 | Format::Bf16 => bytes.extend_from_slice(&low_half(bits).to_le_bytes()),
    }
}
