//! The text that reads a layer, and attention over it, in every format and on both placements, beside the reference in f64.

use wgpu_kv_cache::{
    CacheConfig, Context, Error, Format, HostTensor, KvCache, Placement, ReferenceCache, RowsIn, Scale, Strides,
    WgslNames, Write,
    attention::{Attention, MaskRows, Options, Tensors, attend, reference},
    half::{bf16, f16},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("attention::every_element_is_read", every_element_is_read),
    ("attention::halves_are_read", halves_are_read),
    ("attention::every_format_agrees_with_the_reference", every_format_agrees_with_the_reference),
    ("attention::shapes_agree_with_the_reference", shapes_agree_with_the_reference),
    ("attention::options_agree_with_the_reference", options_agree_with_the_reference),
    ("attention::the_trace_agrees_with_the_reference", the_trace_agrees_with_the_reference),
    ("attention::nothing_seen_gives_zeros", nothing_seen_gives_zeros),
    ("attention::rows_that_are_not_valid_have_no_part", rows_that_are_not_valid_have_no_part),
    ("attention::strides_and_halves", strides_and_halves),
    ("attention::refusals", refusals),
];

const RING: Placement = Placement::Ring { window: 11, sinks: 3, slack: 4 };

/// Numbers that differ everywhere.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    (0..count as u32)
        .map(|index| {
            let bits = (index.wrapping_add(seed.wrapping_mul(7919))).wrapping_mul(2_654_435_761);
            (bits >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// Device and reference with the same rows: `counts` tokens of each sequence, then one more.
fn filled(context: &Context, config: CacheConfig, counts: &[u32]) -> Result<(KvCache, ReferenceCache), Error> {
    let (mut cache, mut reference) = (KvCache::new(context, config)?, ReferenceCache::new(config)?);
    let tokens = counts.iter().copied().max().unwrap_or(1).max(1);
    for (tokens, counts) in [(tokens, counts), (1, &vec![1; counts.len()][..])] {
        let rows = (config.batch_size * config.num_heads * tokens) as usize;
        let keys = numbers(rows * config.head_dim as usize, tokens);
        let values = numbers(rows * config.value_dim as usize, tokens + 1);
        let write = Write::append(tokens).counts(counts);
        cache.update(&keys, &values, write)?;
        reference.update(&keys, &values, write)?;
    }
    Ok((cache, reference))
}

/// Relative root mean square of the difference.
pub fn distance(expected: &[f64], actual: &[f32]) -> f64 {
    assert_eq!(expected.len(), actual.len());
    let square = |sum: f64| sum.max(1e-30);
    let difference: f64 = expected.iter().zip(actual).map(|(e, a)| (e - f64::from(*a)).powi(2)).sum();
    let size: f64 = expected.iter().map(|e| e * e).sum();
    (difference / square(size)).sqrt()
}

/// The distance between device and reference that any format may have.
pub const BOUND: f64 = 1e-5;

fn check(
    what: &str,
    (cache, reference_cache): &(KvCache, ReferenceCache),
    options: &Options,
    mask: Option<MaskRows<'_>>,
) -> Result<(), String> {
    let config = cache.config();
    let queries = numbers((config.batch_size * options.query_heads * options.tokens * config.head_dim) as usize, 99);
    let failed = |error: Error| format!("{what}: {error}");
    let expected = reference(reference_cache, options, &queries, mask).map_err(failed)?;
    let actual: HostTensor = attend(cache, options, &queries, mask).map_err(failed)?;
    let distance = distance(&expected, &actual.to_f32());
    if distance.is_nan() || distance > BOUND {
        return Err(format!("{what}: the distance is {distance:.2e}"));
    }
    Ok(())
}

/// A shader of the caller's that copies every vector of keys and values that it may see, by position.
pub fn read_by_text(cache: &KvCache, halves: bool) -> Result<[Vec<f32>; 2], Error> {
    let (context, config) = (cache.context(), cache.config());
    let (device, queue) = (context.device(), context.queue());
    let bindings: Vec<u32> = (0..cache.wgsl_bindings()).map(|index| 20 - index).collect();
    let mut names = WgslNames::new("engine7_").group(1).bindings(&bindings);
    if halves {
        names = names.halves();
    }
    let read = |side: &str| {
        if halves {
            format!("vec4<f32>(engine7_{side}_half(sequence, head, position, i))")
        } else {
            format!("engine7_{side}(sequence, head, position, i)")
        }
    };
    let longest = cache.write_pos();
    let shader = format!(
        "{enable}
        // Names of a caller's that a text without a prefix would collide with.
        const heads = 1u; const window = 2u; fn slot() {{}} fn length() {{}} struct Float {{ x: u32 }}
        @group(0) @binding(0) var<storage, read_write> keys: array<vec4<f32>>;
        @group(0) @binding(1) var<storage, read_write> values: array<vec4<f32>>;
        @group(0) @binding(2) var<uniform> wanted: vec4<u32>;
        {text}
        @compute @workgroup_size(1) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            let sequence = wanted.x; let head = wanted.y; let position = id.x;
            let query = engine7_length(sequence) - 1u;
            if position > query || (position < engine7_first_visible(query) && position >= engine7_sinks) {{ return; }}
            let row = position;
            for (var i = 0u; i < engine7_key_vectors; i++) {{ keys[row * engine7_key_vectors + i] = {key}; }}
            for (var i = 0u; i < engine7_value_vectors; i++) {{ values[row * engine7_value_vectors + i] = {value}; }}
        }}",
        enable = if halves { "enable f16;" } else { "" },
        text = cache.wgsl(&names)?,
        key = read("key"),
        value = read("value"),
    );
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(shader.into()),
    });
    let rows = u64::from(longest);
    let out = [config.head_dim, config.value_dim].map(|dim| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: rows * u64::from(dim.div_ceil(4)) * 16,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    });
    let wanted = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let own = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let group = |layout: &[wgpu::BindGroupLayoutEntry], entries: &[wgpu::BindGroupEntry<'_>]| {
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: layout });
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries };
        (device.create_bind_group(&descriptor), layout)
    };
    let (write, uniform) = (wgpu::BufferBindingType::Storage { read_only: false }, wgpu::BufferBindingType::Uniform);
    let entries: Vec<_> = (0..)
        .zip([&out[0], &out[1], &wanted])
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let (ours, our_layout) = group(&[own(0, write), own(1, write), own(2, uniform)], &entries);
    let (theirs, their_layout) =
        group(&cache.wgsl_layout(&names, wgpu::ShaderStages::COMPUTE)?, &cache.wgsl_entries(&names)?);
    let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&our_layout), Some(&their_layout)],
        immediate_size: 0,
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let mut all = [Vec::new(), Vec::new()];
    for plane in 0..config.batch_size * config.num_heads {
        queue.write_buffer(
            &wanted,
            0,
            bytemuck::cast_slice(&[plane / config.num_heads, plane % config.num_heads, 0, 0]),
        );
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        out.iter().for_each(|buffer| encoder.clear_buffer(buffer, 0, None));
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &ours, &[]);
            pass.set_bind_group(1, &theirs, &[]);
            pass.dispatch_workgroups(longest, 1, 1);
        }
        queue.submit([encoder.finish()]);
        for ((all, buffer), dim) in all.iter_mut().zip(&out).zip([config.head_dim, config.value_dim]) {
            let padded: Vec<f32> = crate::engine::read(context, buffer);
            for row in padded.chunks_exact(dim.next_multiple_of(4) as usize) {
                let (numbers, past) = row.split_at(dim as usize);
                assert!(past.iter().all(|past| *past == 0.0), "past the head size is zero");
                all.extend_from_slice(numbers);
            }
        }
    }
    Ok(all)
}

