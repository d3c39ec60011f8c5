//! [`Held`]: the pages of a sequence in one group.

use std::ops::Range;

use super::group::Group;
use crate::shape::placement::count;

/// What stands in the place of a page that went back to the pool, or that the sequence never had, because it lies
/// before the window.
pub const RETURNED: u32 = u32::MAX;

/// Number of entries of a list, all of which are counted in 32 bits.
pub(super) fn length_of<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// The pages of a sequence in one group.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub pages: Vec<u32>,
    /// Index of the first page beyond the sinks that was not returned.
    pub first: u32,
    /// How many pages, from the first, a table was told of.
    pub told: u32,
    /// Of a sequence that came with the rows of a window alone, the first position of that; 0 of others.
    pub from: u32,
}

impl Held {
    /// The pages that are there.
    pub fn there(&self) -> impl Iterator<Item = u32> + '_ {
        self.pages.iter().copied().filter(|&page| page != RETURNED)
    }

    /// The page with an index, if it is there.
    pub fn page(&self, index: u32) -> Option<u32> {
        self.pages.get(index as usize).copied().filter(|&page| page != RETURNED)
    }

    /// Drops the pages past a length, which its caller has released.
    pub fn cut(&mut self, length: u32, own: &Group) {
        self.pages.truncate(own.pages(length) as usize);
        self.told = self.told.min(length_of(&self.pages));
        if length <= own.sinks() {
            self.from = 0;
        }
        self.first = self.first.min(length_of(&self.pages).max(own.sink_pages()));
    }

    /// The pages up to a length, for another sequence.
    pub fn forked(&self, length: u32, own: &Group) -> Held {
        let pages = self.pages[..own.pages(length) as usize].to_vec();
        let mut forked = Held { pages, told: 0, first: self.first, from: self.from };
        forked.cut(length, own);
        forked
    }

    /// The first position beyond the sinks whose row is there.
    pub fn oldest(&self, own: &Group) -> u32 {
        let first = if self.first > own.sink_pages() { own.position(self.first) } else { own.sinks() };
        first.max(self.from)
    }

    /// Whether a page has rows that were never written, before the window with which its sequence came.
    pub const fn is_partial(&self, index: u32, own: &Group) -> bool {
        let sinks = own.position(index.saturating_add(1)) <= own.sinks();
        own.position(index) < self.from && !sinks
    }

    /// Whether a row of some positions is not there.
    pub fn lacks(&self, positions: &Range<u32>, own: &Group) -> bool {
        let (from, to) = (self.from.min(positions.end), positions.start.max(own.sinks()));
        let pages = positions.start.checked_div(own.page_size()).unwrap_or(0)..own.pages(positions.end);
        to < from || count(positions) > 0 && pages.clone().any(|index| self.page(index).is_none())
    }
}
