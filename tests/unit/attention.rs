//! The attention kernels: every variant compiles for every backend, and `Params` matches its WGSL struct.

use std::mem::offset_of;

use naga::valid::Capabilities;

use super::*;
use crate::{
    WgslNames,
    read::{
        attention::{
            bound::Params,
            tiles::{COMBINE_BYTES, Device, Units, found_bytes},
        },
        include::tests as reader,
    },
    shape::layout::Layout,
    wgsl::{check, workgroup_bytes},
};

fn variants(layout: &Layout) -> Vec<Variant> {
    let units = Units::of(layout);
    let gpu = Device { is_cpu: false, coalesced: true, memory: 16 << 10, threads: 256, subgroup: 0, packed: None };
    let tile = |group, tokens, device| Tile::new(group, tokens, units, device).unwrap();
    let base = Variant {
        tile: tile(3, 2, gpu),
        group: 3,
        split: false,
        written: true,
        causal: true,
        window: None,
        lag: 0,
        sink_logits: false,
        packed: None,
        capped: false,
        masked: false,
        queries: Format::F32,
        output: Format::F32,
    };
    vec![
        base,
        Variant { split: true, masked: true, queries: Format::F16, ..base },
        Variant { tile: tile(3, 2, Device { subgroup: 32, ..gpu }), ..base },
        Variant { tile: tile(8, 1, Device { subgroup: 16, ..gpu }), group: 8, masked: true, split: true, ..base },
        Variant { packed: Some(3), sink_logits: true, lag: 2, ..base },
        Variant { packed: Some(1), sink_logits: true, masked: true, split: true, ..base },
        Variant {
            tile: tile(3, 9, Device { is_cpu: true, coalesced: false, ..gpu }),
            causal: false,
            written: false,
            window: Some((9, 2)),
            capped: true,
            output: Format::F16,
            ..base
        },
        Variant {
            tile: tile(40, 1, gpu),
            group: 40,
            window: Some((1, 0)),
            queries: Format::Bf16,
            output: Format::Bf16,
            ..base
        },
        Variant {
            tile: tile(1, 1, Device { memory: 4 << 10, threads: 16, ..gpu }),
            group: 1,
            split: true,
            written: false,
            output: Format::Bf16,
            ..base
        },
    ]
}

#[test]
fn every_variant_reaches_every_backend() {
    for addressed in reader::layouts() {
        let layout = &addressed.0;
        let names = WgslNames::new("cache_").group(1).wide();
        let units = Units::of(layout);
        let read = reader::text_of(&addressed, &names, true);
        for variant in variants(layout) {
            let program = attend(&read, [units.keys[1], units.values[1]], &variant);
            let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
            capabilities.set(Capabilities::SUBGROUP, variant.tile.subgroups);
            let module = check(&(&addressed, variant), "attend", &program, capabilities);
            let (_, params) =
                module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some("Params")).expect("it is there");
            let naga::TypeInner::Struct { members, span } = &params.inner else { panic!("Params is a struct") };
            let offset = |name: &str| {
                members.iter().find(|member| member.name.as_deref() == Some(name)).unwrap().offset as usize
            };
            assert_eq!(*span as usize, size_of::<Params>());
            for (name, expected) in [
                ("tokens", offset_of!(Params, tokens)),
                ("query_offset", offset_of!(Params, query)),
                ("query_token", offset_of!(Params, query) + 12),
                ("output_offset", offset_of!(Params, output)),
                ("output_token", offset_of!(Params, output) + 12),
                ("mask_offset", offset_of!(Params, mask)),
                ("mask_token", offset_of!(Params, mask) + 12),
                ("scale", offset_of!(Params, scale)),
                ("softcap", offset_of!(Params, softcap)),
                ("sink_offset", offset_of!(Params, sink_offset)),
            ] {
                assert_eq!(offset(name), expected, "{name}");
            }
            let found = |threads| if variant.packed.is_some() { found_bytes(threads) } else { 0 };
            let bytes = variant.tile.bytes(units) + found(variant.tile.workgroup);
            assert_eq!(u64::from(workgroup_bytes(&module)), bytes, "{variant:?}");
            let config = CacheConfig::new(2, 3, layout.keys.dim, 9).value_dim(layout.values.dim);
            let module = check(&variant, "combine", &combine(&config, 2, &variant), Capabilities::empty());
            assert_eq!(u64::from(workgroup_bytes(&module)), COMBINE_BYTES + found(COMBINE));
        }
    }
}
