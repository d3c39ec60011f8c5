//! [`Prefixes`]: what full pages hold, as a tree: a node follows the one with the tokens before it.

use std::{collections::HashMap, sync::Arc};

use super::key::PageKey;

/// A node of the tree.
pub(super) type Prefix = u32;

/// What a full page holds, by its tokens and all before them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content<'a> {
    pub key: PageKey,
    /// What the page before it holds.
    pub before: Option<Prefix>,
    pub tokens: &'a [u32],
    pub namespace: Option<&'a str>,
    /// Tokens up to its end.
    pub length: u32,
}

#[derive(Clone, Debug)]
struct Node {
    key: PageKey,
    before: Option<Prefix>,
    /// Of a first page.
    namespace: Option<Arc<str>>,
    length: u32,
    /// The next node with the same key.
    twin: Option<Prefix>,
    /// Pages that hold it, sequences that have it, and nodes that follow it.
    uses: u32,
}

/// Nodes exist as long as something uses them. Keys may collide, so tokens are compared.
#[derive(Debug)]
pub(super) struct Prefixes {
    page_size: usize,
    groups: usize,
    root: PageKey,
    nodes: Vec<Node>,
    /// Of each node, its tokens.
    tokens: Vec<u32>,
    /// Of each node, for each group, the page that is found.
    pages: Vec<Option<u32>>,
    unused: Vec<Prefix>,
    by_key: HashMap<PageKey, Prefix>,
}

impl Prefixes {
    pub fn new(page_size: u32, groups: usize) -> Self {
        Prefixes {
            page_size: page_size as usize,
            groups,
            root: PageKey::root(),
            nodes: Vec::new(),
            tokens: Vec::new(),
            pages: Vec::new(),
            unused: Vec::new(),
            by_key: HashMap::new(),
        }
    }

    fn node(&self, prefix: Prefix) -> &Node {
        &self.nodes[prefix as usize]
    }

    pub fn key(&self, prefix: Prefix) -> PageKey {
        self.node(prefix).key
    }

    pub fn length(&self, prefix: Prefix) -> u32 {
        self.node(prefix).length
    }

    /// The key of what is before it, or the root.
    pub fn parent_key(&self, prefix: Prefix) -> PageKey {
        self.node(prefix).before.map_or(self.root, |before| self.key(before))
    }

    pub fn tokens(&self, prefix: Prefix) -> &[u32] {
        &self.tokens[(prefix as usize).saturating_mul(self.page_size)..][..self.page_size]
    }

    /// The page of a group that is found for a node.
    pub fn page(&self, prefix: Prefix, group: usize) -> Option<u32> {
        self.pages[self.page_index(prefix, group)]
    }

    pub fn set_page(&mut self, prefix: Prefix, group: usize, page: Option<u32>) {
        let index = self.page_index(prefix, group);
        self.pages[index] = page;
    }

    const fn page_index(&self, prefix: Prefix, group: usize) -> usize {
        (prefix as usize).saturating_mul(self.groups).saturating_add(group)
    }

    pub fn find(&self, content: &Content<'_>) -> Option<Prefix> {
        let mut next = self.by_key.get(&content.key).copied();
        while let Some(prefix) = next {
            let node = self.node(prefix);
            let same = node.before == content.before
                && node.namespace.as_deref() == content.namespace
                && self.tokens(prefix) == content.tokens;
            if same {
                return Some(prefix);
            }
            next = node.twin;
        }
        None
    }

    /// The node of this content, with one use more.
    pub fn intern(&mut self, content: &Content<'_>) -> Prefix {
        if let Some(prefix) = self.find(content) {
            self.refer(prefix);
            return prefix;
        }
        if let Some(before) = content.before {
            self.refer(before);
        }
        let &Content { key, before, length, .. } = content;
        let twin = self.by_key.get(&key).copied();
        let node = Node { key, before, namespace: content.namespace.map(Arc::from), length, twin, uses: 1 };
        let prefix = match self.unused.pop() {
            Some(prefix) => {
                self.nodes[prefix as usize] = node;
                self.tokens[(prefix as usize).saturating_mul(self.page_size)..][..self.page_size]
                    .copy_from_slice(content.tokens);
                prefix
            }
            None => {
                let prefix = u32::try_from(self.nodes.len()).expect("fewer nodes than pages and tokens");
                self.nodes.push(node);
                self.tokens.extend_from_slice(content.tokens);
                self.pages.resize(self.pages.len().saturating_add(self.groups), None);
                // A page that is taken while a step is planned may end its node.
                self.unused.reserve(self.nodes.len());
                prefix
            }
        };
        self.by_key.insert(key, prefix);
        prefix
    }

    pub fn refer(&mut self, prefix: Prefix) {
        let uses = &mut self.nodes[prefix as usize].uses;
        *uses = uses.saturating_add(1);
    }

    /// Takes one use back. A node without uses is gone, and uses the one before it no longer.
    pub fn release(&mut self, prefix: Prefix) {
        let mut next = Some(prefix);
        while let Some(prefix) = next {
            let node = &mut self.nodes[prefix as usize];
            debug_assert!(node.uses > 0, "prefix {prefix} is released twice");
            node.uses = node.uses.saturating_sub(1);
            if node.uses > 0 {
                return;
            }
            next = node.before;
            self.unlink(prefix);
            self.unused.push(prefix);
        }
    }

    /// Takes a node out of those with its key.
    fn unlink(&mut self, prefix: Prefix) {
        let &Node { key, twin, .. } = self.node(prefix);
        let first = self.by_key.get(&key).copied();
        if first == Some(prefix) {
            match twin {
                // An insertion may allocate.
                Some(twin) => self.by_key.get_mut(&key).into_iter().for_each(|first| *first = twin),
                None => drop(self.by_key.remove(&key)),
            }
            return;
        }
        let mut before = first;
        while let Some(at) = before {
            before = self.node(at).twin;
            if before == Some(prefix) {
                self.nodes[at as usize].twin = twin;
            }
        }
    }

    /// Checks that every node has the uses that pages, sequences and nodes make of it, given the first two.
    #[cfg(test)]
    pub fn check(&self, uses: &HashMap<Prefix, u32>) {
        let used = |prefix: &Prefix| !self.unused.contains(prefix);
        let live: Vec<Prefix> = (0..self.nodes.len() as u32).filter(used).collect();
        for &prefix in &live {
            let following = live.iter().filter(|&&other| self.node(other).before == Some(prefix)).count() as u32;
            let expected = uses.get(&prefix).copied().unwrap_or(0) + following;
            assert_eq!(self.node(prefix).uses, expected, "uses of prefix {prefix}");
            assert!(expected > 0, "prefix {prefix} is used by nobody");
            let found = std::iter::successors(self.by_key.get(&self.key(prefix)).copied(), |&at| self.node(at).twin);
            assert_eq!(found.filter(|&at| at == prefix).count(), 1, "prefix {prefix} is found by its key");
        }
    }
}
