//! [`Pool`]: references to pages, their keys, and the order in which free ones are taken.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{free::FreeQueue, key::PageKey};

/// A page became findable by others, or no longer is. Routers want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageEvent {
    /// A page has a key now.
    Stored {
        /// The page.
        page: u32,
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
        /// The key that it had.
        key: PageKey,
        /// Tokens of the prefix that ended with it.
        prefix: u32,
    },
}

/// What makes a page findable.
#[derive(Clone, Debug)]
struct Keyed {
    key: PageKey,
    /// A number for what the page and all before it hold, and that of the page before.
    content: u64,
    before: u64,
    /// Of a first page.
    namespace: Option<Arc<str>>,
    prefix: u32,
    /// The next page with the same key.
    twin: Option<u32>,
}

#[derive(Clone, Debug, Default)]
struct Page {
    /// Sequences, and steps under way, that refer to it.
    references: u32,
    /// Rows that were written by any of them.
    filled: u32,
    keyed: Option<Keyed>,
    /// The step that counted on writing to it in place.
    claimed: u64,
}

/// What identifies a page beside its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub key: PageKey,
    pub parent: PageKey,
    /// The number of what all pages before it hold; 0 of the first.
    pub before: u64,
    pub tokens: &'a [u32],
    pub namespace: Option<&'a str>,
    pub prefix: u32,
}

type Listener = Box<dyn FnMut(&PageEvent) + Send + Sync>;

pub(super) struct Pool {
    page_size: u32,
    count: u32,
    pages: Vec<Page>,
    /// Of each page, the tokens that its key was made of.
    tokens: Vec<u32>,
    free: FreeQueue,
    /// Free pages with a key.
    evictable: u32,
    keyed: u32,
    by_key: HashMap<PageKey, u32>,
    listener: Option<Listener>,
    contents: u64,
    pub evictions: u64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("page_size", &self.page_size)
            .field("count", &self.count)
            .field("free", &self.free.len())
            .field("keyed", &self.keyed)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub fn new(page_size: u32, count: u32) -> Self {
        Pool {
            page_size,
            count,
            pages: vec![Page::default(); count as usize],
            tokens: vec![0; (count as usize).saturating_mul(page_size as usize)],
            free: FreeQueue::full(count),
            evictable: 0,
            keyed: 0,
            by_key: HashMap::new(),
            listener: None,
            contents: 0,
            evictions: 0,
        }
    }

