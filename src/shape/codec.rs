//! Encodes and decodes rows on the CPU: the contract of every [`Format`] in plain floating point.
//!
//! The kernels compute the same in integers (`shaders/format/`) and share no code with this file.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounding to fewer bits is what this does; every cast is of a number in range"
)]

use std::str::FromStr;

use half::{bf16, f16};

use crate::{ConfigError, Error, Format, Result, RowError, Scale, format::BLOCK};

/// Largest number that [`Format::Fp8E4M3`] can represent.
const FP8_MAX: f32 = 448.0;

impl Format {
    /// Encodes a row as it is stored in a dense tensor. Only [`Format::Fp8E4M3`] uses the scale.
    ///
    /// # Errors
    /// [`ConfigError::Scale`] if the scale is not positive and finite, whatever the format.
    ///
    /// ```
    /// use wgpu_kv_cache::{Format, Scale};
    /// assert_eq!(Format::F16.encode_row(&[65520.0], Scale::ONE)?, [0x00, 0x7c]); // infinity
    /// assert_eq!(Format::Fp8E4M3.encode_row(&[1.0, -1e9, 0.01], Scale::ONE)?, [0x38, 0xfe, 0x05, 0]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn encode_row(self, row: &[f32], scale: Scale) -> Result<Vec<u8>> {
        check_scale(scale)?;
        Ok(match self {
            Format::F32 => row.iter().flat_map(|number| number.to_le_bytes()).collect(),
            Format::F16 => row.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect(),
            Format::Bf16 => row.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect(),
            Format::Fp8E4M3 => {
                let mut codes: Vec<u8> = row.iter().map(|&number| fp8_encode(number, scale.get())).collect();
                codes.resize(codes.len().next_multiple_of(4), 0);
                codes
            }
            Format::Q8_0 | Format::Q4_0 => {
                let (mut codes, mut scales) = (Vec::new(), Vec::new());
                for block in row.chunks(BLOCK as usize) {
                    let mut numbers = [0.0; BLOCK as usize];
                    numbers[..block.len()].copy_from_slice(block);
                    let scale = if self == Format::Q8_0 {
                        q8_0_encode(&numbers, &mut codes)
                    } else {
                        q4_0_encode(&numbers, &mut codes)
                    };
                    scales.extend(scale.to_le_bytes());
                }
                scales.resize(scales.len().next_multiple_of(4), 0);
                codes.extend(scales);
                codes
            }
        })
    }

    /// Decodes a stored row of `dim` elements. The result is exact, except that for [`Format::Fp8E4M3`] the product
    /// with the scale is rounded to f32. Every NaN of a packed format decodes to the positive quiet NaN.
    ///
    /// # Errors
    /// [`RowError::RowBytes`] if `row` does not have the size of such a row; [`ConfigError::Scale`] if the scale is not
    /// positive and finite, whatever the format.
    pub fn decode_row(self, row: &[u8], dim: u32, scale: Scale) -> Result<Vec<f32>> {
        check_scale(scale)?;
        let (expected, actual) = (self.row_bytes(dim), row.len() as u64);
        if expected != actual {
            return Err(Error::Row(RowError::RowBytes { format: self, dim, expected, actual }));
        }
        let half = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        let numbers = match self {
            Format::F32 => {
                return Ok(row
                    .chunks_exact(4)
                    .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                    .collect());
            }
            Format::F16 => return Ok(row.chunks_exact(2).map(|pair| f16::from_bits(half(pair)).to_f32()).collect()),
            Format::Bf16 => return Ok(row.chunks_exact(2).map(|pair| bf16::from_bits(half(pair)).to_f32()).collect()),
            Format::Fp8E4M3 => row.iter().map(|&code| fp8_decode(code) * scale.get()).collect::<Vec<_>>(),
            Format::Q8_0 | Format::Q4_0 => {
                let (codes, scales) = row.split_at(self.code_words(dim) as usize * 4);
                let scales = scales.chunks_exact(2).map(|pair| f16::from_bits(half(pair)).to_f32());
                let code_bytes = if self == Format::Q8_0 { 32 } else { 16 };
                let block = |(codes, scale): (&[u8], f32)| -> [f32; 32] {
                    std::array::from_fn(|element| match self {
                        // A scale of +0 reads as +0, whatever the codes. So does a row that was never written.
                        _ if scale.to_bits() == 0 => 0.0,
                        Format::Q8_0 => f32::from(codes[element].cast_signed()) * scale,
                        _ => {
                            let code = (codes[element % 16] >> (element / 16 * 4)) & 15;
                            (f32::from(code) - 8.0) * scale
                        }
                    })
                };
                codes.chunks_exact(code_bytes).zip(scales).flat_map(block).collect()
            }
        };
        let quiet = |number: f32| if number.is_nan() { f32::from_bits(0x7fc0_0000) } else { number };
        Ok(numbers.into_iter().take(dim as usize).map(quiet).collect())
    }
}

