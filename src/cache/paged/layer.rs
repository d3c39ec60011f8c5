//! [`PagedLayer`]: one layer of a paged cache, as shaders and attention read it.

use super::{
    PagedKvCache,
    planes::{Layer, Planes},
};
use crate::{CacheConfig, CacheView, Context};

/// One layer of a [`PagedKvCache`]: what [attention](crate::attention) and the caller's shaders read.
///
/// [`ReadLayer`](crate::ReadLayer) has the functions that make WGSL for it. To shaders its sequences are those of the
/// last step, in its order, each with all its positions. In a layer with a window, those before the window must not be
/// read.
#[derive(Clone, Copy, Debug)]
pub struct PagedLayer<'a> {
    pub(crate) cache: &'a PagedKvCache,
    pub(crate) layer: &'a Layer,
    pub(crate) planes: &'a Planes,
    /// Shape and formats, with the sequences that there are and that there may be, and the positions that each has room
    /// for.
    pub(crate) config: CacheConfig,
}

impl<'a> PagedLayer<'a> {
    /// Shape and formats. `batch_size` is the number of sequences of the last step.
    pub const fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// The context that the cache was created with.
    pub const fn context(&self) -> &'a Context {
        &self.cache.context
    }

    /// The length of each sequence of the last step, in its order, also of those that ended or were cut since.
    pub fn lengths(&self) -> &'a [u32] {
        &self.cache.batch[0].lengths
    }

    /// The storage itself, `[page, kv_head, page_size, dim]`: its sequences are the pages of the pool, and its
    /// positions those of a page. Layers of other groups have rows there, in other pages.
    pub fn view(&self) -> CacheView<'a> {
        CacheView::new(&self.planes.storage, &self.planes.layout, &[])
    }

    /// The group that it is in: [`PagedSequences::pages`](crate::pages::PagedSequences::pages) tells its pages.
    pub const fn group(&self) -> usize {
        self.layer.place.group
    }

    /// Bytes that keys and values of the layer occupy on the device, together with those of other groups that share
    /// them.
    pub fn memory_allocated_bytes(&self) -> u64 {
        self.planes.layout.bytes()
    }
}