/// What `read_by_text` should read.
pub fn rows_of(cache: &KvCache, reference: &ReferenceCache) -> Result<[Vec<f32>; 2], Error> {
    let config = cache.config();
    let all = reference.get_all();
    let (rows, longest) = (all.keys.shape()[2] as usize, cache.write_pos() as usize);
    let place = |tensor: &HostTensor, dim: usize| -> Result<Vec<f32>, Error> {
        let numbers = tensor.to_f32();
        let mut placed = vec![0.0; (config.batch_size * config.num_heads) as usize * longest * dim];
        for sequence in 0..config.batch_size {
            for head in 0..config.num_heads {
                let plane = (sequence * config.num_heads + head) as usize;
                for (row, position) in reference.valid_positions(sequence)?.into_iter().enumerate() {
                    let from = (plane * rows + row) * dim;
                    let to = (plane * longest + position as usize) * dim;
                    placed[to..to + dim].copy_from_slice(&numbers[from..from + dim]);
                }
            }
        }
        Ok(placed)
    };
    Ok([place(&all.keys, config.head_dim as usize)?, place(&all.values, config.value_dim as usize)?])
}

fn every_element_is_read(gpu: &Gpu) -> Outcome {
    // Two planes a binding.
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..gpu.adapter.limits() };
    let segmented = Gpu::open(&gpu.adapter, limits, gpu.costs)?;
    let mut cut = false;
    for (key_format, value_format) in pairs() {
        for placement in [Placement::Linear, RING] {
            // Of a ring, more than it keeps; of linear placement, what a small binding holds.
            let (slots, longest) = if placement == RING { (0, 28) } else { (16, 14) };
            for (dim, value_dim) in [(56, 40), (5, 1), (32, 52)] {
                let config = CacheConfig::new(2, 3, dim, slots)
                    .value_dim(value_dim)
                    .formats(key_format, value_format)
                    .scales(0.01, 0.015)
                    .placement(placement);
                for context in [&gpu.context, &segmented] {
                    let (cache, reference) = filled(context, config, &[longest, 9])?;
                    let what =
                        format!("{key_format} × {value_format}, {placement:?}, head sizes {dim} and {value_dim}");
                    let read = read_by_text(&cache, false)?;
                    cut |= cache.wgsl_bindings() > 3;
                    let expected = rows_of(&cache, &reference)?;
                    for (side, (read, expected)) in read.iter().zip(&expected).enumerate() {
                        let differs = read.iter().zip(expected).position(|(read, expected)| read != expected);
                        if let Some(at) = differs {
                            let (read, expected) = (read[at], expected[at]);
                            return Err(format!("{what}, side {side}: element {at} is {read}, not {expected}").into());
                        }
                    }
                }
            }
        }
    }
    assert!(cut, "no layer had more segments than one");
    DONE
}

