//! The kernels: WGSL joined from `shaders/`.
//!
//! A kernel's text is chosen by what it moves: formats, head sizes, and whether rows are aligned for 16-byte
//! words (`wide`) or not (`narrow`). Positions and lengths are data, so no step of a sequence makes a new kernel.

use std::fmt::Write as _;

use crate::{
    Format, Scale, Side,
    format::BLOCK,
    layout::{Layout, SideLayout, WORKGROUP_SIZE},
    pipelines::Entry,
    step::Immediate,
};

/// Bytes of a step as immediates.
pub(crate) const IMMEDIATE_BYTES: u32 = 32;
const _: () = assert!(size_of::<Immediate>() == IMMEDIATE_BYTES as usize);

/// How one side of a scatter kernel reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SideVariant {
    /// Format of the source; `None` where nothing is read.
    pub source: Option<Format>,
    pub stored: Format,
    pub dim: u32,
    pub slots: u32,
    /// Whole `vec4<u32>` words.
    pub wide: bool,
    /// Elements from one sequence, and one head, of the source to the next, where it holds one token and is bound in
    /// one piece. An engine decodes from one such layout or a few, so they may be constants; those of prompts are data.
    pub strides: Option<[u32; 2]>,
    /// The scale of the side is not 1.
    pub scaled: bool,
}

/// How a step reaches a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StepPath {
    /// In a slot of the ring, bound as the second group.
    Ring,
    /// As immediates, for a step that does the same to every sequence.
    Immediate,
}

/// What tells one kernel that writes to planes from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteVariant {
    pub keys: SideVariant,
    pub values: SideVariant,
    pub heads: u32,
    /// Heads of a group that a dispatch takes at once.
    pub heads_at_once: u32,
    /// Some chunk has not all planes.
    pub has_parts: bool,
    pub step: StepPath,
    /// Runs of at most one row, as in a step of decoding.
    pub single_rows: bool,
    /// Some chunk has not all tokens of its source.
    pub cut_by_tokens: bool,
}

/// One kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    Scatter(WriteVariant),
    Advance(WriteVariant),
    Positions {
        step: StepPath,
    },
    /// Sides without sources, of so many layers; `wide` says whether rows are whole vectors.
    Permute {
        keys: SideVariant,
        values: SideVariant,
        heads: u32,
        layers: u32,
    },
    Gather {
        stored: Format,
        /// Format of the output.
        output: Format,
        dim: u32,
        heads: u32,
        slots: u32,
        heads_at_once: u32,
        has_parts: bool,
        step: StepPath,
        wide: bool,
    },
}

/// Mirror of `Chunk` in `shaders/scatter.wgsl`; `Chunk` in `shaders/advance.wgsl` is its head.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Chunk {
    pub first_plane: u32,
    pub planes: u32,
    pub segment_plane: u32,
    /// Sequences that there is room for, in the chunk that sets their lengths; 0 in the others.
    pub sequences: u32,
    pub first_token: u32,
    pub end_token: u32,
    pub first_sequence: u32,
    pub first_head: u32,
    pub key_offset: u32,
    pub key_strides: [u32; 3],
    pub value_offset: u32,
    pub value_strides: [u32; 3],
}

/// Mirror of `Selection` in `shaders/permute.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Selection {
    pub moves: u32,
    pub sequences: u32,
    pub starts: u32,
    pub spare: u32,
}

/// Mirror of `Move` in `shaders/permute.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Move {
    pub source: u32,
    pub destination: u32,
    /// First slot and slot after the last.
    pub first: u32,
    pub end: u32,
}

/// Mirror of `Window` in `shaders/gather.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Window {
    pub first_plane: u32,
    pub planes: u32,
    pub segment_plane: u32,
    pub scale: u32,
    pub first_row: u32,
    pub rows: u32,
    pub offset: u32,
    pub spare_1: u32,
}

impl SideVariant {
    pub fn new(layout: &Layout, side: Side, source: Option<Format>, aligned: bool) -> Self {
        let &SideLayout { format, dim, scale, .. } = layout.side(side);
        let wide = source.is_some() && aligned && dim.is_multiple_of(8) && !format.is_packed();
        let scaled = scale != Scale::ONE;
        SideVariant { source, stored: format, dim, slots: layout.slots, wide, strides: None, scaled }
    }

