//! [`PageShape`]: what a page holds, and [`Piece`]: where it lies in the buffers of a cache.

use std::{ops::Range, sync::Arc};

use super::{PagedKvCache, planes::Planes};
use crate::Side;

/// What a page of a group holds: keys, then values, of each of its layers, all heads as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageShape {
    /// Bytes of each.
    parts: Arc<[usize]>,
}

impl PageShape {
    /// Bytes of a page.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| *part as u64).fold(0, u64::saturating_add)
    }

    /// Where the parts of a page begin.
    pub(super) fn starts(&self) -> impl Iterator<Item = usize> + '_ {
        self.parts.iter().scan(0usize, |start, part| Some(std::mem::replace(start, start.saturating_add(*part))))
    }

    /// Copies those bytes of pages that lie in a piece.
    pub(super) fn fill(&self, piece: &Piece<'_>, pages: &[(u32, &[u8])], mut copy: impl FnMut(Range<usize>, &[u8])) {
        let (part, start) = (self.parts[piece.part], self.starts().nth(piece.part).unwrap_or(0));
        let host = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (first, end) = (host(piece.within.start), host(piece.within.end));
        let mut at = first;
        while at < end {
            let (index, before) = (at.checked_div(part).unwrap_or(0), at.checked_rem(part).unwrap_or(0));
            let bytes = part.saturating_sub(before).min(end.saturating_sub(at));
            let to = at.saturating_sub(first);
            copy(to..to.saturating_add(bytes), &pages[index].1[start.saturating_add(before)..][..bytes]);
            at = at.saturating_add(bytes);
        }
    }

    /// Where the parts of a page lie among those of several pages.
    pub(super) fn sections(&self, pages: usize, index: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut start = 0usize;
        self.parts.iter().map(move |part| {
            let at = start.saturating_add(part.saturating_mul(index));
            start = start.saturating_add(part.saturating_mul(pages));
            at..at.saturating_add(*part)
        })
    }
}

/// Bytes of a buffer of the cache that are contiguous, and where they lie among those of several pages: in which part,
/// and where in that part of all pages, one after the other.
pub(super) struct Piece<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub offset: u64,
    pub part: usize,
    pub within: Range<u64>,
}

impl PagedKvCache {
    fn planes_of_group(&self, group: usize) -> impl Iterator<Item = &Planes> {
        let own = self.layers.iter().filter(move |layer| layer.place.group == group);
        own.map(|layer| &self.planes[layer.place.planes])
    }

    /// What a page of a group holds.
    pub(crate) fn page_shape(&self, group: usize) -> PageShape {
        let part = |planes: &Planes, side| {
            let bytes = planes.layout.side(side).planes_bytes(planes.layout.heads);
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        let parts = self.planes_of_group(group).flat_map(|planes| Side::BOTH.map(|side| part(planes, side)));
        PageShape { parts: parts.collect() }
    }

    /// Where the rows of pages lie, by increasing page.
    pub(super) fn pieces(&self, group: usize, pages: &[u32]) -> Vec<Piece<'_>> {
        let (mut pieces, mut part) = (Vec::new(), 0usize);
        for planes in self.planes_of_group(group) {
            for side in Side::BOTH {
                let (sizes, mut at) = (planes.layout.side(side), 0u64);
                for run in pages.chunk_by(|a, b| a.saturating_add(1) == *b) {
                    let [Some(first), Some(last)] = [run.first(), run.last()] else { continue };
                    let held = planes.layout.planes_of(*first)..planes.layout.planes_of(last.saturating_add(1));
                    for (segment, held) in planes.storage.segments_of(&held) {
                        let before = held.start.saturating_sub(segment.planes.start);
                        let end = at.saturating_add(sizes.planes_bytes(held.end.saturating_sub(held.start)));
                        let (buffer, offset) = (segment.side(side), sizes.planes_bytes(before));
                        pieces.push(Piece { buffer, offset, part, within: at..end });
                        at = end;
                    }
                }
                part = part.saturating_add(1);
            }
        }
        pieces
    }
}
