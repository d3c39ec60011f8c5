//! Attention over the generated WGSL, in every format and placement, compared with the reference in f64.

use wgpu_kv_cache::{
    AttentionError, CacheConfig, ConfigError, Error, Format, HostTensor, KvCache, Placement, RangeError,
    ReferenceCache, RowsIn, Scale, StepError, Strides, WgslError, WgslNames, Write, WriteError,
    attention::{Attention, MaskRows, Options, Reading, Tensors, attend},
    half::{bf16, f16},
};

use crate::{
    DONE, Gpu, Outcome, Test,
    reading::pairs,
    rows::{BOUND, RING, distance, filled, numbers},
};

pub const TESTS: &[Test] = &[
    ("attention::every_format_agrees_with_the_reference", every_format_agrees_with_the_reference),
    ("attention::shapes_agree_with_the_reference", shapes_agree_with_the_reference),
    ("attention::options_agree_with_the_reference", options_agree_with_the_reference),
    ("attention::windows_of_many_chunks", windows_of_many_chunks),
    ("attention::an_infinite_key_hides_in_every_head_size", an_infinite_key_hides_in_every_head_size),
    ("attention::the_trace_agrees_with_the_reference", the_trace_agrees_with_the_reference),
    ("attention::nothing_seen_gives_zeros", nothing_seen_gives_zeros),
    ("attention::rows_that_are_not_valid_have_no_part", rows_that_are_not_valid_have_no_part),
    ("attention::strides_and_halves", strides_and_halves),
    ("attention::refusals", refusals),
];

fn check(
    what: &str,
    (cache, reference_cache): &(KvCache, ReferenceCache),
    options: &Options,
    mask: Option<MaskRows<'_>>,
) -> Result<(), String> {
    let config = cache.config();
    let queries = numbers((config.batch_size * options.query_heads * options.tokens * config.head_dim) as usize, 99);
    let failed = |error: Error| format!("{what}: {error}");
    let expected = reference_cache.attend(options, &queries, mask).map_err(failed)?;
    let actual: HostTensor = attend(cache, options, &queries, mask).map_err(failed)?;
    let distance = distance(&expected, &actual.to_f32());
    if distance.is_nan() || distance > BOUND {
        return Err(format!("{what}: the distance is {distance:.2e}"));
    }
    Ok(())
}

fn every_format_agrees_with_the_reference(gpu: &Gpu) -> Outcome {
    let forms = [(Placement::Linear, 1, 3, Reading::Coalesced), (RING, 3, 1, Reading::Sequential)];
    for (key_format, value_format) in pairs() {
        for (placement, tokens, splits, reading) in forms {
            let config = CacheConfig::new(2, 2, 64, 512)
                .value_dim(40)
                .formats(key_format, value_format)
                .scales(0.01, 0.015)
                .placement(placement);
            let both = filled(&gpu.context, config, &[300, 17])?;
            let options = Options { splits: Some(splits), reading: Some(reading), ..Options::last(4, tokens) };
            check(&format!("{key_format} × {value_format}, {placement:?}, {options:?}"), &both, &options, None)?;
        }
    }
    DONE
}

fn shapes_agree_with_the_reference(gpu: &Gpu) -> Outcome {
    // Head sizes that do and do not allow vectors, more query rows than a tile has, more value vectors than a workgroup
    // has threads, queries that are not staged in workgroup memory, and many query heads per KV head.
    let (coalesced, sequential) = (Reading::Coalesced, Reading::Sequential);
    for (batch, kv_heads, heads, dim, value_dim, tokens, splits, reading) in [
        (1, 1, 1, 64, 64, 1, None, coalesced),
        (2, 3, 6, 46, 7, 5, Some(2), sequential),
        (1, 2, 14, 80, 96, 9, None, coalesced),
        (1, 1, 40, 16, 8, 2, Some(3), sequential),
        (1, 1, 4, 576, 512, 3, None, coalesced),
        (1, 1, 2, 576, 512, 1, None, sequential),
        (3, 2, 2, 1, 1, 40, Some(2), coalesced),
        (1, 1, 4, 44, 20, 2, None, coalesced),
        // More splits than the kernel that joins them reads at once.
        (1, 1, 2, 64, 64, 1, Some(5), coalesced),
        (1, 2, 2, 32, 128, 1, Some(23), sequential),
    ] {
        let config = CacheConfig::new(batch, kv_heads, dim, 200).value_dim(value_dim);
        let counts: Vec<u32> = (0..batch).map(|sequence| 130 - 61 * sequence).collect();
        let both = filled(&gpu.context, config, &counts)?;
        let options = Options { splits, reading: Some(reading), ..Options::last(heads, tokens) };
        check(&format!("{config:?}, {options:?}"), &both, &options, None)?;
    }
    DONE
}

