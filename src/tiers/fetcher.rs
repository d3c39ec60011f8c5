//! The thread that brings pages up from the store to host memory.

use std::{sync::Arc, time::Duration};

use super::{
    guard::Access,
    inner::{Inner, Kept},
    request::Request,
};
use crate::store::{Object, ObjectKey};

/// About the most bytes that are asked for at once.
const GET_BYTES: usize = 16 << 20;

/// Works until the tiers are gone.
pub(super) fn run(inner: &Inner) {
    while let Some(request) = next(inner) {
        let found = Fetch::new(inner, &request).run();
        if inner.guard.has_store() && !request.is_cancelled() {
            inner.state().figures.store.found(0, request.pages.saturating_sub(found));
        }
        request.finish(found);
    }
}

fn next(inner: &Inner) -> Option<Arc<Request>> {
    let mut state = inner.state();
    loop {
        if state.stopped {
            return None;
        }
        if let Some(request) = state.requests.pop_front() {
            return Some(request);
        }
        state = inner.wait(state);
    }
}

struct Fetch<'a> {
    inner: &'a Inner,
    request: &'a Request,
    groups: usize,
    /// Of each page that the device did not have, for each group: whether it may be somewhere, and whether it is pinned
    /// in host memory.
    there: Vec<bool>,
    pinned: Vec<bool>,
}

impl<'a> Fetch<'a> {
    fn new(inner: &'a Inner, request: &'a Request) -> Self {
        let names = request.names.len();
        Fetch { inner, request, groups: inner.form.groups.len(), there: vec![false; names], pinned: vec![false; names] }
    }

    const fn at(&self, index: usize, group: usize) -> usize {
        index.saturating_sub(self.request.first).saturating_mul(self.groups).saturating_add(group)
    }

    /// The longest prefix, in pages, that may be there.
    fn longest(&self) -> usize {
        let there = |index, group| self.there.get(self.at(index, group)) == Some(&true);
        self.inner.form.longest(self.request.first, self.request.pages, there)
    }

    /// Brings the longest prefix that is there, and tells how many pages that is.
    fn run(mut self) -> usize {
        self.look();
        loop {
            let pages = self.longest();
            let mut needed: Vec<(usize, usize)> = (0..self.groups)
                .flat_map(|group| self.inner.form.needed(group, self.request.first, pages).map(move |at| (at, group)))
                .filter(|&(index, group)| !self.pinned[self.at(index, group)])
                .collect();
            // What comes first is of use alone.
            needed.sort_unstable();
            self.pin(&mut needed);
            if needed.is_empty() {
                return pages;
            }
            let bytes = self.inner.form.most_bytes().max(1);
            let at_once = GET_BYTES.checked_div(bytes).unwrap_or(1).max(1);
            for needed in needed.chunks(at_once) {
                if self.request.is_cancelled() || self.inner.state().stopped {
                    return self.request.first;
                }
                if !self.get(needed) {
                    break;
                }
            }
        }
    }

    /// Asks host memory and the store what they have.
    fn look(&mut self) {
        let names = &self.request.names;
        let state = self.inner.state();
        self.there = names.iter().map(|name| state.host.contains(name)).collect();
        drop(state);
        let absent: Vec<usize> = (0..names.len()).filter(|&at| !self.there[at]).collect();
        if absent.is_empty() {
            return;
        }
        let asked: Vec<ObjectKey> = absent.iter().map(|&at| names[at]).collect();
        if let Some((found, _)) = self.inner.guard.call(Access::Read, |store| store.exists(&asked)) {
            let mut state = self.inner.state();
            for (&at, found) in absent.iter().zip(found) {
                state.note(names[at], found);
                self.there[at] = found;
            }
        }
    }

    /// Pins what host memory has, and leaves in the list what it has not.
    fn pin(&mut self, needed: &mut Vec<(usize, usize)>) {
        let (inner, request) = (self.inner, self.request);
        let mut state = inner.state();
        needed.retain(|&(index, group)| {
            let at = self.at(index, group);
            let name = request.names[at];
            if !state.host.pin(&name) {
                return true;
            }
            if !request.pinned(name) {
                state.host.unpin(&name);
            }
            self.pinned[at] = true;
            false
        });
    }

    /// Gets pages from the store, and pins them in host memory. Whether all of them came.
    fn get(&mut self, needed: &[(usize, usize)]) -> bool {
        let names: Vec<ObjectKey> = needed.iter().map(|&(at, group)| self.request.names[self.at(at, group)]).collect();
        let got = self.inner.guard.call(Access::Read, |store| store.get_many(&names));
        let (got, time) = got.unwrap_or((Vec::new(), Duration::ZERO));
        let mut got = got.into_iter();
        let (mut pages, mut all, mut bytes) = (Vec::new(), true, 0usize);
        for (&(index, group), name) in needed.iter().zip(&names) {
            let object = got.next().flatten();
            bytes = bytes.saturating_add(object.as_ref().map_or(0, Vec::len));
            let own = self.inner.form.tokens_of(&self.request.tokens, index);
            let page = object.as_ref().and_then(|object| {
                let page = Object::decode(name, object)?;
                self.inner.form.rows(group, page, own).map(|_| page.to_vec())
            });
            if page.is_none() && object.is_some() {
                log::warn!("a store of pages has an object that is not what it should be");
                self.inner.state().count_damaged();
                let _ = self.inner.guard.call(Access::Write, |store| store.remove(name));
            }
            let at = self.at(index, group);
            all &= page.is_some();
            self.there[at] = page.is_some();
            pages.extend(page.map(|page| (at, page)));
        }
        let has_store = self.inner.guard.has_store();
        let mut state = self.inner.state();
        state.figures.store.went(pages.len(), bytes, time);
        needed.iter().for_each(|&(index, group)| {
            let at = self.at(index, group);
            state.note(self.request.names[at], self.there[at]);
        });
        let mut kept_bytes = 0usize;
        let mut kept_pages = 0usize;
        for (at, page) in pages {
            let (name, bytes) = (self.request.names[at], page.len());
            let kept = Kept { page: Arc::new(page), fetched: true };
            let is_there = state.keep(name, kept, has_store) && state.host.pin(&name);
            if is_there {
                (kept_pages, kept_bytes) = (kept_pages.saturating_add(1), kept_bytes.saturating_add(bytes));
                if !self.request.pinned(name) {
                    state.host.unpin(&name);
                }
            }
            all &= is_there;
            (self.there[at], self.pinned[at]) = (is_there, is_there);
        }
        state.figures.host.came(kept_pages, kept_bytes, time);
        drop(state);
        // The thread that writes takes what had to go.
        self.inner.notify();
        all
    }
}
