//! The text of the kernels of an attention.

use super::tiles::{Tile, WORKGROUP};
use crate::{
    CacheConfig, Format,
    kernels::{Link, Shader, no_choice},
};

/// What tells one kernel from another, beside the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub tile: Tile,
    /// Query heads of a KV head.
    pub group: u32,
    /// Positions are read in parts, which `combine` joins.
    pub split: bool,
    /// Rows of queries are those just written.
    pub written: bool,
    pub causal: bool,
    pub window: Option<(u32, u32)>,
    pub capped: bool,
    pub masked: bool,
    pub queries: Format,
    pub output: Format,
}

impl Variant {
    fn choose(&self, choice: &str, name: &str) -> &'static str {
        let coded = |format: Format| match format {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            _ => "bits",
        };
        match choice {
            "attend/parts" if self.split => "split",
            "attend/parts" => "whole",
            "attend/mask" if self.masked => "added",
            "attend/mask" => "none",
            "format/decode" => coded(self.queries),
            "format/encode" => coded(self.output),
            choice => no_choice(choice, name),
        }
    }

    /// The value of an `override`.
    fn value(&self, name: &str) -> Option<u64> {
        let (window, sinks) = self.window.unwrap_or_default();
        Some(match name {
            "GROUP" => self.group.into(),
            "WRITTEN" => self.written.into(),
            "CAUSAL" => self.causal.into(),
            "WINDOWED" => self.window.is_some().into(),
            "WINDOW" => window.into(),
            "SINKS" => sinks.into(),
            "CAPPED" => self.capped.into(),
            "STAGED" => (self.tile.staged > 0).into(),
            "QUERY_LANES" => self.queries.lanes().into(),
            "OUTPUT_LANES" => self.output.lanes().into(),
            _ => return None,
        })
    }
}

/// Over the text that reads the layer, with the prefix `cache_`.
pub(super) fn attend(read: &str, variant: &Variant) -> Shader {
    let (rows, staged) = (variant.tile.rows, variant.tile.staged.max(1));
    let prelude = |name: &str| match name {
        "" => {
            let sizes = format!("const ROWS = {rows}u;\nconst STAGED_VECTORS = {staged}u;\n");
            format!("const WORKGROUP = {WORKGROUP}u;\n{sizes}{read}")
        }
        _ => String::new(),
    };
    let choose = |choice: &str, name: &str| variant.choose(choice, name);
    let text = Link { choose: &choose, prelude: &prelude, repeats: 0 }.text("attend/attend.wgsl");
    Shader::new(text, |name| variant.value(name))
}

pub(super) fn combine(config: &CacheConfig, variant: &Variant) -> Shader {
    let workgroup = |name: &str| match name {
        "" => format!("const WORKGROUP = {WORKGROUP}u;\n"),
        _ => String::new(),
    };
    let choose = |choice: &str, name: &str| variant.choose(choice, name);
    let text = Link { choose: &choose, prelude: &workgroup, repeats: 0 }.text("attend/combine.wgsl");
    Shader::new(text, |name| {
        Some(match name {
            "STARTS" => config.max_batch_size.into(),
            "cache_heads" => config.num_heads.into(),
            "cache_value_dim" => config.value_dim.into(),
            "cache_value_vectors" => config.value_dim.div_ceil(4).into(),
            name => return variant.value(name),
        })
    })
}

#[cfg(test)]
#[path = "../../../tests/unit/attention.rs"]
mod tests;
