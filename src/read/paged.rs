//! WGSL that reads a layer of a paged cache.

use crate::{
    PagedLayer, Result, WgslNames,
    read::readable::{read_paged, sealed::Read},
};

/// Reading a layer from the caller's own shaders. A *sequence* is one of the last step, in its order.
impl<'a> PagedLayer<'a> {
    /// Returns WGSL that reads this layer; see [`KvCache::wgsl`](crate::KvCache::wgsl). The functions are the same, so a
    /// shader of the caller's runs over dense caches and over pages. A loop over positions should take the row once, by
    /// `kv_row_of` or `kv_row_at`, which looks up the page.
    ///
    /// # Errors
    /// Those of [`KvCache::wgsl`](crate::KvCache::wgsl).
    pub fn wgsl(&self, names: &WgslNames<'_>) -> Result<String> {
        self.readable().wgsl(names)
    }

    /// Number of storage buffers that the text binds, all of them read-only.
    pub fn wgsl_bindings(&self) -> u32 {
        self.readable().wgsl_bindings()
    }

    /// Returns the entries of the bind group's layout.
    ///
    /// # Errors
    /// Those of [`wgsl`](Self::wgsl).
    pub fn wgsl_layout(
        &self,
        names: &WgslNames<'_>,
        visibility: wgpu::ShaderStages,
    ) -> Result<Vec<wgpu::BindGroupLayoutEntry>> {
        self.readable().wgsl_layout(names, visibility)
    }

    /// Returns the entries of the bind group. They remain correct for the lifetime of the cache.
    ///
    /// # Errors
    /// Those of [`wgsl`](Self::wgsl).
    pub fn wgsl_entries(&self, names: &WgslNames<'_>) -> Result<Vec<wgpu::BindGroupEntry<'a>>> {
        read_paged(self).wgsl_entries(names)
    }
}
