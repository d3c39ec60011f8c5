//! Every variant of every kernel is parsed, validated without any capability except immediates where a variant uses
//! them, and translated for every backend. The mirrors of WGSL structs and the constants computed on the host are
//! checked too.

use std::mem::offset_of;

use naga::valid::{Capabilities, ModuleInfo};

use super::*;
use crate::{
    Format, Side,
    plan::step::{Head, Immediate, Run},
    shape::layout::Layout,
    wgsl,
};

/// Each source format for each stored format, in both widths, with even and odd head sizes.
fn sides() -> Vec<SideVariant> {
    let mut sides = Vec::new();
    for stored in Format::ALL {
        let packed = stored.is_packed().then_some(Some(stored));
        for source in [None, Some(Format::F32), Some(Format::F16), Some(Format::Bf16)].into_iter().chain(packed) {
            for (dim, wide) in [(64, true), (64, false), (3, false)] {
                if !wide || source.is_some() && !stored.is_packed() {
                    sides.push(SideVariant { source, stored, dim, slots: 77, wide, strides: None, scaled: false });
                    if stored == Format::Fp8E4M3 && source != Some(stored) {
                        sides.push(SideVariant { scaled: true, ..sides[sides.len() - 1] });
                    }
                    if source.is_some() {
                        sides.push(SideVariant { strides: Some([500, 100]), ..sides[sides.len() - 1] });
                    }
                }
            }
        }
    }
    sides
}

fn kernels() -> Vec<Kernel> {
    let sides = sides();
    let mut kernels = Vec::new();
    for (index, &side) in sides.iter().enumerate() {
        // Use each as keys and as values, paired with another side that also has a source, or also has none.
        let alike = |other: &&SideVariant| other.source.is_some() == side.source.is_some();
        let other = *sides.iter().cycle().skip(index + 5).find(alike).expect("it is alike itself");
        for (keys, values) in [(side, other), (other, side), (side, side)] {
            for (step, grid, (heads_at_once, has_parts), heads_of_thread) in [
                (StepPath::Ring, WriteGrid::Runs, (3, false), 1),
                (StepPath::Ring, WriteGrid::Runs, (3, false), 3),
                (StepPath::Ring, WriteGrid::Flat { rows: 1 }, (2, true), 1),
                (StepPath::Ring, WriteGrid::Flat { rows: 4 }, (3, false), 3),
                (StepPath::Ring, WriteGrid::Runs, (3, true), 1),
                (StepPath::Ring, WriteGrid::ShortRuns, (3, true), 1),
                (StepPath::Immediate, WriteGrid::Runs, (3, false), 1),
                (StepPath::Immediate, WriteGrid::Flat { rows: 1 }, (2, true), 1),
            ] {
                let cut_by_tokens = matches!(grid, WriteGrid::Flat { .. });
                let heads = 3;
                let variant = WriteVariant {
                    keys,
                    values,
                    heads,
                    heads_at_once,
                    heads_of_thread,
                    has_parts,
                    step,
                    grid,
                    cut_by_tokens,
                };
                kernels.push(if side.source.is_some() { Kernel::Scatter(variant) } else { Kernel::Advance(variant) });
            }
        }
    }
    kernels.push(Kernel::Table);
    for step in [StepPath::Ring, StepPath::Immediate] {
        kernels.push(Kernel::Positions { step });
    }
    for stored in Format::ALL {
        for (dim, wide) in [(64, true), (64, false), (3, false)] {
            for (step, has_parts) in [(StepPath::Ring, false), (StepPath::Ring, true), (StepPath::Immediate, false)] {
                for output in Format::FLOATS.into_iter().chain([stored]) {
                    let wide = wide && output == stored;
                    let (heads, heads_at_once, slots) = (3, if has_parts { 2 } else { 3 }, 77);
                    let short_runs = has_parts;
                    let gather = GatherVariant {
                        stored,
                        output,
                        dim,
                        heads,
                        slots,
                        heads_at_once,
                        has_parts,
                        short_runs,
                        step,
                        wide,
                    };
                    kernels.push(Kernel::Gather(gather));
                }
            }
            let side = SideVariant { source: None, stored, dim, slots: 77, wide, strides: None, scaled: false };
            let values = SideVariant { dim: 3, wide: false, ..side };
            kernels.push(Kernel::Permute(PermuteVariant { keys: side, values, heads: 3, layers: 1 }));
            kernels.push(Kernel::Permute(PermuteVariant { keys: side, values: side, heads: 3, layers: 2 }));
        }
    }
    kernels
}

