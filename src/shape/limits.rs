//! What a [`CacheConfig`] requires of a device: memory, limits and features.

use crate::{
    CacheConfig, Result, Side,
    shape::layout::{IMMEDIATE_BYTES, Layout},
};

impl CacheConfig {
    /// Checks that no dimension is zero, that the batch fits `max_batch_size`, that scales are positive and finite, and
    /// that no size overflows.
    ///
    /// # Errors
    /// [`ConfigError::ZeroDimension`](crate::ConfigError::ZeroDimension) if a dimension is zero;
    /// [`ConfigError::Scale`](crate::ConfigError::Scale) if a scale is not positive and finite;
    /// [`SequenceError::BatchTooLarge`](crate::SequenceError::BatchTooLarge) if `batch_size` is larger than
    /// `max_batch_size`; [`ConfigError::SizeOverflow`](crate::ConfigError::SizeOverflow) if the slots of a plane or the
    /// number of planes do not fit 32 bits, or a size in bytes does not fit 64.
    pub fn validate(&self) -> Result<()> {
        Layout::unbounded(self).map(drop)
    }

    /// Returns the size of the keys and values of one layer on the device, in bytes.
    ///
    /// Rows are dense. A plane (the `[slots, dim]` rows of one sequence and head) starts on a multiple of 4 bytes, or
    /// of 16 in a packed format. The padding is 2 bytes for a plane with an odd number of 16-bit elements, up to 12
    /// bytes in a packed format, and none otherwise.
    ///
    /// # Errors
    /// The errors of [`validate`](Self::validate).
    pub fn bytes_per_layer(&self) -> Result<u64> {
        Layout::unbounded(self).map(|layout| layout.bytes())
    }

    /// Returns the size of one plane of a side (the `[slots, dim]` rows of one sequence and head) in bytes, including
    /// padding. A plane must fit a binding.
    ///
    /// # Errors
    /// The errors of [`validate`](Self::validate).
    pub fn bytes_per_plane(&self, side: Side) -> Result<u64> {
        Layout::unbounded(self).map(|layout| layout.side(side).plane_bytes)
    }

    /// Returns the size of one more token in one layer, in bytes: a row of keys and a row of values for every sequence
    /// of the batch and every head.
    ///
    /// # Errors
    /// The errors of [`validate`](Self::validate).
    pub fn bytes_per_token(&self) -> Result<u64> {
        Layout::unbounded(self)
            .map(|layout| layout.row_bytes().saturating_mul(layout.planes_of(self.batch_size).into()))
    }

    /// Returns the limits to request from an adapter with the limits `adapter`, so that this cache fits in as few
    /// buffers as the adapter allows.
    ///
    /// The other limits are wgpu's defaults, or the adapter's where it has less. Combine them with the engine's own
    /// requirements by [`wgpu::Limits::or_better_values_from`].
    ///
    /// # Errors
    /// [`ConfigError::PlaneTooLarge`](crate::ConfigError::PlaneTooLarge) or
    /// [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) if the adapter cannot hold this cache at all; the
    /// errors of [`validate`](Self::validate).
    pub fn required_limits(&self, adapter: &wgpu::Limits) -> Result<wgpu::Limits> {
        let layout = Layout::for_limits(self, adapter)?;
        let mut limits = wgpu::Limits::default().or_worse_values_from(adapter);
        let side_bytes = Side::BOTH.map(|side| layout.side_bytes(side)).into_iter().max().unwrap_or(0);
        let segment_bytes = layout.segment_bytes_max();
        limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.max(segment_bytes);
        limits.max_immediate_size = limits.max_immediate_size.max(IMMEDIATE_BYTES.min(adapter.max_immediate_size));
        // A dense copy of a whole side is one buffer, if the adapter allows one that large.
        limits.max_buffer_size = limits.max_buffer_size.max(side_bytes.min(adapter.max_buffer_size));
        Ok(limits)
    }

    /// Returns those of an adapter's features that make the cache cheaper. With `IMMEDIATES`, a step that does the same
    /// to every sequence needs no queue write, no slot and no allocation. With `SUBGROUP`, threads of an attention
    /// share scores by shuffles.
    pub fn useful_features(adapter: wgpu::Features) -> wgpu::Features {
        adapter & (wgpu::Features::IMMEDIATES | wgpu::Features::SUBGROUP)
    }

    /// Returns the features that the cache needs: none. It moves words and converts in integers, so 16-bit formats do
    /// not need `SHADER_F16`.
    pub const fn required_features(&self) -> wgpu::Features {
        wgpu::Features::empty()
    }
}
