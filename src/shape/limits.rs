//! What a [`CacheConfig`] takes of a device.

use crate::{
    CacheConfig, Result, Side,
    shape::layout::{IMMEDIATE_BYTES, Layout},
};

impl CacheConfig {
    /// Checks that no dimension is zero, that the batch has room, that scales are positive and finite, and that every
    /// size can be computed.
    ///
    /// # Errors
    /// [`ConfigError::ZeroDimension`](crate::ConfigError::ZeroDimension),
    /// [`ConfigError::Scale`](crate::ConfigError::Scale),
    /// [`SequenceError::BatchTooLarge`](crate::SequenceError::BatchTooLarge),
    /// [`ConfigError::SizeOverflow`](crate::ConfigError::SizeOverflow).
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
    /// [`ConfigError::PlaneTooLarge`](crate::ConfigError::PlaneTooLarge) or
    /// [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) where the adapter cannot hold this cache at all,
    /// and as [`validate`](Self::validate).
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
