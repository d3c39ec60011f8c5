//! [`CacheConfig`]: the shape and the formats of a cache.

use crate::{Format, Placement, Scale, Side};

/// Shape and formats of one layer's cache.
///
/// Keys are stored as `[max_batch_size, num_heads, slots, head_dim]` and values as `[max_batch_size, num_heads, slots,
/// value_dim]`, row-major. With linear placement there are `max_seq_len` slots.
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, Format};
///
/// let config = CacheConfig::new(1, 8, 128, 8192).formats(Format::F16, Format::F16);
/// assert_eq!(config.bytes_per_token()?, 4096);
/// assert_eq!(config.bytes_per_layer()?, 32 << 20);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct CacheConfig {
    /// Number of sequences in the batch. [`KvCache::config`](crate::KvCache::config) reports the current number.
    pub batch_size: u32,
    /// Number of sequences that the cache has room for.
    pub max_batch_size: u32,
    /// KV heads. With grouped-query attention, fewer than the query heads.
    pub num_heads: u32,
    /// Elements of one key row.
    pub head_dim: u32,
    /// Elements of one value row.
    pub value_dim: u32,
    /// Number of positions that each sequence has room for with linear placement. A ring ignores it.
    pub max_seq_len: u32,
    /// How positions map to slots.
    pub placement: Placement,
    /// How keys are stored.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::format::as_name"))]
    pub key_format: Format,
    /// How values are stored.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::format::as_name"))]
    pub value_format: Format,
    /// Factor that stored codes of keys are multiplied by in [`Format::Fp8E4M3`]. Other formats ignore it.
    pub key_scale: Scale,
    /// The same factor for values.
    pub value_scale: Scale,
}

impl CacheConfig {
    /// Creates a configuration with equal head sizes for keys and values, both stored in f32, with linear placement.
    pub const fn new(batch_size: u32, num_heads: u32, head_dim: u32, max_seq_len: u32) -> Self {
        CacheConfig {
            batch_size,
            max_batch_size: batch_size,
            num_heads,
            head_dim,
            value_dim: head_dim,
            max_seq_len,
            placement: Placement::Linear,
            key_format: Format::F32,
            value_format: Format::F32,
            key_scale: Scale::ONE,
            value_scale: Scale::ONE,
        }
    }

    /// Sets the head size of values.
    #[must_use]
    pub const fn value_dim(mut self, value_dim: u32) -> Self {
        self.value_dim = value_dim;
        self
    }

    /// Sets the formats of keys and of values.
    #[must_use]
    pub const fn formats(mut self, keys: Format, values: Format) -> Self {
        self.key_format = keys;
        self.value_format = values;
        self
    }

    /// Sets the scales of keys and of values for [`Format::Fp8E4M3`]. The largest magnitude that can be stored is 448
    /// times the scale.
    #[must_use]
    pub const fn scales(mut self, keys: f32, values: f32) -> Self {
        self.key_scale = Scale::new(keys);
        self.value_scale = Scale::new(values);
        self
    }

    /// Makes room for more sequences than the batch starts with.
    #[must_use]
    pub const fn max_batch_size(mut self, max_batch_size: u32) -> Self {
        self.max_batch_size = max_batch_size;
        self
    }

    /// Sets the placement, which is linear by default.
    #[must_use]
    pub const fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Number of rows of a plane. Saturates for a ring of 2^32 slots or more, which [`validate`](Self::validate)
    /// refuses.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        match self.placement {
            Placement::Linear => self.max_seq_len,
            Placement::Ring { window, sinks, slack } => window.saturating_add(sinks).saturating_add(slack),
        }
    }

    /// Head size of one side.
    pub const fn dim(&self, side: Side) -> u32 {
        match side {
            Side::Keys => self.head_dim,
            Side::Values => self.value_dim,
        }
    }

    /// Format of one side.
    pub const fn format(&self, side: Side) -> Format {
        match side {
            Side::Keys => self.key_format,
            Side::Values => self.value_format,
        }
    }

    /// Scale of one side; 1 unless the side is stored as [`Format::Fp8E4M3`].
    pub const fn scale(&self, side: Side) -> Scale {
        match (side, self.format(side)) {
            (Side::Keys, Format::Fp8E4M3) => self.key_scale,
            (Side::Values, Format::Fp8E4M3) => self.value_scale,
            _ => Scale::ONE,
        }
    }

    /// Number of units in one row of a side: elements, or words of a packed format.
    pub(crate) const fn units(&self, side: Side) -> u32 {
        self.format(side).units(self.dim(side))
    }

    /// Shape of one side's storage, `[max_batch_size, kv_head, slots, dim]`.
    pub fn shape(&self, side: Side) -> [u32; 4] {
        [self.max_batch_size, self.num_heads, self.slots(), self.dim(side)]
    }
}
