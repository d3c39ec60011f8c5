//! Every 16-bit pattern and the rounding edges of f32, converted from every float format to every float format.

use wgpu_kv_cache::{
    CacheConfig, Format, HostRows, KvCache, Scale, Side, Write,
    half::{bf16, f16},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("conversions::all_16_bit_patterns", all_16_bit_patterns),
    ("conversions::rounding_edges_of_f32", rounding_edges_of_f32),
    ("conversions::equal_formats_keep_every_bit", equal_formats_keep_every_bit),
];

/// Head sizes that select the kernels' wide and narrow forms. The last one puts two rows into a word.
const DIMS: [u32; 3] = [64, 4, 1];

/// The bits that the cache stores for `bits`.
fn expected(bits: u32, source: Format, stored: Format) -> u32 {
    if source == stored {
        return bits;
    }
    let bytes = &bits.to_le_bytes()[..source.unit_bytes() as usize];
    let number = source.decode_row(bytes, 1, Scale::ONE).unwrap();
    let row = stored.encode_row(&number, Scale::ONE).unwrap();
    row.iter().rev().fold(0, |bits, &byte| (bits << 8) | u32::from(byte))
}

fn check(gpu: &Gpu, keys: HostRows<'_>, values: HostRows<'_>) -> Outcome {
    for dim in DIMS {
        let tokens = u32::try_from(keys.len()).unwrap() / dim;
        for stored in Format::FLOATS {
            let config = CacheConfig::new(1, 1, dim, tokens).formats(stored, stored);
            let mut cache = KvCache::new(&gpu.context, config)?;
            cache.update(keys, values, Write::append(tokens))?;
            let storage = cache.read_storage()?;
            for (side, source) in [(Side::Keys, keys), (Side::Values, values)] {
                for (index, (bits, actual)) in source.bits().zip(storage.side(side).bits()).enumerate() {
                    let expected = expected(bits, source.format(), stored);
                    if actual != expected {
                        let source = source.format();
                        return Err(format!(
                            "{source} to {stored}, head size {dim}, {side}, element {index}: 0x{bits:x} should become \
                             0x{expected:x}, but is 0x{actual:x}"
                        )
                        .into());
                    }
                }
            }
        }
    }
    DONE
}

fn all_16_bit_patterns(gpu: &Gpu) -> Outcome {
    let keys: Vec<_> = (0..=u16::MAX).map(f16::from_bits).collect();
    let values: Vec<_> = (0..=u16::MAX).rev().map(bf16::from_bits).collect();
    check(gpu, (&keys).into(), (&values).into())
}

fn rounding_edges_of_f32(gpu: &Gpu) -> Outcome {
    let around = |bits: u32| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
    // Each f16, the midpoint to the next one away from zero, and the neighbours of both.
    let mut keys: Vec<u32> = (0..=u16::MAX)
        .flat_map(|half| {
            let this = f16::from_bits(half).to_f32();
            let next = f16::from_bits(half.wrapping_add(1)).to_f32();
            let middle = if this.is_finite() && next.is_finite() { f32::midpoint(this, next) } else { this };
            around(this.to_bits()).into_iter().chain(around(middle.to_bits()))
        })
        .collect();
    // The overflow threshold, the smallest subnormal, and half of it.
    keys.extend(
        [65504.0f32, 65520.0, 65536.0, 2f32.powi(-24), 2f32.powi(-25)].map(f32::to_bits).into_iter().flat_map(around),
    );
    // Each bf16, the midpoint to the next one, and the neighbours of both.
    let mut values: Vec<u32> = (0..=u32::from(u16::MAX))
        .flat_map(|half| around(half << 16).into_iter().chain(around(half << 16 | 0x8000)))
        .collect();
    values.extend([f32::MAX, -f32::MAX, f32::MIN_POSITIVE].map(f32::to_bits).into_iter().flat_map(around));
    let most = keys.len().min(values.len()) / 64 * 64;
    let [keys, values] = [keys, values]
        .map(|bits| -> Vec<f32> { bits[bits.len() - most..].iter().copied().map(f32::from_bits).collect() });
    check(gpu, (&keys).into(), (&values).into())?;
    // Swap the sides, so that both get all numbers.
    check(gpu, (&values).into(), (&keys).into())
}

fn equal_formats_keep_every_bit(gpu: &Gpu) -> Outcome {
    // Signalling and quiet NaNs with payloads, infinities, zeros of both signs, subnormals.
    let special = [
        0x7f80_0001u32,
        0xff80_0001,
        0x7fa0_dead,
        0xffff_ffff,
        0x7fc0_0000,
        0x7f80_0000,
        0xff80_0000,
        0x8000_0000,
        0,
        0x0000_0001,
        0x807f_ffff,
        0x0080_0000,
        0x7f7f_ffff,
        0x3f80_0000,
        0xdead_beef,
        0x1234_5678,
    ];
    let keys: Vec<f32> = special.iter().cycle().take(64 * 8).copied().map(f32::from_bits).collect();
    let values: Vec<f32> = special.iter().rev().cycle().take(64 * 8).copied().map(f32::from_bits).collect();
    check(gpu, (&keys).into(), (&values).into())?;
    let keys: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    let values: Vec<f16> = (0..=u16::MAX).rev().map(f16::from_bits).collect();
    check(gpu, (&keys).into(), (&values).into())
}
