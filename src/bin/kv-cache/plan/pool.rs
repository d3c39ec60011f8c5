//! What a pool of pages holds.

use std::io::Write;

use serde_json::{Value, json};
use wgpu_kv_cache::{CacheConfig, PagedConfig, Placement};

use crate::{Failure, bytes::Bytes, output, output::Out};

/// The pool of a model, beside dense caches of the same bytes.
pub struct Pool {
    config: PagedConfig,
    page_bytes: u64,
    format: String,
}

impl Pool {
    /// A pool of so many bytes, for layers of one shape, of which some may have windows.
    pub fn new(
        layer: CacheConfig,
        placements: &[Placement],
        page_size: u32,
        Bytes(bytes): Bytes,
    ) -> Result<Self, Failure> {
        let layer = CacheConfig { max_seq_len: u32::MAX - 1, ..layer };
        let layers = placements.iter().map(|&placement| layer.placement(placement)).collect();
        let config = PagedConfig { layers, ..PagedConfig::new(layer, 1, page_size, 1) }.fit(bytes)?;
        let (keys, values) = (layer.key_format, layer.value_format);
        let format = if keys == values { keys.to_string() } else { format!("{keys}/{values}") };
        Ok(Pool { page_bytes: config.page_bytes()?, config, format })
    }

    /// Tokens of which all layers keep the rows.
    fn tokens(&self) -> u64 {
        let (_, groups) = self.config.groups();
        u64::from(self.config.pages) * u64::from(self.config.page_size) / groups.len() as u64
    }

    /// Sequences of `context` tokens that fit at a time.
    fn sequences(&self, context: u32) -> u64 {
        u64::from(self.config.pages) / self.config.most_pages(context).max(1)
    }

    pub fn json(&self, contexts: &[u32]) -> Value {
        let sequences: Vec<_> =
            contexts.iter().map(|&context| json!({"context": context, "sequences": self.sequences(context)})).collect();
        json!({
            "format": self.format,
            "page_size": self.config.page_size,
            "page_bytes": self.page_bytes,
            "groups": self.config.groups().1.len(),
            "pages": self.config.pages,
            "tokens": self.tokens(),
            "sequences": sequences,
        })
    }
}

/// Prints pools of several formats.
pub fn print(out: &mut Out, pools: &[Pool], contexts: &[u32]) -> Result<(), Failure> {
    let of = contexts.iter().map(|&context| format!("sequences of {}", output::count(context.into())));
    let headings: Vec<String> =
        ["format", "a page", "pages", "tokens"].map(str::to_owned).into_iter().chain(of).collect();
    let mut table = output::table(&headings.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    for pool in pools {
        let fixed = [
            pool.format.clone(),
            output::bytes(pool.page_bytes),
            output::count(pool.config.pages.into()),
            output::count(pool.tokens()),
        ];
        let of = contexts.iter().map(|&context| output::count(pool.sequences(context)));
        table.add_row(fixed.into_iter().chain(of));
    }
    let size = pools.first().map_or(0, |pool| pool.config.page_size);
    let groups = pools.first().map_or(1, |pool| pool.config.groups().1.len());
    let layers = if groups == 1 { "all layers together".to_owned() } else { format!("layers in {groups} groups") };
    writeln!(out, "\nA pool of pages of {size} tokens, {layers}:\n\n{table}")?;
    Ok(())
}
