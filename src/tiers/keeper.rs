//! The thread that takes pages down: from the device to host memory, and from there to the store.

use std::{sync::Arc, time::Instant};

use super::{
    guard::Access,
    inner::{Inner, Kept, State},
};
use crate::{
    cache::paged::Lowered,
    store::{Object, ObjectKey},
};

/// Most pages, and about the most bytes, that go to the store at once.
const PUT_PAGES: usize = 64;
const PUT_BYTES: usize = 16 << 20;

enum Work {
    Keep(Lowered),
    Put(Vec<(ObjectKey, Arc<Vec<u8>>)>),
}

/// Works until the tiers are gone.
pub(super) fn run(inner: &Inner) {
    while let Some(work) = next(inner) {
        match work {
            Work::Keep(lowered) => keep(inner, &lowered),
            Work::Put(pages) => put(inner, &pages),
        }
    }
}

/// Waits for work. What goes to the store goes first, so that not more than one transfer waits for that in memory.
fn next(inner: &Inner) -> Option<Work> {
    let mut state = inner.state();
    loop {
        if state.stopped {
            return None;
        }
        if let Some(work) = take(&mut state) {
            state.keeping = true;
            return Some(work);
        }
        if std::mem::take(&mut state.keeping) {
            inner.notify();
        }
        state = inner.wait(state);
    }
}

fn take(state: &mut State) -> Option<Work> {
    if state.puts.is_empty() {
        return state.lowered.pop_front().map(Work::Keep);
    }
    let (mut pages, mut bytes) = (Vec::new(), 0usize);
    while pages.len() < PUT_PAGES && bytes < PUT_BYTES {
        let Some((key, page)) = state.puts.pop_front() else { break };
        // A page may go down for two reasons at once.
        if pages.iter().any(|(other, _)| *other == key) {
            continue;
        }
        bytes = bytes.saturating_add(page.len());
        pages.push((key, page));
    }
    Some(Work::Put(pages))
}

/// Takes pages from memory of the device to host memory.
fn keep(inner: &Inner, lowered: &Lowered) {
    let start = Instant::now();
    let mut pages = Vec::with_capacity(lowered.pages.len());
    let read = lowered.rows(|index, rows| {
        let evicted = &lowered.pages[index];
        let page = inner.form.page(evicted.group, &evicted.tokens, |page| rows(page));
        pages.push((inner.form.key(&evicted.key, evicted.group), Arc::new(page)));
    });
    let (time, has_store) = (start.elapsed(), inner.guard.has_store());
    let mut state = inner.state();
    if read.is_none() {
        state.lose(lowered.pages.len());
        return;
    }
    let bytes = pages.iter().map(|(_, page)| page.len()).fold(0, usize::saturating_add);
    state.figures.device.went(pages.len(), bytes, time);
    state.figures.host.came(pages.len(), bytes, time);
    for (key, page) in pages {
        let kept = Kept { page: page.clone(), fetched: false };
        let through = has_store && (lowered.through || inner.write_through) && !state.is_stored(&key);
        if state.keep(key, kept, has_store) && through {
            state.puts.push_back((key, page));
        }
    }
}

/// Takes pages to the store, those that it does not have.
fn put(inner: &Inner, pages: &[(ObjectKey, Arc<Vec<u8>>)]) {
    let keys: Vec<ObjectKey> = pages.iter().map(|(key, _)| *key).collect();
    let writes = !inner.guard.rests(Access::Write);
    let there = writes.then(|| inner.guard.call(Access::Read, |store| store.exists(&keys))).flatten();
    let is_there = |index: usize| there.as_ref().and_then(|(there, _)| there.get(index)).copied().unwrap_or(false);
    let (before, missing): (Vec<usize>, Vec<usize>) = (0..pages.len()).partition(|&index| is_there(index));
    let objects: Vec<(ObjectKey, Vec<u8>)> =
        missing.iter().map(|&index| (keys[index], Object::encode(&keys[index], &pages[index].1))).collect();
    let bytes = objects.iter().map(|(_, object)| object.len()).fold(0, usize::saturating_add);
    let put = if objects.is_empty() || there.is_none() {
        None
    } else {
        inner.guard.call(Access::Write, |store| store.put_many(&objects))
    };
    let mut state = inner.state();
    let done = put.is_some() || objects.is_empty();
    if let Some(((), time)) = put {
        state.figures.store.came(objects.len(), bytes, time);
    }
    for &index in before.iter().chain(missing.iter().filter(|_| done)) {
        state.note(keys[index], true);
    }
    let lost = missing.iter().filter(|&&index| !done && !state.host.contains(&keys[index])).count();
    state.lose(lost);
}
