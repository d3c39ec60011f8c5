//! [`Prompt`]: the pages of a prompt, and which of them the device has.

use super::form::Form;
use crate::{PagedKvCache, pages::PageKey, store::ObjectKey};

/// The full pages of a prompt, of which one token at least is left to compute.
#[derive(Debug)]
pub(super) struct Prompt<'a> {
    pub tokens: &'a [u32],
    pub namespace: Option<&'a str>,
    pub keys: Vec<PageKey>,
    /// Pages from the beginning that the device has.
    pub first: usize,
}

impl<'a> Prompt<'a> {
    pub fn new(cache: &PagedKvCache, tokens: &'a [u32], namespace: Option<&'a str>) -> Self {
        if !cache.config().share_prefixes {
            return Prompt { tokens, namespace, keys: Vec::new(), first: 0 };
        }
        let books = cache.sequences();
        let keys: Vec<PageKey> = books.keys(&tokens[..tokens.len().saturating_sub(1)], namespace).collect();
        let matched = books.matched_by(tokens, namespace, &keys);
        let first = matched.checked_div(cache.config().page_size).unwrap_or(0) as usize;
        Prompt { tokens, namespace, keys, first }
    }

    /// Number of its pages.
    pub const fn pages(&self) -> usize {
        self.keys.len()
    }

    /// The tokens of a page.
    pub fn page(&self, form: &Form, index: usize) -> &'a [u32] {
        form.tokens_of(self.tokens, index)
    }

    /// The names of the pages that the device does not have, of each group.
    pub fn names(&self, form: &Form) -> impl Iterator<Item = ObjectKey> {
        let keys = self.keys.get(self.first..).unwrap_or_default();
        keys.iter().flat_map(move |key| (0..form.groups.len()).map(move |group| form.key(key, group)))
    }
}
