//! [`Format`]: how elements are stored. [`HostRows`]: host rows in any format.

pub(crate) mod scale;

use std::fmt;

use half::{bf16, f16};

/// Number format of one side of the cache, or of a source.
///
/// If source and cache have the same format, bits are copied unchanged: NaN payloads, infinities, −0 and subnormals
/// survive. If they differ, the kernel converts in integers, with the same result on every driver. Widening is exact.
/// Narrowing rounds to nearest, ties to even; numbers too large for f16 (65520 and up) become infinity. A NaN becomes
/// quiet and keeps the upper bits of its payload. f16 is converted to bf16, and back, through the exact f32. The
/// results equal those of the crate [`half`].
///
/// The *packed* formats ([`Fp8E4M3`](Self::Fp8E4M3), [`Q8_0`](Self::Q8_0), [`Q4_0`](Self::Q4_0)) take rows of f32, f16
/// and bf16, which the scatter kernel quantises, also in integers. The head size may be any number. A row is padded
/// with zeros to whole words of 4 bytes, and in `Q8_0` and `Q4_0` to whole blocks of 32, so that two rows never share a
/// word and appending never changes stored bytes. Shapes do not count the padding.
///
/// In a dense tensor, a row of `Q8_0` or `Q4_0` has the codes of all of its blocks first, and then their f16 scales,
/// two per word. In the cache, a plane has the codes of all slots first, each row on a multiple of 16 bytes, and then
/// the scales of all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// OCP 8-bit floating point E4M3 (Open Compute Project, "OFP8", 2023; `float8_e4m3fn` of `ml_dtypes`), four per
    /// word.
    ///
    /// The code is `x ÷ scale`, divided in f32 and rounded to nearest, ties to even. It reads as `code × scale` in f32.
    /// The [scale](crate::CacheConfig::scales) is that of the layer's side, 1 by default. Quotients beyond ±448,
    /// including infinities, saturate to ±448, whereas overflow in `ml_dtypes` gives NaN. A NaN stays a NaN. Subnormals
    /// are rounded exactly too.
    Fp8E4M3,
    /// ggml's `Q8_0`: blocks of 32 elements with signed 8-bit codes and one f16 scale, 8.5 bits per element.
    ///
    /// Codes and scales equal ggml's byte for byte (`quantize_row_q8_0_ref`; `gguf.quants.Q8_0`): with `d = max |x| ÷
    /// 127` in f32, the codes are `round(x × (1 ÷ d))`, halves away from zero, and the scale is `d` in f16, which is
    /// infinite from 65520 on. If `d` is so small that `1 ÷ d` overflows, the codes are 0, as in a block of zeros. A
    /// block that holds an infinity or a NaN has a NaN scale and codes of 0, and reads as NaN throughout.
    Q8_0,
    /// ggml's `Q4_0`: blocks of 32 elements with 4-bit codes and one f16 scale, 4.5 bits per element.
    ///
    /// Codes and scales equal ggml's byte for byte (`gguf.quants.Q4_0`): with `d = m ÷ −8` in f32, where `m` is the
    /// first element of the largest magnitude, the codes are `trunc(x × (1 ÷ d) + 8.5)` in f32, not fused, at most 15,
    /// and the scale is `d` in f16. Byte `j` of a block holds element `j` in its lower half and element `j + 16` in its
    /// upper half. A code reads as `(code − 8) × d`, or as +0 if the scale is +0, as in a row that was never written.
    /// If `1 ÷ d` overflows, the codes are 8. A block that holds an infinity or a NaN has a NaN scale and codes of 0,
    /// as in `Q8_0`.
    Q4_0,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 6] = [Format::F32, Format::F16, Format::Bf16, Format::Fp8E4M3, Format::Q8_0, Format::Q4_0];
    /// The formats that are not packed. Updates convert from them, and ranges can be converted to them.
    pub const FLOATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];
    /// The names of [`ALL`](Self::ALL), which [`FromStr`](std::str::FromStr) parses.
    pub const NAMES: [&'static str; 6] = ["f32", "f16", "bf16", "fp8_e4m3", "q8_0", "q4_0"];

    /// Whether the format is packed: rows are stored as whole words, unlike in f32, f16 and bf16.
    pub const fn is_packed(self) -> bool {
        matches!(self, Format::Fp8E4M3 | Format::Q8_0 | Format::Q4_0)
    }

    /// Size of one *unit* in bytes. Rows are measured and strides are counted in units: elements, or words of a packed
    /// format.
    pub const fn unit_bytes(self) -> u32 {
        match self {
            Format::F16 | Format::Bf16 => 2,
            Format::F32 | Format::Fp8E4M3 | Format::Q8_0 | Format::Q4_0 => 4,
        }
    }

    /// Number of units in a row of `dim` elements: `dim`, or the number of words of a packed row.
    pub const fn units(self, dim: u32) -> u32 {
        // At most 2^30 words of codes and 2^26 of scales.
        if self.is_packed() { self.code_words(dim).saturating_add(self.scale_words(dim)) } else { dim }
    }

    /// Size of a stored row of `dim` elements, in bytes.
    ///
    /// ```
    /// use wgpu_kv_cache::Format;
    /// assert_eq!(Format::F16.row_bytes(128), 256);
    /// assert_eq!(Format::Q8_0.row_bytes(128), 128 + 4 * 2);
    /// assert_eq!(Format::Q4_0.row_bytes(80), 48 + 8); // 80 is padded to 3 blocks, 3 scales to 2 words
    /// ```
    pub const fn row_bytes(self, dim: u32) -> u64 {
        (self.units(dim) as u64).saturating_mul(self.unit_bytes() as u64)
    }

    /// Number of whole units in an offset inside a window. A window that is too large for 32 bits was refused before.
    pub(crate) fn units_of(self, bytes: u64) -> u32 {
        let units = if self.unit_bytes() == 2 { bytes / 2 } else { bytes / 4 };
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// Number of units in a word.
    pub(crate) const fn lanes(self) -> u32 {
        if self.unit_bytes() == 2 { 2 } else { 1 }
    }

    /// Number of words of the codes of a packed row.
    pub(crate) const fn code_words(self, dim: u32) -> u32 {
        match self {
            // At most 2^27 blocks.
            Format::Q8_0 => dim.div_ceil(BLOCK).saturating_mul(8),
            Format::Q4_0 => dim.div_ceil(BLOCK).saturating_mul(4),
            Format::F32 | Format::F16 | Format::Bf16 | Format::Fp8E4M3 => dim.div_ceil(4),
        }
    }

    /// Number of words of the scales of a packed row.
    pub(crate) const fn scale_words(self, dim: u32) -> u32 {
        match self {
            Format::Q8_0 | Format::Q4_0 => dim.div_ceil(BLOCK).div_ceil(2),
            Format::F32 | Format::F16 | Format::Bf16 | Format::Fp8E4M3 => 0,
        }
    }

    /// The name: `f32`, `f16`, `bf16`, `fp8_e4m3`, `q8_0` or `q4_0`.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Fp8E4M3 => "fp8_e4m3",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
        }
    }
}

