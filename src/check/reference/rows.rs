//! Converts the rows of the reference between formats.

use half::{bf16, f16};

use super::Row;
use crate::{CacheConfig, Format, HostRows, HostTensor, Scale, Side, format::low_half};

/// Converts a row of a source to the stored format of a side.
pub(crate) fn stored_row(config: &CacheConfig, side: Side, source: Format, row: Row) -> Row {
    let stored = config.format(side);
    if source == stored {
        return row;
    }
    if !stored.is_packed() {
        return row.into_iter().map(|bits| convert(bits, source, stored)).collect();
    }
    let numbers: Vec<f32> = row.into_iter().map(|bits| f32::from_bits(convert(bits, source, Format::F32))).collect();
    let bytes = stored.encode_row(&numbers, config.scale(side)).expect("the scale was checked");
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// Converts a dense tensor to a format that is not packed.
pub(super) fn converted(tensor: &HostTensor, wanted: Format) -> HostTensor {
    let (stored, dim) = (tensor.format(), tensor.shape()[3]);
    let mut bytes = Vec::new();
    let row_bytes = usize::try_from(stored.row_bytes(dim)).expect("the row is in memory");
    for row in tensor.bytes().chunks_exact(row_bytes) {
        if stored.is_packed() {
            let numbers = stored.decode_row(row, dim, tensor.scale()).expect("a tensor has whole rows");
            numbers
                .into_iter()
                .for_each(|number| push(&mut bytes, wanted, convert(number.to_bits(), Format::F32, wanted)));
        } else {
            let units = HostRows::Stored { format: stored, bytes: row }.bits();
            units.for_each(|bits| push(&mut bytes, wanted, convert(bits, stored, wanted)));
        }
    }
    HostTensor::new(tensor.shape(), wanted, Scale::ONE, bytes)
}

/// Returns the stored bits of a source element, converted by the crate `half`. Equal formats keep the bits.
pub(super) fn convert(bits: u32, source: Format, stored: Format) -> u32 {
    let half = low_half(bits);
    match (source, stored) {
        (Format::F32, Format::F32) | (Format::F16, Format::F16) | (Format::Bf16, Format::Bf16) => bits,
        (Format::F32, Format::F16) => f16::from_f32(f32::from_bits(bits)).to_bits().into(),
        (Format::F32, Format::Bf16) => bf16::from_f32(f32::from_bits(bits)).to_bits().into(),
        (Format::F16, Format::F32) => f16::from_bits(half).to_f32().to_bits(),
        (Format::F16, Format::Bf16) => bf16::from_f32(f16::from_bits(half).to_f32()).to_bits().into(),
        (Format::Bf16, Format::F32) => bf16::from_bits(half).to_f32().to_bits(),
        (Format::Bf16, Format::F16) => f16::from_f32(bf16::from_bits(half).to_f32()).to_bits().into(),
        _ => unreachable!("packed rows are converted as a whole"),
    }
}

pub(super) fn push(bytes: &mut Vec<u8>, format: Format, bits: u32) {
    match format {
        Format::F16 | Format::Bf16 => bytes.extend_from_slice(&low_half(bits).to_le_bytes()),
        _ => bytes.extend_from_slice(&bits.to_le_bytes()),
    }
}