fn capabilities(kernel: &Kernel) -> Capabilities {
    match kernel.step() {
        Some(StepPath::Ring) | None => Capabilities::empty(),
        Some(StepPath::Immediate) => Capabilities::IMMEDIATES,
    }
}

fn module(kernel: &Kernel) -> (naga::Module, ModuleInfo) {
    wgsl::module(kernel, &kernel.program().text, capabilities(kernel))
}

#[test]
fn every_variant_declares_what_it_needs_and_reaches_every_backend() {
    let kernels = kernels();
    assert!(kernels.len() > 300);
    for kernel in kernels {
        let name = kernel.entry().name();
        let module = wgsl::check(&kernel, name, &kernel.program(), capabilities(&kernel));
        let entry = &module.entry_points[0];
        assert_eq!(entry.name, name);
        assert_eq!(entry.workgroup_size, [crate::shape::layout::WORKGROUP_SIZE, 1, 1]);
    }
}

#[test]
fn bindings_are_those_of_the_text() {
    for kernel in kernels() {
        let (module, _) = module(&kernel);
        let mut found: Vec<_> = module
            .global_variables
            .iter()
            .filter_map(|(_, variable)| {
                let binding = variable.binding.filter(|binding| binding.group == 0)?;
                let read_only = match variable.space {
                    naga::AddressSpace::Uniform => None,
                    naga::AddressSpace::Storage { access } => Some(!access.contains(naga::StorageAccess::STORE)),
                    space => panic!("{kernel:?}: {space:?}"),
                };
                Some((binding.binding, read_only))
            })
            .collect();
        found.sort_unstable_by_key(|&(binding, _)| binding);
        let kinds = kernel.entry().bindings().into_iter().map(|kind| match kind {
            wgpu::BufferBindingType::Uniform => None,
            wgpu::BufferBindingType::Storage { read_only } => Some(read_only),
        });
        let declared: Vec<_> = (0..).zip(kinds).collect();
        assert_eq!(found, declared, "{kernel:?}");
    }
}

/// The name and offset of each member of a kernel's struct, and the struct's size.
fn members(kernel: &Kernel, name: &str) -> (Vec<(String, u32)>, u32) {
    let (module, _) = module(kernel);
    let (_, ty) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).expect("the struct is there");
    let naga::TypeInner::Struct { members, span } = &ty.inner else { panic!("{name} is no struct") };
    let members = members.iter().map(|member| (member.name.clone().unwrap(), member.offset)).collect();
    (members, *span)
}

fn check_members(kernel: &Kernel, name: &str, size: Option<usize>, expected: &[(&str, usize)]) {
    let (actual, span) = members(kernel, name);
    let expected: Vec<_> = expected.iter().map(|&(name, offset)| (name.to_owned(), offset as u32)).collect();
    assert_eq!(actual, expected, "{name} of {}", kernel.entry().name());
    if let Some(size) = size {
        assert_eq!(span as usize, size, "{name} of {}", kernel.entry().name());
    }
}

