//! Sizes, limits and reports, without a GPU.

use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Context, DeviceError, Error, Format, Side, Write};

#[test]
fn bytes_are_exact_for_every_format() {
    let config = CacheConfig::new(2, 3, 64, 128).value_dim(32);
    let rows = 2 * 3 * 128;
    for (keys, values, row_bytes) in [
        (Format::F32, Format::F32, 64 * 4 + 32 * 4),
        (Format::F16, Format::Bf16, 64 * 2 + 32 * 2),
        (Format::F32, Format::F16, 64 * 4 + 32 * 2),
        (Format::Bf16, Format::F32, 64 * 2 + 32 * 4),
    ] {
        let config = config.formats(keys, values);
        assert_eq!(config.bytes_per_layer(), Ok(rows * row_bytes));
        assert_eq!(config.bytes_per_token(), Ok(2 * 3 * row_bytes));
    }
}

/// A plane with an odd number of 16-bit elements is padded by one, so that no two planes share a word.
#[test]
fn a_plane_ends_on_a_word() {
    let config = CacheConfig::new(2, 1, 3, 5).formats(Format::F16, Format::F32);
    assert_eq!(config.bytes_per_layer(), Ok(2 * (3 * 5 * 2 + 2) + 2 * 3 * 5 * 4));
    assert_eq!(config.bytes_per_token(), Ok(2 * (3 * 2 + 3 * 4)));
    let even = CacheConfig::new(2, 1, 3, 4).formats(Format::F16, Format::F32);
    assert_eq!(even.bytes_per_layer(), Ok(2 * 3 * 4 * 2 + 2 * 3 * 4 * 4));
}

/// A well-known shape: Llama 3 8B takes 128 KiB per token in f16.
#[test]
fn bytes_of_a_known_model() {
    let layer = CacheConfig::new(1, 8, 128, 8192).formats(Format::F16, Format::F16);
    assert_eq!(layer.bytes_per_token().unwrap() * 32, 128 << 10);
    assert_eq!(layer.bytes_per_layer().unwrap() * 32, 1 << 30);
}

#[test]
fn sizes_beyond_32_bits() {
    let config = CacheConfig::new(64, 8, 128, 131_072);
    assert_eq!(config.bytes_per_layer(), Ok(2 * 64 * 8 * 128 * 131_072 * 4));
    assert_eq!(config.bytes_per_token(), Ok(2 * 64 * 8 * 128 * 4));
}

#[test]
fn required_limits_cover_the_cache_in_as_few_buffers_as_the_adapter_allows() {
    let adapter = |binding: u64, buffer: u64| wgpu::Limits {
        max_storage_buffer_binding_size: binding,
        max_buffer_size: buffer,
        ..Default::default()
    };
    // A plane takes 32 MiB, a side 256 MiB.
    let config = CacheConfig::new(1, 8, 512, 16384);
    let common = config.required_limits(&adapter(128 << 20, 2 << 30)).unwrap();
    assert_eq!((common.max_storage_buffer_binding_size, common.max_buffer_size), (128 << 20, 256 << 20));
    let large = config.required_limits(&adapter(2 << 30, 4 << 30)).unwrap();
    assert_eq!((large.max_storage_buffer_binding_size, large.max_buffer_size), (256 << 20, 256 << 20));
    // A small cache requests no more than wgpu's defaults, and no more than the adapter has.
    let small = CacheConfig::new(1, 1, 64, 64).required_limits(&adapter(1 << 30, 1 << 30)).unwrap();
    assert_eq!(small, wgpu::Limits::default());
    let weak = wgpu::Limits { max_storage_buffer_binding_size: 1 << 20, ..wgpu::Limits::downlevel_defaults() };
    assert_eq!(
        CacheConfig::new(1, 1, 64, 64).required_limits(&weak),
        Err(Error::Device(DeviceError::DeviceLimit {
            limit: "max_storage_buffers_per_shader_stage",
            needed: 6,
            available: 4
        }))
    );
    assert_eq!(config.required_features(), wgpu::Features::empty());

    // The returned limits are enough to make the cache.
    let descriptor = wgpu::DeviceDescriptor { required_limits: common, ..Default::default() };
    let (device, queue) = wgpu::Device::noop(&descriptor);
    let cache = wgpu_kv_cache::KvCache::new(&Context::new(&device, &queue), config).unwrap();
    let planes: Vec<_> = cache.view().side(Side::Values).segments().map(|segment| segment.planes).collect();
    assert_eq!(planes, [0..4, 4..8]);
}