/// Rounds to nearest, ties to even, and saturates.
fn fp8_encode(number: f32, scale: f32) -> u8 {
    let sign = if number.is_sign_negative() { 0x80 } else { 0 };
    if number.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = f64::from((number.abs() / scale).min(FP8_MAX));
    // The unit in the last place: 2^-9 below 2^-5, then twice as much with each doubling.
    let binade = (1..15).rev().find(|&binade| magnitude >= 2f64.powi(binade - 6)).unwrap_or(0);
    let unit = 2f64.powi(binade - 9);
    let steps = (magnitude / unit).round_ties_even();
    // Rounding up may reach the next binade, so the code is searched by value.
    let code = (0..=0x7e).find(|&code| fp8_magnitude(code) == steps * unit);
    sign | code.expect("a multiple of the last place is a number of the format")
}

/// Decodes a code without its sign.
fn fp8_magnitude(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3), f64::from(code & 7));
    if exponent == 0 { mantissa * 2f64.powi(-9) } else { (8.0 + mantissa) * 2f64.powi(exponent - 10) }
}

fn fp8_decode(code: u8) -> f32 {
    if code & 0x7f == 0x7f {
        return f32::NAN;
    }
    // Every number of the format is exact in f32.
    let magnitude = fp8_magnitude(code & 0x7f) as f32;
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Scale of a block that holds an infinity or a NaN. The block reads as NaN.
const BROKEN: f16 = f16::from_bits(0x7e00);

/// Returns `1 ÷ d`, or 0 if that overflows.
fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

fn q8_0_encode(block: &[f32; 32], codes: &mut Vec<u8>) -> f16 {
    if !block.iter().all(|number| number.is_finite()) {
        codes.extend([0; 32]);
        return BROKEN;
    }
    let d = block.iter().fold(0f32, |largest, number| largest.max(number.abs())) / 127.0;
    let inverse = inverse(d);
    // The codes range from -127 to 127.
    codes.extend(block.iter().map(|number| ((number * inverse).round() as i8).cast_unsigned()));
    f16::from_f32(d)
}

fn q4_0_encode(block: &[f32; 32], codes: &mut Vec<u8>) -> f16 {
    if !block.iter().all(|number| number.is_finite()) {
        codes.extend([0; 16]);
        return BROKEN;
    }
    let first = |m: f32, &number: &f32| if number.abs() > m.abs() { number } else { m };
    let d = block[1..].iter().fold(block[0], first) / -8.0;
    let inverse = inverse(d);
    let code = |number: f32| ((number * inverse + 8.5) as u8).min(15);
    codes.extend((0..16).map(|j| code(block[j]) | code(block[j + 16]) << 4));
    f16::from_f32(d)
}

/// Checks that a scale is positive and finite.
pub(crate) fn check_scale(scale: Scale) -> Result<()> {
    if scale.get() > 0.0 && scale.get().is_finite() { Ok(()) } else { Err(Error::Config(ConfigError::Scale { scale })) }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|format| plain(format.name()) == plain(name))
            .ok_or_else(|| Error::Config(ConfigError::UnknownFormat { name: name.to_owned() }))
    }
}
