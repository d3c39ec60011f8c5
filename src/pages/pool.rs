//! [`Pool`]: references to pages, what they hold, and the order in which free ones are taken.

use std::fmt;

use super::{
    free::{FreeQueue, reserved},
    key::PageKey,
    prefixes::{Prefix, Prefixes},
};
use crate::Result;

/// A page became findable by others, or no longer is. Routers want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageEvent {
    /// A page has a key now.
    Stored {
        /// The page.
        page: u32,
        /// The group of layers whose rows it holds.
        group: usize,
        /// Its key. Other pages may have it too.
        key: PageKey,
        /// The key of the page before it, or the root.
        parent: PageKey,
        /// Its tokens.
        tokens: Vec<u32>,
        /// Tokens of the prefix that ends with it.
        prefix: u32,
    },
    /// A page lost its key.
    Removed {
        /// The page.
        page: u32,
        /// The group of layers whose rows it held.
        group: usize,
        /// The key that it had.
        key: PageKey,
        /// Tokens of the prefix that ended with it.
        prefix: u32,
    },
}

/// What others find in a page, or found in it until it was taken for other rows. It is in the page until commands that
/// are submitted later write there.
#[cfg(feature = "store")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub page: u32,
    pub group: usize,
    /// The key that it had.
    pub key: PageKey,
    pub tokens: Vec<u32>,
}

/// What others find in a page.
#[derive(Clone, Copy, Debug)]
struct Offered {
    prefix: Prefix,
    group: usize,
    /// The next page of the group that holds the same.
    twin: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// Sequences, and steps under way, that refer to it.
    references: u32,
    /// Rows that were written by any of them.
    filled: u32,
    offered: Option<Offered>,
    /// The step that counted on writing to it in place.
    claimed: u64,
}

type Listener = Box<dyn FnMut(&PageEvent) + Send + Sync>;

pub(super) struct Pool {
    pages: Vec<Page>,
    free: FreeQueue,
    /// Free pages with a key.
    evictable: u32,
    keyed: u32,
    pub prefixes: Prefixes,
    listener: Option<Listener>,
    pub evictions: u64,
    /// Pages that were evicted since somebody asked, if somebody asks.
    #[cfg(feature = "store")]
    pub evicted: Option<Vec<Evicted>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("count", &self.pages.len())
            .field("free", &self.free.len())
            .field("keyed", &self.keyed)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub fn new(page_size: u32, count: u32, groups: usize) -> Result<Self> {
        Ok(Pool {
            pages: reserved(count, count, Page::default())?,
            free: FreeQueue::full(count)?,
            evictable: 0,
            keyed: 0,
            prefixes: Prefixes::new(page_size, groups),
            listener: None,
            evictions: 0,
            #[cfg(feature = "store")]
            evicted: None,
        })
    }

    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Pages that could be taken now, those with a key included.
    pub const fn free(&self) -> u32 {
        self.free.len()
    }

    pub const fn evictable(&self) -> u32 {
        self.evictable
    }

    /// How many of some pages sequences refer to.
    pub fn referenced(&self, pages: impl Iterator<Item = u32>) -> u32 {
        let referenced = pages.filter(|&page| self.pages[page as usize].references > 0);
        u32::try_from(referenced.count()).unwrap_or(u32::MAX)
    }

    /// Pages with a key, free or not.
    pub const fn keyed(&self) -> u32 {
        self.keyed
    }

    /// Takes the page at the front of the queue. The caller has seen that there is one.
    pub fn take(&mut self) -> u32 {
        let page = self.free.front().expect("the caller has seen that a page is free");
        if self.pages[page as usize].offered.is_some() {
            self.evictions = self.evictions.saturating_add(1);
            #[cfg(feature = "store")]
            self.remember(page);
            self.forget(page);
        }
        self.free.remove(page);
        let taken = &mut self.pages[page as usize];
        (taken.references, taken.filled) = (1, 0);
        page
    }

    /// Notes what is evicted with a page, if somebody asks.
    #[cfg(feature = "store")]
    fn remember(&mut self, page: u32) {
        if let Some(content) = self.evicted.is_some().then(|| self.content(page)).flatten() {
            self.evicted.get_or_insert_default().push(content);
        }
    }

    /// What others find in a page.
    #[cfg(feature = "store")]
    fn content(&self, page: u32) -> Option<Evicted> {
        let Offered { prefix, group, .. } = self.pages[page as usize].offered?;
        let (key, tokens) = (self.prefixes.key(prefix), self.prefixes.tokens(prefix).to_vec());
        Some(Evicted { page, group, key, tokens })
    }

    /// What others find, each once: first what is free, in the order in which it is taken, then what sequences refer
    /// to, the ends of prefixes before what they follow.
    #[cfg(feature = "store")]
    pub fn offered(&self) -> Vec<Evicted> {
        let mut referenced: Vec<(u32, u32)> = (0u32..)
            .zip(&self.pages)
            .filter(|(_, own)| own.references > 0)
            .filter_map(|(page, own)| Some((self.prefixes.length(own.offered?.prefix), page)))
            .collect();
        referenced.sort_unstable_by(|a, b| b.cmp(a));
        let all = self.free.iter().chain(referenced.into_iter().map(|(_, page)| page));
        let is_found = |page: &u32| {
            let offered = self.pages[*page as usize].offered;
            offered.is_some_and(|own| self.prefixes.page(own.prefix, own.group) == Some(*page))
        };
        all.filter(is_found).filter_map(|page| self.content(page)).collect()
    }