    pub fn listen(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    fn tell(&mut self, event: impl FnOnce() -> PageEvent) {
        if let Some(listener) = &mut self.listener {
            listener(&event());
        }
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

    pub fn has_key(&self, page: u32) -> bool {
        self.pages[page as usize].keyed.is_some()
    }

    fn tokens_of(&self, page: u32) -> &[u32] {
        let size = self.page_size as usize;
        &self.tokens[(page as usize).saturating_mul(size)..][..size]
    }

    /// Takes the page at the front of the queue. The caller has seen that there is one.
    pub fn take(&mut self) -> u32 {
        let page = self.free.front().expect("the caller has seen that a page is free");
        if self.has_key(page) {
            self.evictions = self.evictions.saturating_add(1);
            self.forget(page);
        }
        self.free.remove(page);
        let taken = &mut self.pages[page as usize];
        (taken.references, taken.filled) = (1, 0);
        page
    }

    /// Adds a reference to a page that has some, or to one with a key.
    pub fn refer(&mut self, page: u32) {
        let own = &mut self.pages[page as usize];
        own.references = own.references.saturating_add(1);
        if own.references == 1 {
            self.free.remove(page);
            self.evictable = self.evictable.saturating_sub(1);
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
        if own.keyed.is_some() {
            self.evictable = self.evictable.saturating_add(1);
            self.free.push_back(page);
        } else {
            self.free.push_front(page);
        }
    }

    /// Whether rows can be written from row `at` on: no other sequence has rows there, and nobody may find the page.
    pub fn writes_in_place(&self, page: u32, at: u32, step: u64) -> bool {
        let own = &self.pages[page as usize];
        own.keyed.is_none() && (own.references == 1 || own.filled == at && own.claimed != step)
    }

    /// Whether one sequence alone refers to a page, and nobody may find it.
    pub fn is_exclusive(&self, page: u32) -> bool {
        let own = &self.pages[page as usize];
        own.keyed.is_none() && own.references == 1
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

    /// The page that holds this, if one does, and the number of what it holds. Keys may collide, so all else is compared.
    /// A page is never evicted before those that follow it, so what is there of a prefix has the number of its parent.
    pub fn find(&self, content: &Content<'_>) -> Option<(u32, u64)> {
        let mut next = self.by_key.get(&content.key).copied();
        while let Some(page) = next {
            let keyed = self.pages[page as usize].keyed.as_ref()?;
            let same = keyed.before == content.before
                && keyed.namespace.as_deref() == content.namespace
                && self.tokens_of(page) == content.tokens;
            if same {
                return Some((page, keyed.content));
            }
            next = keyed.twin;
        }
        None
    }

    /// Makes a page findable, and returns the number of what it holds.
    pub fn offer(&mut self, page: u32, content: &Content<'_>) -> u64 {
        if let Some(keyed) = &self.pages[page as usize].keyed {
            return keyed.content;
        }
        let number = self.find(content).map_or_else(
            || {
                self.contents = self.contents.saturating_add(1);
                self.contents
            },
            |(_, number)| number,
        );
        let start = (page as usize).saturating_mul(self.page_size as usize);
        self.tokens[start..][..content.tokens.len()].copy_from_slice(content.tokens);
        let &Content { key, parent, prefix, before, .. } = content;
        let namespace = content.namespace.map(Arc::from);
        self.pages[page as usize].keyed = Some(Keyed { key, content: number, before, namespace, prefix, twin: None });
        self.keyed = self.keyed.saturating_add(1);
        // Behind the pages with the same key: the first is found.
        let mut last = *self.by_key.entry(key).or_insert(page);
        while last != page {
            let Some(keyed) = &mut self.pages[last as usize].keyed else { break };
            last = *keyed.twin.get_or_insert(page);
        }
        let tokens = content.tokens;
        self.tell(|| PageEvent::Stored { page, key, parent, tokens: tokens.to_vec(), prefix });
        number
    }

    /// Takes a page's key.
    fn forget(&mut self, page: u32) {
        let own = &mut self.pages[page as usize];
        let Some(Keyed { key, prefix, twin, .. }) = own.keyed.take() else { return };
        self.keyed = self.keyed.saturating_sub(1);
        if own.references == 0 {
            self.evictable = self.evictable.saturating_sub(1);
        }
        self.tell(|| PageEvent::Removed { page, key, prefix });
        let first = self.by_key.get(&key).copied();
        if first == Some(page) {
            match twin {
                Some(twin) => drop(self.by_key.insert(key, twin)),
                None => drop(self.by_key.remove(&key)),
            }
            return;
        }
        let mut before = first;
        while let Some(at) = before {
            let Some(keyed) = &mut self.pages[at as usize].keyed else { return };
            if keyed.twin == Some(page) {
                keyed.twin = twin;
                return;
            }
            before = keyed.twin;
        }
    }

    /// Takes the keys of all pages. Free pages are then as those that never had one, in the order in which they are.
    pub fn forget_all(&mut self) {
        (0..self.count).for_each(|page| self.forget(page));
    }

    /// Checks that every page is free or referred to, and that counts add up, given what refers to each page.
    #[cfg(test)]
    pub fn check(&self, references: &[u32]) {
        let free: Vec<u32> = self.free.iter().collect();
        assert_eq!(free.len() as u32, self.free.len());
        let mut seen = vec![false; self.pages.len()];
        for &page in &free {
            assert!(!std::mem::replace(&mut seen[page as usize], true), "page {page} is in the queue twice");
        }
        for (page, own) in self.pages.iter().enumerate() {
            assert_eq!(own.references, references[page], "references to page {page}");
            assert_eq!(own.references == 0, seen[page], "page {page} is in the queue if nobody refers to it");
        }
        assert_eq!(free.iter().filter(|&&page| self.has_key(page)).count() as u32, self.evictable);
        assert_eq!(self.pages.iter().filter(|page| page.keyed.is_some()).count() as u32, self.keyed);
        let mut chained = 0;
        for (key, &first) in &self.by_key {
            let mut next = Some(first);
            while let Some(page) = next {
                let keyed = self.pages[page as usize].keyed.as_ref().expect("a page that is found has a key");
                assert_eq!(keyed.key, *key);
                (chained, next) = (chained + 1, keyed.twin);
            }
        }
        assert_eq!(chained, self.keyed, "every page with a key is found by it");
    }
}
