//! Each operation of a cache on the first adapter, from the call until the device has finished, in the form that the
//! calibrated cost model chooses. Times are only comparable within one run. `kv-cache bench` and `make bench` compare
//! them with the device's own copy.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, Destination, Format, KvCache, Pair, RowsIn, Source, Strides, Write, adapters,
};

const HEADS: u32 = 8;
const DIM: u32 = 128;
const CAPACITY: u32 = 1024;
const TOKENS: u32 = 256;

fn context() -> Context {
    let adapter = adapters().expect("benchmarks need an adapter").swap_remove(0);
    let context = Context::open(&adapter).expect("the adapter has a device");
    let costs = context.calibrate().expect("the device works");
    Context::with_costs(context.device(), context.queue(), costs)
}

fn config(format: Format) -> CacheConfig {
    CacheConfig::new(1, HEADS, DIM, CAPACITY).formats(format, format)
}

fn buffer(context: &Context, bytes: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
    context.device().create_buffer(&descriptor)
}

fn submit(context: &Context, record: impl FnOnce(&mut wgpu::CommandEncoder) -> wgpu_kv_cache::Result<()>) {
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    record(&mut encoder).expect("it is in range");
    context.queue().submit([encoder.finish()]);
    context.wait().expect("the device works");
}

/// A source of `tokens` tokens in two buffers.
fn source(buffers: &[wgpu::Buffer; 2], format: Format, tokens: u32) -> Source<'_> {
    let rows_in = |buffer| RowsIn { buffer, offset: 0, format, strides: Strides::bhtd(HEADS, tokens, DIM) };
    Source { keys: rows_in(&buffers[0]), values: rows_in(&buffers[1]), tokens }
}

fn update(criterion: &mut Criterion) {
    let context = context();
    let mut group = criterion.benchmark_group("update");
    for (from, to) in [
        (Format::F16, Format::F16),
        (Format::F32, Format::F32),
        (Format::F32, Format::F16),
        (Format::F32, Format::Bf16),
        (Format::F16, Format::F32),
    ] {
        let mut cache = KvCache::new(&context, config(to)).expect("it fits");
        for tokens in [1, TOKENS] {
            let bytes = u64::from(HEADS * tokens * DIM * from.unit_bytes());
            let buffers = [(); 2].map(|()| buffer(&context, bytes));
            let bound = cache.bind_source(&source(&buffers, from, tokens)).expect("the buffers are right");
            cache.warm_up(&bound).expect("the device works");
            let written = config(to).bytes_per_token().expect("it fits") * u64::from(tokens);
            group.throughput(Throughput::Bytes(written));
            group.bench_function(BenchmarkId::new(format!("{from} to {to}"), tokens), |bencher| {
                bencher.iter(|| {
                    submit(&context, |encoder| cache.record_update(encoder, &bound, Write::at(0, tokens)));
                });
            });
        }
    }
    let mut cache = KvCache::new(&context, config(Format::F16)).expect("it fits");
    let rows = vec![0.5f32; (HEADS * TOKENS * DIM) as usize];
    group.bench_function(BenchmarkId::new("f32 slices to f16", TOKENS), |bencher| {
        bencher.iter(|| {
            cache.update(&rows[..], &rows[..], Write::at(0, TOKENS)).expect("it is in range");
            context.wait().expect("the device works");
        });
    });
    group.finish();
}

fn range(criterion: &mut Criterion) {
    let context = context();
    let mut cache = KvCache::new(&context, config(Format::F16)).expect("it fits");
    submit(&context, |encoder| cache.record_advance(encoder, Write::at(0, CAPACITY)));
    let bytes = config(Format::F16).bytes_per_token().expect("it fits") * u64::from(TOKENS);
    let to = [(); 2].map(|()| buffer(&context, bytes / 2));
    let mut group = criterion.benchmark_group("range");
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("record_get", |bencher| {
        bencher.iter(|| {
            let destination = |buffer| Destination::new(buffer, 0);
            let destinations = Pair { keys: destination(&to[0]), values: destination(&to[1]) };
            submit(&context, |encoder| cache.record_get(encoder, 100..100 + TOKENS, destinations));
        });
    });
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            cache.get(100..100 + TOKENS).expect("it is in range");
            context.wait().expect("the device works");
        });
    });
    group.bench_function("get and read", |bencher| {
        bencher.iter(|| cache.get(100..100 + TOKENS).and_then(|range| range.read()).expect("it is in range"));
    });
    group.finish();
}

fn others(criterion: &mut Criterion) {
    let context = context();
    let mut cache = BatchedKvCache::new(&context, config(Format::F16), 32).expect("it fits");
    let mut group = criterion.benchmark_group("32 layers");
    group.bench_function("advance", |bencher| {
        bencher.iter(|| {
            submit(&context, |encoder| {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                cache.begin_step(&mut pass, Write::at(0, 1))?;
                (0..32).try_for_each(|layer| cache.record_advance(layer, &mut pass))
            });
        });
    });
    group.bench_function("reset", |bencher| {
        bencher.iter(|| {
            submit(&context, |encoder| {
                cache.record_reset(encoder);
                Ok(())
            });
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("one layer");
    let buffers = [(); 2].map(|()| buffer(&context, u64::from(HEADS * TOKENS * DIM * 2)));
    group.bench_function("bind_source", |bencher| {
        bencher.iter(|| {
            cache.layers()[0].bind_source(&source(&buffers, Format::F16, TOKENS)).expect("the buffers are right")
        });
    });
    group.bench_function("read_storage", |bencher| {
        bencher.iter(|| cache.layers()[0].read_storage().expect("the device works"));
    });
    group.finish();
}

criterion_group!(benches, update, range, others);
criterion_main!(benches);
