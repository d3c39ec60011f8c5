//! [`Form`]: what a page of a cache is below the device.

use std::fmt::Write as _;

use crate::{
    CacheConfig, PagedKvCache, Placement,
    cache::paged::PageShape,
    pages::{Group, PageKey, StepKind},
    store::{ObjectKey, Scope},
};

/// What a page of a cache is below the device: its tokens, then the rows of all layers of a group, as they are stored.
#[derive(Debug)]
pub(super) struct Form {
    scope: Scope,
    pub page_size: u32,
    pub groups: Vec<Group>,
    shapes: Vec<PageShape>,
}

impl Form {
    pub fn new(cache: &PagedKvCache, identity: &str) -> Self {
        let config = cache.config();
        let (of_layers, placements) = config.groups();
        let mut shape = String::new();
        for (index, (layer, own)) in config.layers.iter().zip(&of_layers).enumerate() {
            let &CacheConfig { num_heads, head_dim, value_dim, key_format, value_format, .. } = layer;
            let [keys, values] = [layer.key_scale, layer.value_scale].map(|scale| scale.get().to_bits());
            // What a layer sees decides the rows of those after it.
            let sees = match layer.placement {
                Placement::Linear => "all".to_owned(),
                Placement::Ring { window, sinks, .. } => format!("{window} and {sinks}"),
            };
            let _ = writeln!(
                shape,
                "{index}: group {own}, {num_heads} × {head_dim} {key_format} {keys:08x}, {value_dim} {value_format} \
                 {values:08x}, sees {sees}"
            );
        }
        Form {
            scope: Scope::new(identity, &shape, config.page_size),
            page_size: config.page_size,
            groups: cache.sequences().groups().to_vec(),
            shapes: (0..placements.len()).map(|group| cache.page_shape(group)).collect(),
        }
    }

    pub fn key(&self, page: &PageKey, group: usize) -> ObjectKey {
        ObjectKey::new(&self.scope, page, u32::try_from(group).unwrap_or(u32::MAX))
    }

    /// The tokens of a page, of all tokens.
    pub fn tokens_of<'a>(&self, tokens: &'a [u32], index: usize) -> &'a [u32] {
        let size = self.page_size as usize;
        &tokens[index.saturating_mul(size)..][..size]
    }

    fn tokens_bytes(&self) -> usize {
        (self.page_size as usize).saturating_mul(4)
    }

    /// Bytes of a page of a group.
    pub fn bytes(&self, group: usize) -> usize {
        usize::try_from(self.shapes[group].bytes()).unwrap_or(usize::MAX).saturating_add(self.tokens_bytes())
    }

    /// Bytes of the largest page.
    pub fn most_bytes(&self) -> usize {
        (0..self.shapes.len()).map(|group| self.bytes(group)).max().unwrap_or(0)
    }

    /// A page with these tokens, whose rows `rows` appends.
    pub fn page(&self, group: usize, tokens: &[u32], rows: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut page = Vec::with_capacity(self.bytes(group));
        page.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        rows(&mut page);
        page
    }

    /// The rows of a page, if it is one of these tokens.
    pub fn rows<'a>(&self, group: usize, page: &'a [u8], tokens: &[u32]) -> Option<&'a [u8]> {
        let (known, rows) = page.split_at_checked(self.tokens_bytes())?;
        let same = known.chunks_exact(4).zip(tokens).all(|(known, token)| known == token.to_le_bytes());
        (page.len() == self.bytes(group) && same).then_some(rows)
    }

    /// The pages of those from `first` on whose rows a sequence of so many pages begins with, in a group.
    pub fn needed(&self, group: usize, first: usize, pages: usize) -> impl Iterator<Item = usize> + use<> {
        let size = self.page_size;
        let length = u32::try_from(pages).unwrap_or(u32::MAX).saturating_mul(size);
        let brought = self.groups[group].brought(length, StepKind::Pages);
        (first..pages).filter(move |&index| {
            let start = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(size);
            brought.iter().any(|range| range.contains(&start))
        })
    }

    /// The longest prefix, in pages, of which every group has what it needs beyond the first pages, given what is there
    /// of each index and group: `first` if that is none.
    pub fn longest(&self, first: usize, pages: usize, there: impl Fn(usize, usize) -> bool) -> usize {
        let groups = 0..self.groups.len();
        // Where all pages are needed, none is missing before the end.
        let whole = |group: &usize| !self.groups[*group].returns();
        let reach = |group: usize| (first..pages).find(|&index| !there(index, group)).unwrap_or(pages);
        let most = groups.clone().filter(whole).map(reach).min().unwrap_or(pages);
        let has = |pages: &usize| {
            let mut windows = groups.clone().filter(|group| !whole(group));
            windows.all(|group| self.needed(group, first, *pages).all(|index| there(index, group)))
        };
        (first.saturating_add(1)..=most).rev().find(has).unwrap_or(first)
    }
}