fn options_agree_with_the_reference(gpu: &Gpu) -> Outcome {
    for (placement, reading) in [(Placement::Linear, Reading::Coalesced), (RING, Reading::Sequential)] {
        let config = CacheConfig::new(2, 2, 32, 64).placement(placement);
        let both = filled(&gpu.context, config, &[40, 9])?;
        let subgroups = reading == Reading::Coalesced;
        let base = Options { reading: Some(reading), subgroups, ..Options::last(4, 3) };
        let options = [
            Options { causal: false, ..base },
            Options { scale: Some(0.7), ..base },
            Options { scale: Some(-0.3), splits: Some(2), ..base },
            Options { softcap: Some(0.4), ..base },
            Options { softcap: Some(1e-3), scale: Some(1e3), ..base },
            Options { softcap: Some(1e4), ..base },
            Options { softcap: Some(1e30), ..base },
            Options { softcap: Some(3.9), scale: Some(1.0), ..base },
            Options { window: Some(5), sinks: 2, ..base },
            Options { window: Some(1), ..base },
            Options { window: Some(7), sinks: 1, causal: false, splits: Some(4), ..base },
        ];
        for options in options {
            check(&format!("{placement:?}, {options:?}"), &both, &options, None)?;
        }
        // Masks of every broadcast shape that hide about a fifth of the scores.
        let mask = |shape: [u32; 4]| -> Vec<f32> {
            let count = shape.iter().product::<u32>() as usize;
            let hidden = |index: usize| (index * 7 + index / 13).is_multiple_of(5);
            numbers(count, 5)
                .into_iter()
                .enumerate()
                .map(|(at, x)| if hidden(at) { f32::NEG_INFINITY } else { x })
                .collect()
        };
        for shape in [[1, 1, 3, 64], [2, 1, 1, 41], [1, 4, 3, 50], [2, 4, 3, 64], [1, 1, 1, 64]] {
            let numbers = mask(shape);
            let mask = MaskRows { numbers: &numbers, shape };
            for options in [base, Options { softcap: Some(2.0), causal: false, splits: Some(3), ..base }] {
                check(&format!("{placement:?}, mask {shape:?}, {options:?}"), &both, &options, Some(mask))?;
            }
        }
    }
    DONE
}

/// Chunks that all rows see in whole, and chunks at the edges of windows, sinks and causal ends.
fn windows_of_many_chunks(gpu: &Gpu) -> Outcome {
    for (format, dim, reading) in [(Format::F16, 16, Reading::Coalesced), (Format::Q4_0, 32, Reading::Sequential)] {
        let config = CacheConfig::new(2, 1, dim, 512).formats(format, format);
        let both = filled(&gpu.context, config, &[402, 97])?;
        let base = Options { reading: Some(reading), ..Options::last(2, 5) };
        for options in [
            Options { splits: Some(1), ..base },
            Options { splits: Some(3), causal: false, ..base },
            Options { window: Some(130), sinks: 37, splits: Some(2), ..base },
            Options { window: Some(3), sinks: 70, splits: Some(1), ..base },
            Options { window: Some(400), sinks: 2, splits: Some(1), ..base },
            Options { window: Some(390), splits: Some(1), ..base },
        ] {
            check(&format!("{format}, {options:?}"), &both, &options, None)?;
        }
    }
    DONE
}

