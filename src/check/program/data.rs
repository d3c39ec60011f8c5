//! The rows of a program: dense on the host, or strided as in an engine's buffer.

use half::{bf16, f16};

use crate::{CacheConfig, Format, HostRows, Side, Strides, format::low_half};

/// Rows of an update, `[batch, kv_head, tokens, dim]`, generated from a seed. Keys and values differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Format of the source of the keys.
    pub key_format: Format,
    /// Format of the source of the values.
    pub value_format: Format,
    /// Seed of the bits, which may form any pattern, including NaNs, infinities and subnormals.
    pub seed: u64,
}

/// How rows lie in an engine's buffer. All elements around them are NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[batch, head, token, dim]`.
    Bhtd,
    /// `[batch, token, head, dim]`.
    Bthd,
    /// One part of a fused `[batch, token, (query, key, value) heads × dim]` tensor.
    Fused,
    /// `[batch, head, token, dim]`, with odd gaps between rows, heads and sequences, from an odd element on.
    Gaps,
}

/// Dense rows in their own format.
#[derive(Clone, Debug)]
pub(crate) enum Dense {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// One side of a source in an engine's buffer.
#[derive(Clone, Debug)]
pub(crate) struct Strided {
    pub bytes: Vec<u8>,
    pub offset: u64,
    pub strides: Strides,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 4] = [Layout::Bhtd, Layout::Bthd, Layout::Fused, Layout::Gaps];
}

impl Rows {
    /// Generates the dense rows of one side: `elements` elements.
    pub(crate) fn dense(&self, side: Side, elements: usize) -> Dense {
        let (format, seed) = match side {
            Side::Keys => (self.key_format, self.seed),
            Side::Values => (self.value_format, !self.seed),
        };
        let bits = (0..elements as u64).map(|index| pattern(format, mix(seed ^ mix(index))));
        match format {
            Format::F32 => Dense::F32(bits.map(f32::from_bits).collect()),
            Format::F16 => Dense::F16(bits.map(|bits| f16::from_bits(low_half(bits))).collect()),
            Format::Bf16 => Dense::Bf16(bits.map(|bits| bf16::from_bits(low_half(bits))).collect()),
            packed => unreachable!("no source of a program is in {packed}"),
        }
    }
}

impl Dense {
    pub fn rows(&self) -> HostRows<'_> {
        match self {
            Dense::F32(rows) => rows.into(),
            Dense::F16(rows) => rows.into(),
            Dense::Bf16(rows) => rows.into(),
        }
    }

    /// Returns the rows as they lie in an engine's buffer that has room for `room` more tokens.
    pub fn strided(&self, config: &CacheConfig, side: Side, (rows, room): (u32, u32), layout: Layout) -> Strided {
        let (heads, dim) = (config.num_heads, config.dim(side));
        let tokens = rows.saturating_add(room);
        let dense = self.rows();
        let format = dense.format();
        let width = format.unit_bytes() as usize;
        let (first, strides) = match layout {
            Layout::Bhtd => (0, Strides::bhtd(heads, tokens, dim)),
            Layout::Bthd => (0, Strides::bthd(heads, tokens, dim)),
            Layout::Fused => {
                let part = u64::from(heads) * u64::from(dim);
                let first = if side == Side::Keys { 2 * part } else { 3 * part };
                (first, Strides::fused(4 * part, tokens, dim))
            }
            Layout::Gaps => {
                let token = u64::from(dim) + 3;
                let head = token * u64::from(tokens) + 5;
                (7, Strides { sequence: head * u64::from(heads) + 1, head, token })
            }
        };
        let axes = [(config.batch_size, strides.sequence), (heads, strides.head), (tokens, strides.token)];
        let last: u64 = axes.iter().map(|&(count, stride)| u64::from(count.saturating_sub(1)) * stride).sum();
        let elements = index(first + last + u64::from(dim)) + 8;
        let poison = poison(format).to_le_bytes();
        let mut bytes: Vec<u8> = poison[..width].repeat(elements);
        let mut source = dense.bytes().chunks_exact(dim as usize * width);
        for sequence in 0..u64::from(config.batch_size) {
            for head in 0..u64::from(heads) {
                for token in 0..u64::from(rows) {
                    let at = first + sequence * strides.sequence + head * strides.head + token * strides.token;
                    let at = index(at) * width;
                    let row = source.next().expect("dense rows fill the shape");
                    bytes[at..at + row.len()].copy_from_slice(row);
                }
            }
        }
        Strided { bytes, offset: first * width as u64, strides }
    }
}

/// Converts an index of a source to one of host memory.
fn index(elements: u64) -> usize {
    usize::try_from(elements).expect("the rows of a program fit the host's memory")
}

/// The upper 32 bits.
pub(crate) fn upper_half(random: u64) -> u32 {
    u32::try_from(random >> 32).expect("32 bits remain")
}

/// Returns the bits of a random element. Half of the f32 elements get an exponent within or just outside the range of
/// f16.
fn pattern(format: Format, random: u64) -> u32 {
    let bits = upper_half(random);
    match format {
        Format::F32 if random & 1 == 0 => {
            let exponent = 100 + (bits >> 24) % 45;
            (bits & 0x807f_ffff) | (exponent << 23)
        }
        Format::F16 | Format::Bf16 => bits & 0xffff,
        _ => bits,
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(crate) fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns a pattern that is a NaN in the format.
pub(crate) fn poison(format: Format) -> u32 {
    match format {
        Format::F32 => 0x7fc0_dead,
        Format::F16 => 0x7ead,
        Format::Bf16 => 0x7fad,
        // A NaN both as fp8 codes and as f16 scales.
        Format::Fp8E4M3 | Format::Q8_0 | Format::Q4_0 => 0x7f7f_7f7f,
    }
}
