//! [`FreeQueue`]: pages without references, in the order in which they are taken.

use crate::{PageError, Result};

/// A list for the books of `pages` pages, if the host has memory for it.
pub(super) fn reserved<T: Clone>(pages: u32, entries: u32, entry: T) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(entries as usize).map_err(|_| PageError::BooksTooLarge { pages })?;
    list.resize(entries as usize, entry);
    Ok(list)
}

/// A doubly linked list over page numbers, so that a page in its middle can be taken in constant time.
#[derive(Clone, Debug)]
pub(super) struct FreeQueue {
    /// Neighbours of each page; the last entry is the end of both directions.
    next: Vec<u32>,
    previous: Vec<u32>,
    end: u32,
    len: u32,
}

impl FreeQueue {
    /// A queue of all pages `0..count`, in order.
    pub fn full(count: u32) -> Result<Self> {
        let neighbours = || reserved(count, count.saturating_add(1), count);
        let mut queue = FreeQueue { next: neighbours()?, previous: neighbours()?, end: count, len: 0 };
        (0..count).for_each(|page| queue.push_back(page));
        Ok(queue)
    }

    pub const fn len(&self) -> u32 {
        self.len
    }

    /// The page that is taken next.
    pub fn front(&self) -> Option<u32> {
        let first = self.next[self.end as usize];
        (self.len > 0).then_some(first)
    }

    pub fn push_back(&mut self, page: u32) {
        let end = self.end;
        let last = self.previous[end as usize];
        self.link(last, page);
        self.link(page, end);
        self.len = self.len.saturating_add(1);
    }

    pub fn push_front(&mut self, page: u32) {
        let end = self.end;
        let first = self.next[end as usize];
        self.link(end, page);
        self.link(page, first);
        self.len = self.len.saturating_add(1);
    }

    /// Takes a page that is in the queue.
    pub fn remove(&mut self, page: u32) {
        let (before, after) = (self.previous[page as usize], self.next[page as usize]);
        self.link(before, after);
        self.len = self.len.saturating_sub(1);
    }

    fn link(&mut self, before: u32, after: u32) {
        self.next[before as usize] = after;
        self.previous[after as usize] = before;
    }

    /// The pages, in the order in which they are taken.
    #[cfg(any(test, feature = "store"))]
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        std::iter::successors(self.front(), |&page| {
            let next = self.next[page as usize];
            (next != self.end).then_some(next)
        })
    }
}