/// Threads without a unit of a row, and padding, do not turn a score of minus infinity into a NaN.
fn an_infinite_key_hides_in_every_head_size(gpu: &Gpu) -> Outcome {
    for (format, dim) in
        [(Format::F32, 12), (Format::F16, 24), (Format::F16, 80), (Format::Q8_0, 20), (Format::Q4_0, 21)]
    {
        let config = CacheConfig::new(1, 1, dim, 8).formats(format, Format::F32);
        let (mut cache, mut reference_cache) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
        let mut keys = vec![0.5; 5 * dim as usize];
        // Infinite in f16, as an element or as the scale of a block.
        keys[2 * dim as usize..3 * dim as usize].fill(1e9);
        if format == Format::F32 {
            keys[3 * dim as usize - 1] = f32::INFINITY;
        }
        let values = numbers(5 * dim as usize, 2);
        cache.update(&keys, &values, Write::append(5))?;
        reference_cache.update(&keys, &values, Write::append(5))?;
        let queries = vec![-0.5; dim as usize];
        for reading in [Reading::Coalesced, Reading::Sequential] {
            let options = Options { reading: Some(reading), ..Options::last(1, 1) };
            let expected = reference_cache.attend(&options, &queries, None)?;
            let actual = attend(&cache, &options, &queries, None)?.to_f32();
            let distance = distance(&expected, &actual);
            assert!(distance < BOUND, "{format}, {dim}, {reading:?}: {distance:.1e}, {actual:?} for {expected:?}");
        }
    }
    DONE
}

/// Recorded queries, keys and values of SmolLM2-135M, with 9 query heads on 3 KV heads, in every format.
fn the_trace_agrees_with_the_reference(gpu: &Gpu) -> Outcome {
    let bytes = include_bytes!("../../traces/smollm2-135m-story.safetensors");
    let file = safetensors::SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let halves = |name: String| -> Result<(Vec<usize>, Vec<f32>), String> {
        let tensor = file.tensor(&name).map_err(|error| format!("{name}: {error}"))?;
        let numbers = match tensor.dtype() {
            safetensors::Dtype::F16 => {
                tensor.data().chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
            }
            safetensors::Dtype::BF16 => {
                tensor.data().chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
            }
            _ => bytemuck::pod_collect_to_vec(tensor.data()),
        };
        Ok((tensor.shape().to_vec(), numbers))
    };
    for layer in [0, 29] {
        let (shape, queries) = halves(format!("layers.{layer}.queries"))?;
        let (kv_shape, keys) = halves(format!("layers.{layer}.keys"))?;
        let (_, values) = halves(format!("layers.{layer}.values"))?;
        let [heads, tokens, dim] = [shape[1], shape[2], shape[3]].map(|axis| axis as u32);
        for format in Format::ALL {
            let config = CacheConfig::new(1, kv_shape[1] as u32, dim, kv_shape[2] as u32).formats(format, format);
            let (mut cache, mut reference_cache) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
            cache.update(&keys, &values, Write::append(kv_shape[2] as u32))?;
            reference_cache.update(&keys, &values, Write::append(kv_shape[2] as u32))?;
            // Kernels of more than one format are checked in each form.
            let reading = if format.is_packed() == (layer < 10) { Reading::Coalesced } else { Reading::Sequential };
            let options = Options { reading: Some(reading), ..Options::last(heads, tokens) };
            let expected = reference_cache.attend(&options, &queries, None)?;
            let actual = attend(&cache, &options, &queries, None)?.to_f32();
            let distance = distance(&expected, &actual);
            assert!(distance < BOUND, "layer {layer} in {format}: the distance is {distance:.2e}");
        }
    }
    DONE
}

