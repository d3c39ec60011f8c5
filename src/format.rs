//! How an element is stored: [`Format`], and host rows in any of them: [`HostRows`].

use std::{fmt, str::FromStr};

use half::{bf16, f16};

use crate::Error;

/// Number format of one side of the cache, or of a source.
///
/// Bits in are bits out where source and cache have the same format: NaN payloads, infinities, −0 and
/// subnormals survive. Where they differ, the kernel converts in integers, on every driver alike: widening is
/// exact; narrowing rounds to nearest, ties to even; what is too large for f16 (65520 and up) becomes infinity;
/// a NaN stays a NaN, becomes quiet, and keeps the upper bits of its payload. f16 to bf16 and back goes
/// through the exact f32. These are the results of the crate [`half`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];
    /// The names of [`ALL`](Self::ALL), as [`FromStr`] takes them.
    pub const NAMES: [&'static str; 3] = ["f32", "f16", "bf16"];

    /// Bytes of one element.
    pub const fn element_bytes(self) -> u32 {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
        }
    }

    /// Lower-case name: `f32`, `f16` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
        }
    }

    /// The number that the stored bits mean; exact.
    ///
    /// ```
    /// use wgpu_kv_cache::Format;
    /// assert_eq!(Format::Bf16.decode(0x3f80), 1.0);
    /// ```
    pub fn decode(self, bits: u32) -> f32 {
        match self {
            Format::F32 => f32::from_bits(bits),
            Format::F16 => f16::from_bits(low_half(bits)).to_f32(),
            Format::Bf16 => bf16::from_bits(low_half(bits)).to_f32(),
        }
    }

    /// The bits that store a number; rounds to nearest, ties to even.
    ///
    /// ```
    /// use wgpu_kv_cache::Format;
    /// assert_eq!(Format::F16.encode(65520.0), 0x7c00); // infinity
    /// ```
    pub fn encode(self, value: f32) -> u32 {
        match self {
            Format::F32 => value.to_bits(),
            Format::F16 => f16::from_f32(value).to_bits().into(),
            Format::Bf16 => bf16::from_f32(value).to_bits().into(),
        }
    }
}

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

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let wanted = name.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|format| format.name() == wanted)
            .ok_or_else(|| Error::UnknownFormat { name: name.to_owned() })
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
}

impl<'a> HostRows<'a> {
    /// Format of the elements.
    pub const fn format(self) -> Format {
        match self {
            HostRows::F32(_) => Format::F32,
            HostRows::F16(_) => Format::F16,
            HostRows::Bf16(_) => Format::Bf16,
        }
    }

    /// Number of elements.
    pub const fn len(self) -> usize {
        match self {
            HostRows::F32(rows) => rows.len(),
            HostRows::F16(rows) => rows.len(),
            HostRows::Bf16(rows) => rows.len(),
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
        }
    }

    /// The bits of every element, in order.
    pub fn bits(self) -> impl Iterator<Item = u32> + use<'a> {
        let width = self.format().element_bytes() as usize;
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

impl<'a, T> From<&'a Vec<T>> for HostRows<'a>
where
    HostRows<'a>: From<&'a [T]>,
{
    fn from(rows: &'a Vec<T>) -> Self {
        rows.as_slice().into()
    }
}