    /// Units of `rows` rows, with those of a word that they share with another.
    pub fn units(&self, rows: u32) -> u64 {
        if self.stored.is_packed() {
            return u64::from(rows).saturating_mul(self.row_parts().into());
        }
        let elements = u64::from(rows).saturating_mul(self.dim.into());
        if self.wide { elements / 8 } else { words(self.stored, elements).saturating_add(self.shared_words()) }
    }

    /// Whether rows of another format are quantised.
    fn quantises(&self) -> bool {
        self.stored.is_packed() && self.source.is_some_and(|source| source != self.stored)
    }

    /// Whether rows of another format are quantised to blocks, which threads do together.
    fn makes_blocks(&self) -> bool {
        self.quantises() && matches!(self.stored, Format::Q8_0 | Format::Q4_0)
    }

    /// Words of a packed row that a thread writes each; where blocks are made, those of the codes of whole pairs.
    fn row_parts(&self) -> u32 {
        let pairs = self.stored.scale_words(self.dim);
        match self.stored {
            // At most 2^26 pairs.
            Format::Q8_0 if self.makes_blocks() => pairs.saturating_mul(16),
            Format::Q4_0 if self.makes_blocks() => pairs.saturating_mul(8),
            stored => stored.units(self.dim),
        }
    }

    /// Words of a plane.
    fn plane_words(&self) -> u64 {
        plane_words(self.stored, self.dim, self.slots)
    }

    /// Words that a run can touch beyond its own size, where a row may start in the middle of one.
    fn shared_words(&self) -> u64 {
        u64::from(!self.dim.is_multiple_of(lanes(self.stored)))
    }

    /// A side whose rows are moved as they are.
    pub fn moved(layout: &Layout, side: Side) -> Self {
        let sizes = layout.side(side);
        let wide = sizes.row_bytes.is_multiple_of(16) && sizes.is_contiguous();
        let (stored, dim, slots) = (sizes.format, sizes.dim, layout.slots);
        SideVariant { source: None, stored, dim, slots, wide, strides: None, scaled: false }
    }

    /// Units of a whole plane, where it is moved: vectors or words.
    pub fn moved_units(&self) -> u64 {
        let words = self.plane_words();
        if self.wide { words / 4 } else { words }
    }

    /// What the text of this side, with `side_` as placeholder for its name, begins with.
    fn constants(&self, planes_binding: u32, source_binding: u32) -> String {
        let packed = self.stored.is_packed();
        let words = |words: u32| if packed { words } else { 0 };
        let mut text = String::new();
        let mut constant = |name, value: u64| line(&mut text, format_args!("const SIDE_{name} = {value}u;"));
        constant("PLANES_BINDING", planes_binding.into());
        constant("SOURCE_BINDING", source_binding.into());
        constant("DIM", self.dim.into());
        constant("LANES", lanes(self.stored).into());
        constant("BITS", bits(self.stored).into());
        constant("LANE_MASK", lane_mask(self.stored).into());
        constant("SOURCE_LANES", self.source.map_or(1, lanes).into());
        constant("SLOTS", self.slots.into());
        constant("PLANE_WORDS", self.plane_words());
        constant("CODE_UNITS", if packed { self.stored.code_words(self.dim) } else { self.dim }.into());
        constant("CODE_WORDS", words(self.stored.code_words(self.dim)).into());
        constant("SCALE_WORDS", words(self.stored.scale_words(self.dim)).into());
        constant("ROW_PARTS", words(self.row_parts()).into());
        constant("BLOCKS", self.dim.div_ceil(BLOCK).into());
        constant("BLOCK_WORDS", if self.stored == Format::Q8_0 { 8 } else { 4 });
        constant("SHARED_WORDS", self.shared_words());
        constant("ROW_UNITS", (self.dim / 8).into());
        constant("PLANE_UNITS", u64::from(self.dim / 8).saturating_mul(self.slots.into()));
        constant("UNIT_VECTORS", if lanes(self.stored) == 1 { 2 } else { 1 });
        constant("ROW_VECTORS", self.stored.row_bytes(self.dim) / 16);
        line(&mut text, format_args!("const SIDE_SAME_FORMAT = {};", self.source == Some(self.stored)));
        line(&mut text, format_args!("const SIDE_SCALED = {};", self.scaled));
        text
    }

