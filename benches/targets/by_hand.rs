//! What an engine's author would write for a single shape, without lengths, gaps or checks.

use wgpu_kv_cache::{Context, Format};

use crate::{DIM, HEADS};

fn pipeline(context: &Context, text: &str) -> wgpu::ComputePipeline {
    let device = context.device();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    })
}

/// A bind group of the buffers from index `first` on. Each is bound at its index.
fn group(
    context: &Context,
    pipeline: &wgpu::ComputePipeline,
    first: usize,
    buffers: &[&wgpu::Buffer],
) -> wgpu::BindGroup {
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .skip(first)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = &pipeline.get_bind_group_layout(0);
    context.device().create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

/// Converts f32 rows `[head, token, dim]` into f16 or bf16 planes `[head, capacity, dim]`, from slot 0.
#[derive(Debug)]
pub struct Convert {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    groups: u32,
}

impl Convert {
    pub fn new(
        context: &Context,
        stored: Format,
        tokens: u32,
        capacity: u32,
        sources: [&wgpu::Buffer; 2],
        planes: [&wgpu::Buffer; 2],
    ) -> Self {
        // Rounds to nearest even and keeps NaN, which gives the same bits as the cache.
        let pack = match stored {
            Format::F16 => "return pack2x16float(x);",
            _ => {
                "let bits = bitcast<vec2<u32>>(x);
                 let rounded = (bits + 0x7fffu + ((bits >> vec2(16u)) & vec2(1u))) >> vec2(16u);
                 let nan = (bits & vec2(0x7fffffffu)) > vec2(0x7f800000u);
                 let stored = select(rounded, (bits >> vec2(16u)) | vec2(0x40u), nan);
                 return stored.x | (stored.y << 16u);"
            }
        };
        let text = format!(
            "@group(0) @binding(0) var<storage, read> key_source: array<vec4<f32>>;
             @group(0) @binding(1) var<storage, read> value_source: array<vec4<f32>>;
             @group(0) @binding(2) var<storage, read_write> keys: array<vec4<u32>>;
             @group(0) @binding(3) var<storage, read_write> values: array<vec4<u32>>;
             fn pack(x: vec2<f32>) -> u32 {{ {pack} }}
             @compute @workgroup_size(256) fn convert(@builtin(global_invocation_id) id: vec3<u32>) {{
                 let plane = id.x / {units}u;
                 let at = plane * {stride}u + id.x % {units}u;
                 if id.z == 0u {{
                     let a = key_source[2u * id.x];
                     let b = key_source[2u * id.x + 1u];
                     keys[at] = vec4(pack(a.xy), pack(a.zw), pack(b.xy), pack(b.zw));
                 }} else {{
                     let a = value_source[2u * id.x];
                     let b = value_source[2u * id.x + 1u];
                     values[at] = vec4(pack(a.xy), pack(a.zw), pack(b.xy), pack(b.zw));
                 }}
             }}",
            units = tokens * DIM / 8,
            stride = capacity * DIM / 8,
        );
        let pipeline = pipeline(context, &text);
        let group = group(context, &pipeline, 0, &[sources[0], sources[1], planes[0], planes[1]]);
        Convert { pipeline, group, groups: HEADS * tokens * DIM / 8 / 256 }
    }

    pub fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.groups, 1, 2);
    }
}

/// Writes one f16 token `[batch, head, dim]` into planes `[batch, head, capacity, dim]` of every layer.
#[derive(Debug)]
pub struct Decode {
    pipeline: wgpu::ComputePipeline,
    position: wgpu::Buffer,
    groups: Vec<wgpu::BindGroup>,
    layers: Vec<[wgpu::Buffer; 2]>,
    sources: [wgpu::Buffer; 2],
    capacity: u32,
    planes: u32,
    immediates: bool,
    queue: wgpu::Queue,
}

impl Decode {
    /// The position is either in a uniform, which a handwritten engine would write once per step, or in immediates of
    /// each dispatch, as in the cache.
    pub fn new(
        context: &Context,
        immediates: bool,
        batch: u32,
        capacity: u32,
        sources: [&wgpu::Buffer; 2],
        layers: &[[wgpu::Buffer; 2]],
    ) -> Self {
        let text = format!(
            "{position} position: u32;
             @group(0) @binding(1) var<storage, read> key_source: array<vec4<u32>>;
             @group(0) @binding(2) var<storage, read> value_source: array<vec4<u32>>;
             @group(0) @binding(3) var<storage, read_write> keys: array<vec4<u32>>;
             @group(0) @binding(4) var<storage, read_write> values: array<vec4<u32>>;
             @compute @workgroup_size(64) fn append(@builtin(global_invocation_id) id: vec3<u32>) {{
                 let at = (id.x / {row}u * {capacity}u + position) * {row}u + id.x % {row}u;
                 keys[at] = key_source[id.x];
                 values[at] = value_source[id.x];
             }}",
            row = DIM / 8,
            position = if immediates { "var<immediate>" } else { "@group(0) @binding(0) var<uniform>" },
        );
        let pipeline = pipeline(context, &text);
        let position = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 16,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let groups = layers
            .iter()
            .map(|[keys, values]| {
                let buffers = [&position, sources[0], sources[1], keys, values];
                group(context, &pipeline, usize::from(immediates), &buffers)
            })
            .collect();
        Decode {
            pipeline,
            position,
            groups,
            layers: layers.to_vec(),
            sources: sources.map(Clone::clone),
            capacity,
            planes: batch * HEADS,
            immediates,
            queue: context.queue().clone(),
        }
    }

    pub fn record_dispatches(&self, encoder: &mut wgpu::CommandEncoder, position: u32) {
        if !self.immediates {
            self.queue.write_buffer(&self.position, 0, &position.to_le_bytes());
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for group in &self.groups {
            // Set the pipeline every time, since an engine runs other kernels between two layers.
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, group, &[]);
            if self.immediates {
                pass.set_immediates(0, &position.to_le_bytes());
            }
            pass.dispatch_workgroups(self.planes * DIM / 8 / 64, 1, 1);
        }
    }

    pub fn record_copies(&self, encoder: &mut wgpu::CommandEncoder, position: u32) {
        let row = u64::from(DIM) * 2;
        for planes in &self.layers {
            for (from, to) in self.sources.iter().zip(planes) {
                for plane in 0..u64::from(self.planes) {
                    let slot = plane * u64::from(self.capacity) + u64::from(position);
                    encoder.copy_buffer_to_buffer(from, plane * row, to, slot * row, row);
                }
            }
        }
    }
}
