//! Packed formats. The CPU and the device must quantise the recorded rows to the same bytes as ggml and OCP do, and
//! treat the special cases of each format as documented. `scripts/record_formats.py` recorded the rows.

use wgpu_kv_cache::{
    CacheConfig, ConfigError, Error, Format, HostRows, KvCache, Pair, Placement, RangeError, ReferenceCache, RowError,
    Scale, Side, Write, WriteError, compare_tensors,
    half::{bf16, f16},
};

use crate::{DONE, Gpu, Outcome, Test, arithmetic::random_words};

pub const TESTS: &[Test] = &[
    ("formats::blocks_are_those_of_gguf", blocks_are_those_of_gguf),
    ("formats::fp8_is_that_of_ml_dtypes", fp8_is_that_of_ml_dtypes),
    ("formats::numbers_at_the_edges_between_codes", numbers_at_the_edges_between_codes),
    ("formats::what_is_no_number", what_is_no_number),
    ("formats::every_stored_word_is_read", every_stored_word_is_read),
    ("formats::packed_rows_leave_and_return", packed_rows_leave_and_return),
    ("formats::padding_is_zero", padding_is_zero),
    ("formats::refusals", refusals),
];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// Reorders recorded blocks into rows of `dim` elements, codes first, then scales.
fn recorded_rows(format: Format, blocks: &[u8], dim: usize) -> Vec<u8> {
    let block_bytes = if format == Format::Q8_0 { 34 } else { 18 };
    let mut rows = Vec::new();
    for row in blocks.chunks_exact(block_bytes * dim / 32) {
        row.chunks_exact(block_bytes).for_each(|block| rows.extend(&block[2..]));
        row.chunks_exact(block_bytes).for_each(|block| rows.extend(&block[..2]));
        rows.resize(rows.len().next_multiple_of(4), 0);
    }
    rows
}

fn blocks_are_those_of_gguf(gpu: &Gpu) -> Outcome {
    let numbers = floats(include_bytes!("../data/formats/blocks.f32"));
    let recorded = [
        (Format::Q8_0, &include_bytes!("../data/formats/blocks.q8_0")[..]),
        (Format::Q4_0, &include_bytes!("../data/formats/blocks.q4_0")[..]),
    ];
    for dim in [32, 96, 160] {
        let rows = numbers.len() / dim;
        let numbers = &numbers[..rows * dim];
        let [keys, values] = recorded.map(|(format, blocks)| recorded_rows(format, blocks, dim)[..].to_vec());
        let (keys, values) = (&keys[..rows * Format::Q8_0.row_bytes(dim as u32) as usize], &values[..]);
        let values = &values[..rows * Format::Q4_0.row_bytes(dim as u32) as usize];
        for (format, expected) in [(Format::Q8_0, keys), (Format::Q4_0, values)] {
            let encoded: Vec<u8> =
                numbers.chunks(dim).flat_map(|row| format.encode_row(row, Scale::ONE).unwrap()).collect();
            assert_eq!(encoded, expected, "{format} on the CPU");
        }
        for (key_format, value_format, keys, values) in
            [(Format::Q8_0, Format::Q4_0, keys, values), (Format::Q4_0, Format::Q8_0, values, keys)]
        {
            let config = CacheConfig::new(1, 1, dim as u32, rows as u32).formats(key_format, value_format);
            let mut cache = KvCache::new(&gpu.context, config)?;
            cache.update(numbers, numbers, Write::append(rows as u32))?;
            let storage = cache.read_storage()?;
            for (side, expected) in [(Side::Keys, keys), (Side::Values, values)] {
                let row_bytes = config.format(side).row_bytes(dim as u32) as usize;
                let actual = storage.side(side).bytes().chunks(row_bytes).zip(expected.chunks(row_bytes)).enumerate();
                for (row, (actual, expected)) in actual {
                    assert_eq!(actual, expected, "{side} in {}, head size {dim}, row {row}", config.format(side));
                }
            }
        }
    }
    DONE
}

