//! The text of the kernels of an attention.

use std::fmt::Write as _;

use super::{WORKGROUP, tiles::Tile};
use crate::{CacheConfig, Format};

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

fn constants(variant: &Variant) -> String {
    let (window, sinks) = variant.window.unwrap_or_default();
    let mut text = String::new();
    let mut line =
        |arguments: std::fmt::Arguments<'_>| writeln!(text, "{arguments}").expect("a String takes every write");
    line(format_args!("const WORKGROUP = {WORKGROUP}u;"));
    line(format_args!("const ROWS = {}u;", variant.tile.rows));
    line(format_args!("const GROUP = {}u;", variant.group));
    line(format_args!("const WRITTEN = {};", variant.written));
    line(format_args!("const CAUSAL = {};", variant.causal));
    line(format_args!("const WINDOWED = {};", variant.window.is_some()));
    line(format_args!("const WINDOW = {window}u;"));
    line(format_args!("const SINKS = {sinks}u;"));
    line(format_args!("const CAPPED = {};", variant.capped));
    line(format_args!("const OUTPUT_LANES = {}u;", variant.output.lanes()));
    text
}

/// The output's binding and how it is written.
fn output(variant: &Variant) -> String {
    let mut text = "@group(0) @binding(2) var<storage, read_write> output: array<u32>;\n".to_owned();
    let bits = match variant.output {
        Format::F16 | Format::Bf16 => format!("{}_encode(bitcast<u32>(number))", variant.output),
        _ => "bitcast<u32>(number)".to_owned(),
    };
    text.push_str(include_str!("../../shaders/format_f16.wgsl"));
    text.push_str(include_str!("../../shaders/format_bf16.wgsl"));
    text.push_str(&format!("fn output_bits(number: f32) -> u32 {{\n    return {bits};\n}}\n"));
    text.push_str(include_str!("../../shaders/attend_output.wgsl"));
    text
}

/// Over the text that reads the layer, with the prefix `cache_`.
pub(super) fn attend(read: &str, variant: &Variant) -> String {
    let mut text = constants(variant);
    let staged = variant.tile.staged;
    text.push_str(&format!("const STAGED = {};\n", staged > 0));
    text.push_str(&format!("const STAGED_VECTORS = {}u;\n", staged.max(1)));
    text.push_str(read);
    text.push_str(include_str!("../../shaders/attend_params.wgsl"));
    text.push_str(include_str!("../../shaders/attend_scores.wgsl"));
    if !variant.split {
        text.push_str(&output(variant));
        text.push_str(include_str!("../../shaders/attend_whole.wgsl"));
    } else {
        text.push_str(include_str!("../../shaders/format_f16.wgsl"));
        text.push_str(include_str!("../../shaders/format_bf16.wgsl"));
        text.push_str(include_str!("../../shaders/attend_split.wgsl"));
    }
    text.push_str(if variant.masked {
        include_str!("../../shaders/attend_masked.wgsl")
    } else {
        include_str!("../../shaders/attend_unmasked.wgsl")
    });
    text.push_str("@group(0) @binding(1) var<storage, read> queries: array<u32>;\n");
    let element = match variant.queries {
        Format::F16 | Format::Bf16 => {
            format!("{}_decode((queries[at / 2u] >> (at % 2u * 16u)) & 0xffffu)", variant.queries)
        }
        _ => "queries[at]".to_owned(),
    };
    text.push_str(&format!("fn query_element(at: u32) -> f32 {{\n    return bitcast<f32>({element});\n}}\n"));
    text.push_str(include_str!("../../shaders/attend.wgsl"));
    text
}

pub(super) fn combine(config: &CacheConfig, variant: &Variant) -> String {
    let mut text = constants(variant);
    text.push_str(&format!("const cache_heads = {}u;\n", config.num_heads));
    text.push_str(&format!("const STARTS = {}u;\n", config.max_batch_size));
    text.push_str(&format!("const cache_value_dim = {}u;\n", config.value_dim));
    text.push_str(&format!("const cache_value_vectors = {}u;\n", config.value_dim.div_ceil(4)));
    text.push_str(include_str!("../../shaders/attend_params.wgsl"));
    text.push_str(include_str!("../../shaders/attend_scores.wgsl"));
    text.push_str(&output(variant));
    text.push_str("@group(0) @binding(3) var<storage, read> partials: array<vec4<f32>>;\n");
    text.push_str(include_str!("../../shaders/combine.wgsl"));
    text
}

#[cfg(test)]
#[path = "../../tests/unit/attention.rs"]
mod tests;