    /// Adds a reference to a page that has some, or that is free and whose rows are still there.
    pub fn refer(&mut self, page: u32) {
        let own = &mut self.pages[page as usize];
        own.references = own.references.saturating_add(1);
        if own.references == 1 {
            self.free.remove(page);
            if own.offered.is_some() {
                self.evictable = self.evictable.saturating_sub(1);
            }
        }
    }

    /// Gives a reference back. The last one frees the page.
    pub fn release(&mut self, page: u32) {
        let own = &mut self.pages[page as usize];
        debug_assert!(own.references > 0, "page {page} is freed twice");
        own.references = own.references.saturating_sub(1);
        if own.references > 0 {
            return;
        }
        if own.offered.is_some() {
            self.evictable = self.evictable.saturating_add(1);
            self.free.push_back(page);
        } else {
            self.free.push_front(page);
        }
    }

    /// Whether rows can be written from row `at` on: no other sequence has rows there, and nobody may find the page.
    pub fn writes_in_place(&self, page: u32, at: u32, step: u64) -> bool {
        let own = &self.pages[page as usize];
        own.offered.is_none() && (own.references == 1 || own.filled == at && own.claimed != step)
    }

    /// Whether one sequence alone refers to a page, and nobody may find it.
    pub fn is_exclusive(&self, page: u32) -> bool {
        let own = &self.pages[page as usize];
        own.offered.is_none() && own.references == 1
    }

    /// Notes that a step will write to a page in place.
    pub fn claim(&mut self, page: u32, step: u64) {
        self.pages[page as usize].claimed = step;
    }

    pub fn filled(&self, page: u32) -> u32 {
        self.pages[page as usize].filled
    }

    pub fn set_filled(&mut self, page: u32, rows: u32) {
        self.pages[page as usize].filled = rows;
    }

    /// Makes a page of a group findable.
    pub fn offer(&mut self, page: u32, group: usize, prefix: Prefix) {
        if self.pages[page as usize].offered.is_some() {
            return;
        }
        self.pages[page as usize].offered = Some(Offered { prefix, group, twin: None });
        self.keyed = self.keyed.saturating_add(1);
        self.prefixes.refer(prefix);
        // Behind the pages that hold the same: the first is found.
        match self.prefixes.page(prefix, group) {
            None => self.prefixes.set_page(prefix, group, Some(page)),
            Some(mut last) => {
                while let Some(next) = self.twin(last) {
                    last = next;
                }
                self.set_twin(last, Some(page));
            }
        }
        if let Some(listener) = &mut self.listener {
            let (key, parent) = (self.prefixes.key(prefix), self.prefixes.parent_key(prefix));
            let (tokens, prefix) = (self.prefixes.tokens(prefix).to_vec(), self.prefixes.length(prefix));
            listener(&PageEvent::Stored { page, group, key, parent, tokens, prefix });
        }
    }

    fn twin(&self, page: u32) -> Option<u32> {
        self.pages[page as usize].offered.and_then(|offered| offered.twin)
    }

    fn set_twin(&mut self, page: u32, twin: Option<u32>) {
        if let Some(offered) = &mut self.pages[page as usize].offered {
            offered.twin = twin;
        }
    }

    /// Takes a page's key.
    pub fn forget(&mut self, page: u32) {
        let own = &mut self.pages[page as usize];
        let Some(Offered { prefix, group, twin }) = own.offered.take() else { return };
        self.keyed = self.keyed.saturating_sub(1);
        if own.references == 0 {
            self.evictable = self.evictable.saturating_sub(1);
        }
        if let Some(listener) = &mut self.listener {
            let (key, prefix) = (self.prefixes.key(prefix), self.prefixes.length(prefix));
            listener(&PageEvent::Removed { page, group, key, prefix });
        }
        let mut before = self.prefixes.page(prefix, group);
        if before == Some(page) {
            self.prefixes.set_page(prefix, group, twin);
        } else {
            while let Some(at) = before {
                before = self.twin(at);
                if before == Some(page) {
                    self.set_twin(at, twin);
                }
            }
        }
        self.prefixes.release(prefix);
    }

    /// Takes the keys of all pages. Free pages are then as those that never had one, in the order in which they are.
    pub fn forget_all(&mut self) {
        (0..u32::try_from(self.pages.len()).unwrap_or(u32::MAX)).for_each(|page| self.forget(page));
    }

    /// Checks that every page is free or referred to, and that counts add up, given what refers to each page, and how
    /// often sequences have each prefix.
    #[cfg(test)]
    pub fn check(&self, references: &[u32], mut uses: std::collections::HashMap<Prefix, u32>) {
        let free: Vec<u32> = self.free.iter().collect();
        assert_eq!(free.len() as u32, self.free.len());
        let mut seen = vec![false; self.pages.len()];
        for &page in &free {
            assert!(!std::mem::replace(&mut seen[page as usize], true), "page {page} is in the queue twice");
        }
        let (mut keyed, mut evictable) = (0, 0);
        for (page, own) in self.pages.iter().enumerate() {
            assert_eq!(own.references, references[page], "references to page {page}");
            assert_eq!(own.references == 0, seen[page], "page {page} is in the queue if nobody refers to it");
            let Some(Offered { prefix, group, .. }) = own.offered else { continue };
            (keyed, evictable) = (keyed + 1, evictable + u32::from(own.references == 0));
            *uses.entry(prefix).or_default() += 1;
            let found = std::iter::successors(self.prefixes.page(prefix, group), |&at| self.twin(at));
            assert_eq!(found.filter(|&at| at as usize == page).count(), 1, "page {page} is found by its prefix");
        }
        assert_eq!((keyed, evictable), (self.keyed, self.evictable));
        self.prefixes.check(&uses);
    }
}