fn fp8_is_that_of_ml_dtypes(gpu: &Gpu) -> Outcome {
    let numbers = floats(include_bytes!("../data/formats/fp8.f32"));
    let codes = include_bytes!("../data/formats/fp8.e4m3");
    let decoded = floats(include_bytes!("../data/formats/fp8.decoded.f32"));
    for (number, code) in numbers.iter().zip(codes) {
        let row = Format::Fp8E4M3.encode_row(&[*number], Scale::ONE)?;
        assert_eq!(row, [*code, 0, 0, 0], "{number} (0x{:08x})", number.to_bits());
    }
    let all: Vec<u8> = (0..=255).collect();
    let same = |left: &[f32], right: &[f32]| {
        left.iter().zip(right).all(|(left, right)| left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan())
    };
    assert!(same(&Format::Fp8E4M3.decode_row(&all, 256, Scale::ONE)?, &decoded));

    for dim in [1, 16, 7] {
        let rows = numbers.len() / dim;
        let config = CacheConfig::new(1, 1, dim as u32, rows as u32).formats(Format::Fp8E4M3, Format::Fp8E4M3);
        let mut cache = KvCache::new(&gpu.context, config)?;
        let negatives: Vec<f32> = numbers[..rows * dim].iter().map(|number| -number).collect();
        cache.update(&numbers[..rows * dim], &negatives, Write::append(rows as u32))?;
        let storage = cache.read_storage()?;
        for (side, sign) in [(Side::Keys, 0), (Side::Values, 0x80)] {
            let stored = storage.side(side).bytes().chunks(dim.next_multiple_of(4)).flat_map(|row| &row[..dim]);
            for ((actual, code), number) in stored.zip(codes).zip(&numbers) {
                assert_eq!(*actual, code ^ sign, "{side}, {number}");
            }
        }
    }
    // Read all codes on the device.
    let config = CacheConfig::new(1, 1, 256, 1).formats(Format::Fp8E4M3, Format::Fp8E4M3);
    let mut cache = KvCache::new(&gpu.context, config)?;
    let rows = HostRows::Stored { format: Format::Fp8E4M3, bytes: &all };
    cache.update(rows, rows, Write::append(1))?;
    assert!(same(&cache.get_as(0..1, Format::F32)?.read()?.keys.to_f32(), &decoded));
    DONE
}

/// Blocks whose elements lie as close to the edges between codes as f32 allows. If the last bit of a product, an
/// inverse or a scale is wrong, a code changes. Scales are of every size, including subnormal ones that have an
/// inverse.
fn numbers_at_the_edges_between_codes(gpu: &Gpu) -> Outcome {
    const ROWS: u32 = 2048;
    let mut random = random_words(5);
    let mut block = |format: Format| -> Vec<f32> {
        let codes = if format == Format::Q8_0 { 127.0 } else { -8.0 };
        // The largest magnitude of a block ranges from 2^-126, where the scale has no inverse, to the largest f32. In
        // half of the blocks the inverse has few bits, so that products are ties, or so close to ties that only their
        // middle bits decide.
        let any = f32::from_bits(random() & 0x807f_ffff | (1 + random() % 254) << 23);
        let few_bits = (random() % (4 << (random() % 11))) | 1;
        let power_of_two = f32::from_bits(any.to_bits() & 0xff80_0000);
        let largest = if random().is_multiple_of(2) { any } else { codes / few_bits as f32 * power_of_two };
        let largest = if largest.is_finite() { largest } else { any };
        let scale = if format == Format::Q8_0 { largest.abs() } else { largest } / codes;
        let inverse = 1.0 / scale;
        let mut block: Vec<f32> = (0..32)
            .map(|_| {
                // Half way between the last f32 that is truncated or rounded down and the first that is not.
                let half_way = |first: f32| f64::midpoint(first.next_down().into(), first.into());
                let product = if format == Format::Q8_0 {
                    half_way((random() % 127) as f32 + 0.5) * if random().is_multiple_of(2) { 1.0 } else { -1.0 }
                } else {
                    half_way((1 + random() % 15) as f32) - 8.5
                };
                // Move by half a unit in the last place of the product, to either side or not at all.
                let unit = f64::from((product as f32).abs().next_up()) - f64::from((product as f32).abs());
                let edge = product + unit * (f64::from(random() % 3) - 1.0) / 2.0;
                let element = (edge / f64::from(inverse)) as f32;
                f32::from_bits(element.to_bits().wrapping_add(random() % 3).wrapping_sub(1))
            })
            .map(|element| if element.abs() < largest.abs() { element } else { 0.0 })
            .collect();
        block[random() as usize % 32] = largest;
        block
    };
    for (key_format, value_format) in [(Format::Q8_0, Format::Q4_0), (Format::Q4_0, Format::Q8_0)] {
        let config = CacheConfig::new(1, 1, 64, ROWS).formats(key_format, value_format);
        let mut cache = KvCache::new(&gpu.context, config)?;
        let [keys, values] = [key_format, value_format]
            .map(|format| -> Vec<f32> { (0..2 * ROWS).flat_map(|_| block(format)).collect() });
        cache.update(&keys, &values, Write::append(ROWS))?;
        let storage = cache.read_storage()?;
        for (side, numbers) in [(Side::Keys, &keys), (Side::Values, &values)] {
            let format = config.format(side);
            let stored = storage.side(side).bytes().chunks_exact(format.row_bytes(64) as usize);
            for (row, (numbers, actual)) in numbers.chunks_exact(64).zip(stored).enumerate() {
                let expected = format.encode_row(numbers, Scale::ONE)?;
                assert_eq!(actual, expected, "{side} in {format}, row {row}: {numbers:?}");
            }
        }
    }
    DONE
}

