//! `kv-cache inspect`.

use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, Format, Placement, Write,
    save::{Label, SaveSequence},
};

use crate::{TRACE, fails, file, json, passes};

#[test]
fn a_saved_sequence_is_told() {
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let context = Context::new(&device, &queue);
    let layer = CacheConfig::new(1, 2, 32, 40).value_dim(16).formats(Format::Q4_0, Format::F16);
    let ring = layer.placement(Placement::Ring { window: 4, sinks: 1, slack: 0 });
    let mut cache = BatchedKvCache::with_layers(&context, &[layer, layer, ring]).unwrap();
    for layer in 0..3 {
        cache.update(layer, &[0.5f32; 9 * 64], &[0.5f32; 9 * 32], Write::append(9)).unwrap();
    }
    let tokens = [7, 8, 9, 10, 11, 12, 13, 14, 4_294_967_295];
    let saved = cache.save_to(0, Vec::new(), &Label { identity: "model \"x\"", tokens: &tokens }).unwrap();
    let path = file("saved.safetensors", &saved);
    let told = passes(&["inspect", &path]);
    for words in
        ["model \"x\"", "0–1", "32 q4_0", "16 f16", "the last 4, 1 sinks", "all checksums are right", "4294967295"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    let report = json(&["inspect", &path, "--json"]);
    assert_eq!((&report["length"], &report["bytes"]), (&9.into(), &saved.len().into()));
    assert_eq!(
        (&report["tokens"], &report["layers"][2]["placement"]["window"]),
        (&serde_json::json!(tokens), &4.into())
    );
    // Files that are not what they should be.
    let mut flipped = saved.clone();
    flipped[saved.len() - 300] ^= 4;
    for (name, bytes, words) in [
        ("flipped.safetensors", &flipped[..], "the checksum of layers.2.values is wrong"),
        ("cut.safetensors", &saved[..saved.len() - 1], "but has"),
        ("empty.safetensors", &[], "the file must have 8 bytes, but has 0"),
        ("text.safetensors", b"this is a text and no safetensors file", "no saved sequence"),
    ] {
        let told = fails(&["inspect", &file(name, bytes)], 1);
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(fails(&["inspect", TRACE], 1).contains("it has no field format"));
    assert!(fails(&["inspect", "/nowhere/file"], 1).contains("/nowhere/file"));
}
