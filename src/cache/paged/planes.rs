//! [`Planes`]: what one layer of a pool stores.

use std::sync::Arc;

use crate::{
    CacheConfig, Context, Result,
    device::storage::{Lengths, Storage},
    shape::layout::Layout,
};

/// The planes of one layer, `[page, kv_head, page_size, dim]`.
#[derive(Debug)]
pub(crate) struct Planes {
    /// Of a batch whose sequences are the pages.
    pub stored: CacheConfig,
    pub layout: Layout,
    pub storage: Storage,
    /// The identity by which bound sources and attentions recognise their layer.
    pub identity: Arc<()>,
    /// Whether the rows of the step under way were recorded.
    pub recorded: bool,
}

impl Planes {
    pub fn new(context: &Context, stored: CacheConfig) -> Result<Self> {
        let layout = Layout::of_pages(&stored, context.limits())?;
        let storage = Storage::new(context, &layout, Lengths::allocate(context, &layout)?)?;
        Ok(Planes { stored, layout, storage, identity: Arc::default(), recorded: true })
    }
}
