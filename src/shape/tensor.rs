//! [`HostTensor`]: a dense tensor in host memory.

use crate::{Format, HostRows, Scale, Side};

/// A dense tensor `[batch, kv_head, row, dim]` in host memory, which holds the stored bits.
#[derive(Clone, PartialEq, Eq)]
pub struct HostTensor {
    shape: [u32; 4],
    format: Format,
    scale: Scale,
    bytes: Vec<u8>,
}

/// A `T` for the keys and a `T` for the values, such as two tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<T> {
    /// The keys.
    pub keys: T,
    /// The values.
    pub values: T,
}

impl<T> Pair<T> {
    /// Returns the keys or the values.
    pub fn side(&self, side: Side) -> &T {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }
}

impl HostTensor {
    pub(crate) fn new(shape: [u32; 4], format: Format, scale: Scale, bytes: Vec<u8>) -> Self {
        debug_assert_eq!(dense_bytes(shape, format), bytes.len() as u64);
        HostTensor { shape, format, scale, bytes }
    }

    /// The shape, `[batch, kv_head, row, dim]`.
    pub const fn shape(&self) -> [u32; 4] {
        self.shape
    }

    /// Format of the elements.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Factor that codes of [`Format::Fp8E4M3`] are multiplied by.
    pub const fn scale(&self) -> Scale {
        self.scale
    }

    /// Returns the rows as an argument of [`insert`](crate::KvCache::insert) or [`update`](crate::KvCache::update).
    pub fn rows(&self) -> HostRows<'_> {
        HostRows::Stored { format: self.format, bytes: &self.bytes }
    }

    /// The stored bytes: row-major, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the stored bits of every element, or of every word of a packed format, row-major.
    pub fn bits(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.bytes
            .chunks_exact(self.format.unit_bytes() as usize)
            .map(|element| element.iter().rev().fold(0, |bits, &byte| (bits << 8) | u32::from(byte)))
    }

    /// Decodes every row with [`Format::decode_row`]. Returns the numbers, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let dim = self.shape[3];
        let rows = self.bytes.chunks_exact(host_len(self.format.row_bytes(dim)).max(1));
        rows.flat_map(|row| self.format.decode_row(row, dim, self.scale).expect("a tensor has whole rows")).collect()
    }
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostTensor").field("shape", &self.shape).field("format", &self.format).finish_non_exhaustive()
    }
}

/// Size of a dense tensor in bytes. A size that overflows 64 bits saturates: no buffer is that large.
pub(crate) fn dense_bytes([batch, heads, rows, dim]: [u32; 4], format: Format) -> u64 {
    [batch, heads, rows].into_iter().map(u64::from).fold(format.row_bytes(dim), u64::saturating_mul)
}

/// Converts a size to one of host memory. Data that is read back was allocated, so its size is addressable.
pub(crate) fn host_len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a buffer that is read back fits the address space")
}
