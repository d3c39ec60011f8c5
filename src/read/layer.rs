//! [`ReadLayer`]: a layer that shaders of the caller's, and attention, can read.

use crate::{CacheConfig, Context, KvCache, Result, WgslNames, read::readable::sealed::Read};

/// A layer that [attention](crate::attention) and the caller's shaders read: a [`KvCache`], or a layer of a paged
/// cache. What is written once for all of them takes `&impl ReadLayer`.
///
/// The trait is sealed.
pub trait ReadLayer: Read {
    /// The context that the cache was created with.
    fn context(&self) -> &Context {
        self.readable().context
    }

    /// Shape and formats. `batch_size` is the current number of sequences.
    fn config(&self) -> CacheConfig {
        self.readable().config
    }

    /// The length of each sequence.
    fn lengths(&self) -> &[u32] {
        &self.readable().sequences.lengths
    }

    /// WGSL that reads the layer; see [`KvCache::wgsl`].
    ///
    /// # Errors
    /// Those of [`KvCache::wgsl`].
    fn wgsl(&self, names: &WgslNames<'_>) -> Result<String> {
        self.readable().wgsl(names)
    }

    /// Number of storage buffers that the text binds.
    fn wgsl_bindings(&self) -> u32 {
        self.readable().wgsl_bindings()
    }

    /// The entries of the bind group's layout.
    ///
    /// # Errors
    /// Those of [`KvCache::wgsl`].
    fn wgsl_layout(
        &self,
        names: &WgslNames<'_>,
        visibility: wgpu::ShaderStages,
    ) -> Result<Vec<wgpu::BindGroupLayoutEntry>> {
        self.readable().wgsl_layout(names, visibility)
    }

    /// The entries of the bind group.
    ///
    /// # Errors
    /// Those of [`KvCache::wgsl`].
    fn wgsl_entries(&self, names: &WgslNames<'_>) -> Result<Vec<wgpu::BindGroupEntry<'_>>> {
        self.readable().wgsl_entries(names)
    }
}

impl ReadLayer for KvCache {}

#[cfg(feature = "pages")]
impl ReadLayer for crate::PagedLayer<'_> {}
