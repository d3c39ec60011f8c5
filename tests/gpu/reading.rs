//! The generated WGSL that reads a layer, used in a caller's shader: every element, in every format and placement, in
//! one segment and in several.

use wgpu_kv_cache::{
    CacheConfig, Context, DeviceError, Error, Format, HostRows, HostTensor, KvCache, Placement, ReadLayer,
    ReferenceCache, WgslNames, Write, half::f16,
};

use crate::{
    DONE, Gpu, Outcome, Test,
    rows::{RING, filled},
};

pub const TESTS: &[Test] = &[
    ("reading::every_code_is_read", every_code_is_read),
    ("reading::every_element_is_read", every_element_is_read),
    ("reading::halves_are_read", halves_are_read),
];

/// The functions by which a shader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Four elements.
    Vectors,
    /// Four elements in f16.
    Halves,
    /// 8, 16 or 32 elements.
    Groups { elements: u32, wide: bool },
    /// What a load of 16 bytes brings.
    Units { wide: bool },
}

impl How {
    /// All but halves.
    const ALL: [How; 9] = [
        How::Vectors,
        How::Units { wide: true },
        How::Units { wide: false },
        How::Groups { elements: 8, wide: true },
        How::Groups { elements: 16, wide: true },
        How::Groups { elements: 32, wide: true },
        How::Groups { elements: 8, wide: false },
        How::Groups { elements: 16, wide: false },
        How::Groups { elements: 32, wide: false },
    ];
}

