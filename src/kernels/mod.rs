//! The kernels: WGSL linked from the files of `shaders/`.
//!
//! The formats of a kernel's data decide its text, and so does the alignment of the rows: 16 bytes (`wide`) or less
//! (`narrow`). Sizes are pipeline constants. Positions and lengths are data, so a sequence that grows never needs
//! another kernel. Each kernel has a folder of its name in `shaders/`. The files here make the text of a kernel:
//! `scatter` also that of `advance`, and this one that of `positions`.

mod files;
mod gather;
mod link;
mod permute;
mod scatter;
mod side;

pub(crate) use self::{
    gather::{GatherVariant, Window},
    link::{Link, no_choice, no_count, no_prelude},
    permute::{Move, PermuteVariant, Selection},
    scatter::{Chunk, WriteGrid, WriteVariant},
    side::SideVariant,
};

/// How a step reaches a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StepPath {
    /// In a slot of the step ring, which is bound as group 1.
    Ring,
    /// As immediates, if the step does the same to every sequence.
    Immediate,
}

/// One variant of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    Scatter(WriteVariant),
    Advance(WriteVariant),
    Positions {
        step: StepPath,
    },
    Permute(PermuteVariant),
    Gather(GatherVariant),
    #[cfg_attr(not(feature = "pages"), allow(dead_code, reason = "pages alone have a table"))]
    Table,
}

/// What all variants of a kernel share: the entry point and the bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Scatter,
    Advance,
    Positions,
    Permute { layers: u32 },
    Gather,
    Table,
}

/// The WGSL of a kernel and the values of its `override` declarations.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shader {
    pub text: String,
    pub constants: Vec<(String, f64)>,
}

impl StepPath {
    /// Stem of the file in `shaders/step/` that reads the step.
    const fn file(self) -> &'static str {
        match self {
            StepPath::Ring => "ring",
            StepPath::Immediate => "immediate",
        }
    }
}

impl Entry {
    /// Name of the kernel's folder and file, of its entry point, and of its pipelines.
    pub const fn name(self) -> &'static str {
        match self {
            Entry::Scatter => "scatter",
            Entry::Advance => "advance",
            Entry::Positions => "positions",
            Entry::Permute { .. } => "permute",
            Entry::Gather => "gather",
            Entry::Table => "table",
        }
    }

    /// Returns the bindings of group 0, in order.
    pub fn bindings(self) -> Vec<wgpu::BufferBindingType> {
        use wgpu::BufferBindingType::Uniform;
        let read = wgpu::BufferBindingType::Storage { read_only: true };
        let write = wgpu::BufferBindingType::Storage { read_only: false };
        match self {
            Entry::Scatter => vec![Uniform, write, write, write, read, read],
            Entry::Advance => vec![Uniform, write, write, write],
            Entry::Positions | Entry::Table => vec![write],
            // The selection and its moves, then lengths, keys and values of each layer.
            Entry::Permute { layers } => {
                let layers = std::iter::repeat_n([write; 3], layers as usize).flatten();
                [Uniform, read].into_iter().chain(layers).collect()
            }
            Entry::Gather => vec![Uniform, read, write],
        }
    }
}

impl Kernel {
    /// Returns the kernel that this is a variant of.
    pub const fn entry(&self) -> Entry {
        match *self {
            Kernel::Scatter(_) => Entry::Scatter,
            Kernel::Advance(_) => Entry::Advance,
            Kernel::Positions { .. } => Entry::Positions,
            Kernel::Permute(PermuteVariant { layers, .. }) => Entry::Permute { layers },
            Kernel::Gather(_) => Entry::Gather,
            Kernel::Table => Entry::Table,
        }
    }

    /// Returns how the step reaches the kernel; `None` if the kernel takes no step.
    pub const fn step(&self) -> Option<StepPath> {
        match *self {
            Kernel::Scatter(variant) | Kernel::Advance(variant) => Some(variant.step),
            Kernel::Gather(GatherVariant { step, .. }) | Kernel::Positions { step } => Some(step),
            Kernel::Table => Some(StepPath::Ring),
            Kernel::Permute(_) => None,
        }
    }

    /// Returns the kernel's WGSL and constants.
    pub fn program(&self) -> Shader {
        match self {
            Kernel::Scatter(variant) | Kernel::Advance(variant) => {
                Shader::new(variant.text(self.entry().name()), |name| variant.value(name))
            }
            Kernel::Permute(variant) => Shader::new(variant.text(), |name| variant.value(name)),
            Kernel::Gather(variant) => Shader::new(variant.text(), |name| variant.value(name)),
            Kernel::Table => {
                let link = Link { choose: &no_choice, prelude: &no_prelude, count: &no_count };
                Shader::new(link.text("table/table.wgsl"), |_| None)
            }
            Kernel::Positions { step } => {
                let choose = |_: &str, _: &str| step.file();
                let link = Link { choose: &choose, prelude: &no_prelude, count: &no_count };
                Shader::new(link.text("positions/positions.wgsl"), |_| None)
            }
        }
    }
}

impl Shader {
    /// Looks up the value of each `override` that the text declares.
    pub fn new(text: String, value: impl Fn(&str) -> Option<u64>) -> Self {
        let declared = text.lines().filter_map(|line| line.strip_prefix("override ")?.split(':').next());
        let constant = |name: &str| {
            let value = value(name).unwrap_or_else(|| unreachable!("{name} has no value"));
            let value = u32::try_from(value).expect("what a kernel counts is 32 bits wide");
            (name.to_owned(), f64::from(value))
        };
        let constants = declared.map(constant).collect();
        Shader { text, constants }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/kernels.rs"]
mod tests;