    /// The text of this side, with `side_` as placeholder for its name.
    fn text(&self, planes_binding: u32, source_binding: u32) -> String {
        let mut text = self.constants(planes_binding, source_binding);
        if let Some(source) = self.source {
            let decoded = if source == Format::F32 { "bits".to_owned() } else { format!("{source}_decode(bits)") };
            let encoded = match self.stored {
                stored if stored == source => "bits".to_owned(),
                // Packed rows are made of the bits of f32.
                stored if stored == Format::F32 || stored.is_packed() => decoded,
                stored => format!("{stored}_encode({decoded})"),
            };
            line(&mut text, format_args!("fn side_convert(bits: u32) -> u32 {{\n    return {encoded};\n}}"));
            if let Some([sequence, head]) = self.strides {
                line(&mut text, format_args!("const SIDE_SEQUENCE_STRIDE = {sequence}u;"));
                line(&mut text, format_args!("const SIDE_HEAD_STRIDE = {head}u;"));
                text.push_str(include_str!("../shaders/source_token.wgsl"));
            } else {
                text.push_str(include_str!("../shaders/source_rows.wgsl"));
            }
        }
        text.push_str(match (self.source, self.wide) {
            (None, _) => include_str!("../shaders/source_none.wgsl"),
            (Some(_), false) => include_str!("../shaders/source_narrow.wgsl"),
            (Some(_), true) => include_str!("../shaders/source_wide.wgsl"),
        });
        if self.stored.is_packed() {
            text.push_str(include_str!("../shaders/planes_packed.wgsl"));
            for part in match self.stored {
                _ if !self.quantises() => &[include_str!("../shaders/pack_words.wgsl")][..],
                Format::Q8_0 => {
                    &[include_str!("../shaders/pack_blocks.wgsl"), include_str!("../shaders/pack_q8_0.wgsl")]
                }
                Format::Q4_0 => {
                    &[include_str!("../shaders/pack_blocks.wgsl"), include_str!("../shaders/pack_q4_0.wgsl")]
                }
                _ => &[include_str!("../shaders/pack_fp8_e4m3.wgsl")],
            } {
                text.push_str(part);
            }
        } else {
            for part in match (self.wide, self.shared_words()) {
                (true, _) => &[include_str!("../shaders/planes_wide.wgsl")][..],
                (false, 0) => {
                    &[include_str!("../shaders/planes_narrow.wgsl"), include_str!("../shaders/words_whole.wgsl")]
                }
                _ => &[include_str!("../shaders/planes_narrow.wgsl"), include_str!("../shaders/words_shared.wgsl")],
            } {
                text.push_str(part);
            }
        }
        text
    }
}

impl WriteVariant {
    /// Units of `rows` rows, of the side that has more.
    pub fn units(&self, rows: u32) -> u64 {
        let units = self.keys.units(rows).max(self.values.units(rows));
        // A pair of blocks is never in two workgroups.
        if self.makes_blocks() { units.next_multiple_of(16) } else { units }
    }

    /// Whether threads write together.
    fn makes_blocks(&self) -> bool {
        self.keys.makes_blocks() || self.values.makes_blocks()
    }
}

impl Kernel {
    /// Which of the kernels it is a variant of.
    pub const fn entry(&self) -> Entry {
        match *self {
            Kernel::Scatter(_) => Entry::Scatter,
            Kernel::Advance(_) => Entry::Advance,
            Kernel::Positions { .. } => Entry::Positions,
            Kernel::Permute { layers, .. } => Entry::Permute { layers },
            Kernel::Gather { .. } => Entry::Gather,
        }
    }

    /// How its step reaches it, if it has one.
    pub const fn step(&self) -> Option<StepPath> {
        match *self {
            Kernel::Scatter(variant) | Kernel::Advance(variant) => Some(variant.step),
            Kernel::Gather { step, .. } | Kernel::Positions { step, .. } => Some(step),
            Kernel::Permute { .. } => None,
        }
    }

