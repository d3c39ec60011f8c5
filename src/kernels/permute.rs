//! `shaders/permute/`: the kernel that moves rows between sequences.

use std::fmt::Write as _;

use super::{
    link::{Link, no_choice},
    side::SideVariant,
};

/// What tells one kernel that moves rows from another: sides without sources, of so many layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PermuteVariant {
    pub keys: SideVariant,
    pub values: SideVariant,
    pub heads: u32,
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
    /// First slot and slot after the last.
    pub first: u32,
    pub end: u32,
}

impl PermuteVariant {
    /// The side of a name such as `layer_3_key`.
    fn side(&self, name: &str) -> Option<&SideVariant> {
        match name.rsplit_once('_')?.1 {
            "key" => Some(&self.keys),
            "value" => Some(&self.values),
            _ => None,
        }
    }

    /// The kernel's text.
    pub fn text(&self) -> String {
        let choose = |choice: &str, name: &str| {
            self.side(name).and_then(|side| side.choose(choice)).unwrap_or_else(|| no_choice(choice, name))
        };
        // The selection and the moves are bound first, then lengths, keys and values of each layer.
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
        let link = Link { choose: &choose, prelude: &prelude, repeats: self.layers };
        let mut text = link.text("permute/permute.wgsl");
        text.push_str("fn permute_unit(head: u32, unit: u32) {\n");
        for layer in 0..self.layers {
            writeln!(text, "    layer_{layer}_permute(head, unit);").expect("a String takes every write");
        }
        text.push_str("}\n");
        text
    }

    /// The value of an `override`.
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
