//! [`PagedConfig`]: the shape of a paged cache, and its size.

use super::groups::Groups;
use crate::{
    BatchedKvCache, CacheConfig, ConfigError, Error, PageError, Placement, Result,
    pages::PagesConfig,
    shape::{layout::Layout, table::TableLayout},
};

/// Shape of a [`PagedKvCache`](crate::PagedKvCache): its layers, and the pages that they share.
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, Format, PagedConfig};
///
/// // Up to 64 sequences of up to 8192 positions, in 32 layers. A dense cache of this shape would take 64 GiB.
/// let layer = CacheConfig::new(64, 8, 128, 8192).formats(Format::F16, Format::F16);
/// let config = PagedConfig::for_bytes(layer, 32, 16, 4 << 30)?;
/// assert_eq!(config.page_bytes()?, 2 << 20);
/// assert_eq!(config.pages, 2048);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedConfig {
    /// Shape and formats of each layer, as of a dense cache: `max_batch_size` is the most sequences at a time, and
    /// `max_seq_len` the most positions of one. Layers with [`Placement::Ring`] are those with a sliding window: their
    /// pages go back to the pool when the window, `slack` positions before it, and the sinks no longer need them.
    pub layers: Vec<CacheConfig>,
    /// Tokens of a page, a power of two.
    pub page_size: u32,
    /// Number of pages.
    pub pages: u32,
    /// Whether sequences with the same beginning share pages. The default is true.
    pub share_prefixes: bool,
}

impl PagedConfig {
    /// `num_layers` layers of one shape over `pages` pages of `page_size` tokens. 16 is a good page size.
    #[must_use]
    pub fn new(layer: CacheConfig, num_layers: usize, page_size: u32, pages: u32) -> Self {
        PagedConfig { layers: vec![layer; num_layers], page_size, pages, share_prefixes: true }
    }

    /// As many pages as fit `bytes`, keys and values of all layers together.
    ///
    /// # Errors
    /// Those of [`validate`](Self::validate); [`PageError::PoolTooSmall`] if not even one page fits.
    pub fn for_bytes(layer: CacheConfig, num_layers: usize, page_size: u32, bytes: u64) -> Result<Self> {
        BatchedKvCache::check_layers(num_layers)?;
        Self::new(layer, num_layers, page_size, 1).fit(bytes)
    }

    /// These layers, with as many pages as fit `bytes`.
    ///
    /// # Errors
    /// As [`for_bytes`](Self::for_bytes).
    pub fn fit(self, bytes: u64) -> Result<Self> {
        let page_bytes = self.page_bytes()?;
        let pages = bytes.checked_div(page_bytes).unwrap_or(0);
        if pages == 0 {
            return Err(PageError::PoolTooSmall { bytes, page_bytes }.into());
        }
        let config = PagedConfig { pages: u32::try_from(pages).unwrap_or(u32::MAX), ..self };
        config.validate()?;
        Ok(config)
    }

    /// Bytes of a page, keys and values of all layers of a group together.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn page_bytes(&self) -> Result<u64> {
        let one = PagedConfig { pages: 1, ..self.clone() };
        one.validate()?;
        one.bytes()
    }

    /// The group of each layer, and the placement of each group. Layers with one placement are in one group, or in
    /// several: groups have about as many layers, so that a page, which holds rows of one group, is used whole.
    #[must_use]
    pub fn groups(&self) -> (Vec<usize>, Vec<Placement>) {
        let groups = self.grouped();
        (groups.layers.iter().map(|place| place.group).collect(), groups.placements)
    }

    /// Bytes of all pages.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn bytes(&self) -> Result<u64> {
        let mut sum = 0u64;
        for planes in &self.grouped().planes {
            let bytes = Layout::unbounded(planes)?.bytes();
            sum = sum.checked_add(bytes).ok_or_else(|| {
                Error::Config(ConfigError::SizeOverflow {
                    what: "bytes of all layers",
                    factors: format!("{sum} + {bytes}"),
                    bits: 64,
                })
            })?;
        }
        Ok(sum)
    }

    /// The most pages that a sequence has, in all groups together, while it grows token by token up to a length.
    #[must_use]
    pub fn most_pages(&self, length: u32) -> u64 {
        self.books().most_pages(length)
    }

    /// Checks the shape.
    ///
    /// # Errors
    /// [`ConfigError::ZeroDimension`], [`ConfigError::TooManyLayers`], [`ConfigError::LayersDiffer`] if layers differ
    /// in `max_batch_size` or `max_seq_len`; [`PageError::PageSize`], [`PageError::NoPages`];
    /// [`ConfigError::SizeOverflow`].
    pub fn validate(&self) -> Result<()> {
        BatchedKvCache::check_layers(self.layers.len())?;
        let first = self.first();
        for (layer, config) in self.layers.iter().enumerate() {
            for (name, first, actual) in [
                ("max_batch_size", first.max_batch_size, config.max_batch_size),
                ("max_seq_len", first.max_seq_len, config.max_seq_len),
            ] {
                if actual != first {
                    return Err(Error::Config(ConfigError::LayersDiffer { layer, name, first, actual }));
                }
            }
        }
        self.books().validate()?;
        if first.max_seq_len == 0 {
            return Err(Error::Config(ConfigError::ZeroDimension { name: "max_seq_len" }));
        }
        self.bytes().map(drop)
    }

    pub(super) fn grouped(&self) -> Groups {
        Groups::new(&self.layers, [self.pages, self.page_size])
    }

    pub(super) fn first(&self) -> CacheConfig {
        self.layers.first().copied().unwrap_or(CacheConfig::new(0, 0, 0, 0))
    }

    pub(super) fn books(&self) -> PagesConfig {
        let &PagedConfig { page_size, pages, share_prefixes, .. } = self;
        let groups = self.grouped().placements;
        PagesConfig { share_prefixes, groups, ..PagesConfig::new(page_size, pages, self.first().max_batch_size) }
    }

    pub(super) fn table(&self) -> TableLayout {
        let first = self.first();
        let groups = self.grouped().placements;
        let positions = first.max_seq_len.div_ceil(self.page_size.max(1));
        // Where no page is returned, a sequence has at most all pages.
        let returned = groups.iter().all(|placement| *placement != Placement::Linear);
        let width = if returned { positions } else { positions.min(self.pages) };
        let groups = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        TableLayout { rows: first.max_batch_size, width, page_size: self.page_size, groups, group: 0 }
    }
}