    /// The kernel's whole text.
    pub fn wgsl(&self) -> String {
        let (heads, at_once, has_parts) = match *self {
            Kernel::Scatter(WriteVariant { heads, heads_at_once, has_parts, .. })
            | Kernel::Advance(WriteVariant { heads, heads_at_once, has_parts, .. })
            | Kernel::Gather { heads, heads_at_once, has_parts, .. } => (heads, heads_at_once, has_parts),
            Kernel::Positions { .. } => (1, 1, false),
            Kernel::Permute { heads, .. } => (heads, heads, false),
        };
        let mut text = format!("const WORKGROUP_SIZE = {WORKGROUP_SIZE}u;\nconst HEADS = {heads}u;\n");
        line(&mut text, format_args!("const HEADS_AT_ONCE = {at_once}u;\nconst HAS_PARTS = {has_parts};"));
        text.push_str(include_str!("../shaders/step.wgsl"));
        text.push_str(match self.step() {
            Some(StepPath::Ring) => include_str!("../shaders/step_ring.wgsl"),
            Some(StepPath::Immediate) => include_str!("../shaders/step_immediate.wgsl"),
            None => "",
        });
        let named = |text: String, name: &str| {
            text.replace("side_", &format!("{name}_")).replace("SIDE_", &format!("{}_", name.to_ascii_uppercase()))
        };
        match self {
            Kernel::Scatter(variant) | Kernel::Advance(variant) => {
                let WriteVariant { keys, values, single_rows, .. } = variant;
                text.push_str(include_str!("../shaders/format_f16.wgsl"));
                text.push_str(include_str!("../shaders/format_bf16.wgsl"));
                if keys.quantises() || values.quantises() {
                    text.push_str(include_str!("../shaders/float.wgsl"));
                    text.push_str(include_str!("../shaders/format_fp8_e4m3.wgsl"));
                }
                if matches!(self, Kernel::Scatter(_)) {
                    text.push_str(include_str!("../shaders/scatter.wgsl"));
                    text.push_str(if variant.makes_blocks() {
                        include_str!("../shaders/write_together.wgsl")
                    } else {
                        include_str!("../shaders/write_alone.wgsl")
                    });
                } else {
                    text.push_str(include_str!("../shaders/advance.wgsl"));
                    text.push_str(include_str!("../shaders/write_alone.wgsl"));
                }
                text.push_str(include_str!("../shaders/runs.wgsl"));
                text.push_str(include_str!("../shaders/lengths.wgsl"));
                line(&mut text, format_args!("const UNITS_OF_ROW = {}u;", variant.units(1)));
                line(&mut text, format_args!("const CUT_BY_TOKENS = {};", variant.cut_by_tokens));
                text.push_str(if *single_rows {
                    include_str!("../shaders/grid_rows.wgsl")
                } else {
                    include_str!("../shaders/grid_planes.wgsl")
                });
                for (side, name, binding, source, from_end) in [(keys, "key", 2, 4, 2), (values, "value", 3, 5, 1)] {
                    let mut side_text = side.text(binding, source);
                    if variant.makes_blocks() && !side.makes_blocks() {
                        side_text = side_text.replace("fn side_write(", "fn side_write_alone(");
                        side_text.push_str(include_str!("../shaders/stage_none.wgsl"));
                    }
                    line(&mut side_text, format_args!("const SIDE_SCALE_FROM_END = {from_end}u;"));
                    text.push_str(&named(side_text, name));
                }
            }
            Kernel::Positions { .. } => text.push_str(include_str!("../shaders/positions.wgsl")),
            Kernel::Permute { keys, values, layers, .. } => {
                line(&mut text, format_args!("const LAYERS = {layers}u;"));
                text.push_str(include_str!("../shaders/permute.wgsl"));
                // After the selection and the hops, three buffers of each layer.
                for (layer, lengths) in (0..*layers).zip((2u32..).step_by(3)) {
                    let bindings = [lengths.saturating_add(1), lengths.saturating_add(2)];
                    let layer_text = include_str!("../shaders/permute_layer.wgsl");
                    let numbered = layer_text.replace("LAYER", &layer.to_string());
                    text.push_str(&numbered.replace("LENGTHS_BINDING", &lengths.to_string()));
                    for (side, name, binding) in [(keys, "key", bindings[0]), (values, "value", bindings[1])] {
                        let mut side_text = side.constants(binding, 0);
                        line(&mut side_text, format_args!("const SIDE_LAYER = {layer}u;"));
                        side_text.push_str(if side.wide {
                            include_str!("../shaders/permute_wide.wgsl")
                        } else {
                            include_str!("../shaders/permute_narrow.wgsl")
                        });
                        text.push_str(&named(side_text, &format!("{name}_{layer}")));
                    }
                }
                line(&mut text, format_args!("fn permute_unit(head: u32, unit: u32) {{"));
                for layer in 0..*layers {
                    line(&mut text, format_args!("    permute_layer_{layer}(head, unit);"));
                }
                text.push_str("}\n");
            }
            &Kernel::Gather { stored, output, dim, slots, wide, .. } => {
                let mut constant = |name, value: u64| line(&mut text, format_args!("const {name} = {value}u;"));
                constant("DIM", output.units(dim).into());
                constant("SLOTS", slots.into());
                constant("LANES", lanes(output).into());
                constant("BITS", bits(output).into());
                constant("LANE_MASK", lane_mask(output).into());
                constant("STORED_LANES", lanes(stored).into());
                constant("PLANE_WORDS", plane_words(stored, dim, slots));
                constant("CODE_WORDS", stored.code_words(dim).into());
                constant("SCALE_WORDS", stored.scale_words(dim).into());
                constant("ROW_VECTORS", output.row_bytes(dim) / 16);
                text.push_str(include_str!("../shaders/runs.wgsl"));
                text.push_str(include_str!("../shaders/gather.wgsl"));
                text.push_str(if wide {
                    include_str!("../shaders/gather_wide.wgsl")
                } else {
                    include_str!("../shaders/gather_narrow.wgsl")
                });
                for part in rows_text(stored, output, wide) {
                    text.push_str(part);
                }
                if !wide {
                    let words = if output.units(dim).is_multiple_of(lanes(output)) {
                        include_str!("../shaders/words_whole.wgsl")
                    } else {
                        include_str!("../shaders/words_shared.wgsl")
                    };
                    text.push_str(
                        &words
                            .replace("side_planes", "output")
                            .replace("side_", "output_")
                            .replace("SIDE_PLANES_BINDING", "2"),
                    );
                }
                if !wide && stored != output {
                    let coded = |name: &str, direction: &str, format: Format| match format {
                        Format::F16 | Format::Bf16 => {
                            format!("fn {name}(bits: u32) -> u32 {{\n    return {format}_{direction}(bits);\n}}\n")
                        }
                        _ => format!("fn {name}(bits: u32) -> u32 {{\n    return bits;\n}}\n"),
                    };
                    text.push_str(&coded("decoded", "decode", stored));
                    text.push_str(&coded("encoded", "encode", output));
                }
            }
        }
        text
    }
}

