//! `kv-cache inspect`.

use std::{fs::File, io::Write, path::PathBuf};

use clap::Args;
use serde_json::json;
use wgpu_kv_cache::{
    Placement,
    save::{Saved, SavedLayer, inspect},
};

use crate::{Failure, output, output::Out};

/// Tokens that are printed of a sequence.
const TOKENS: usize = 12;

/// Check a saved sequence and print what is in it.
///
/// Every byte is checked. Rows are not printed; safetensors' own tools read them.
#[derive(Args)]
pub struct Arguments {
    /// A file that `SaveSequence::save` has written.
    #[arg(value_name = "FILE.safetensors")]
    file: PathBuf,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    let path = &arguments.file;
    let refused = |source| Failure::File { path: path.clone(), source };
    let file = File::open(path).map_err(refused)?;
    let bytes = file.metadata().map_err(refused)?.len();
    let saved = inspect(file).map_err(|error| Failure::NotSaved { path: path.clone(), error })?;
    if arguments.json {
        let Saved { crate_version, identity, length, tokens, layers, .. } = &saved;
        let value = json!({
            "file": path, "bytes": bytes, "crate_version": crate_version, "identity": identity, "length": length,
            "tokens": tokens, "layers": layers,
        });
        return Ok(output::json(out, &value)?);
    }
    print(out, &saved, bytes)
}

fn print(out: &mut Out, saved: &Saved, bytes: u64) -> Result<(), Failure> {
    let tokens = match &saved.tokens {
        None => "none are saved".to_owned(),
        Some(tokens) => {
            let first: Vec<String> = tokens.iter().take(TOKENS).map(ToString::to_string).collect();
            first.join(" ") + if tokens.len() > TOKENS { " …" } else { "" }
        }
    };
    writeln!(out, "identity    {}", saved.identity)?;
    writeln!(out, "written by  wgpu-kv-cache {}", saved.crate_version)?;
    writeln!(out, "positions   {}", output::count(saved.length.into()))?;
    writeln!(out, "tokens      {tokens}")?;
    writeln!(out, "size        {}", output::bytes(bytes))?;
    let mut table = output::table(&["layers", "KV heads", "keys", "values", "rows", "keeps"], 1);
    let numbered: Vec<(usize, &SavedLayer)> = saved.layers.iter().enumerate().collect();
    for alike in numbered.chunk_by(|(_, a), (_, b)| a == b) {
        let ((first, layer), (last, _)) = (alike[0], alike[alike.len() - 1]);
        let side = |dim: u32, format: &str, scale: f32| {
            let scale = if scale == 1.0 { String::new() } else { format!(" × {scale}") };
            format!("{dim} {format}{scale}")
        };
        table.add_row([
            if first == last { first.to_string() } else { format!("{first}–{last}") },
            layer.num_heads.to_string(),
            side(layer.head_dim, &layer.key_format, layer.key_scale),
            side(layer.value_dim, &layer.value_format, layer.value_scale),
            output::count(layer.rows(saved.length).into()),
            match layer.placement {
                Placement::Linear => "all positions".to_owned(),
                Placement::Ring { window, sinks, .. } => format!("the last {window}, {sinks} sinks"),
            },
        ]);
    }
    writeln!(out, "{table}\nall checksums are right")?;
    Ok(())
}