#[test]
fn mirrors_have_the_offsets_of_the_text() {
    let side = |source| SideVariant {
        source,
        stored: Format::F16,
        dim: 64,
        slots: 77,
        wide: false,
        strides: None,
        scaled: false,
    };
    let variant = |source| WriteVariant {
        keys: side(source),
        values: side(source),
        heads: 3,
        heads_at_once: 3,
        heads_of_thread: 1,
        has_parts: false,
        step: StepPath::Ring,
        grid: WriteGrid::Flat { rows: 1 },
        cut_by_tokens: true,
    };
    let scatter = Kernel::Scatter(variant(Some(Format::F32)));
    let advance = Kernel::Advance(variant(None));
    let immediate = Kernel::Advance(WriteVariant { step: StepPath::Immediate, ..variant(None) });
    let gather = Kernel::Gather(GatherVariant {
        stored: Format::F16,
        output: Format::F16,
        dim: 64,
        heads: 3,
        slots: 77,
        heads_at_once: 3,
        has_parts: false,
        short_runs: false,
        step: StepPath::Ring,
        wide: true,
    });

    for kernel in [&scatter, &advance, &immediate, &gather] {
        check_members(
            kernel,
            "Run",
            Some(size_of::<Run>()),
            &[
                ("group", offset_of!(Run, group)),
                ("sequence", offset_of!(Run, sequence)),
                ("first", offset_of!(Run, first)),
                ("start", offset_of!(Run, start)),
                ("end", offset_of!(Run, end)),
                ("token", offset_of!(Run, token)),
            ],
        );
    }
    let step = [
        ("sequences", offset_of!(Immediate, sequences)),
        ("runs", offset_of!(Immediate, runs)),
        ("first", offset_of!(Immediate, first)),
        ("start", offset_of!(Immediate, start)),
        ("end", offset_of!(Immediate, end)),
        ("token", offset_of!(Immediate, token)),
        ("length", offset_of!(Immediate, length)),
        ("position", offset_of!(Immediate, position)),
    ];
    check_members(&immediate, "Step", Some(size_of::<Immediate>()), &step);
    let head = [
        ("sequences", offset_of!(Head, sequences)),
        ("runs", offset_of!(Head, runs)),
        ("room", offset_of!(Head, room)),
        ("numbers", size_of::<Head>()),
    ];
    check_members(&advance, "Step", None, &head);
    let strides = |first: usize| [first, first + 4, first + 8];
    let [key_sequence, key_head, key_token] = strides(offset_of!(Chunk, key_strides));
    let [value_sequence, value_head, value_token] = strides(offset_of!(Chunk, value_strides));
    let chunk = [
        ("first_plane", offset_of!(Chunk, first_plane)),
        ("planes", offset_of!(Chunk, planes)),
        ("segment_plane", offset_of!(Chunk, segment_plane)),
        ("sequences", offset_of!(Chunk, sequences)),
        ("first_token", offset_of!(Chunk, first_token)),
        ("end_token", offset_of!(Chunk, end_token)),
        ("first_sequence", offset_of!(Chunk, first_sequence)),
        ("first_head", offset_of!(Chunk, first_head)),
        ("key_offset", offset_of!(Chunk, key_offset)),
        ("key_sequence_stride", key_sequence),
        ("key_head_stride", key_head),
        ("key_token_stride", key_token),
        ("value_offset", offset_of!(Chunk, value_offset)),
        ("value_sequence_stride", value_sequence),
        ("value_head_stride", value_head),
        ("value_token_stride", value_token),
    ];
    check_members(&scatter, "Chunk", Some(size_of::<Chunk>()), &chunk);
    check_members(&advance, "Chunk", None, &chunk[..4]);
    let side =
        SideVariant { source: None, stored: Format::F16, dim: 64, slots: 77, wide: true, strides: None, scaled: false };
    let permute = Kernel::Permute(PermuteVariant { keys: side, values: side, heads: 3, layers: 1 });
    check_members(
        &permute,
        "Selection",
        Some(size_of::<Selection>()),
        &[
            ("moves", offset_of!(Selection, moves)),
            ("sequences", offset_of!(Selection, sequences)),
            ("starts", offset_of!(Selection, starts)),
            ("spare", offset_of!(Selection, spare)),
        ],
    );
    check_members(
        &permute,
        "Move",
        Some(size_of::<Move>()),
        &[
            ("source", offset_of!(Move, source)),
            ("destination", offset_of!(Move, destination)),
            ("first", offset_of!(Move, first)),
            ("end", offset_of!(Move, end)),
        ],
    );
    check_members(
        &gather,
        "Window",
        Some(size_of::<Window>()),
        &[
            ("first_plane", offset_of!(Window, first_plane)),
            ("planes", offset_of!(Window, planes)),
            ("segment_plane", offset_of!(Window, segment_plane)),
            ("scale", offset_of!(Window, scale)),
            ("first_row", offset_of!(Window, first_row)),
            ("rows", offset_of!(Window, rows)),
            ("offset", offset_of!(Window, offset)),
            ("output_plane", offset_of!(Window, output_plane)),
        ],
    );
}

