//! [`CacheConfig`]: the shape and the formats of a cache, and what they cost.

use crate::{Format, Placement, Result, Scale, Side, kernels::IMMEDIATE_BYTES, layout::Layout};

/// Shape and formats of one layer's cache.
///
/// Keys are stored as `[max_batch_size, num_heads, slots, head_dim]` and values as
/// `[max_batch_size, num_heads, slots, value_dim]`, row-major; on linear placement there are `max_seq_len` slots.
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
    /// Sequences in the batch. Of a cache, those in it now.
    pub batch_size: u32,
    /// Sequences that there is room for.
    pub max_batch_size: u32,
    /// KV heads. With grouped-query attention, fewer than the query heads.
    pub num_heads: u32,
    /// Elements of one key row.
    pub head_dim: u32,
    /// Elements of one value row.
    pub value_dim: u32,
    /// Positions that each sequence has room for on linear placement; a ring does not read it.
    pub max_seq_len: u32,
    /// In which slot a position lies.
    pub placement: Placement,
    /// How keys are stored.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::report::as_name"))]
    pub key_format: Format,
    /// How values are stored.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::report::as_name"))]
    pub value_format: Format,
    /// What codes of keys are multiplied by, where they are stored as [`Format::Fp8E4M3`]; other formats do not read
    /// it.
    pub key_scale: Scale,
    /// The same of values.
    pub value_scale: Scale,
}

impl CacheConfig {
    /// A cache with equal head sizes of keys and values, both in f32.
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

    /// Another head size for values.
    #[must_use]
    pub const fn value_dim(mut self, value_dim: u32) -> Self {
        self.value_dim = value_dim;
        self
    }

    /// Formats of keys and of values.
    #[must_use]
    pub const fn formats(mut self, keys: Format, values: Format) -> Self {
        self.key_format = keys;
        self.value_format = values;
        self
    }

    /// Scales of keys and of values in [`Format::Fp8E4M3`]. The largest magnitude that is stored is 448 times as much.
    #[must_use]
    pub const fn scales(mut self, keys: f32, values: f32) -> Self {
        self.key_scale = Scale::new(keys);
        self.value_scale = Scale::new(values);
        self
    }

    /// Room for more sequences than the batch starts with.
    #[must_use]
    pub const fn max_batch_size(mut self, max_batch_size: u32) -> Self {
        self.max_batch_size = max_batch_size;
        self
    }

    /// Another placement than linear.
    #[must_use]
    pub const fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Rows of a plane. [`validate`](Self::validate) refuses a ring of more than 2^32.
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

    /// Scale of one side; 1 unless it is [`Format::Fp8E4M3`].
    pub const fn scale(&self, side: Side) -> Scale {
        match (side, self.format(side)) {
            (Side::Keys, Format::Fp8E4M3) => self.key_scale,
            (Side::Values, Format::Fp8E4M3) => self.value_scale,
            _ => Scale::ONE,
        }
    }

    /// Units of one row of a side: elements, or words of a packed format.
    pub(crate) const fn units(&self, side: Side) -> u32 {
        self.format(side).units(self.dim(side))
    }

    /// Shape of one side's storage, `[max_batch_size, kv_head, slots, dim]`.
    pub fn shape(&self, side: Side) -> [u32; 4] {
        [self.max_batch_size, self.num_heads, self.slots(), self.dim(side)]
    }

    /// Checks that no dimension is zero, that the batch has room, that scales are positive and finite, and that every
    /// size can be computed.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`](crate::Error::ZeroDimension), [`Error::Scale`](crate::Error::Scale),
    /// [`Error::BatchTooLarge`](crate::Error::BatchTooLarge), [`Error::SizeOverflow`](crate::Error::SizeOverflow).
    pub fn validate(&self) -> Result<()> {
        Layout::unbounded(self).map(drop)
    }

    /// Bytes that keys and values of one layer take on the device.
    ///
    /// Rows are dense. A plane, the `[slots, dim]` rows of one sequence and head, starts on a multiple of 4 bytes, of a
    /// packed format of 16; that adds 2 bytes to a plane with an odd number of 16-bit elements, up to 12 to one of a
    /// packed format, and nothing to any other.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn bytes_per_layer(&self) -> Result<u64> {
        Layout::unbounded(self).map(|layout| layout.bytes())
    }

    /// Bytes of one plane of a side, the `[slots, dim]` rows of one sequence and head, padding included: what must fit
    /// a binding.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn bytes_per_plane(&self, side: Side) -> Result<u64> {
        Layout::unbounded(self).map(|layout| layout.side(side).plane_bytes)
    }

    /// Bytes that one more token takes in one layer: a row of keys and a row of values for every sequence and
    /// head.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn bytes_per_token(&self) -> Result<u64> {
        Layout::unbounded(self)
            .map(|layout| layout.row_bytes().saturating_mul(layout.planes_of(self.batch_size).into()))
    }

    /// The limits to request from an adapter whose own limits are `adapter`, so that this cache fits in as few
    /// buffers as the adapter allows.
    ///
    /// The rest are wgpu's defaults, or the adapter's where it has less. Combine with what else the engine needs
    /// by [`wgpu::Limits::or_better_values_from`].
    ///
    /// # Errors
    /// [`Error::PlaneTooLarge`](crate::Error::PlaneTooLarge) or [`Error::DeviceLimit`](crate::Error::DeviceLimit)
    /// where the adapter cannot hold this cache at all, and as [`validate`](Self::validate).
    pub fn required_limits(&self, adapter: &wgpu::Limits) -> Result<wgpu::Limits> {
        let layout = Layout::for_limits(self, adapter)?;
        let mut limits = wgpu::Limits::default().or_worse_values_from(adapter);
        let side_bytes = Side::BOTH.map(|side| layout.side_bytes(side)).into_iter().max().unwrap_or(0);
        let segment_bytes = layout.segment_bytes_max();
        limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.max(segment_bytes);
        limits.max_immediate_size = limits.max_immediate_size.max(IMMEDIATE_BYTES.min(adapter.max_immediate_size));
        // A dense copy of a whole side is one buffer, where the adapter allows one that large.
        limits.max_buffer_size = limits.max_buffer_size.max(side_bytes.min(adapter.max_buffer_size));
        Ok(limits)
    }

    /// The features that make the cache cheaper, of those that an adapter has: `IMMEDIATES`, by which a step that does
    /// the same to every sequence costs no write to the queue, no slot and no allocation.
    pub fn useful_features(adapter: wgpu::Features) -> wgpu::Features {
        adapter & wgpu::Features::IMMEDIATES
    }

    /// The features that the cache needs: none. It moves words and converts in integers, so 16-bit formats work
    /// without `SHADER_F16` too.
    pub const fn required_features(&self) -> wgpu::Features {
        wgpu::Features::empty()
    }
}
