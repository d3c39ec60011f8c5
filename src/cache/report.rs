//! [`MemoryReport`]: the shape of a cache and the memory it uses, as a table or as JSON.

use std::fmt;

use crate::{BatchedKvCache, KvCache};

/// Bytes of a megabyte in the report, 2^20.
const MB: f64 = 1024.0 * 1024.0;

/// Shape, memory use and growth of a cache. A megabyte is 2^20 bytes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct MemoryReport {
    /// Number of layers.
    pub num_layers: usize,
    /// Current number of sequences in the batch.
    pub batch_size: u32,
    /// Number of KV heads.
    pub num_heads: u32,
    /// Number of elements in a key row.
    pub head_dim: u32,
    /// Number of elements in a value row.
    pub value_dim: u32,
    /// Number of positions that each sequence has room for. Meaningless for a ring.
    pub max_seq_len: u32,
    /// Storage format, or `keys/values` where the two differ. If layers differ, each distinct format is listed once, in
    /// order of layers.
    pub dtype: String,
    /// `write_pos` of the first layer.
    pub tokens_generated: u32,
    /// Allocated size of the keys and values of the first layer.
    pub per_layer_allocated_mb: f64,
    /// Allocated size of the keys and values of all layers.
    pub total_allocated_mb: f64,
    /// Size of the valid rows of all layers.
    pub total_used_mb: f64,
    /// Size that one more token per sequence adds, over all layers.
    pub growth_per_token_mb: f64,
}

impl MemoryReport {
    /// Formats the report as one JSON object with the fields' names.
    #[cfg(feature = "serde")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a struct of numbers and names is always JSON")
    }
}

/// Formats the report as a table of names and numbers, one per line.
impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dim = if self.head_dim == self.value_dim {
            self.head_dim.to_string()
        } else {
            format!("{} (values {})", self.head_dim, self.value_dim)
        };
        writeln!(f, "num_layers              {}", self.num_layers)?;
        writeln!(f, "batch_size              {}", self.batch_size)?;
        writeln!(f, "num_heads               {}", self.num_heads)?;
        writeln!(f, "head_dim                {dim}")?;
        writeln!(f, "max_seq_len             {}", self.max_seq_len)?;
        writeln!(f, "dtype                   {}", self.dtype)?;
        writeln!(f, "tokens_generated        {}", self.tokens_generated)?;
        writeln!(f, "per_layer_allocated_mb  {:.3}", self.per_layer_allocated_mb)?;
        writeln!(f, "total_allocated_mb      {:.3}", self.total_allocated_mb)?;
        writeln!(f, "total_used_mb           {:.3}", self.total_used_mb)?;
        write!(f, "growth_per_token_mb     {:.6}", self.growth_per_token_mb)
    }
}

/// Lists each distinct format of the layers once: one name if keys and values are stored alike, otherwise
/// `keys/values`.
fn format_names(layers: &[KvCache]) -> String {
    let mut names: Vec<String> = Vec::new();
    for config in layers.iter().map(KvCache::config) {
        let (keys, values) = (config.key_format, config.value_format);
        let name = if keys == values { keys.to_string() } else { format!("{keys}/{values}") };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

impl BatchedKvCache {
    /// Reports shape, memory use and growth of the cache.
    pub fn memory_report(&self) -> MemoryReport {
        let config = self.config();
        let per_layer = self.layers().first().map_or(0, KvCache::memory_allocated_bytes);
        let checked = "the configuration was checked when the cache was made";
        let of_layer = |layer: &KvCache| layer.config().bytes_per_token().expect(checked);
        let per_token: u64 = self.layers().iter().map(of_layer).sum();
        MemoryReport {
            num_layers: self.num_layers(),
            batch_size: config.batch_size,
            num_heads: config.num_heads,
            head_dim: config.head_dim,
            value_dim: config.value_dim,
            max_seq_len: config.max_seq_len,
            dtype: format_names(self.layers()),
            tokens_generated: self.write_pos(),
            per_layer_allocated_mb: per_layer as f64 / MB,
            total_allocated_mb: self.memory_allocated_bytes() as f64 / MB,
            total_used_mb: self.memory_used_bytes() as f64 / MB,
            growth_per_token_mb: per_token as f64 / MB,
        }
    }
}
