//! `shaders/scatter/` and `shaders/advance/`: the kernels that write rows to planes.

use super::{
    StepPath,
    link::{Link, no_choice, no_count, no_prelude},
    side::SideVariant,
};

/// The parameters of one variant of the scatter kernel, or of the advance kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteVariant {
    pub keys: SideVariant,
    pub values: SideVariant,
    pub heads: u32,
    /// Heads of a sequence that one dispatch covers: all of them, unless a grid cannot hold that many.
    pub heads_at_once: u32,
    /// Heads of a run that a thread writes, one after the other.
    pub heads_of_thread: u32,
    /// Whether some chunk does not begin with the first plane of the cache.
    pub has_parts: bool,
    pub step: StepPath,
    /// Which runs the grid is made for.
    pub grid: WriteGrid,
    /// Whether some chunk holds only part of the source's tokens.
    pub cut_by_tokens: bool,
}

/// Which runs the grid of a kernel that writes is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WriteGrid {
    /// Runs of at most so many rows, of which a workgroup has several: 1 in a decoding step.
    Flat { rows: u32 },
    /// Runs of any length.
    Runs,
    /// Many runs that are no longer than a page.
    ShortRuns,
}

/// Mirror of `Chunk` in `shaders/scatter/scatter.wgsl`. `Chunk` in `shaders/advance/advance.wgsl` has only the first
/// four fields.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Chunk {
    pub first_plane: u32,
    pub planes: u32,
    pub segment_plane: u32,
    /// Number of sequences that the lengths have room for, in the chunk that sets them; 0 in the others.
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
    /// Number of units in `rows` rows of the side that has more of them.
    pub fn units(&self, rows: u32) -> u64 {
        let units = self.keys.units(rows).max(self.values.units(rows));
        // A pair of blocks must not span two workgroups: its threads share workgroup memory.
        if self.makes_blocks() { units.next_multiple_of(16) } else { units }
    }

    /// Whether the threads of a block cooperate, because a side is quantised to blocks.
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

    /// Returns the WGSL of `kernel`, which is `scatter` or `advance`.
    pub fn text(&self, kernel: &str) -> String {
        let choose = |choice: &str, name: &str| match (choice, self.side(name)) {
            (choice, Some(side)) => side.choose(choice).unwrap_or_else(|| no_choice(choice, name)),
            ("step", _) => self.step.file(),
            ("grid", _) => match self.grid {
                WriteGrid::Flat { .. } => "flat",
                WriteGrid::Runs | WriteGrid::ShortRuns => "runs",
            },
            ("grid/heads", _) if self.heads_of_thread == 1 => "one",
            ("grid/heads", _) => "several",
            ("scatter/write", _) if self.makes_blocks() => "together",
            ("scatter/write", _) => "alone",
            (choice, None) => no_choice(choice, name),
        };
        Link { choose: &choose, prelude: &no_prelude, count: &no_count }.text(&format!("{kernel}/{kernel}.wgsl"))
    }

    /// Returns the value of an `override`; `None` if the kernels have no such constant.
    pub fn value(&self, name: &str) -> Option<u64> {
        if let Some((side, name)) = name.split_once('_').filter(|(side, _)| matches!(*side, "KEY" | "VALUE")) {
            return self.side(&side.to_ascii_lowercase())?.value(name);
        }
        Some(match name {
            "HEADS" => self.heads.into(),
            "HEADS_AT_ONCE" => self.heads_at_once.into(),
            "HEADS_OF_THREAD" => self.heads_of_thread.into(),
            "HAS_PARTS" => self.has_parts.into(),
            "UNITS_OF_RUN" => match self.grid {
                WriteGrid::Flat { rows } => self.units(rows),
                WriteGrid::Runs | WriteGrid::ShortRuns => return None,
            },
            "SHORT_RUNS" => (self.grid == WriteGrid::ShortRuns).into(),
            "CUT_BY_TOKENS" => self.cut_by_tokens.into(),
            _ => return None,
        })
    }
}
