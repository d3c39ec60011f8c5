//! `shaders/gather/`: the kernel that copies a range of rows out of the cache.

use super::{
    StepPath,
    link::{Link, no_choice, no_count, no_prelude},
    side::{converted, lane_mask, plane_words},
};
use crate::Format;

/// The parameters of one variant of the gather kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GatherVariant {
    pub stored: Format,
    /// Format of the output.
    pub output: Format,
    pub dim: u32,
    pub heads: u32,
    pub slots: u32,
    /// Heads of a sequence that one dispatch covers: all of them, unless a grid cannot hold that many.
    pub heads_at_once: u32,
    /// Whether some window does not begin with the first plane of the cache.
    pub has_parts: bool,
    /// Whether runs are many and no longer than a page.
    pub short_runs: bool,
    pub step: StepPath,
    /// Whether a thread copies a whole `vec4<u32>` instead of one word.
    pub wide: bool,
}

/// Mirror of `Window` in `shaders/gather/gather.wgsl`.
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
    pub output_plane: u32,
}

impl GatherVariant {
    /// Returns the kernel's WGSL.
    pub fn text(&self) -> String {
        let GatherVariant { stored, output, dim, .. } = *self;
        let choose = |choice: &str, name: &str| match choice {
            "step" => self.step.file(),
            "gather/units" if self.wide => "wide",
            "gather/units" => "narrow",
            "gather/rows" if stored != output => "converted",
            "gather/rows" if stored.is_packed() => "packed",
            "gather/rows" => "same",
            "planes/words" if output.units(dim).is_multiple_of(output.lanes()) => "whole",
            "planes/words" => "shared",
            "format/unpack" => match stored {
                Format::Fp8E4M3 => "fp8_e4m3",
                Format::Q8_0 => "q8_0",
                Format::Q4_0 => "q4_0",
                _ => "words",
            },
            "format/decode" => converted(stored),
            "format/encode" => converted(output),
            choice => no_choice(choice, name),
        };
        Link { choose: &choose, prelude: &no_prelude, count: &no_count }.text("gather/gather.wgsl")
    }

    /// Returns the value of an `override`; `None` if the kernel has no such constant.
    pub fn value(&self, name: &str) -> Option<u64> {
        let GatherVariant { stored, output, dim, slots, .. } = *self;
        Some(match name {
            "HEADS" => self.heads.into(),
            "HEADS_AT_ONCE" => self.heads_at_once.into(),
            "HAS_PARTS" => self.has_parts.into(),
            "SHORT_RUNS" => self.short_runs.into(),
            "DIM" => output.units(dim).into(),
            "SLOTS" => slots.into(),
            "LANES" => output.lanes().into(),
            "BITS" => {
                if output.lanes() == 2 {
                    16
                } else {
                    32
                }
            }
            "LANE_MASK" => lane_mask(output).into(),
            "STORED_LANES" => stored.lanes().into(),
            "PLANE_WORDS" => plane_words(stored, dim, slots),
            "CODE_WORDS" => stored.code_words(dim).into(),
            "SCALE_WORDS" => stored.scale_words(dim).into(),
            "ROW_VECTORS" => output.row_bytes(dim) / 16,
            _ => return None,
        })
    }
}