pub fn compare(
    expected: &Pair<wgpu_kv_cache::HostTensor>,
    actual: &Pair<wgpu_kv_cache::HostTensor>,
) -> Result<(), String> {
    for side in Side::BOTH {
        let difference =
            compare_tensors(0, side, expected.side(side), actual.side(side)).map_err(|error| error.to_string())?;
        if let Some(difference) = difference {
            return Err(difference.to_string());
        }
    }
    Ok(())
}

fn what_is_no_number(gpu: &Gpu) -> Outcome {
    for number in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut row = [0.5f32; 64];
        row[40] = number;
        let config = CacheConfig::new(1, 1, 64, 2).formats(Format::Q8_0, Format::Q4_0);
        let mut cache = KvCache::new(&gpu.context, config)?;
        cache.update(&row[..], &row[..], Write::append(1))?;
        let read = cache.get_as(0..1, Format::F32)?.read()?;
        for side in Side::BOTH {
            let numbers = read.side(side).to_f32();
            assert!(
                numbers[..32].iter().all(|read| (read - 0.5).abs() < 0.01),
                "{side}: the block before is as it was"
            );
            assert!(numbers[32..].iter().all(|read| read.to_bits() == 0x7fc0_0000), "{side}: {:?}", &numbers[32..]);
        }
        let config = CacheConfig::new(1, 1, 64, 2).formats(Format::Fp8E4M3, Format::Fp8E4M3).scales(2.0, 0.5);
        let mut cache = KvCache::new(&gpu.context, config)?;
        cache.update(&row[..], &row[..], Write::append(1))?;
        let read = cache.get_as(0..1, Format::F32)?.read()?;
        for (side, most) in [(Side::Keys, 896.0), (Side::Values, 224.0)] {
            let read = read.side(side).to_f32()[40];
            let saturated = read == if number < 0.0 { -most } else { most };
            assert!(if number.is_nan() { read.is_nan() } else { saturated }, "{side}: {number} became {read}");
        }
    }
    // Blocks so small that the inverse of their scale overflows, and zeros of both signs.
    for number in [1e-38f32, -1e-38, 1e-45, 0.0, -0.0] {
        let config = CacheConfig::new(1, 1, 32, 1).formats(Format::Q8_0, Format::Q4_0);
        let mut cache = KvCache::new(&gpu.context, config)?;
        cache.update(&[number; 32][..], &[number; 32][..], Write::append(1))?;
        let storage = cache.read_storage()?;
        assert_eq!(storage.keys.bytes()[..32], [0; 32]);
        assert_eq!(storage.values.bytes()[..16], [0x88; 16]);
        assert!(storage.keys.to_f32().iter().chain(&storage.values.to_f32()).all(|read| *read == 0.0));
    }
    // The inverse of 2^-128 is the least that overflows. That of the next scale is finite.
    let scale = 0x20_0000;
    for (scale, q8_0, q4_0) in [(scale, 0, 0x88), (scale + 1, 127, 0x00), (scale - 1, 0, 0x88)] {
        let scale = f32::from_bits(scale);
        let (keys, values) = ([scale * 127.0; 32], [scale * -8.0; 32]);
        assert_eq!((keys[0] / 127.0, values[0] / -8.0), (scale, scale));
        let config = CacheConfig::new(1, 1, 32, 1).formats(Format::Q8_0, Format::Q4_0);
        let mut cache = KvCache::new(&gpu.context, config)?;
        cache.update(&keys[..], &values[..], Write::append(1))?;
        let storage = cache.read_storage()?;
        assert_eq!(storage.keys.bytes()[..32], [q8_0; 32], "scale {scale:e}");
        assert_eq!(storage.values.bytes()[..16], [q4_0; 16], "scale {scale:e}");
        for (format, row, stored) in [(Format::Q8_0, keys, &storage.keys), (Format::Q4_0, values, &storage.values)] {
            assert_eq!(stored.bytes(), format.encode_row(&row, Scale::ONE)?, "scale {scale:e}");
        }
    }
    DONE
}

