//! [`Groups`]: which layers of a paged cache share pages, and which share planes.

use crate::{CacheConfig, Placement};

/// Layers with one placement are in one group, or in several of about equal size: a page holds rows of the layers of
/// one group, so groups of one size leave nothing of it unused. The rules are those of vLLM's hybrid manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    pub placements: Vec<Placement>,
    /// Of each layer.
    pub layers: Vec<Place>,
    /// What the planes of the pool store, each as a batch whose sequences are the pages.
    pub planes: Vec<CacheConfig>,
}

/// Where the rows of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub group: usize,
    /// The planes, which layers of other groups have too: a page belongs to one group at a time.
    pub planes: usize,
}

impl Groups {
    /// The groups of some layers, over a number of pages of a size.
    pub fn new(layers: &[CacheConfig], pages: [u32; 2]) -> Self {
        let placements = layers.iter().map(|layer| layer.placement);
        let mut classes: Vec<(Placement, Vec<usize>)> = Vec::new();
        for (layer, placement) in placements.enumerate() {
            match classes.iter_mut().find(|(of, _)| *of == placement) {
                Some((_, layers)) => layers.push(layer),
                None => classes.push((placement, vec![layer])),
            }
        }
        let sizes = || classes.iter().map(|(_, layers)| layers.len());
        let (least, most) = (sizes().min().unwrap_or(1), sizes().max().unwrap_or(1));
        // A quarter more is better than a second group.
        let size = if most.saturating_mul(4) < least.saturating_mul(5) { most } else { least };
        let mut groups = Groups {
            placements: Vec::new(),
            layers: vec![Place { group: 0, planes: 0 }; layers.len()],
            planes: Vec::new(),
        };
        for (placement, class) in classes {
            for group in class.chunks(size) {
                groups.push(layers, pages, (placement, group));
            }
        }
        groups
    }

    /// Adds a group. Each of its layers gets planes that none of the others has.
    fn push(&mut self, layers: &[CacheConfig], pages: [u32; 2], (placement, members): (Placement, &[usize])) {
        let group = self.placements.len();
        self.placements.push(placement);
        let mut taken = vec![false; self.planes.len()];
        for &layer in members {
            let stored = stored(&layers[layer], pages);
            let same = (self.planes.iter().zip(&taken)).position(|(planes, taken)| *planes == stored && !taken);
            let planes = same.unwrap_or_else(|| {
                self.planes.push(stored);
                taken.push(true);
                self.planes.len().saturating_sub(1)
            });
            taken[planes] = true;
            self.layers[layer] = Place { group, planes };
        }
    }
}

/// A layer of the pool as a batch whose sequences are the pages.
fn stored(layer: &CacheConfig, [pages, page_size]: [u32; 2]) -> CacheConfig {
    let placement = Placement::Linear;
    CacheConfig { batch_size: pages, max_batch_size: pages, max_seq_len: page_size, placement, ..*layer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(layers: &[Placement]) -> Groups {
        let layer = CacheConfig::new(4, 2, 8, 64);
        let layers: Vec<_> = layers.iter().map(|&placement| layer.placement(placement)).collect();
        Groups::new(&layers, [8, 4])
    }

    #[test]
    fn groups_are_of_about_equal_size() {
        let ring = Placement::Ring { window: 8, sinks: 0, slack: 0 };
        let all = Placement::Linear;
        let sizes = |layers: &[Placement]| {
            let groups = groups(layers);
            let of = |group| groups.layers.iter().filter(|place| place.group == group).count();
            ((0..groups.placements.len()).map(of).collect::<Vec<_>>(), groups.planes.len())
        };
        assert_eq!(sizes(&[all; 6]), (vec![6], 6));
        // gpt-oss: every other layer. Gemma 3: one of six.
        assert_eq!(sizes(&[ring, all, ring, all]), (vec![2, 2], 2));
        assert_eq!(sizes(&[ring, ring, ring, ring, ring, all]), (vec![1; 6], 1));
        assert_eq!(sizes(&[ring, ring, all, ring, ring, all, ring]), (vec![2, 2, 1, 2], 2));
        let eleven: Vec<_> = [[ring; 6], [all; 6]].concat().into_iter().skip(1).collect();
        assert_eq!(sizes(&eleven), (vec![5, 6], 6));
        let other = Placement::Ring { window: 4, sinks: 1, slack: 0 };
        assert_eq!(groups(&[ring, other, all]).placements, [ring, other, all]);
    }

    #[test]
    fn layers_of_other_shapes_share_no_planes() {
        let layer = CacheConfig::new(4, 2, 8, 64);
        let ring = layer.placement(Placement::Ring { window: 8, sinks: 0, slack: 0 });
        let groups = Groups::new(&[layer, layer.value_dim(16), ring, ring], [8, 4]);
        let places: Vec<_> = groups.layers.iter().map(|place| (place.group, place.planes)).collect();
        assert_eq!((places, groups.planes.len()), (vec![(0, 0), (0, 1), (1, 0), (1, 2)], 3));
    }
}
