//! An engine's decode loop: its own device, its own buffers, its own kernels. Each step is one encoder and one
//! submission: project a token to keys and values, write them into the cache, attend over all valid positions.
//!
//! The "model" is a toy with one layer; what matters is who owns what. In the end the cache is compared with the CPU
//! reference, and the attention with sums on the CPU.

use wgpu_kv_cache::{
    CacheConfig, Context, Format, KvCache, ReferenceCache, RowsIn, Side, Source, Strides, Write, adapters, wgpu,
};

const HEADS: u32 = 4;
const DIM: u32 = 32;
const STEPS: u32 = 48;

/// Projects token `step[0]` to a fused row `[keys of all heads, values of all heads]`.
const PROJECT: &str = "
    @group(0) @binding(0) var<uniform> step: vec4<u32>;
    @group(0) @binding(1) var<storage, read_write> projection: array<f32>;
    @compute @workgroup_size(64) fn project(@builtin(global_invocation_id) id: vec3<u32>) {
        projection[id.x] = f32((step.x * 7u + id.x * 3u) % 64u) / 64.0;
    }";

/// Adds up, for each head, key element 0 times value element 0 over all valid positions.
const ATTEND: &str = "
    @group(0) @binding(0) var<storage, read> keys: array<f32>;
    @group(0) @binding(1) var<storage, read> values: array<f32>;
    @group(0) @binding(2) var<storage, read> lengths: array<u32>;
    @group(0) @binding(3) var<storage, read_write> output: array<f32>;
    override PLANE: u32;
    override ROW: u32;
    @compute @workgroup_size(4) fn attend(@builtin(local_invocation_index) head: u32) {
        var sum = 0.0;
        for (var position = 0u; position < lengths[0]; position++) {
            let at = head * PLANE + position * ROW;
            sum += keys[at] * values[at];
        }
        output[head] = sum;
    }";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The engine's own device, with the limits that its cache needs.
    let config = CacheConfig::new(1, HEADS, DIM, 64).formats(Format::F32, Format::F32);
    let adapter = adapters()?.swap_remove(0);
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_limits: config.required_limits(&adapter.limits())?,
        ..Default::default()
    }))?;
    let mut cache = KvCache::new(&Context::new(&device, &queue), config)?;

    // The engine's own buffers.
    let width = u64::from(2 * HEADS * DIM);
    let buffer = |size, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let step = buffer(16, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let projection = buffer(width * 4, wgpu::BufferUsages::STORAGE);
    let output = buffer(u64::from(HEADS) * 4, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let download = buffer(u64::from(HEADS) * 4, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ);

    // The projection is bound to the cache once: keys are its first half, values its second.
    let part = |first: u64| RowsIn {
        buffer: &projection,
        offset: first * 4,
        format: Format::F32,
        strides: Strides::fused(width, 1, DIM),
    };
    let source = cache.bind_source(&Source { keys: part(0), values: part(width / 2), tokens: 1 })?;

    // The engine's kernels; attention binds the cache's storage and lengths.
    let (keys, values) = (cache.view().side(Side::Keys), cache.view().side(Side::Values));
    let strides = keys.strides();
    let storage = |side: wgpu_kv_cache::SideView<'_>| side.segments().next().map(|segment| segment.buffer.clone());
    let (keys, values) = (storage(keys).ok_or("one segment")?, storage(values).ok_or("one segment")?);
    let (project, project_group) = kernel(&device, PROJECT, &[], &[&step, &projection]);
    let constants = [("PLANE", strides.head as f64), ("ROW", strides.token as f64)];
    let bindings = [&keys, &values, cache.view().lengths_on_device().buffer, &output];
    let (attend, attend_group) = kernel(&device, ATTEND, &constants, &bindings);

    for token in 0..STEPS {
        queue.write_buffer(&step, 0, bytemuck::cast_slice(&[token, 0, 0, 0]));
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&project);
            pass.set_bind_group(0, &project_group, &[]);
            pass.dispatch_workgroups(2 * HEADS * DIM / 64, 1, 1);
            cache.record_update(&mut pass, &source, Write::append(1))?;
            pass.set_pipeline(&attend);
            pass.set_bind_group(0, &attend_group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        encoder.copy_buffer_to_buffer(&output, 0, &download, 0, output.size());
        queue.submit([encoder.finish()]);
    }

    // What the engine computed, and the same on the CPU.
    download.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let attended: Vec<f32> = bytemuck::pod_collect_to_vec(&download.get_mapped_range(..)?);
    let projected = |token: u32, i: u32| ((token * 7 + i * 3) % 64) as f32 / 64.0;
    let mut reference = ReferenceCache::new(config)?;
    let mut expected = vec![0.0f32; HEADS as usize];
    for token in 0..STEPS {
        let row: Vec<f32> = (0..2 * HEADS * DIM).map(|i| projected(token, i)).collect();
        let (keys, values) = row.split_at(row.len() / 2);
        reference.update(keys, values, Write::append(1))?;
        for (head, sum) in expected.iter_mut().enumerate() {
            *sum += keys[head * DIM as usize] * values[head * DIM as usize];
        }
    }
    if let Some(difference) = reference.compare_storage(0, &cache.read_storage()?)? {
        return Err(difference.to_string().into());
    }
    assert_eq!(attended, expected, "sums of multiples of 2^-12 are exact");
    println!("{STEPS} steps, one submission each; cache and attention agree with the CPU: {attended:?}");
    Ok(())
}

/// A kernel and its bindings.
fn kernel(
    device: &wgpu::Device,
    text: &str,
    constants: &[(&str, f64)],
    buffers: &[&wgpu::Buffer],
) -> (wgpu::ComputePipeline, wgpu::BindGroup) {
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
        cache: None,
    });
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = pipeline.get_bind_group_layout(0);
    let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries };
    (pipeline, device.create_bind_group(&descriptor))
}
