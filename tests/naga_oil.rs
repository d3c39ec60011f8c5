//! The generated WGSL works as a `naga_oil` module, from which a shader imports the functions it needs.

use naga::valid::Capabilities;
use naga_oil::compose::{ComposableModuleDescriptor, Composer, NagaModuleDescriptor};
use wgpu_kv_cache::{CacheConfig, Context, Format, KvCache, Placement, WgslNames};

#[test]
fn the_text_is_a_module_of_naga_oil() {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let context = Context::new(&device, &queue);
    let ring = Placement::Ring { window: 9, sinks: 2, slack: 1 };
    for format in Format::ALL {
        for placement in [Placement::Linear, ring] {
            for dim in [64, 5] {
                let config = CacheConfig::new(2, 3, dim, 20).formats(format, format).placement(placement);
                let cache = KvCache::new(&context, config.scales(0.5, 2.0)).unwrap();
                let text = cache.wgsl(&WgslNames::new("kv_").group(1)).unwrap();
                let mut composer = Composer::default().with_capabilities(Capabilities::SHADER_FLOAT16_IN_FLOAT32);
                let module = ComposableModuleDescriptor {
                    source: &text,
                    file_path: "cache.wgsl",
                    as_name: Some("engine::cache".to_owned()),
                    ..Default::default()
                };
                let added = composer.add_composable_module(module).map(drop);
                added.unwrap_or_else(|error| panic!("{format}: {}", error.emit_to_string(&composer)));
                let shader = "
                    #import engine::cache::{kv_key, kv_value_at, kv_plane, kv_slot, kv_length, kv_first_visible, kv_heads}

                    @group(0) @binding(0) var<storage, read_write> sum: vec4<f32>;

                    @compute @workgroup_size(1) fn main() {
                        let first = kv_first_visible(kv_length(0u) - 1u);
                        sum = kv_key(0u, kv_heads - 1u, first, 0u) + kv_value_at(kv_plane(0u, 0u), kv_slot(first), 1u);
                    }";
                let main = NagaModuleDescriptor { source: shader, file_path: "main.wgsl", ..Default::default() };
                let made = composer.make_naga_module(main);
                let module = made.unwrap_or_else(|error| panic!("{format}: {}", error.emit_to_string(&composer)));
                assert_eq!(module.entry_points.len(), 1);
                let bound = module.global_variables.iter().filter(|(_, variable)| variable.binding.is_some());
                assert_eq!(bound.count(), 1 + 3, "{format}: the caller's binding, lengths, keys and values");
            }
        }
    }
}
