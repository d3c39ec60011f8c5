//! What the cache costs the host: planning and recording, on wgpu's no-op backend, beside the same dispatch recorded
//! by hand. Times of one run compare with each other only.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Context, Format, RowsIn, Source, Strides, Write};

const LAYERS: usize = 32;

fn context() -> Context {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    Context::new(&device, &queue)
}

/// One decoding step of 32 layers, an encoder and a pass for all.
fn record_step(criterion: &mut Criterion) {
    let context = context();
    let config = CacheConfig::new(8, 8, 128, 4096).formats(Format::F16, Format::F16);
    let mut cache = BatchedKvCache::new(&context, config, LAYERS).expect("it fits");
    let rows = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 8 * 8 * 128 * 2,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let rows_in = || RowsIn { buffer: &rows, offset: 0, format: Format::F16, strides: Strides::bhtd(8, 1, 128) };
    let source = Source { keys: rows_in(), values: rows_in(), tokens: 1 };
    let sources: Vec<_> =
        (0..LAYERS).map(|layer| cache.bind_source(layer, &source).expect("the buffer is right")).collect();

    let mut group = criterion.benchmark_group("record 32 layers");
    group.bench_function("cache", |bencher| {
        let mut position = 0;
        bencher.iter(|| {
            let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for (layer, source) in sources.iter().enumerate() {
                    cache.record_update(layer, &mut pass, source, Write::at(position, 1)).expect("it is in range");
                }
            }
            position = (position + 1) % 4096;
            context.queue().submit([encoder.finish()]);
        });
    });

    let module = context.device().create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(
            "@group(0) @binding(0) var<storage, read_write> rows: array<u32>;
             @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { rows[id.x] = 0u; }"
                .into(),
        ),
    });
    let pipeline = context.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let layout = pipeline.get_bind_group_layout(0);
    let bindings = context.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &layout,
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: rows.as_entire_binding() }],
    });
    group.bench_function("by hand", |bencher| {
        bencher.iter(|| {
            let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for _ in 0..LAYERS {
                    pass.set_pipeline(&pipeline);
                    pass.set_bind_group(0, &bindings, &[]);
                    pass.dispatch_workgroups(32, 1, 1);
                }
            }
            context.queue().submit([encoder.finish()]);
        });
    });
    group.finish();
}

/// Everything that is computed before a cache is made.
fn plan_limits(criterion: &mut Criterion) {
    let config = CacheConfig::new(32, 8, 128, 8192).formats(Format::F16, Format::F16);
    let limits = wgpu::Limits::default();
    criterion.bench_function("required limits", |bencher| {
        bencher.iter(|| black_box(&config).required_limits(black_box(&limits)));
    });
}

criterion_group!(benches, record_step, plan_limits);
criterion_main!(benches);