/// Every format once for keys and once for values, beside another.
fn pairs() -> impl Iterator<Item = (Format, Format)> {
    (0..6).map(|index| (Format::ALL[index], Format::ALL[(index + 2) % 6]))
}

fn halves_are_read(gpu: &Gpu) -> Outcome {
    let config = CacheConfig::new(1, 1, 8, 4).formats(Format::F16, Format::Q8_0);
    let required_features = wgpu::Features::SHADER_F16 & gpu.adapter.features();
    let descriptor =
        wgpu::DeviceDescriptor { required_features, required_limits: gpu.adapter.limits(), ..Default::default() };
    let (device, queue) =
        pollster::block_on(gpu.adapter.request_device(&descriptor)).map_err(|error| error.to_string())?;
    let (cache, _) = filled(&Context::new(&device, &queue), config, &[3])?;
    if required_features.is_empty() {
        let refused = cache.wgsl(&WgslNames::new("kv_").halves());
        assert_eq!(refused, Err(Error::DeviceFeature { feature: "SHADER_F16" }));
        return Ok(libtest_mimic::Completion::ignored_with("the device has no SHADER_F16"));
    }
    let (full, halves) = (read_by_text(&cache, false)?, read_by_text(&cache, true)?);
    for (full, halves) in full.iter().zip(&halves) {
        let rounded: Vec<f32> = full.iter().map(|number| f16::from_f32(*number).to_f32()).collect();
        assert_eq!(&rounded, halves);
    }
    DONE
}

fn every_format_agrees_with_the_reference(gpu: &Gpu) -> Outcome {
    for (key_format, value_format) in pairs() {
        for placement in [Placement::Linear, RING] {
            let config = CacheConfig::new(2, 2, 64, 512)
                .value_dim(40)
                .formats(key_format, value_format)
                .scales(0.01, 0.015)
                .placement(placement);
            let both = filled(&gpu.context, config, &[300, 17])?;
            for (tokens, splits) in [(1, 3), (3, 1)] {
                let options = Options { splits: Some(splits), ..Options::new(4, tokens) };
                let what = format!("{key_format} × {value_format}, {placement:?}, {tokens} queries, {splits} splits");
                check(&what, &both, &options, None)?;
            }
        }
    }
    DONE
}

fn shapes_agree_with_the_reference(gpu: &Gpu) -> Outcome {
    // Head sizes with and without vectors, more query rows than a tile has, more vectors of values than a workgroup has threads,
    // queries that are not kept in a workgroup, and many query heads of one KV head.
    for (batch, kv_heads, heads, dim, value_dim, tokens, splits) in [
        (1, 1, 1, 64, 64, 1, None),
        (2, 3, 6, 46, 7, 5, Some(2)),
        (1, 2, 14, 80, 96, 9, None),
        (1, 1, 40, 16, 8, 2, Some(3)),
        (1, 1, 4, 576, 512, 3, None),
        (3, 2, 2, 1, 1, 40, Some(2)),
    ] {
        let config = CacheConfig::new(batch, kv_heads, dim, 200).value_dim(value_dim);
        let counts: Vec<u32> = (0..batch).map(|sequence| 130 - 61 * sequence).collect();
        let both = filled(&gpu.context, config, &counts)?;
        let options = Options { splits, ..Options::new(heads, tokens) };
        check(&format!("{config:?}, {options:?}"), &both, &options, None)?;
    }
    DONE
}

