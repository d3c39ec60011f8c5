//! An engine's own attention. The same WGSL reads f16 with linear placement and 4 bits in a ring.
//!
//! It uses only what `KvCache::wgsl` defines, and knows nothing of formats, slots or strides.

use wgpu_kv_cache::{
    CacheConfig, Context, Format, KvCache, Placement, ReferenceCache, WgslNames, Write, adapter_label, adapters,
    attention::Options,
};

/// 4 query heads share 2 KV heads of 64.
const QUERY_HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const DIM: u32 = 64;
/// Tokens of the prompt.
const TOKENS: u32 = 200;

/// One thread per vector of the output. `{cache}` is replaced by the cache's WGSL.
const ATTENTION: &str = "
    @group(0) @binding(0) var<storage, read> queries: array<vec4<f32>>;
    @group(0) @binding(1) var<storage, read_write> output: array<vec4<f32>>;
    {cache}

    fn score(head: u32, position: u32) -> f32 {
        let plane = kv_plane(0u, head / (QUERY_HEADS / kv_heads));
        let slot = kv_slot(position);
        var sum = 0.0;
        // 32 elements at a time, so that loads are as wide as the device has them, and a block's scale is read once.
        for (var i = 0u; i < kv_key_vectors / 8u; i++) {
            let key = kv_key_32_at(plane, slot, i);
            let at = head * kv_key_vectors + 8u * i;
            sum += dot(queries[at], key[0]) + dot(queries[at + 1u], key[1]);
            sum += dot(queries[at + 2u], key[2]) + dot(queries[at + 3u], key[3]);
            sum += dot(queries[at + 4u], key[4]) + dot(queries[at + 5u], key[5]);
            sum += dot(queries[at + 6u], key[6]) + dot(queries[at + 7u], key[7]);
        }
        return sum / sqrt(f32(kv_key_dim));
    }

    @compute @workgroup_size(kv_value_vectors)
    fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) vector: u32) {
        let head = group.x;
        let query = kv_length(0u) - 1u;
        let first = kv_first_visible(query);
        let sinks = min(kv_sinks, first);
        var largest = -3.0e38;
        var weight = 0.0;
        var sum = vec4<f32>();
        for (var i = 0u; i < sinks + (query - first + 1u); i++) {
            let position = select(first + (i - sinks), i, i < sinks);
            let now = score(head, position);
            let next = max(largest, now);
            let kept = exp(largest - next);
            let added = exp(now - next);
            weight = weight * kept + added;
            sum = sum * kept + added * kv_value(0u, head / (QUERY_HEADS / kv_heads), position, vector);
            largest = next;
        }
        output[head * kv_value_vectors + vector] = sum / weight;
    }";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let adapter = adapters()?.swap_remove(0);
    println!("on {}", adapter_label(&adapter.get_info()));
    let context = Context::open(&adapter)?;
    let ring = Placement::Ring { window: 64, sinks: 4, slack: 0 };
    for format in [Format::F16, Format::Q4_0] {
        for placement in [Placement::Linear, ring] {
            let config = CacheConfig::new(1, KV_HEADS, DIM, 256).formats(format, format).placement(placement);
            let distance = run(&context, config)?;
            let place = if placement == ring { "ring of 4 + 64" } else { "linear" };
            println!("{format:>5} × {place:<15} distance from f64 over the same rows: {distance:.1e}");
            assert!(distance < 1e-5, "the same text gives the same attention");
        }
    }
    Ok(())
}

/// Fills a cache, runs the engine's kernel over it, and returns the distance from the reference.
fn run(context: &Context, config: CacheConfig) -> Result<f64, Box<dyn std::error::Error>> {
    let (device, queue) = (context.device(), context.queue());
    let rows = |step: f32| -> Vec<f32> { (0..KV_HEADS * TOKENS * DIM).map(|i| (i as f32 * step).sin()).collect() };
    let (keys, values) = (rows(0.37), rows(0.73));
    let queries: Vec<f32> = (0..QUERY_HEADS * DIM).map(|i| (i as f32 * 0.11).cos()).collect();
    let mut cache = KvCache::new(context, config)?;
    cache.update(&keys, &values, Write::append(TOKENS))?;

    let names = WgslNames::new("kv_").group(1).wide();
    let text = ATTENTION.replace("{cache}", &cache.wgsl(&names)?).replace("QUERY_HEADS", &format!("{QUERY_HEADS}u"));
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("attention"),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let storage = |binding, read_only| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let layout = |entries: &[wgpu::BindGroupLayoutEntry]| {
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries })
    };
    let own_layout = layout(&[storage(0, true), storage(1, false)]);
    let cache_layout = layout(&cache.wgsl_layout(&names, wgpu::ShaderStages::COMPUTE)?);
    let bytes = u64::from(QUERY_HEADS * DIM) * 4;
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
    };
    let query_buffer = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST);
    let output = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let read_back = buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ);
    queue.write_buffer(&query_buffer, 0, bytemuck::cast_slice(&queries));
    let group = |layout: &wgpu::BindGroupLayout, entries: &[wgpu::BindGroupEntry<'_>]| {
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries })
    };
    let own = [(0, &query_buffer), (1, &output)]
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
    let groups = [group(&own_layout, &own), group(&cache_layout, &cache.wgsl_entries(&names)?)];
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("attention"),
        layout: Some(&device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&own_layout), Some(&cache_layout)],
            immediate_size: 0,
        })),
        module: &module,
        entry_point: Some("attention"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        for (index, group) in (0..).zip(&groups) {
            pass.set_bind_group(index, group, &[]);
        }
        pass.dispatch_workgroups(QUERY_HEADS, 1, 1);
    }
    encoder.copy_buffer_to_buffer(&output, 0, &read_back, 0, bytes);
    queue.submit([encoder.finish()]);
    read_back.map_async(wgpu::MapMode::Read, .., |mapped| mapped.expect("the buffer can be mapped"));
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let read = read_back.get_mapped_range(..)?;
    let actual: Vec<f32> = bytemuck::pod_collect_to_vec(&read);

    let mut on_the_cpu = ReferenceCache::new(config)?;
    on_the_cpu.update(&keys, &values, Write::append(TOKENS))?;
    let expected = on_the_cpu.attend(&Options::last(QUERY_HEADS, 1), &queries, None)?;
    let difference: f64 = expected.iter().zip(&actual).map(|(e, a)| (e - f64::from(*a)).powi(2)).sum();
    Ok((difference / expected.iter().map(|e| e * e).sum::<f64>()).sqrt())
}
