//! [`Difference`]: the first difference between a device and the reference.

use std::fmt;

use crate::{Error, Format, HostTensor, Pair, ReferenceCache, Result, RowError, Scale, Side};

/// The first element in which two caches differ, or two copied ranges.
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
    /// The slot in the storage, or the row in a copied range.
    pub position: usize,
    /// The element of the row, or the word of a packed row.
    pub element: usize,
    /// Format of both elements.
    pub format: Format,
    /// Bits of the reference.
    pub expected: u32,
    /// Bits of the device.
    pub actual: u32,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { layer, side, sequence, head, position, element, format, expected, actual } = *self;
        let digits = format.unit_bytes() as usize * 2;
        let what = if format.is_packed() { "word" } else { "element" };
        write!(f, "layer {layer}, {side}, sequence {sequence}, head {head}, position {position}, {what} {element}: ")?;
        let number = |f: &mut fmt::Formatter<'_>, bits: u32| {
            // A word of a packed row is not a number.
            if !format.is_packed() {
                let row = &bits.to_le_bytes()[..format.unit_bytes() as usize];
                let number = format.decode_row(row, 1, Scale::ONE).unwrap_or_default();
                number.iter().try_for_each(|number| write!(f, "{number} "))?;
            }
            write!(f, "(0x{bits:0digits$x})")
        };
        f.write_str("expected ")?;
        number(f, expected)?;
        f.write_str(", the device has ")?;
        number(f, actual)
    }
}

impl ReferenceCache {
    /// Returns the first difference between this cache's whole storage and a device's, as read by
    /// [`KvCache::read_storage`](crate::KvCache::read_storage).
    ///
    /// # Errors
    /// [`RowError::NotComparable`] if the shapes or formats differ.
    pub fn compare_storage(&self, layer: usize, device: &Pair<HostTensor>) -> Result<Option<Difference>> {
        for (side, planes, actual) in
            [(Side::Keys, &self.keys, &device.keys), (Side::Values, &self.values, &device.values)]
        {
            let (shape, format) = (self.config.shape(side), self.config.format(side));
            if (shape, format) != (actual.shape(), actual.format()) {
                return Err(not_comparable((shape, format), (actual.shape(), actual.format())));
            }
            let (mut actual, mut stored) = (actual.bits(), planes.iter().peekable());
            let [sequences, heads, slots, units] = [shape[0], shape[1], shape[2], self.config.units(side)];
            let places = (0..sequences).flat_map(|sequence| {
                (0..heads).flat_map(move |head| (0..slots).map(move |slot| [sequence, head, slot]))
            });
            for at in places {
                let row = stored.next_if(|(stored, _)| **stored == at).map(|(_, row)| row.as_slice());
                for element in 0..units as usize {
                    let expected = row.map_or(0, |row| row[element]);
                    let actual = actual.next().expect("equal shapes have equal numbers of elements");
                    if expected != actual {
                        let [sequence, head, position] = at.map(|axis| axis as usize);
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
        Ok(None)
    }
}

/// Returns the first difference between two tensors of one side, such as two results of `get`.
///
/// # Errors
/// [`RowError::NotComparable`] if the shapes or formats differ.
pub fn compare_tensors(
    layer: usize,
    side: Side,
    expected: &HostTensor,
    actual: &HostTensor,
) -> Result<Option<Difference>> {
    if (expected.shape(), expected.format()) != (actual.shape(), actual.format()) {
        return Err(not_comparable((expected.shape(), expected.format()), (actual.shape(), actual.format())));
    }
    let [_, heads, rows, dim] = expected.shape();
    let [heads, rows, dim] = [heads, rows, expected.format().units(dim)].map(|axis| axis as usize);
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
    Error::Row(RowError::NotComparable { left: text(left), right: text(right) })
}
