//! The error of a driver's own `exp`, against f64, over the range that a softmax uses.

use wgpu_kv_cache::{Context, DeviceError, Error};

const COUNT: u32 = 8192;
/// Lower end of the range; its upper end is 0. Scores further below the largest have negligible weight.
const LOWEST: f32 = -16.0;

/// Returns the largest relative error.
pub fn largest_error(context: &Context) -> Result<f64, Error> {
    let (device, queue) = (context.device(), context.queue());
    let text = format!(
        "@group(0) @binding(0) var<storage, read_write> numbers: array<f32>;
         @compute @workgroup_size(64) fn exponential(@builtin(global_invocation_id) id: vec3<u32>) {{
             numbers[id.x] = exp(f32(id.x) * {:?});
         }}",
        step()
    );
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("exp"),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("exp"),
        layout: None,
        module: &module,
        entry_point: Some("exponential"),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let bytes = u64::from(COUNT) * 4;
    let buffer = |usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
    };
    let numbers = buffer(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
    let read_back = buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ);
    let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: numbers.as_entire_binding() }],
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups(COUNT / 64, 1, 1);
    }
    encoder.copy_buffer_to_buffer(&numbers, 0, &read_back, 0, bytes);
    queue.submit([encoder.finish()]);
    read_back.map_async(wgpu::MapMode::Read, .., |_| {});
    context.wait()?;
    let lost = |_| Error::Device(DeviceError::DeviceLost { during: "reading exponentials" });
    let read = read_back.get_mapped_range(..).map_err(lost)?;
    let words = read.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    Ok(words.zip(0u16..).fold(0.0, |largest: f64, (actual, index)| {
        let exact = f64::from(f32::from(index) * step()).exp();
        largest.max((f64::from(actual) / exact - 1.0).abs())
    }))
}

fn step() -> f32 {
    LOWEST / COUNT as f32
}
