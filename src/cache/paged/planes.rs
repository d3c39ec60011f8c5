//! [`Planes`]: what a pool stores, and [`Layer`]: which of them a layer of the model has.

use std::sync::Arc;

use super::groups::Place;
use crate::{
    CacheConfig, Context, Result,
    device::storage::{Lengths, Storage},
    shape::layout::Layout,
};

/// The planes of one layer of each group, `[page, kv_head, page_size, dim]`.
#[derive(Debug)]
pub(crate) struct Planes {
    /// Of a batch whose sequences are the pages.
    pub stored: CacheConfig,
    pub layout: Layout,
    pub storage: Storage,
}

/// A layer of the model.
#[derive(Debug)]
pub(crate) struct Layer {
    pub place: Place,
    /// The identity by which bound sources and attentions recognise it.
    pub identity: Arc<()>,
    /// Whether the rows of the step under way were recorded.
    pub recorded: bool,
}

impl Layer {
    pub fn new(place: Place) -> Self {
        Layer { place, identity: Arc::default(), recorded: true }
    }
}

impl Planes {
    pub fn new(context: &Context, stored: CacheConfig) -> Result<Self> {
        let layout = Layout::of_pages(&stored, context.limits())?;
        let storage = Storage::new(context, &layout, Lengths::allocate(context, &layout)?)?;
        Ok(Planes { stored, layout, storage })
    }
}
