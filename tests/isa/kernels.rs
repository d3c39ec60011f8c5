//! Creates the pipelines, through the public interface.

use wgpu_kv_cache::{
    CacheConfig, Context, Destination, Format, KvCache, Pair, RowsIn, Source, Strides, Write, adapters,
    attention::{Attention, Options, Tensors},
};

const HEADS: u32 = 8;

/// What the driver prints from here on belongs to this kernel.
fn name(name: &str) {
    eprintln!("\n@@ {name}");
}

fn buffer(context: &Context, elements: u32) -> wgpu::Buffer {
    context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: u64::from(elements) * 4,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    })
}

pub fn create() {
    let adapter = adapters().expect("an adapter").swap_remove(0);
    let info = adapter.get_info();
    eprintln!("## {} / {}", info.name, info.driver_info);
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: CacheConfig::useful_features(adapter.features()),
        required_limits: adapter.limits(),
        ..Default::default()
    }))
    .expect("a device");
    // A context for each kernel, since pipelines of one are made once.
    let context = || Context::with_costs(&device, &queue, wgpu_kv_cache::CostModel::KERNELS);
    let encoder = || device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for dim in [128, 64] {
        for (from, to) in [
            (Format::F16, Format::F16),
            (Format::F32, Format::F16),
            (Format::F32, Format::Bf16),
            (Format::F32, Format::Fp8E4M3),
            (Format::F32, Format::Q8_0),
            (Format::F32, Format::Q4_0),
        ] {
            let (context, tokens) = (context(), 512);
            let mut cache = KvCache::new(&context, CacheConfig::new(1, HEADS, dim, 4096).formats(to, to)).unwrap();
            let rows = [0; 2].map(|_| buffer(&context, HEADS * tokens * dim));
            let [keys, values] = rows.each_ref().map(|buffer| RowsIn {
                buffer,
                offset: 0,
                format: from,
                strides: Strides::bhtd(HEADS, tokens, dim),
            });
            let source = cache.bind_source(&Source { keys, values, tokens }).unwrap();
            name(&format!("scatter {from} to {to}, {dim}"));
            cache.record_update(&mut encoder(), &source, Write::append(tokens)).unwrap();
        }
        for (stored, output) in [
            (Format::F16, None),
            (Format::Q8_0, Some(Format::F32)),
            (Format::Q4_0, Some(Format::F32)),
            (Format::Fp8E4M3, Some(Format::F32)),
        ] {
            let context = context();
            let mut cache =
                KvCache::new(&context, CacheConfig::new(1, HEADS, dim, 4096).formats(stored, stored)).unwrap();
            cache.record_advance(&mut encoder(), Write::append(1024)).unwrap();
            let rows = [0; 2].map(|_| buffer(&context, HEADS * 1024 * dim));
            let [keys, values] = rows.each_ref().map(|buffer| Destination { buffer, offset: 0, format: output });
            let to = output.map_or("the same".to_owned(), |format| format.to_string());
            name(&format!("gather {stored} to {to}, {dim}"));
            cache.record_get(&mut encoder(), 0..1024, Pair { keys, values }).unwrap();
        }
        for stored in [Format::F16, Format::Q8_0] {
            let context = context();
            let mut cache =
                KvCache::new(&context, CacheConfig::new(4, HEADS, dim, 4096).formats(stored, stored)).unwrap();
            cache.record_advance(&mut encoder(), Write::append(1024)).unwrap();
            name(&format!("permute {stored}, {dim}"));
            cache.record_reorder(&mut encoder(), &[1, 0, 3, 2]).unwrap();
        }
        for format in [Format::F16, Format::Bf16, Format::Fp8E4M3, Format::Q8_0, Format::Q4_0] {
            for group in [1, 4, 8] {
                for (tokens, subgroups) in [(1, true), (1, false), (128, true), (128, false)] {
                    let context = context();
                    let config = CacheConfig::new(1, HEADS, dim, 32_768).formats(format, format);
                    let mut cache = KvCache::new(&context, config).unwrap();
                    cache.record_advance(&mut encoder(), Write::append(32_768)).unwrap();
                    let rows = [0; 2].map(|_| buffer(&context, HEADS * group * tokens * dim));
                    let [queries, output] = rows.each_ref().map(|buffer| RowsIn {
                        buffer,
                        offset: 0,
                        format: Format::F32,
                        strides: Strides::bhtd(HEADS * group, tokens, dim),
                    });
                    let tensors = Tensors { queries, output, mask: None, sink_logits: None };
                    let options = Options { subgroups, ..Options::last(HEADS * group, tokens) };
                    let attention = Attention::new(&cache, &options, &tensors).unwrap();
                    let share = if subgroups { "" } else { ", in memory" };
                    name(&format!("attend {format}, {dim}, {group} heads, {tokens} tokens{share}"));
                    attention.record(&cache, &mut encoder()).unwrap();
                }
            }
        }
    }
    name("end");
    // The driver cannot wait for what it does not execute.
    std::process::exit(0);
}
