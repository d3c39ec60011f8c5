//! `kv-cache adapters`.

use std::io::Write;

use clap::Args;
use serde_json::json;
use wgpu_kv_cache::{CacheConfig, Format, adapters};

use crate::{Failure, output, output::Out};

/// Head size of the cache whose maximum length is listed for each adapter.
const HEAD_DIM: u32 = 128;

/// List the adapters that wgpu finds, the best first, with the limits and features that matter to a cache.
#[derive(Args)]
pub struct Arguments {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    let mut table = output::table(
        &[
            "",
            "adapter",
            "backend",
            "type",
            "binding",
            "buffer",
            "buffers/stage",
            "f16",
            "timestamps",
            "longest f32",
            "longest f16",
        ],
        4,
    );
    let mut list = Vec::new();
    for (index, adapter) in adapters()?.iter().enumerate() {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let [f32_tokens, f16_tokens] = [Format::F32, Format::F16].map(|format| longest(&limits, format));
        let yes = |feature| if features.contains(feature) { "yes" } else { "no" };
        table.add_row([
            index.to_string(),
            info.name.clone(),
            info.backend.to_string(),
            format!("{:?}", info.device_type),
            output::bytes(limits.max_storage_buffer_binding_size),
            output::bytes(limits.max_buffer_size),
            limits.max_storage_buffers_per_shader_stage.to_string(),
            yes(wgpu::Features::SHADER_F16).to_owned(),
            yes(wgpu::Features::TIMESTAMP_QUERY).to_owned(),
            tokens(f32_tokens),
            tokens(f16_tokens),
        ]);
        list.push(json!({
            "index": index,
            "name": info.name,
            "backend": info.backend.to_string(),
            "device_type": format!("{:?}", info.device_type),
            "driver": info.driver,
            "driver_info": info.driver_info,
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_buffer_size": limits.max_buffer_size,
            "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
            "min_storage_buffer_offset_alignment": limits.min_storage_buffer_offset_alignment,
            "max_compute_workgroups_per_dimension": limits.max_compute_workgroups_per_dimension,
            "shader_f16": features.contains(wgpu::Features::SHADER_F16),
            "timestamp_query": features.contains(wgpu::Features::TIMESTAMP_QUERY),
            "longest_sequence": { "head_dim": HEAD_DIM, "f32": f32_tokens, "f16": f16_tokens },
        }));
    }
    if arguments.json {
        output::json(out, &list)?;
    } else {
        writeln!(out, "{table}\n")?;
        writeln!(
            out,
            "longest: the longest sequence, in tokens, that a cache with heads of {HEAD_DIM} can hold. The keys of one"
        )?;
        writeln!(
            out,
            "sequence and head must fit one binding. More heads, sequences and layers take more buffers, up to the"
        )?;
        writeln!(
            out,
            "memory of the device, which wgpu does not report. Caches in f16 and bf16 do not need the feature f16."
        )?;
    }
    Ok(())
}

/// Returns the largest `max_seq_len` that the adapter can hold; `None` if it cannot hold a single token.
fn longest(limits: &wgpu::Limits, format: Format) -> Option<u32> {
    let fits = |tokens: u32| {
        tokens > 0 && CacheConfig::new(1, 1, HEAD_DIM, tokens).formats(format, format).required_limits(limits).is_ok()
    };
    let (mut low, mut high) = (0u32, u32::MAX);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    Some(low).filter(|&tokens| fits(tokens))
}

fn tokens(tokens: Option<u32>) -> String {
    tokens.map_or_else(|| "none".to_owned(), |tokens| output::count(tokens.into()))
}
