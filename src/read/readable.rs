//! [`Readable`]: what reading needs of a layer, of whatever cache.

use std::sync::Arc;

use crate::{
    CacheConfig, Context, KvCache,
    device::storage::Storage,
    plan::sequences::Sequences,
    shape::{layout::Layout, table::TableLayout},
};

pub(crate) mod sealed {
    use super::Readable;

    pub trait Read {
        fn readable(&self) -> Readable<'_>;
    }
}

/// What reading needs of a layer.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "attention"), allow(dead_code, reason = "attention alone needs some of it"))]
pub struct Readable<'a> {
    pub(crate) context: &'a Context,
    /// Shape and formats, with the sequences that there are and that there may be, and the positions that each has room
    /// for.
    pub(crate) config: CacheConfig,
    pub(crate) layout: &'a Layout,
    pub(crate) storage: &'a Storage,
    pub(crate) identity: &'a Arc<()>,
    pub(crate) sequences: &'a Sequences,
    /// Whether a step was begun whose rows are not recorded.
    pub(crate) awaits_step: bool,
    pub(crate) table: Option<Table<'a>>,
}

/// The block table of a paged layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<'a> {
    pub layout: TableLayout,
    pub buffer: &'a wgpu::Buffer,
}

impl Readable<'_> {
    /// The most positions that queries may attend to.
    #[cfg(feature = "attention")]
    pub(crate) fn positions(&self) -> u32 {
        if self.table.is_some() { self.config.max_seq_len } else { self.config.slots() }
    }
}

impl sealed::Read for KvCache {
    fn readable(&self) -> Readable<'_> {
        Readable {
            context: &self.context,
            config: *self.config(),
            layout: &self.layout,
            storage: &self.storage,
            identity: &self.identity,
            sequences: &self.sequences,
            awaits_step: self.awaits_step(),
            table: None,
        }
    }
}

#[cfg(feature = "pages")]
impl sealed::Read for crate::PagedLayer<'_> {
    fn readable(&self) -> Readable<'_> {
        let crate::PagedLayer { cache, layer, planes, config } = *self;
        let (layout, buffer) = cache.table(layer.place.group);
        Readable {
            context: &cache.context,
            config,
            layout: &planes.layout,
            storage: &planes.storage,
            identity: &layer.identity,
            sequences: cache.batch(layer.place.group),
            awaits_step: cache.awaits(layer),
            table: Some(Table { layout, buffer }),
        }
    }
}
