//! [`Form`]: what a page of a cache is in a store.

use std::{fmt::Write as _, ops::Range};

use super::{Object, ObjectKey, Scope};
use crate::{
    CacheConfig, PagedKvCache, Placement, Side,
    pages::{PageKey, StepKind},
    shape::placement::count,
};

/// Tokens as an object has them.
pub(super) fn encoded(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

/// What a page of a cache is in a store.
pub(super) struct Form<'a> {
    cache: &'a PagedKvCache,
    scope: Scope,
    pub page_size: u32,
    /// Of each group, its layers.
    pub groups: Vec<Vec<usize>>,
}

impl<'a> Form<'a> {
    pub fn new(cache: &'a PagedKvCache, identity: &str) -> Self {
        let config = cache.config();
        let (of_layers, placements) = config.groups();
        let of_group = |group| (0..of_layers.len()).filter(|&layer| of_layers[layer] == group).collect();
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
            cache,
            scope: Scope::new(identity, &shape, config.page_size),
            page_size: config.page_size,
            groups: (0..placements.len()).map(of_group).collect(),
        }
    }

    pub fn key(&self, page: &PageKey, group: usize) -> ObjectKey {
        ObjectKey::new(&self.scope, page, u32::try_from(group).unwrap_or(u32::MAX))
    }

    pub fn layer(&self, layer: usize) -> &'a CacheConfig {
        &self.cache.config().layers[layer]
    }

    /// Bytes of the rows of one head of a page.
    pub fn head_bytes(&self, layer: usize, side: Side) -> usize {
        let config = self.layer(layer);
        let row = usize::try_from(config.format(side).row_bytes(config.dim(side))).unwrap_or(usize::MAX);
        row.saturating_mul(self.page_size as usize)
    }

    /// Bytes of an object of a group, without its header.
    pub fn bytes(&self, group: usize) -> usize {
        let of_layer = |&layer: &usize| {
            let heads = self.layer(layer).num_heads as usize;
            let of_side = |side| self.head_bytes(layer, side).saturating_mul(heads);
            Side::BOTH.map(of_side).into_iter().fold(0, usize::saturating_add)
        };
        let rows = self.groups[group].iter().map(of_layer).fold(0, usize::saturating_add);
        rows.saturating_add((self.page_size as usize).saturating_mul(4))
    }

    /// The rows of an object, if they are those of a page with these tokens.
    pub fn rows<'o>(&self, group: usize, key: &ObjectKey, object: &'o [u8], tokens: &[u32]) -> Option<&'o [u8]> {
        let rows = Object::decode(key, object).filter(|rows| rows.len() == self.bytes(group))?;
        let (known, rows) = rows.split_at_checked((self.page_size as usize).saturating_mul(4))?;
        (known == encoded(tokens)).then_some(rows)
    }

    /// The positions whose rows a sequence of so many pages begins with, in a group.
    pub fn brought(&self, group: usize, pages: usize) -> [Range<u32>; 2] {
        let length = u32::try_from(pages).unwrap_or(u32::MAX).saturating_mul(self.page_size);
        self.cache.sequences().brought(group, length, StepKind::Pages)
    }

    /// The pages of these positions, of those from `first` on.
    pub fn needed(&self, group: usize, first: usize, pages: usize) -> impl Iterator<Item = usize> + use<> {
        let (size, brought) = (self.page_size, self.brought(group, pages));
        (first..pages).filter(move |&index| {
            let start = u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(size);
            brought.iter().any(|range| range.contains(&start))
        })
    }

    /// The rows that a sequence of so many pages begins with, in each layer. Those of pages before `first`, which the cache
    /// has, are zero: they are passed over.
    pub fn assemble(
        &self,
        objects: &[Option<Vec<u8>>],
        (first, pages): (usize, usize),
        at: &impl Fn(usize, usize) -> usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let size = self.page_size;
        let mut layers = vec![(Vec::new(), Vec::new()); self.cache.num_layers()];
        for (group, members) in self.groups.iter().enumerate() {
            // Where the rows of a layer begin in an object.
            let mut start = 0usize;
            for &layer in members {
                let config = self.layer(layer);
                let brought = self.brought(group, pages);
                for side in Side::BOTH {
                    let head_bytes = self.head_bytes(layer, side);
                    let row = head_bytes.checked_div(size as usize).unwrap_or(0);
                    let rows = brought.iter().map(count).fold(0, u32::saturating_add) as usize;
                    let mut bytes =
                        Vec::with_capacity(rows.saturating_mul(row).saturating_mul(config.num_heads as usize));
                    for head in 0..config.num_heads as usize {
                        let head_start = start.saturating_add(head.saturating_mul(head_bytes));
                        for position in brought.iter().cloned().flatten() {
                            let page = position.checked_div(size).unwrap_or(0) as usize;
                            let slot = position.checked_rem(size).unwrap_or(0) as usize;
                            let object = (page >= first).then(|| objects[at(page, group)].as_ref()).flatten();
                            match object {
                                Some(object) => {
                                    let from = head_start.saturating_add(slot.saturating_mul(row));
                                    bytes.extend_from_slice(&object[from..][..row]);
                                }
                                None => bytes.resize(bytes.len().saturating_add(row), 0),
                            }
                        }
                    }
                    start = start.saturating_add(head_bytes.saturating_mul(config.num_heads as usize));
                    match side {
                        Side::Keys => layers[layer].0 = bytes,
                        Side::Values => layers[layer].1 = bytes,
                    }
                }
            }
        }
        layers
    }
}