/// How the narrow gather reads a stored row.
fn rows_text(stored: Format, output: Format, wide: bool) -> Vec<&'static str> {
    if wide {
        return Vec::new();
    }
    if stored == output {
        return vec![if stored.is_packed() {
            include_str!("../shaders/rows_packed.wgsl")
        } else {
            include_str!("../shaders/rows_same.wgsl")
        }];
    }
    let mut parts = vec![
        include_str!("../shaders/format_f16.wgsl"),
        include_str!("../shaders/format_bf16.wgsl"),
        include_str!("../shaders/rows_converted.wgsl"),
    ];
    if stored.is_packed() {
        parts.push(include_str!("../shaders/float.wgsl"));
    }
    parts.extend(match stored {
        Format::Fp8E4M3 => {
            &[include_str!("../shaders/format_fp8_e4m3.wgsl"), include_str!("../shaders/unpack_fp8_e4m3.wgsl")][..]
        }
        Format::Q8_0 => &[include_str!("../shaders/unpack_blocks.wgsl"), include_str!("../shaders/unpack_q8_0.wgsl")],
        Format::Q4_0 => &[include_str!("../shaders/unpack_blocks.wgsl"), include_str!("../shaders/unpack_q4_0.wgsl")],
        _ => &[include_str!("../shaders/unpack_element.wgsl")],
    });
    parts
}

/// Words of a plane.
fn plane_words(stored: Format, dim: u32, slots: u32) -> u64 {
    let words = u64::from(stored.units(dim)).saturating_mul(slots.into()).div_ceil(lanes(stored).into());
    if stored.is_packed() { words.next_multiple_of(4) } else { words }
}

/// Units of one word.
const fn lanes(format: Format) -> u32 {
    format.lanes()
}

/// Whole words of so many units.
fn words(format: Format, units: u64) -> u64 {
    if lanes(format) == 2 { units / 2 } else { units }
}

/// Bits of one unit.
const fn bits(format: Format) -> u32 {
    if lanes(format) == 2 { 16 } else { 32 }
}

/// The bits of one element in a word's lowest lane.
const fn lane_mask(format: Format) -> u32 {
    if lanes(format) == 2 { 0xffff } else { u32::MAX }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes every write");
}

#[cfg(test)]
#[path = "../tests/unit/kernels.rs"]
mod tests;