/// Number of elements in a block of [`Format::Q8_0`] and [`Format::Q4_0`].
pub(crate) const BLOCK: u32 = 32;

/// Returns the lower 16 bits.
pub(crate) fn low_half(bits: u32) -> u16 {
    let [low, high, ..] = bits.to_le_bytes();
    u16::from_le_bytes([low, high])
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The keys of the cache.
    Keys,
    /// The values of the cache.
    Values,
}

impl Side {
    /// Keys, then values.
    pub const BOTH: [Side; 2] = [Side::Keys, Side::Values];
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Keys => "keys",
            Side::Values => "values",
        })
    }
}

/// A slice of rows in host memory, `[batch, kv_head, tokens, dim]` row-major, in any format.
///
/// ```
/// use wgpu_kv_cache::{Format, HostRows};
/// let rows = HostRows::from(&[1.0f32, 2.0][..]);
/// assert_eq!((rows.len(), rows.format()), (2, Format::F32));
/// ```
#[derive(Clone, Copy, Debug)]
pub enum HostRows<'a> {
    /// Rows in f32.
    F32(&'a [f32]),
    /// Rows in f16.
    F16(&'a [f16]),
    /// Rows in bf16.
    Bf16(&'a [bf16]),
    /// Rows in their stored form, such as those of a [`HostTensor`](crate::HostTensor). Rows in a packed format can
    /// only go to a cache of the same format.
    Stored {
        /// The format.
        format: Format,
        /// The rows, `[batch, kv_head, tokens]`, little-endian.
        bytes: &'a [u8],
    },
}

impl<'a> HostRows<'a> {
    /// Format of the elements.
    pub const fn format(self) -> Format {
        match self {
            HostRows::F32(_) => Format::F32,
            HostRows::F16(_) => Format::F16,
            HostRows::Bf16(_) => Format::Bf16,
            HostRows::Stored { format, .. } => format,
        }
    }

    /// Number of elements, or of words of packed rows. Trailing bytes of an incomplete one do not count.
    pub const fn len(self) -> usize {
        match self {
            HostRows::F32(rows) => rows.len(),
            HostRows::F16(rows) => rows.len(),
            HostRows::Bf16(rows) => rows.len(),
            HostRows::Stored { format, bytes } => match format.unit_bytes() {
                2 => bytes.len() / 2,
                _ => bytes.len() / 4,
            },
        }
    }

    /// Whether there are no elements.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The bytes of the elements, as the host stores them.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            HostRows::F32(rows) => bytemuck::cast_slice(rows),
            HostRows::F16(rows) => bytemuck::cast_slice(rows),
            HostRows::Bf16(rows) => bytemuck::cast_slice(rows),
            HostRows::Stored { bytes, .. } => bytes,
        }
    }

    /// Returns the bits of every element, or of every word of packed rows, in order.
    pub fn bits(self) -> impl Iterator<Item = u32> + use<'a> {
        let width = self.format().unit_bytes() as usize;
        self.bytes()
            .chunks_exact(width)
            .map(|element| element.iter().rev().fold(0, |bits, &byte| (bits << 8) | u32::from(byte)))
    }
}

impl<'a> From<&'a [f32]> for HostRows<'a> {
    fn from(rows: &'a [f32]) -> Self {
        HostRows::F32(rows)
    }
}

impl<'a> From<&'a [f16]> for HostRows<'a> {
    fn from(rows: &'a [f16]) -> Self {
        HostRows::F16(rows)
    }
}

impl<'a> From<&'a [bf16]> for HostRows<'a> {
    fn from(rows: &'a [bf16]) -> Self {
        HostRows::Bf16(rows)
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for HostRows<'a>
where
    HostRows<'a>: From<&'a [T]>,
{
    fn from(rows: &'a [T; N]) -> Self {
        HostRows::from(&rows[..])
    }
}

impl<'a, T> From<&'a Vec<T>> for HostRows<'a>
where
    HostRows<'a>: From<&'a [T]>,
{
    fn from(rows: &'a Vec<T>) -> Self {
        rows.as_slice().into()
    }
}

/// Serialises a format by its name.
#[cfg(feature = "serde")]
pub(crate) fn as_name<S: serde::Serializer>(format: &Format, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(format.name())
}
