//! `shaders/scatter/` and `shaders/advance/`: kernels that write to planes.

use super::{
    StepPath,
    link::{Link, no_choice, no_prelude},
    side::SideVariant,
};

/// What tells one kernel that writes to planes from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteVariant {
    pub keys: SideVariant,
    pub values: SideVariant,
    pub heads: u32,
    /// Heads of a group that a dispatch takes at once.
    pub heads_at_once: u32,
    /// Some chunk begins with another plane than the first.
    pub has_parts: bool,
    pub step: StepPath,
    /// Runs of at most one row, as in a step of decoding.
    pub single_rows: bool,
    /// Some chunk has not all tokens of its source.
    pub cut_by_tokens: bool,
}

/// Mirror of `Chunk` in `shaders/scatter/scatter.wgsl`; `Chunk` in `shaders/advance/advance.wgsl` is its head.
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

    fn side(&self, name: &str) -> Option<&SideVariant> {
        match name {
            "key" => Some(&self.keys),
            "value" => Some(&self.values),
            _ => None,
        }
    }

    /// The kernel's text.
    pub fn text(&self, kernel: &str) -> String {
        let choose = |choice: &str, name: &str| match (choice, self.side(name)) {
            (choice, Some(side)) => side.choose(choice).unwrap_or_else(|| no_choice(choice, name)),
            ("step", _) => self.step.file(),
            ("grid", _) if self.single_rows => "rows",
            ("grid", _) => "runs",
            ("scatter/write", _) if self.makes_blocks() => "together",
            ("scatter/write", _) => "alone",
            (choice, None) => no_choice(choice, name),
        };
        Link { choose: &choose, prelude: &no_prelude, repeats: 0 }.text(&format!("{kernel}/{kernel}.wgsl"))
    }

    /// The value of an `override`.
    pub fn value(&self, name: &str) -> Option<u64> {
        if let Some((side, name)) = name.split_once('_').filter(|(side, _)| matches!(*side, "KEY" | "VALUE")) {
            return self.side(&side.to_ascii_lowercase())?.value(name);
        }
        Some(match name {
            "HEADS" => self.heads.into(),
            "HEADS_AT_ONCE" => self.heads_at_once.into(),
            "HAS_PARTS" => self.has_parts.into(),
            "UNITS_OF_ROW" => self.units(1),
            "CUT_BY_TOKENS" => self.cut_by_tokens.into(),
            _ => return None,
        })
    }
}