fn options_agree_with_the_reference(gpu: &Gpu) -> Outcome {
    for placement in [Placement::Linear, RING] {
        let config = CacheConfig::new(2, 2, 32, 64).placement(placement);
        let both = filled(&gpu.context, config, &[40, 9])?;
        let base = Options::new(4, 3);
        let options = [
            Options { causal: false, ..base },
            Options { scale: Some(0.7), ..base },
            Options { scale: Some(-0.3), splits: Some(2), ..base },
            Options { softcap: Some(0.4), ..base },
            Options { softcap: Some(1e-3), scale: Some(1e3), ..base },
            Options { window: Some(5), sinks: 2, ..base },
            Options { window: Some(1), ..base },
            Options { window: Some(7), sinks: 1, causal: false, splits: Some(4), ..base },
        ];
        for options in options {
            check(&format!("{placement:?}, {options:?}"), &both, &options, None)?;
        }
        // A tree of three queries: the second and third do not see each other.
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

/// The recorded queries, keys and values of SmolLM2-135M: 9 query heads on 3 KV heads, in every format.
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
    for layer in [0, 9, 19, 29] {
        let (shape, queries) = halves(format!("layers.{layer}.queries"))?;
        let (kv_shape, keys) = halves(format!("layers.{layer}.keys"))?;
        let (_, values) = halves(format!("layers.{layer}.values"))?;
        let [heads, tokens, dim] = [shape[1], shape[2], shape[3]].map(|axis| axis as u32);
        for format in Format::ALL {
            let config = CacheConfig::new(1, kv_shape[1] as u32, dim, kv_shape[2] as u32).formats(format, format);
            let (mut cache, mut reference_cache) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
            cache.update(&keys, &values, Write::append(kv_shape[2] as u32))?;
            reference_cache.update(&keys, &values, Write::append(kv_shape[2] as u32))?;
            let options = Options::new(heads, tokens);
            let expected = reference(&reference_cache, &options, &queries, None)?;
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
        let options = Options { splits: Some(splits), ..Options::new(2, 2) };
        let queries = numbers(3 * 2 * 2 * 8, 3);
        let output = attend(&cache, &options, &queries, None)?.to_f32();
        // [sequence, head, token]: sequence 1 is empty, and of sequence 2 the first query stands before its start.
        for (index, row) in output.chunks_exact(8).enumerate() {
            let sees_nothing = index / 4 == 1 || index / 4 == 2 && index % 2 == 0;
            assert_eq!(row.iter().all(|number| *number == 0.0), sees_nothing, "row {index}: {row:?}");
        }
        let hidden = [f32::NEG_INFINITY; 2];
        let mask = MaskRows { numbers: &hidden, shape: [1, 1, 1, 2] };
        let output = attend(&cache, &options, &queries, Some(mask))?.to_f32();
        assert!(output.iter().all(|number| *number == 0.0), "{output:?}");
    }
    DONE
}

fn rows_that_are_not_valid_have_no_part(gpu: &Gpu) -> Outcome {
    for format in Format::ALL {
        for placement in [Placement::Linear, RING] {
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
            for (splits, causal) in [(1, true), (2, false)] {
                let options = Options { splits: Some(splits), causal, ..Options::new(4, 2) };
                check(&format!("{format}, {placement:?}"), &both, &options, None)?;
            }
        }
    }
    DONE
}

/// Queries inside a fused projection in f16, an output `[batch, token, head, dim]` in f16, into the middle of a buffer.
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
        };
        let options = Options::new(heads, tokens);
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
        let expected = reference(&reference_cache, &options, &dense, None)?;
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
    let base = Options::new(4, 1);
    let wide = numbers(2 * 3 * 8, 1);
    let cases: Vec<(Options, &[f32], Error)> = vec![
        (Options { query_heads: 3, ..base }, &wide, Error::QueryHeads { query_heads: 3, num_heads: 2 }),
        (Options { query_heads: 0, ..base }, &[], Error::QueryHeads { query_heads: 0, num_heads: 2 }),
        (Options { tokens: 0, ..base }, &[], Error::NoTokens),
        (base, &wide, Error::TensorLength { name: "queries", expected: 64, actual: 48 }),
        (Options { scale: Some(f32::NAN), ..base }, &queries, Error::AttentionScale { scale: Scale::new(f32::NAN) }),
        (Options { softcap: Some(0.0), ..base }, &queries, Error::Softcap { softcap: Scale::new(0.0) }),
        (Options { window: Some(0), ..base }, &queries, Error::ZeroDimension { name: "window" }),
    ];
    for (options, queries, expected) in cases {
        assert_eq!(attend(&cache, &options, queries, None).map(drop), Err(expected.clone()));
        assert_eq!(reference(&reference_cache, &options, queries, None).map(drop), Err(expected));
    }
    let refused = attend(&cache, &Options { splits: Some(65), ..base }, &queries, None).map(drop);
    let expected = Error::Splits { splits: 65, most: 64 };
    assert_eq!(refused, Err(expected));
    let numbers_of_mask = vec![0.0; 12];
    for (shape, expected) in [
        ([1, 3, 1, 4], Error::MaskShape { batch_size: 2, query_heads: 4, tokens: 1, shape: [1, 3, 1, 4] }),
        ([2, 1, 1, 6], Error::MaskTooShort { positions: 6, write_pos: 7 }),
        ([1, 1, 1, 7], Error::TensorLength { name: "mask", expected: 7, actual: 12 }),
    ] {
        let mask = Some(MaskRows { numbers: &numbers_of_mask, shape });
        assert_eq!(attend(&cache, &base, &queries, mask).map(drop), Err(expected.clone()));
        assert_eq!(reference(&reference_cache, &base, &queries, mask).map(drop), Err(expected));
    }
    // Of a ring, more than it keeps.
    let (ring, ring_reference) = filled(&gpu.context, config.placement(RING), &[40, 3])?;
    let wanted = Options { window: Some(12), ..base };
    let expected = Error::AttentionWindow { window: 11, sinks: 3, wanted: 12, wanted_sinks: 0 };
    assert_eq!(attend(&ring, &wanted, &queries, None).map(drop), Err(expected.clone()));
    assert_eq!(reference(&ring_reference, &wanted, &queries, None).map(drop), Err(expected));
    let many = Options::new(4, 6);
    let queries_of_many = numbers(2 * 4 * 6 * 8, 1);
    let expected = Error::Evicted { sequence: 0, position: 25, oldest: 26 };
    assert_eq!(attend(&ring, &many, &queries_of_many, None).map(drop), Err(expected.clone()));
    assert_eq!(reference(&ring_reference, &many, &queries_of_many, None).map(drop), Err(expected));

    // Buffers.
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
    let make = |queries, output| Attention::new(&cache, &base, &Tensors { queries, output, mask: None }).map(drop);
    let refused = [
        (
            make(dense(&short, f32, 0), dense(&other, f32, 0)),
            Error::TensorRange { name: "queries", needed: 256, actual: 252 },
        ),
        (make(dense(&good, f32, 0), dense(&good, f32, 0)), Error::OutputShared { name: "queries" }),
        (make(dense(&good, packed, 0), dense(&other, f32, 0)), Error::TensorFormat { name: "queries", format: packed }),
        (
            make(dense(&good, Format::F16, 0), dense(&other, Format::F16, 2)),
            Error::TensorMisaligned { what: "the offset of the output", value: 2, alignment: 4 },
        ),
        (
            make(dense(&useless, f32, 0), dense(&other, f32, 0)),
            Error::TensorUsage { name: "queries", needed: "STORAGE", actual: "BufferUsages(COPY_DST)".to_owned() },
        ),
    ];
    for (refused, expected) in refused {
        assert_eq!(refused, Err(expected));
    }
    let storage = cache.view().side(wgpu_kv_cache::Side::Keys).segments().next().unwrap().buffer.clone();
    assert_eq!(make(dense(&good, f32, 0), dense(&storage, f32, 0)), Err(Error::OutputShared { name: "cache" }));
    let tensors = Tensors { queries: dense(&good, f32, 0), output: dense(&other, f32, 0), mask: None };
    let attention = Attention::new(&cache, &base, &tensors)?;
    let mut encoder = gpu.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    assert_eq!(attention.record(&ring, &mut encoder), Err(Error::ForeignAttention));

    // Names of the text.
    for prefix in ["", "1kv", "k-v"] {
        assert_eq!(cache.wgsl(&WgslNames::new(prefix)), Err(Error::WgslPrefix { prefix: prefix.to_owned() }));
    }
    let names = WgslNames::new("kv_");
    assert_eq!(cache.wgsl(&names.bindings(&[0, 1])), Err(Error::WgslBindings { expected: 3, actual: 2 }));
    assert_eq!(cache.wgsl(&names.bindings(&[0, 1, 0])), Err(Error::WgslBindingTwice { binding: 0 }));
    DONE
}