/// Random words, which include every possible scale, are read in each format as on the CPU.
fn every_stored_word_is_read(gpu: &Gpu) -> Outcome {
    let mut state = 7u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    for (dim, tokens) in [(32, 65_536u32), (80, 256), (1, 64), (256, 16)] {
        for format in [Format::Q8_0, Format::Q4_0, Format::Fp8E4M3] {
            if dim == 32 && format == Format::Fp8E4M3 {
                continue;
            }
            let mut bytes: Vec<u8> = Vec::new();
            for row in 0..tokens {
                bytes.extend((0..format.row_bytes(dim)).map(|_| random() as u8));
                if dim == 32 {
                    // Each f16 bit pattern is a scale once.
                    let scale = bytes.len() - 4;
                    bytes[scale..scale + 2].copy_from_slice(&(row as u16).to_le_bytes());
                }
            }
            let config = CacheConfig::new(1, 1, dim, tokens).formats(format, format);
            let mut cache = KvCache::new(&gpu.context, config)?;
            let mut reference = ReferenceCache::new(config)?;
            let rows = HostRows::Stored { format, bytes: &bytes };
            reference.update(rows, rows, Write::append(tokens))?;
            cache.update(rows, rows, Write::append(tokens))?;
            assert_eq!(cache.get(0..tokens)?.read()?.keys.bytes(), bytes, "{format} as stored");
            for output in Format::FLOATS {
                compare(&reference.get_as(0..tokens, output)?, &cache.get_as(0..tokens, output)?.read()?)
                    .map_err(|difference| format!("{format} as {output}, head size {dim}: {difference}"))?;
            }
        }
    }
    // Conversions between the float formats.
    for stored in Format::FLOATS {
        let config = CacheConfig::new(1, 1, 3, 9).formats(stored, stored);
        let (mut cache, mut reference) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
        let rows: Vec<f32> = (0..27).map(|_| f32::from_bits(random() << 16 | random())).collect();
        let more: Vec<bf16> = (0..27).map(|_| bf16::from_bits(random() as u16)).collect();
        reference.update(&rows, &more, Write::append(9))?;
        cache.update(&rows, &more, Write::append(9))?;
        for output in Format::FLOATS {
            compare(&reference.get_as(1..8, output)?, &cache.get_as(1..8, output)?.read()?)?;
        }
    }
    DONE
}

/// A sequence is extracted as it is stored and inserted elsewhere, bit for bit, also in a ring.
fn packed_rows_leave_and_return(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 5, sinks: 2, slack: 1 };
    for format in [Format::Fp8E4M3, Format::Q8_0, Format::Q4_0] {
        for placement in [Placement::Linear, ring] {
            let config = CacheConfig::new(2, 2, 70, 16).formats(format, format).scales(0.3, 0.7).placement(placement);
            let mut cache = KvCache::new(&gpu.context, config)?;
            let rows: Vec<f16> = (0..2 * 2 * 11 * 70).map(|i| f16::from_f32((i as f32 * 0.37).sin())).collect();
            let more: Vec<f16> = rows.iter().map(|x| *x * f16::from_f32(3.0)).collect();
            cache.update(&rows, &more, Write::append(11))?;
            let left = cache.extract(0)?.read()?;
            cache.insert(1, 11, left.keys.rows(), left.values.rows())?;
            assert_eq!(cache.extract(1)?.read()?, left, "{format}");
            assert_ne!(left.keys.bytes(), left.values.bytes());
        }
    }
    DONE
}