#[test]
fn the_view_tells_where_everything_lies() {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: 1 << 10, ..Default::default() };
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() });
    // 3 × 3 planes. A plane of keys has 5 × 46 16-bit elements, 460 bytes, two to a segment. A plane of values has 15
    // elements, padded to 32 bytes.
    let config = CacheConfig::new(3, 3, 46, 5).value_dim(3).formats(Format::F16, Format::Bf16);
    let cache = wgpu_kv_cache::KvCache::new(&Context::new(&device, &queue), config).unwrap();
    let (keys, values) = (cache.view().side(Side::Keys), cache.view().side(Side::Values));
    assert_eq!((keys.row_bytes(), keys.plane_bytes(), keys.format()), (92, 460, Format::F16));
    assert_eq!((values.row_bytes(), values.plane_bytes(), values.format()), (6, 32, Format::Bf16));
    assert_eq!((keys.strides().sequence, keys.strides().head, keys.strides().token), (690, 230, 46));
    assert_eq!((values.strides().sequence, values.strides().head, values.strides().token), (48, 16, 3));
    assert_eq!(keys.segments().len(), 5);
    assert_eq!(values.segments().map(|s| s.buffer.size()).collect::<Vec<_>>(), [64, 64, 64, 64, 32]);
    // Plane 5 is the second plane of segment 2.
    let row = keys.row(1, 2, 4).unwrap();
    assert_eq!((row.offset, row.bytes), (460 + 4 * 92, 92));
    assert_eq!(row.buffer, keys.segments().nth(2).unwrap().buffer);
    for (slot, planes) in values.slots_at(3).unwrap().zip([0..2, 2..4, 4..6, 6..8, 8..9]) {
        assert_eq!((slot.offset, slot.plane_bytes, slot.token_bytes), (18, 32, 6));
        assert_eq!(slot.segment.planes, planes);
    }
    let allocated: u64 =
        [keys, values].iter().flat_map(wgpu_kv_cache::SideView::segments).map(|s| s.buffer.size()).sum();
    assert_eq!(allocated, cache.memory_allocated_bytes());
    assert_eq!(allocated, config.bytes_per_layer().unwrap());
}

#[test]
fn the_memory_report_names_the_formats_of_all_layers() {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let fine = CacheConfig::new(1, 2, 64, 32).formats(Format::F16, Format::F16);
    let coarse = fine.formats(Format::Q8_0, Format::Q4_0);
    let cache = BatchedKvCache::with_layers(&Context::new(&device, &queue), &[fine, coarse, coarse, fine]).unwrap();
    let report = cache.memory_report();
    assert_eq!(report.dtype, "f16, q8_0/q4_0");
    // Two layers of each kind with 2 heads: 256 bytes of f16, or 64 codes and 4 bytes of scales in q8_0 and 32 bytes of
    // codes and 4 of scales in q4_0.
    assert_eq!(report.growth_per_token_mb, f64::from(2 * 2 * (256 + 64 + 4 + 32 + 4)) / 1_048_576.0);
}

#[test]
fn the_memory_report_has_the_fields_of_the_original() {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let config = CacheConfig::new(2, 4, 64, 1024).formats(Format::F16, Format::Bf16);
    let mut cache = BatchedKvCache::new(&Context::new(&device, &queue), config, 3).unwrap();
    for layer in 0..3 {
        let rows = vec![0.0f32; 2 * 4 * 64 * 10];
        cache.update(layer, &rows, &rows, Write::append(10).counts(&[10, 6])).unwrap();
    }
    let report = cache.memory_report();
    assert_eq!((report.num_layers, report.batch_size, report.num_heads), (3, 2, 4));
    assert_eq!((report.head_dim, report.value_dim, report.max_seq_len), (64, 64, 1024));
    assert_eq!((report.dtype.as_str(), report.tokens_generated), ("f16/bf16", 10));
    // Per layer: 2 sequences × 4 heads × 1024 tokens × (64 + 64) elements × 2 bytes.
    assert_eq!((report.per_layer_allocated_mb, report.total_allocated_mb), (2.0, 6.0));
    assert_eq!(report.total_used_mb, 3.0 * 16.0 * 4.0 * 128.0 * 2.0 / 1_048_576.0);
    assert_eq!(report.growth_per_token_mb, 3.0 * 2.0 * 4.0 * 128.0 * 2.0 / 1_048_576.0);
    assert_eq!(cache.memory_used_bytes(), 3 * 16 * 4 * 128 * 2);
    let text = report.to_string();
    for line in ["num_layers              3", "dtype                   f16/bf16", "total_used_mb           0.047"] {
        assert!(text.lines().any(|it| it == line), "{line:?} is not in\n{text}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn the_memory_report_is_json_too() {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let cache = BatchedKvCache::new(&Context::new(&device, &queue), CacheConfig::new(1, 2, 64, 256), 4).unwrap();
    let json: serde_json::Value = serde_json::from_str(&cache.memory_report().to_json()).unwrap();
    let names = [
        "num_layers",
        "batch_size",
        "num_heads",
        "head_dim",
        "value_dim",
        "max_seq_len",
        "dtype",
        "tokens_generated",
        "per_layer_allocated_mb",
        "total_allocated_mb",
        "total_used_mb",
        "growth_per_token_mb",
    ];
    let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let mut sorted = names;
    sorted.sort_unstable();
    assert_eq!(keys, sorted);
    assert_eq!((&json["dtype"], &json["per_layer_allocated_mb"]), (&"f32".into(), &0.25.into()));
}