fn nothing_seen_gives_zeros(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(3, 1, 8, 8);
    let mut cache = KvCache::new(&gpu.context, config)?;
    let rows = numbers(3 * 2 * 8, 1);
    cache.update(&rows, &rows, Write::append(2).counts(&[2, 0, 1]))?;
    for splits in [1, 2] {
        let options = Options { splits: Some(splits), ..Options::last(2, 2) };
        let queries = numbers(3 * 2 * 2 * 8, 3);
        let output = attend(&cache, &options, &queries, None)?.to_f32();
        // Rows are [sequence, head, token]. Sequence 1 is empty. Sequence 2 has one row, so its first query lies before
        // its start.
        for (index, row) in output.chunks_exact(8).enumerate() {
            let sees_nothing = index / 4 == 1 || index / 4 == 2 && index % 2 == 0;
            assert_eq!(row.iter().all(|number| *number == 0.0), sees_nothing, "row {index}: {row:?}");
        }
        let hidden = [f32::NEG_INFINITY; 2];
        let mask = MaskRows { numbers: &hidden, shape: [1, 1, 1, 2] };
        let output = attend(&cache, &options, &queries, Some(mask))?.to_f32();
        assert!(output.iter().all(|number| *number == 0.0), "{output:?}");
    }
    // Sequences of one and two positions, and more queries than that: the first queries see nothing.
    let both = filled(&gpu.context, CacheConfig::new(2, 1, 8, 8), &[0, 1])?;
    for reading in [Reading::Coalesced, Reading::Sequential] {
        check("more queries than positions", &both, &Options { reading: Some(reading), ..Options::last(2, 3) }, None)?;
    }
    DONE
}

fn rows_that_are_not_valid_have_no_part(gpu: &Gpu) -> Outcome {
    let forms = [(Placement::Linear, 1, true, Reading::Coalesced), (RING, 2, false, Reading::Sequential)];
    for format in Format::ALL {
        for (placement, splits, causal, reading) in forms {
            let config = CacheConfig::new(2, 2, 32, 48).formats(format, format).placement(placement);
            let (mut cache, mut reference_cache) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
            for side in wgpu_kv_cache::Side::BOTH {
                for segment in cache.view().side(side).segments() {
                    let poison = vec![0xffu8; segment.buffer.size() as usize];
                    gpu.context.queue().write_buffer(segment.buffer, 0, &poison);
                }
            }
            let (keys, values) = (numbers(2 * 2 * 9 * 32, 1), numbers(2 * 2 * 9 * 32, 2));
            let write = Write::append(9).counts(&[9, 4]);
            cache.update(&keys, &values, write)?;
            reference_cache.update(&keys, &values, write)?;
            cache.truncate(&[8, 4])?;
            reference_cache.truncate(&[8, 4])?;
            let both = (cache, reference_cache);
            let options = Options { splits: Some(splits), causal, reading: Some(reading), ..Options::last(4, 2) };
            check(&format!("{format}, {placement:?}, {reading:?}"), &both, &options, None)?;
        }
    }
    DONE
}

/// Reads f16 queries inside a fused projection and writes the output as `[batch, token, head, dim]` into the middle of
/// a buffer.
fn strides_and_halves(gpu: &Gpu) -> Outcome {
    let context = &gpu.context;
    let config = CacheConfig::new(2, 2, 8, 16);
    let (cache, reference_cache) = filled(context, config, &[6, 3])?;
    let (heads, tokens, dim) = (4u32, 3u32, 8u32);
    let features = u64::from(heads + 4) * 8;
    let fused: Vec<f16> = numbers(2 * 3 * features as usize, 8).into_iter().map(f16::from_f32).collect();
    let queries = crate::engine::storage(context, bytemuck::cast_slice(&fused));
    for format in [Format::F16, Format::Bf16, Format::F32] {
        let width = u64::from(format.unit_bytes());
        let filled = vec![0xa5u8; 16 + (2 * 3 * 4 * 8) * width as usize + 16];
        let output = crate::engine::storage(context, &filled);
        let tensors = Tensors {
            queries: RowsIn {
                buffer: &queries,
                offset: 0,
                format: Format::F16,
                strides: Strides::fused(features, tokens, dim),
            },
            output: RowsIn { buffer: &output, offset: 16, format, strides: Strides::bthd(heads, tokens, dim) },
            mask: None,
            sink_logits: None,
        };
        let options = Options::last(heads, tokens);
        let attention = Attention::new(&cache, &options, &tensors)?;
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        attention.record(&cache, &mut encoder)?;
        context.queue().submit([encoder.finish()]);
        let read: Vec<u8> = crate::engine::read(context, &output);
        assert!(
            read[..16].iter().chain(&read[read.len() - 16..]).all(|byte| *byte == 0xa5),
            "the bytes around it stay"
        );
        let row = |sequence: usize, head: usize, token: usize| {
            let at = (sequence * 3 + token) * features as usize + head * 8;
            fused[at..at + 8].iter().map(|x| x.to_f32())
        };
        let dense: Vec<f32> = (0..2)
            .flat_map(|b| (0..4).flat_map(move |h| (0..3).map(move |t| (b, h, t))))
            .flat_map(|(b, h, t)| row(b, h, t).collect::<Vec<_>>())
            .collect();
        let expected = reference_cache.attend(&options, &dense, None)?;
        let bytes = &read[16..read.len() - 16];
        let numbers = format.decode_row(bytes, 2 * 3 * 4 * 8, Scale::ONE)?;
        let actual: Vec<f32> = (0..2 * 4 * 3)
            .flat_map(|index| {
                let (sequence, head, token) = (index / 12, index / 3 % 4, index % 3);
                let at = ((sequence * 3 + token) * 4 + head) * 8;
                numbers[at..at + 8].to_vec()
            })
            .collect();
        let bound = match format {
            Format::F16 => 5e-4,
            Format::Bf16 => 4e-3,
            _ => BOUND,
        };
        assert!(distance(&expected, &actual) < bound, "{format}");
    }
    DONE
}

