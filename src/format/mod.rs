//! How an element is stored: [`Format`], and host rows in any of them: [`HostRows`].

pub(crate) mod scale;

use std::fmt;

use half::{bf16, f16};

/// Number format of one side of the cache, or of a source.
///
/// Bits in are bits out where source and cache have the same format: NaN payloads, infinities, −0 and
/// subnormals survive. Where they differ, the kernel converts in integers, on every driver alike: widening is
/// exact; narrowing rounds to nearest, ties to even; what is too large for f16 (65520 and up) becomes infinity;
/// a NaN stays a NaN, becomes quiet, and keeps the upper bits of its payload. f16 to bf16 and back goes
/// through the exact f32. These are the results of the crate [`half`].
///
/// The *packed* formats ([`Fp8E4M3`](Self::Fp8E4M3), [`Q8_0`](Self::Q8_0), [`Q4_0`](Self::Q4_0)) take rows of f32, f16
/// and bf16 and quantise them in the scatter kernel, also in integers. A row takes whole words of 4 bytes, so that no
/// two rows share one and appending changes no byte that is stored; its head size may be anything. What is missing to
/// whole words, or to whole blocks of 32, is stored as zeros and is no part of any tensor.
///
/// A packed row of `n` blocks is, in a dense tensor, first the codes of all blocks and then their scales, f16, two a
/// word. In the cache the codes of a plane's slots come first, each row on a multiple of 16 bytes, and then the scales
/// of all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// OCP 8-bit floating point E4M3 (Open Compute Project, "OFP8", 2023; `float8_e4m3fn` of `ml_dtypes`), four a word.
    ///
    /// Stored is `x ÷ scale`, divided in f32, to nearest, ties to even, and read is `code × scale` in f32, with the
    /// [scale](crate::CacheConfig::scales) of the layer's side, 1 unless said. Beyond ±448, and ±infinity, saturate to
    /// ±448, where `ml_dtypes` makes NaN; a NaN stays one. Subnormals are exact roundings too.
    Fp8E4M3,
    /// ggml's `Q8_0`: blocks of 32 elements, signed 8-bit codes and an f16 scale each, 8.5 bits an element.
    ///
    /// Codes and scales are ggml's, byte for byte (`quantize_row_q8_0_ref`; `gguf.quants.Q8_0`): `d = max |x| ÷ 127` in
    /// f32, codes `round(x × (1 ÷ d))`, halves away from zero, and the scale `d` in f16, which is infinite from 65520
    /// on. A block whose `d` is so small that `1 ÷ d` overflows has codes of 0, as one of zeros. A block that holds an
    /// infinity or a NaN has the scale NaN and codes of 0, and reads as NaN throughout.
    Q8_0,
    /// ggml's `Q4_0`: blocks of 32 elements, 4-bit codes and an f16 scale each, 4.5 bits an element.
    ///
    /// Codes and scales are ggml's, byte for byte (`gguf.quants.Q4_0`): `d = m ÷ −8` in f32, where `m` is the first
    /// element of the largest magnitude, codes `trunc(x × (1 ÷ d) + 8.5)` in f32, not fused, at most 15, and the scale
    /// `d` in f16. Byte `j` of a block holds element `j` in its lower half and `j + 16` in its upper. It reads as
    /// `(code − 8) × d`, or as +0 where the scale is +0, as in a row that was not written. Tiny blocks have codes of 8;
    /// one that holds an infinity or a NaN is as in `Q8_0`.
    Q4_0,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 6] = [Format::F32, Format::F16, Format::Bf16, Format::Fp8E4M3, Format::Q8_0, Format::Q4_0];
    /// The formats of rows that are converted on their way in, and that ranges are converted to on their way out.
    pub const FLOATS: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];
    /// The names of [`ALL`](Self::ALL), as [`FromStr`](std::str::FromStr) takes them.
    pub const NAMES: [&'static str; 6] = ["f32", "f16", "bf16", "fp8_e4m3", "q8_0", "q4_0"];

    /// Whether rows are stored as whole words: not f32, f16 or bf16.
    pub const fn is_packed(self) -> bool {
        matches!(self, Format::Fp8E4M3 | Format::Q8_0 | Format::Q4_0)
    }

    /// Bytes of one *unit*, in which rows are measured and strides count: an element, or of a packed format a word.
    pub const fn unit_bytes(self) -> u32 {
        match self {
            Format::F16 | Format::Bf16 => 2,
            Format::F32 | Format::Fp8E4M3 | Format::Q8_0 | Format::Q4_0 => 4,
        }
    }

    /// Units of a row of `dim` elements: as many, or the words of a packed row.
    pub const fn units(self, dim: u32) -> u32 {
        // At most 2^30 words of codes and 2^26 of scales.
        if self.is_packed() { self.code_words(dim).saturating_add(self.scale_words(dim)) } else { dim }
    }

    /// Bytes of a stored row of `dim` elements.
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

    /// Whole units in an offset inside of a window. A window that is too large for 32 bits is refused by its size
    /// before this is used.
    pub(crate) fn units_of(self, bytes: u64) -> u32 {
        let units = if self.unit_bytes() == 2 { bytes / 2 } else { bytes / 4 };
        u32::try_from(units).unwrap_or(u32::MAX)
    }

    /// Units of one word.
    pub(crate) const fn lanes(self) -> u32 {
        if self.unit_bytes() == 2 { 2 } else { 1 }
    }

    /// Words of the codes of a packed row.
    pub(crate) const fn code_words(self, dim: u32) -> u32 {
        match self {
            // At most 2^27 blocks.
            Format::Q8_0 => dim.div_ceil(BLOCK).saturating_mul(8),
            Format::Q4_0 => dim.div_ceil(BLOCK).saturating_mul(4),
            Format::F32 | Format::F16 | Format::Bf16 | Format::Fp8E4M3 => dim.div_ceil(4),
        }
    }

    /// Words of the scales of a packed row.
    pub(crate) const fn scale_words(self, dim: u32) -> u32 {
        match self {
            Format::Q8_0 | Format::Q4_0 => dim.div_ceil(BLOCK).div_ceil(2),
            Format::F32 | Format::F16 | Format::Bf16 | Format::Fp8E4M3 => 0,
        }
    }

    /// Name: `f32`, `f16`, `bf16`, `fp8_e4m3`, `q8_0` or `q4_0`.
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

/// Elements of a block of [`Format::Q8_0`] and [`Format::Q4_0`].
pub(crate) const BLOCK: u32 = 32;

/// The lower 16 bits.
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

/// A host slice of rows, `[batch, kv_head, tokens, dim]` row-major, in any format.
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
    /// Rows as they are stored, such as those of a [`HostTensor`](crate::HostTensor). In a packed format they can only
    /// go to a cache of that format.
    Stored {
        /// The format.
        format: Format,
        /// `[batch, kv_head, tokens]` of rows, little-endian.
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

    /// Number of elements; of packed rows, of words. Bytes that are no whole one do not count.
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

    /// The elements' bytes, as the host stores them.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            HostRows::F32(rows) => bytemuck::cast_slice(rows),
            HostRows::F16(rows) => bytemuck::cast_slice(rows),
            HostRows::Bf16(rows) => bytemuck::cast_slice(rows),
            HostRows::Stored { bytes, .. } => bytes,
        }
    }

    /// The bits of every element, of packed rows of every word, in order.
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
