//! `shaders/permute/`: the kernel that moves rows between sequences.

use super::{
    link::{Link, no_choice},
    side::SideVariant,
};

/// The parameters of one variant of the permute kernel. The sides have no sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PermuteVariant {
    pub keys: SideVariant,
    pub values: SideVariant,
    pub heads: u32,
    /// Number of layers that one dispatch moves.
    pub layers: u32,
}

/// Mirror of `Selection` in `shaders/permute/permute.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Selection {
    pub moves: u32,
    pub sequences: u32,
    pub starts: u32,
    pub spare: u32,
}

/// Mirror of `Move` in `shaders/permute/permute.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Move {
    pub source: u32,
    pub destination: u32,
    /// First slot. `end` is the slot after the last.
    pub first: u32,
    pub end: u32,
}

impl PermuteVariant {
    /// Returns the side that a name such as `layer_3_key` stands for.
    fn side(&self, name: &str) -> Option<&SideVariant> {
        match name.rsplit_once('_')?.1 {
            "key" => Some(&self.keys),
            "value" => Some(&self.values),
            _ => None,
        }
    }

    /// Returns the kernel's WGSL.
    pub fn text(&self) -> String {
        let choose = |choice: &str, name: &str| {
            self.side(name).and_then(|side| side.choose(choice)).unwrap_or_else(|| no_choice(choice, name))
        };
        // Bindings 0 and 1 are the selection and the moves; lengths, keys and values of each layer follow.
        let bindings = |name: &str| {
            let mut parts = name.split('_').skip(1);
            let layer: u32 = parts.next()?.parse().ok()?;
            let first = layer.saturating_mul(3).saturating_add(2);
            Some(match parts.next() {
                None => format!("const SIDE_LENGTHS_BINDING = {first}u;\nconst SIDE_INDEX = {layer}u;\n"),
                Some(side) => {
                    let binding = first.saturating_add(if side == "key" { 1 } else { 2 });
                    format!("const SIDE_BINDING = {binding}u;\nconst SIDE_INDEX = {layer}u;\n")
                }
            })
        };
        let prelude = |name: &str| bindings(name).unwrap_or_default();
        let count = |_: &str| self.layers;
        Link { choose: &choose, prelude: &prelude, count: &count }.text("permute/permute.wgsl")
    }

    /// Returns the value of an `override`; `None` if the kernel has no such constant.
    pub fn value(&self, name: &str) -> Option<u64> {
        if let Some((_, rest)) = name.strip_prefix("LAYER_").and_then(|rest| rest.split_once('_')) {
            let (side, name) = rest.split_once('_')?;
            return if side == "KEY" { &self.keys } else { &self.values }.value(name);
        }
        Some(match name {
            "HEADS" => self.heads.into(),
            "LAYERS" => self.layers.into(),
            _ => return None,
        })
    }
}
