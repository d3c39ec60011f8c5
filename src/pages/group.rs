//! [`Group`]: which pages of a sequence layers with one placement need.

use std::ops::Range;

use super::step::StepKind;
use crate::{Placement, shape::placement::count};

/// Layers with one placement. They have pages of their own in each sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    placement: Placement,
    page_size: u32,
}

impl Group {
    pub const fn new(placement: Placement, page_size: u32) -> Self {
        Group { placement, page_size }
    }

    /// Number of pages up to a length.
    pub const fn pages(&self, length: u32) -> u32 {
        length.div_ceil(self.page_size)
    }

    /// Whether pages go back to the pool while the sequence grows.
    #[cfg(feature = "store")]
    pub fn returns(&self) -> bool {
        self.placement != Placement::Linear
    }

    /// The first position of a page.
    pub const fn position(&self, page: u32) -> u32 {
        page.saturating_mul(self.page_size)
    }

    pub const fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Number of first positions that are always kept.
    pub const fn sinks(&self) -> u32 {
        self.placement.sinks()
    }

    /// The positions beyond the sinks that a query reads, before its own.
    pub fn window(&self, query: u32) -> Range<u32> {
        match self.placement {
            Placement::Linear => 0..query,
            Placement::Ring { window, sinks, .. } => {
                query.saturating_sub(window.saturating_sub(1)).max(sinks).min(query)..query
            }
        }
    }

    /// Number of first pages that are never returned, in a group whose other pages may be.
    pub const fn sink_pages(&self) -> u32 {
        self.placement.sinks().div_ceil(self.page_size)
    }

    /// Index of the first page beyond the sinks that queries from a position on may read.
    pub fn first_read(&self, query: u32) -> u32 {
        self.page_of_window(query, 0)
    }

    /// Index of the first page beyond the sinks that a hit of so many pages takes: those that the next query reads, and
    /// at least the last.
    pub fn first_hit(&self, pages: u32) -> u32 {
        self.first_read(self.position(pages)).min(pages.saturating_sub(1)).max(self.sink_pages())
    }

    /// As [`first_read`](Self::first_read), also after the sequence was cut by the slack of the placement.
    pub fn first_kept(&self, query: u32) -> u32 {
        let Placement::Ring { slack, .. } = self.placement else { return 0 };
        self.page_of_window(query, slack)
    }

    fn page_of_window(&self, query: u32, slack: u32) -> u32 {
        let Placement::Ring { window, .. } = self.placement else { return 0 };
        let first = query.saturating_sub(window.saturating_sub(1).saturating_add(slack));
        first.checked_div(self.page_size).unwrap_or(0).max(self.sink_pages())
    }

    /// The positions of a sequence whose rows a step of a kind brings, if it brings all of the sequence: those in the
    /// pages of sinks, and others.
    pub fn brought(&self, length: u32, kind: StepKind) -> [Range<u32>; 2] {
        match kind {
            StepKind::Append => [0..0, 0..length],
            StepKind::Insert => self.placement.valid(length),
            #[cfg(feature = "store")]
            StepKind::Pages => {
                let sinks = self.position(self.sink_pages()).min(length);
                [0..sinks, self.position(self.first_hit(self.pages(length))).max(sinks).min(length)..length]
            }
        }
    }

    /// The first position beyond the sinks that such a step brings, where it does not bring all, and the index of its
    /// page.
    pub fn first_brought(&self, length: u32, kind: StepKind) -> (u32, u32) {
        let [sinks, window] = self.brought(length, kind);
        if sinks.end >= window.start {
            return (0, self.sink_pages());
        }
        let page = window.start.checked_div(self.page_size).unwrap_or(0);
        (window.start, page.max(self.sink_pages()))
    }

    /// How many pages a step takes, of those with some indices, of a sequence that has a length afterwards.
    pub fn taken(&self, pages: Range<u32>, length: u32, kind: StepKind) -> u32 {
        if kind == StepKind::Append {
            return count(&pages);
        }
        let (_, first) = self.first_brought(length, kind);
        count(&(pages.start..pages.end.min(self.sink_pages())))
            .saturating_add(count(&(pages.start.max(first)..pages.end)))
    }

    /// The most pages that a sequence has while it grows token by token up to a length.
    pub fn most_pages(&self, length: u32) -> u32 {
        let all = self.pages(length);
        let Placement::Ring { window, slack, .. } = self.placement else { return all };
        // The window and the slack may begin in the middle of a page, and the token that is appended may begin another.
        let windowed = self.pages(window.saturating_sub(1).saturating_add(slack)).saturating_add(1);
        self.sink_pages().saturating_add(windowed).min(all)
    }

    /// The least length beyond the sinks at which queries read no position before this one.
    pub const fn shortest(&self, first: u32) -> u32 {
        match self.placement {
            Placement::Linear => 0,
            Placement::Ring { window, .. } => first.saturating_add(window.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_needs_the_pages_of_its_positions() {
        for (window, sinks, slack, size) in [(1, 0, 0, 4), (4, 0, 0, 4), (5, 0, 2, 4), (6, 3, 1, 2), (9, 9, 0, 8)] {
            let group = Group::new(Placement::Ring { window, sinks, slack }, size);
            let pages_of = |position: u32| position / size;
            assert_eq!(group.sink_pages(), (0..sinks).map(pages_of).max().map_or(0, |last| last + 1));
            for query in 0..60u32 {
                // vLLM's manager: a query sees `window - 1` positions before its own.
                let first = query.saturating_sub(window - 1);
                assert_eq!(group.first_read(query), pages_of(first).max(group.sink_pages()), "query {query}");
                let kept = query.saturating_sub(window - 1 + slack);
                assert_eq!(group.first_kept(query), pages_of(kept).max(group.sink_pages()));
            }
            for first in group.sink_pages() + 1..9 {
                let shortest = group.shortest(group.position(first));
                assert!(group.first_read(shortest) >= first && group.first_read(shortest - 1) < first);
            }
        }
        for (window, sinks, slack, size) in [(1, 0, 0, 4), (6, 3, 1, 2), (9, 0, 0, 8)] {
            let group = Group::new(Placement::Ring { window, sinks, slack }, size);
            let pages = |length: u32| {
                // After the token at `length - 1` was appended.
                let first = group.first_kept(length - 1);
                (0..group.pages(length)).filter(|&page| page < group.sink_pages() || page >= first).count() as u32
            };
            for length in 1..60 {
                let most = (1..=length).map(pages).max().unwrap();
                let bound = group.most_pages(length);
                assert!(most <= bound && bound <= most + u32::from(length < 2 * (window + slack + sinks + size)));
            }
        }
        let all = Group::new(Placement::Linear, 4);
        assert_eq!((all.first_read(100), all.first_kept(100), all.sink_pages()), (0, 0, 0));
    }
}