#[test]
fn the_host_counts_units_as_the_text_does() {
    let side = |stored, dim, wide| SideVariant {
        source: Some(Format::F32),
        stored,
        dim,
        slots: 77,
        wide,
        strides: None,
        scaled: false,
    };
    assert_eq!(side(Format::F32, 64, true).units(3), 24);
    assert_eq!(side(Format::F16, 64, true).units(3), 24);
    assert_eq!(side(Format::F32, 5, false).units(3), 15);
    assert_eq!(side(Format::F16, 6, false).units(3), 9);
    // Fifteen 16-bit elements touch at most eight words wherever they start, sixteen up to nine.
    assert_eq!(side(Format::Bf16, 5, false).units(3), 8);
    assert_eq!(side(Format::Bf16, 1, false).units(16), 9);
    for (format, dim, wide, name, value) in [
        (Format::F32, 64, true, "KEY_ROW_UNITS", 8.0),
        (Format::F16, 5, false, "KEY_LANES", 2.0),
        (Format::F16, 5, false, "KEY_PLANE_WORDS", 193.0),
    ] {
        let side = side(format, dim, wide);
        let variant = WriteVariant {
            keys: side,
            values: side,
            heads: 3,
            heads_at_once: 3,
            heads_of_thread: 1,
            has_parts: false,
            step: StepPath::Ring,
            grid: WriteGrid::Flat { rows: 1 },
            cut_by_tokens: true,
        };
        let constants = Kernel::Scatter(variant).program().constants;
        assert!(constants.contains(&(name.to_owned(), value)), "{name}");
    }
}

/// Every file is reachable from a kernel's imports, and every import exists. The tree therefore has no unused file.
#[test]
fn every_file_is_reached_from_a_kernel() {
    use super::{
        files::FILES,
        link::{Import, beside},
    };
    let on_disk = files_below(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders")));
    assert_eq!(FILES.iter().map(|(path, _)| (*path).to_owned()).collect::<Vec<_>>(), on_disk, "the list of files");
    let mut reached: Vec<String> = ["scatter", "advance", "gather", "permute", "positions", "attend", "read", "table"]
        .map(|kernel| format!("{kernel}/{kernel}.wgsl"))
        .to_vec();
    reached.push("attend/combine.wgsl".to_owned());
    let mut next = 0;
    while let Some(path) = reached.get(next).cloned() {
        next += 1;
        for import in files::text(&path).lines().filter_map(Import::parse) {
            let imported = match import.alternatives() {
                Some((before, alternatives, after)) => {
                    alternatives.iter().map(|one| beside(&path, &format!("{before}{one}{after}"))).collect()
                }
                None => vec![beside(&path, import.path)],
            };
            for file in imported {
                assert!(on_disk.contains(&file), "{path} imports {file}, which is not there");
                if !reached.contains(&file) {
                    reached.push(file);
                }
            }
        }
    }
    reached.sort();
    assert_eq!(reached, on_disk);
}

/// Paths of all files below a folder, relative to it.
fn files_below(folder: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let parts = path.strip_prefix(folder).unwrap().iter().map(|part| part.to_str().unwrap());
                files.push(parts.collect::<Vec<_>>().join("/"));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn alignment_and_head_size_choose_the_width() {
    let layout = |dim| Layout::unbounded(&crate::CacheConfig::new(1, 1, dim, 4)).unwrap();
    let wide = |dim, aligned| SideVariant::new(&layout(dim), Side::Keys, Some(Format::F32), aligned).wide;
    assert!(wide(64, true) && wide(8, true));
    assert!(!wide(64, false) && !wide(12, true) && !wide(3, true));
    assert!(!SideVariant::new(&layout(64), Side::Keys, None, true).wide);
}
