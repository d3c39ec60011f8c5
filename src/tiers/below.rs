//! [`Below`]: what host memory has of a prompt.

use std::sync::Arc;

use super::{form::Form, inner::Inner, prompt::Prompt};

/// What host memory has of the pages of a prompt that the device does not have.
#[derive(Debug)]
pub(super) struct Below<'a> {
    form: &'a Form,
    prompt: &'a Prompt<'a>,
    /// Of each page, for each group, and whether it came from the store and was not read since.
    pages: Vec<Option<(Arc<Vec<u8>>, bool)>>,
}

impl<'a> Below<'a> {
    /// Looks for the pages of a prompt, and uses them.
    pub fn find(inner: &'a Inner, prompt: &'a Prompt<'a>) -> Self {
        let form = &inner.form;
        let mut state = inner.state();
        let mut pages = Vec::new();
        for (index, key) in prompt.keys.iter().enumerate().skip(prompt.first) {
            let own = prompt.page(form, index);
            let mut over = false;
            for (group, of) in form.groups.iter().enumerate() {
                let kept = state.host.peek(&form.key(key, group));
                let kept = kept.filter(|kept| form.rows(group, &kept.page, own).is_some());
                // Nothing after it is of use.
                over |= kept.is_none() && !of.returns();
                pages.push(kept.map(|kept| (kept.page.clone(), kept.fetched)));
            }
            if over {
                break;
            }
        }
        // The first pages are used last, so that a prefix stays longer than what follows it.
        for key in prompt.keys.iter().skip(prompt.first).take(pages.len()).rev() {
            for group in 0..form.groups.len() {
                state.host.get(&form.key(key, group));
            }
        }
        drop(state);
        Below { form, prompt, pages }
    }

    fn of(&self, index: usize, group: usize) -> Option<&(Arc<Vec<u8>>, bool)> {
        let groups = self.form.groups.len();
        let at = index.saturating_sub(self.prompt.first).saturating_mul(groups).saturating_add(group);
        self.pages.get(at).and_then(Option::as_ref)
    }

    /// The longest prefix, of at most so many pages, of which every group has what it needs.
    pub fn longest(&self, most: usize) -> usize {
        self.form.longest(self.prompt.first, most, |index, group| self.of(index, group).is_some())
    }

    /// The rows of a page of such a prefix that a group needs.
    pub fn rows(&self, index: usize, group: usize) -> &[u8] {
        let own = self.prompt.page(self.form, index);
        let rows = self.of(index, group).and_then(|(page, _)| self.form.rows(group, page, own));
        rows.expect("every page of the longest prefix that a group reads is there")
    }

    /// The pages of a prefix that groups need.
    pub fn needed(&self, pages: usize) -> impl Iterator<Item = (usize, usize)> {
        let of_group = move |group| self.form.needed(group, self.prompt.first, pages).map(move |index| (index, group));
        (0..self.form.groups.len()).flat_map(of_group)
    }

    /// How many pages of a prefix came from the store: those that came from there for any group.
    pub fn stored(&self, pages: usize) -> usize {
        let groups = self.form.groups.len();
        let came = |index| (0..groups).any(|group| self.of(index, group).is_some_and(|(_, fetched)| *fetched));
        (self.prompt.first..pages).filter(|&index| came(index)).count()
    }
}