fn refusals(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(2, 2, 8, 16);
    let (cache, reference_cache) = filled(&gpu.context, config, &[6, 3])?;
    let queries = numbers(2 * 4 * 8, 1);
    let base = Options::last(4, 1);
    let wide = numbers(2 * 3 * 8, 1);
    let cases: Vec<(Options, &[f32], Error)> = vec![
        (
            Options { query_heads: 3, ..base },
            &wide,
            Error::Attention(AttentionError::QueryHeads { query_heads: 3, num_heads: 2 }),
        ),
        (
            Options { query_heads: 0, ..base },
            &[],
            Error::Attention(AttentionError::QueryHeads { query_heads: 0, num_heads: 2 }),
        ),
        (Options { tokens: 0, ..base }, &[], Error::Write(WriteError::NoTokens)),
        (base, &wide, Error::Attention(AttentionError::TensorLength { name: "queries", expected: 64, actual: 48 })),
        (
            Options { scale: Some(f32::NAN), ..base },
            &queries,
            Error::Attention(AttentionError::AttentionScale { scale: Scale::new(f32::NAN) }),
        ),
        (
            Options { softcap: Some(0.0), ..base },
            &queries,
            Error::Attention(AttentionError::Softcap { softcap: Scale::new(0.0) }),
        ),
        (
            Options { softcap: Some(1e-38), ..base },
            &queries,
            Error::Attention(AttentionError::Softcap { softcap: Scale::new(1e-38) }),
        ),
        (Options { window: Some(0), ..base }, &queries, Error::Config(ConfigError::ZeroDimension { name: "window" })),
    ];
    for (options, queries, expected) in cases {
        assert_eq!(attend(&cache, &options, queries, None).map(drop), Err(expected.clone()));
        assert_eq!(reference_cache.attend(&options, queries, None).map(drop), Err(expected));
    }
    let refused = attend(&cache, &Options { splits: Some(65), ..base }, &queries, None).map(drop);
    let expected = Error::Attention(AttentionError::Splits { splits: 65, most: 64 });
    assert_eq!(refused, Err(expected));
    let numbers_of_mask = vec![0.0; 12];
    for (shape, expected) in [
        (
            [1, 3, 1, 4],
            Error::Attention(AttentionError::MaskShape {
                batch_size: 2,
                query_heads: 4,
                tokens: 1,
                shape: [1, 3, 1, 4],
            }),
        ),
        ([2, 1, 1, 6], Error::Attention(AttentionError::MaskTooShort { positions: 6, write_pos: 7 })),
        ([1, 1, 1, 7], Error::Attention(AttentionError::TensorLength { name: "mask", expected: 7, actual: 12 })),
    ] {
        let mask = Some(MaskRows { numbers: &numbers_of_mask, shape });
        assert_eq!(attend(&cache, &base, &queries, mask).map(drop), Err(expected.clone()));
        assert_eq!(reference_cache.attend(&base, &queries, mask).map(drop), Err(expected));
    }
    // A window larger than the ring's.
    let (ring, ring_reference) = filled(&gpu.context, config.placement(RING), &[40, 3])?;
    let wanted = Options { window: Some(12), ..base };
    let expected =
        Error::Attention(AttentionError::AttentionWindow { window: 11, sinks: 3, wanted: 12, wanted_sinks: 0 });
    assert_eq!(attend(&ring, &wanted, &queries, None).map(drop), Err(expected.clone()));
    assert_eq!(ring_reference.attend(&wanted, &queries, None).map(drop), Err(expected));
    let many = Options::last(4, 6);
    let queries_of_many = numbers(2 * 4 * 6 * 8, 1);
    let expected = Error::Range(RangeError::Evicted { sequence: 0, position: 25, oldest: 26 });
    assert_eq!(attend(&ring, &many, &queries_of_many, None).map(drop), Err(expected.clone()));
    assert_eq!(ring_reference.attend(&many, &queries_of_many, None).map(drop), Err(expected));

    let buffer = |size, usage| {
        gpu.context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage,
            mapped_at_creation: false,
        })
    };
    let (good, short) = (buffer(256, wgpu::BufferUsages::STORAGE), buffer(252, wgpu::BufferUsages::STORAGE));
    let (other, useless) = (buffer(256, wgpu::BufferUsages::STORAGE), buffer(256, wgpu::BufferUsages::COPY_DST));
    let dense = |buffer, format, offset| RowsIn { buffer, offset, format, strides: Strides::bhtd(4, 1, 8) };
    let (f32, packed) = (Format::F32, Format::Q8_0);
    let make = |queries, output| {
        Attention::new(&cache, &base, &Tensors { queries, output, mask: None, sink_logits: None }).map(drop)
    };
    let refused = [
        (
            make(dense(&short, f32, 0), dense(&other, f32, 0)),
            Error::Attention(AttentionError::TensorRange { name: "queries", needed: 256, actual: 252 }),
        ),
        (
            make(dense(&good, f32, 0), dense(&good, f32, 0)),
            Error::Attention(AttentionError::OutputShared { name: "queries" }),
        ),
        (
            make(dense(&good, packed, 0), dense(&other, f32, 0)),
            Error::Attention(AttentionError::TensorFormat { name: "queries", format: packed }),
        ),
        (
            make(dense(&good, Format::F16, 0), dense(&other, Format::F16, 2)),
            Error::Attention(AttentionError::TensorMisaligned {
                what: "the offset of the output",
                value: 2,
                alignment: 4,
            }),
        ),
        (
            make(dense(&useless, f32, 0), dense(&other, f32, 0)),
            Error::Attention(AttentionError::TensorUsage {
                name: "queries",
                needed: "STORAGE",
                actual: wgpu::BufferUsages::COPY_DST,
            }),
        ),
    ];
    for (refused, expected) in refused {
        assert_eq!(refused, Err(expected));
    }
    let storage = cache.view().side(wgpu_kv_cache::Side::Keys).segments().next().unwrap().buffer.clone();
    assert_eq!(
        make(dense(&good, f32, 0), dense(&storage, f32, 0)),
        Err(Error::Attention(AttentionError::OutputShared { name: "cache" }))
    );
    let tensors =
        Tensors { queries: dense(&good, f32, 0), output: dense(&other, f32, 0), mask: None, sink_logits: None };
    let attention = Attention::new(&cache, &base, &tensors)?;
    let mut encoder = gpu.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    assert_eq!(attention.record(&ring, &mut encoder), Err(Error::Step(StepError::ForeignAttention)));

    for prefix in ["", "1kv", "k-v"] {
        assert_eq!(
            cache.wgsl(&WgslNames::new(prefix)),
            Err(Error::Wgsl(WgslError::WgslPrefix { prefix: prefix.to_owned() }))
        );
    }
    let names = WgslNames::new("kv_");
    assert_eq!(
        cache.wgsl(&names.bindings(&[0, 1])),
        Err(Error::Wgsl(WgslError::WgslBindings { expected: 3, actual: 2 }))
    );
    assert_eq!(cache.wgsl(&names.bindings(&[0, 1, 0])), Err(Error::Wgsl(WgslError::WgslBindingTwice { binding: 0 })));
    DONE
}