/// Runs a caller's shader that copies every visible vector of keys and values, indexed by position.
pub fn read_by_text(cache: &impl ReadLayer, how: How) -> Result<[Vec<f32>; 2], Error> {
    let (context, config) = (cache.context(), cache.config());
    let (device, queue) = (context.device(), context.queue());
    let bindings: Vec<u32> = (0..cache.wgsl_bindings()).map(|index| 20 - index).collect();
    let mut names = WgslNames::new("engine7_").group(1).bindings(&bindings);
    let halves = how == How::Halves;
    if halves {
        names = names.halves();
    }
    if matches!(how, How::Groups { wide: true, .. } | How::Units { wide: true }) {
        names = names.wide();
    }
    // What vector `i` of the row is.
    let row = "engine7_plane(sequence, head), engine7_slot(position)";
    let looked_up = "engine7_row_of(sequence, head, position)";
    let read = |side: &str| match how {
        How::Vectors => format!("engine7_{side}(sequence, head, position, i)"),
        How::Halves => format!("vec4<f32>(engine7_{side}_half(sequence, head, position, i))"),
        How::Groups { elements, .. } => {
            let vectors = elements / 4;
            format!("joined(engine7_{side}_{elements}_of({looked_up}, i / {vectors}u), i % {vectors}u)")
        }
        How::Units { .. } => format!(
            "engine7_{side}_vector(engine7_{side}_unit_at({row}, i / engine7_{side}_unit_vectors),
                i % engine7_{side}_unit_vectors)"
        ),
    };
    let joined = match how {
        How::Groups { elements, .. } => {
            let vectors = elements / 4;
            format!(
                "fn joined(all: array<vec4<f32>, {vectors}>, j: u32) -> vec4<f32> {{
                    var vectors = all;
                    return vectors[j];
                }}"
            )
        }
        _ => String::new(),
    };
    let longest = cache.lengths().iter().copied().max().unwrap_or(0);
    let shader = format!(
        "{enable}
        // The caller's own names. They would collide with the generated WGSL if it had no prefix.
        const heads = 1u; const window = 2u; fn slot() {{}} fn length() {{}} struct Float {{ x: u32 }}
        @group(0) @binding(0) var<storage, read_write> keys: array<vec4<f32>>;
        @group(0) @binding(1) var<storage, read_write> values: array<vec4<f32>>;
        @group(0) @binding(2) var<uniform> wanted: vec4<u32>;
        {text}
        {joined}
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

/// The expected output of [`read_by_text`].
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
    // A binding holds only two planes of the largest rows.
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 8192, ..gpu.adapter.limits() };
    let segmented = Gpu::open(&gpu.adapter, limits, gpu.costs)?;
    let (mut cut, mut turn) = (false, 0);
    // The placement affects only slots, and the number of segments only loads, so each is tested once.
    for (key_format, value_format) in pairs() {
        // The ring gets more rows than it keeps. Linear placement gets as many as fit the small binding.
        for (context, placement, slots, longest) in
            [(&gpu.context, RING, 0, 28), (&segmented, Placement::Linear, 16, 14)]
        {
            for (dim, value_dim) in [(56, 40), (5, 1), (32, 52)] {
                let config = CacheConfig::new(2, 3, dim, slots)
                    .value_dim(value_dim)
                    .formats(key_format, value_format)
                    .scales(0.01, 0.015)
                    .placement(placement);
                let (cache, reference) = filled(context, config, &[longest, 9])?;
                let what = format!(
                    "{key_format} × {value_format}, {placement:?}, head sizes {dim} and {value_dim}, turn {turn}"
                );
                // Other formats and head sizes take other functions next time.
                let how = How::ALL[turn % How::ALL.len()];
                turn += 1;
                let read = read_by_text(&cache, how)?;
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
    assert!(cut, "no layer had more segments than one");
    DONE
}

/// Pairs in which every format occurs once for keys and once for values, always with a different format on the other
/// side.
pub fn pairs() -> impl Iterator<Item = (Format, Format)> {
    (0..6).map(|index| (Format::ALL[index], Format::ALL[(index + 2) % 6]))
}

/// Stores two rows that contain every code of each packed format. The scales are powers of two, so products are exact
/// and every bit must equal the reference's.
fn every_code_is_read(gpu: &Gpu) -> Outcome {
    let rows = |format: Format| -> Vec<u8> {
        let codes: Vec<u8> = (0..=255).collect();
        let scales = |row: i32| (0..8).flat_map(move |block| f16::from_f32(0.5f32.powi(row + block)).to_le_bytes());
        match format {
            Format::Fp8E4M3 => codes.iter().chain(codes.iter().rev()).copied().collect(),
            Format::Q8_0 => {
                codes.iter().copied().chain(scales(0)).chain(codes.iter().rev().copied()).chain(scales(3)).collect()
            }
            _ => codes[..128]
                .iter()
                .copied()
                .chain(scales(1))
                .chain(codes[128..].iter().copied())
                .chain(scales(2))
                .collect(),
        }
    };
    let packed = [Format::Fp8E4M3, Format::Q8_0, Format::Q4_0];
    for (key_format, value_format) in packed.into_iter().zip([Format::Q8_0, Format::Q4_0, Format::Fp8E4M3]) {
        let config = CacheConfig::new(1, 1, 256, 2).formats(key_format, value_format).scales(2.0, 0.5);
        let (mut cache, mut reference) = (KvCache::new(&gpu.context, config)?, ReferenceCache::new(config)?);
        let (key_bytes, value_bytes) = (rows(key_format), rows(value_format));
        let keys = HostRows::Stored { format: key_format, bytes: &key_bytes };
        let values = HostRows::Stored { format: value_format, bytes: &value_bytes };
        cache.update(keys, values, Write::append(2))?;
        reference.update(keys, values, Write::append(2))?;
        let expected = rows_of(&cache, &reference)?;
        for how in How::ALL {
            let read = read_by_text(&cache, how)?;
            for (index, (read, expected)) in read.iter().flatten().zip(expected.iter().flatten()).enumerate() {
                let (side, element) = (index / 512, index % 512);
                let same = read.to_bits() == expected.to_bits() || read.is_nan() && expected.is_nan();
                assert!(
                    same,
                    "{key_format} × {value_format}, {how:?}, side {side}: element {element} is {read}, not {expected}"
                );
            }
        }
    }
    DONE
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
        assert_eq!(refused, Err(Error::Device(DeviceError::DeviceFeature { feature: "SHADER_F16" })));
        return Ok(libtest_mimic::Completion::ignored_with("the device has no SHADER_F16"));
    }
    let (full, halves) = (read_by_text(&cache, How::Vectors)?, read_by_text(&cache, How::Halves)?);
    for (full, halves) in full.iter().zip(&halves) {
        let rounded: Vec<f32> = full.iter().map(|number| f16::from_f32(*number).to_f32()).collect();
        assert_eq!(&rounded, halves);
    }
    DONE
}