/// Rows that end inside a word, a block or a pair of blocks, next to other rows. The storage must equal the
/// reference's, including padding.
fn padding_is_zero(gpu: &Gpu) -> Outcome {
    for format in [Format::Fp8E4M3, Format::Q8_0, Format::Q4_0] {
        for dim in [1, 3, 33, 70, 97] {
            let config = CacheConfig::new(2, 2, dim, 12).value_dim(dim + 5).formats(format, format).scales(0.5, 3.0);
            let (mut cache, mut reference) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
            for side in Side::BOTH {
                for segment in cache.view().side(side).segments() {
                    let poison = vec![0xffu8; segment.buffer.size() as usize];
                    gpu.context.queue().write_buffer(segment.buffer, 0, &poison);
                }
            }
            let rows = |dim: u32| -> Vec<f32> { (1..=2 * 2 * 9 * dim).map(|i| i as f32 * 0.01).collect() };
            let (keys, values) = (rows(dim), rows(dim + 5));
            // Leave gaps before the rows.
            let write = Write::at_each(&[3, 1], 9);
            cache.update(&keys, &values, write)?;
            reference.update(&keys, &values, write)?;
            let (expected, actual) = (reference.get_all(), cache.get_all()?.read()?);
            compare(&expected, &actual).map_err(|difference| format!("{format}, head size {dim}: {difference}"))?;
            let codes = match format {
                Format::Fp8E4M3 => dim as usize,
                Format::Q8_0 => dim.next_multiple_of(32) as usize,
                _ => dim.next_multiple_of(32) as usize / 2,
            };
            for row in actual.keys.bytes().chunks_exact(format.row_bytes(dim) as usize) {
                let scales = if format == Format::Fp8E4M3 { 0 } else { 2 * dim.div_ceil(32) as usize };
                assert!(row[codes + scales..].iter().all(|byte| *byte == 0), "{format}, head size {dim}: {row:?}");
            }
        }
    }
    DONE
}

fn refusals(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(1, 1, 32, 4).formats(Format::Q8_0, Format::Fp8E4M3);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let refused = KvCache::new(&gpu.context, config.scales(1.0, scale)).map(drop);
        assert_eq!(refused, Err(Error::Config(ConfigError::Scale { scale: Scale::new(scale) })));
    }
    let mut cache = KvCache::new(&gpu.context, config)?;
    let bytes = [1u8; 36];
    let q8_0 = HostRows::Stored { format: Format::Q8_0, bytes: &bytes };
    let numbers = [1.0f32; 32];
    let refused = cache.update(q8_0, q8_0, Write::append(1));
    let (source_format, stored) = (Format::Q8_0, Format::Fp8E4M3);
    assert_eq!(refused, Err(Error::Write(WriteError::PackedSource { side: Side::Values, source_format, stored })));
    let short = HostRows::Stored { format: Format::Q8_0, bytes: &bytes[..35] };
    let refused = cache.update(short, &numbers[..], Write::append(1));
    assert_eq!(refused, Err(Error::Write(WriteError::SliceLength { side: Side::Keys, expected: 9, actual: 8 })));
    cache.update(q8_0, &numbers[..], Write::append(1))?;
    let refused = cache.get_as(0..1, Format::Q4_0).map(drop);
    let (stored, wanted) = (Format::Q8_0, Format::Q4_0);
    assert_eq!(refused, Err(Error::Range(RangeError::PackedDestination { side: Side::Keys, stored, wanted })));
    let refused = Format::Q4_0.decode_row(&[0; 19], 32, Scale::ONE);
    assert_eq!(
        refused,
        Err(Error::Row(RowError::RowBytes { format: Format::Q4_0, dim: 32, expected: 20, actual: 19 }))
    );
    assert_eq!("Fp8E4M3".parse(), Ok(Format::Fp8E4M3));
    DONE
}
