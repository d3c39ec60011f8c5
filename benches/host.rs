//! Host cost of the cache: planning and recording on wgpu's no-op backend, compared with the same dispatch recorded by
//! hand. Times are only comparable within one run.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, CostModel, Destination, Format, KvCache, Pair, RowsIn, Source, Strides, Write,
};

const LAYERS: usize = 32;

fn context() -> Context {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    Context::new(&device, &queue)
}

/// One decoding step of 32 layers, with one encoder and one pass.
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
        (0..LAYERS).map(|layer| cache.layers()[layer].bind_source(&source).expect("the buffer is right")).collect();

    let mut group = criterion.benchmark_group("record 32 layers");
    group.bench_function("cache", |bencher| {
        let mut position = 0;
        bencher.iter(|| {
            let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                cache.begin_step(&mut pass, Write::at(position, 1)).expect("it is in range");
                for (layer, source) in sources.iter().enumerate() {
                    cache.record_update(layer, &mut pass, source).expect("it is of the step");
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

/// Recording for one layer: updates of equal and of different lengths, as kernels and as copies, and the other
/// operations.
fn record_layer(criterion: &mut Criterion) {
    let context = context();
    let config = CacheConfig::new(8, 8, 128, 4096).formats(Format::F16, Format::F16);
    let buffer = |usage| {
        let descriptor =
            wgpu::BufferDescriptor { label: None, size: 8 * 8 * 128 * 2, usage, mapped_at_creation: false };
        context.device().create_buffer(&descriptor)
    };
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let (rows, keys, values) = (buffer(usage), buffer(usage), buffer(usage));
    let rows_in = || RowsIn { buffer: &rows, offset: 0, format: Format::F16, strides: Strides::bhtd(8, 1, 128) };
    let source = Source { keys: rows_in(), values: rows_in(), tokens: 1 };

    let mut group = criterion.benchmark_group("record one layer");
    for (form, costs) in [("kernel", CostModel::KERNELS), ("copies", CostModel::COPIES)] {
        let context = Context::with_costs(context.device(), context.queue(), costs);
        let mut cache = KvCache::new(&context, config).expect("it fits");
        let bound = cache.bind_source(&source).expect("the buffer is right");
        let mut record = |name: &str, record: &mut dyn FnMut(&mut KvCache, &mut wgpu::CommandEncoder)| {
            group.bench_function(format!("{name}, {form}"), |bencher| {
                bencher.iter(|| {
                    let mut encoder = context.device().create_command_encoder(&Default::default());
                    record(&mut cache, &mut encoder);
                    context.queue().submit([encoder.finish()]);
                });
            });
        };
        record("update, sequences alike", &mut |cache, encoder| {
            cache.record_update(encoder, &bound, Write::at(7, 1)).expect("it is in range");
        });
        let positions = [7, 6, 5, 4, 3, 2, 1, 0];
        record("update, sequences not alike", &mut |cache, encoder| {
            cache.record_update(encoder, &bound, Write::at_each(&positions, 1)).expect("it is in range");
        });
        record("range", &mut |cache, encoder| {
            let destination = |buffer| Destination::new(buffer, 0);
            let destinations = Pair { keys: destination(&keys), values: destination(&values) };
            cache.record_get(encoder, 0..1, destinations).expect("it is in range");
        });
        record("advance", &mut |cache, encoder| {
            cache.record_advance(encoder, Write::at(7, 1)).expect("it is in range");
        });
        record("reset", &mut |cache, encoder| cache.record_reset(encoder));
    }
    group.finish();
}

/// Planning before a cache is made and before an operation is recorded.
fn plan(criterion: &mut Criterion) {
    let config = CacheConfig::new(32, 8, 128, 512).formats(Format::F16, Format::F16);
    let limits = wgpu::Limits::default();
    let mut group = criterion.benchmark_group("plan");
    group.bench_function("required limits", |bencher| {
        bencher.iter(|| black_box(&config).required_limits(black_box(&limits)));
    });
    let mut cache = KvCache::new(&context(), config).expect("it fits");
    let rows = cache.context().device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 32 * 8 * 128 * 2,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let rows_in = || RowsIn { buffer: &rows, offset: 0, format: Format::F16, strides: Strides::bhtd(8, 1, 128) };
    let bound =
        cache.bind_source(&Source { keys: rows_in(), values: rows_in(), tokens: 1 }).expect("the buffer is right");
    let positions: Vec<u32> = (0..32).collect();
    group.bench_function("update of 32 sequences", |bencher| {
        bencher.iter(|| cache.form(black_box(&bound), Write::at_each(black_box(&positions), 1)));
    });
    let mut encoder = cache.context().device().create_command_encoder(&Default::default());
    cache.record_advance(&mut encoder, Write::at(0, 512)).expect("it is in range");
    group.bench_function("range of 32 sequences", |bencher| bencher.iter(|| cache.range_form(black_box(100..400))));
    group.finish();
}

criterion_group!(benches, record_step, record_layer, plan);
criterion_main!(benches);
