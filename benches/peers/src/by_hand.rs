//! What one would write with wgpu alone: a kernel that copies rows to a position, and a buffer copy.

use std::time::{Duration, Instant};

use wgpu::util::DeviceExt as _;
use wgpu_kv_cache::Context;

use crate::{Case, Peer, Result, Rows};

/// A buffer with these floats that can be read back.
pub fn filled(context: &Context, floats: &[f32]) -> wgpu::Buffer {
    context.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
        label: None,
        contents: bytemuck::cast_slice(floats),
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
    })
}

fn read(context: &Context, buffer: &wgpu::Buffer) -> Result<Vec<f32>> {
    let staging = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: buffer.size(),
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    context.queue().submit([encoder.finish()]);
    let (sender, receiver) = std::sync::mpsc::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |outcome| drop(sender.send(outcome)));
    context.wait()?;
    receiver.recv()??;
    Ok(bytemuck::pod_collect_to_vec(&staging.get_mapped_range(..)?))
}

struct Kernel {
    context: Context,
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    position: wgpu::Buffer,
    start: u32,
    groups: u32,
    caches: [wgpu::Buffer; 2],
    case: [usize; 6],
}

/// Each thread copies four elements of a key and of a value. Every update writes the position to a uniform.
pub fn prepare_kernel(context: &Context, case: &Case, rows: &Rows) -> Result<Box<dyn Peer>> {
    let &Case { batch, heads, dim, capacity, tokens, position: start, .. } = case;
    let (device, vectors) = (context.device(), dim / 4);
    let text = format!(
        "@group(0) @binding(0) var<uniform> position: u32;
         @group(0) @binding(1) var<storage, read> new_keys: array<vec4<f32>>;
         @group(0) @binding(2) var<storage, read> new_values: array<vec4<f32>>;
         @group(0) @binding(3) var<storage, read_write> keys: array<vec4<f32>>;
         @group(0) @binding(4) var<storage, read_write> values: array<vec4<f32>>;
         @compute @workgroup_size(64)
         fn update(@builtin(global_invocation_id) id: vec3<u32>) {{
             let index = id.x;
             if index >= {total}u {{
                 return;
             }}
             let plane = index / {plane}u;
             let to = plane * {cached}u + position * {vectors}u + index % {plane}u;
             keys[to] = new_keys[index];
             values[to] = new_values[index];
         }}",
        total = batch * heads * tokens * vectors,
        plane = tokens * vectors,
        cached = capacity * vectors,
    );
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let position = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4,
        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    let caches = [(); 2].map(|()| filled(context, &vec![0.0; batch * heads * capacity * dim]));
    let sources = [&rows.keys, &rows.values].map(|rows| filled(context, rows));
    let buffers = [&position, &sources[0], &sources[1], &caches[0], &caches[1]];
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    let groups = (batch * heads * tokens * vectors).div_ceil(64) as u32;
    let case = [batch, heads, dim, capacity, tokens, start];
    let (context, start) = (context.clone(), start as u32);
    Ok(Box::new(Kernel { context, pipeline, bindings, position, start, groups, caches, case }))
}

impl Peer for Kernel {
    fn update(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.context.queue().write_buffer(&self.position, 0, bytemuck::bytes_of(&self.start));
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.bindings, &[]);
            pass.dispatch_workgroups(self.groups, 1, 1);
        }
        self.context.queue().submit([encoder.finish()]);
        self.context.wait()?;
        Ok(start.elapsed())
    }

    fn holds(&mut self, rows: &Rows) -> Result<bool> {
        let [batch, heads, dim, capacity, tokens, position] = self.case;
        let case = Case { name: "", batch, heads, dim, capacity, tokens, position };
        let [keys, values] = [&self.caches[0], &self.caches[1]].map(|cache| read(&self.context, cache));
        Ok(case.rows_of(&keys?) == rows.keys && case.rows_of(&values?) == rows.values)
    }
}

struct Copy {
    context: Context,
    from: wgpu::Buffer,
    to: wgpu::Buffer,
}

/// Copies keys and values, one after the other in one buffer, in a single copy.
pub fn prepare_copy(context: &Context, _case: &Case, rows: &Rows) -> Result<Box<dyn Peer>> {
    let both = [&rows.keys[..], &rows.values[..]].concat();
    let (from, to) = (filled(context, &both), filled(context, &vec![0.0; both.len()]));
    Ok(Box::new(Copy { context: context.clone(), from, to }))
}

impl Peer for Copy {
    fn update(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&self.from, 0, &self.to, 0, self.from.size());
        self.context.queue().submit([encoder.finish()]);
        self.context.wait()?;
        Ok(start.elapsed())
    }

    fn holds(&mut self, rows: &Rows) -> Result<bool> {
        Ok(read(&self.context, &self.to)? == [&rows.keys[..], &rows.values[..]].concat())
    }
}
