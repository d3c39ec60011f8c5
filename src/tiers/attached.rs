//! [`Tiers`]: what is below a cache, attached to it.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    config::TiersConfig, fetcher, figures::Figures, form::Form, guard::Guard, inner::Inner, keeper, prefetch::Prefetch,
    request::Request,
};
use crate::{
    Context, Error, PageError, PagedKvCache, Result, StoreError,
    pages::{Evicted, PageKey, SequenceId},
    store::ObjectKey,
};

/// How long to wait for the device or a thread before looking again.
const PATIENCE: Duration = Duration::from_millis(2);

/// A sequence that begins with what the tiers had of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TieredAdded {
    /// Its handle.
    pub sequence: SequenceId,
    /// How many of its tokens were cached on the device.
    pub device: u32,
    /// How many more were in host memory.
    pub host: u32,
    /// How many more were in the store, and came from there by a [prefetch](Tiers::prefetch).
    pub store: u32,
}

impl TieredAdded {
    /// How many of the tokens have rows. The sequence begins with these; the others are to be appended.
    #[must_use]
    pub const fn cached(&self) -> u32 {
        self.device.saturating_add(self.host).saturating_add(self.store)
    }
}

/// What is below the pages of a cache: see the [module](super).
#[derive(Debug)]
pub struct Tiers {
    inner: Arc<Inner>,
    context: Context,
}

impl Drop for Tiers {
    fn drop(&mut self) {
        // A thread that waits for a store ends when that answers.
        self.inner.stop();
    }
}

/// Pages of a prompt.
struct Looked {
    keys: Vec<PageKey>,
    /// Pages from the beginning that the device has.
    first: usize,
}

impl Tiers {
    /// Attaches tiers to a cache. Pages that are evicted from it go down from now on. Tiers that were attached before are
    /// no longer.
    ///
    /// # Errors
    /// [`StoreError::BudgetTooSmall`] if host memory does not hold a page; [`StoreError::Thread`].
    pub fn new(cache: &mut PagedKvCache, config: TiersConfig) -> Result<Self> {
        let TiersConfig { identity, host_bytes, store, write_through, in_flight_bytes } = config;
        let form = Form::new(cache, &identity);
        let page_bytes = form.most_bytes() as u64;
        if page_bytes > host_bytes {
            return Err(StoreError::BudgetTooSmall { bytes: host_bytes, page_bytes }.into());
        }
        let inner = Arc::new(Inner::new(form, Guard::new(store), write_through, [host_bytes, in_flight_bytes]));
        let tiers = Tiers { inner: inner.clone(), context: cache.context().clone() };
        for (name, run) in [("kv-cache keeper", keeper::run as fn(&Inner)), ("kv-cache fetcher", fetcher::run)] {
            let inner = inner.clone();
            let started = thread::Builder::new().name(name.to_owned()).spawn(move || run(&inner));
            started.map_err(|error| StoreError::Thread { reason: error.to_string().into() })?;
        }
        cache.lower_to(inner);
        Ok(tiers)
    }

    fn check_attached(&self, cache: &PagedKvCache) -> Result<()> {
        let own = Arc::as_ptr(&self.inner).cast::<()>();
        let attached = cache.outlet().is_some_and(|outlet| Arc::as_ptr(outlet).cast::<()>() == own);
        if attached { Ok(()) } else { Err(StoreError::Detached.into()) }
    }

    /// What the device has of a prompt, of which one token at least is left to compute.
    fn look(&self, cache: &PagedKvCache, tokens: &[u32], namespace: Option<&str>) -> Looked {
        if !cache.config().share_prefixes {
            return Looked { keys: Vec::new(), first: 0 };
        }
        let books = cache.sequences();
        let keys: Vec<PageKey> = books.keys(&tokens[..tokens.len().saturating_sub(1)], namespace).collect();
        let matched = books.matched_by(tokens, namespace, &keys);
        Looked { keys, first: matched.checked_div(self.inner.form.page_size).unwrap_or(0) as usize }
    }

    /// The names of the pages from `first` on, of each group.
    fn names<'a>(&'a self, looked: &'a Looked) -> impl Iterator<Item = ObjectKey> + 'a {
        let groups = self.inner.form.groups.len();
        let keys = looked.keys.get(looked.first..).unwrap_or_default();
        keys.iter().flat_map(move |key| (0..groups).map(move |group| self.inner.form.key(key, group)))
    }

    /// Begins to bring what the store has of a prompt to host memory, for an [`add`](Self::add) later. What is there
    /// already stays there as long as the prefetch does.
    ///
    /// # Errors
    /// [`StoreError::Detached`].
    pub fn prefetch(&self, cache: &PagedKvCache, tokens: &[u32], namespace: Option<&str>) -> Result<Prefetch> {
        self.check_attached(cache)?;
        let looked = self.look(cache, tokens, namespace);
        let (pages, names) = (looked.keys.len(), self.names(&looked).collect());
        let request = Arc::new(Request::new(pages, looked.first, tokens, names));
        if pages > looked.first {
            let mut state = self.inner.state();
            for name in &request.names {
                if state.host.pin(name) {
                    request.pinned(*name);
                }
            }
            state.requests.push_back(request.clone());
            drop(state);
            self.inner.notify();
        } else {
            request.finish(looked.first);
        }
        Ok(Prefetch::new(request, self.inner.clone()))
    }

    /// Adds a sequence that begins with those of the tokens that the device has, and those after them that host memory has,
    /// which are uploaded and submitted. It does not wait, for the device or the store: what only the store has is found
    /// after a [prefetch](Self::prefetch). If the pool has no room for all of it, the sequence begins with less.
    ///
    /// # Errors
    /// [`StoreError::Detached`]; [`PageError::StepUnderWay`]; those of [`PagedKvCache::add`];
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost). Nothing is changed then.
    pub fn add(&mut self, cache: &mut PagedKvCache, tokens: &[u32], namespace: Option<&str>) -> Result<TieredAdded> {
        self.check_attached(cache)?;
        if cache.sequences().step().is_some() {
            return Err(PageError::StepUnderWay.into());
        }
        cache.sequences().check_length(tokens.len())?;
        let looked = self.look(cache, tokens, namespace);
        let below = self.take(&looked, tokens);
        let form = &self.inner.form;
        let (size, groups) = (form.page_size as usize, form.groups.len());
        let at = |index: usize, group| index.saturating_sub(looked.first).saturating_mul(groups).saturating_add(group);
        let of = |index, group| below.get(at(index, group)).and_then(Option::as_ref);
        let mut pages = form.longest(looked.first, looked.keys.len(), |index, group| of(index, group).is_some());
        let start = Instant::now();
        let added = loop {
            if pages <= looked.first {
                break None;
            }
            let own = &tokens[..pages.saturating_mul(size)];
            let rows = |index: usize, group: usize| {
                let own = &own[index.saturating_mul(size)..][..size];
                let rows = of(index, group).and_then(|(page, _)| form.rows(group, page, own));
                rows.expect("every page of the longest prefix that a group reads is there")
            };
            match cache.add_pages(own, namespace, &looked.keys, rows) {
                Ok(sequence) => break Some(sequence),
                Err(Error::Page(PageError::OutOfPages { needed, free, evictable })) => {
                    let lacking = needed.saturating_sub(u64::from(free).saturating_add(evictable.into()));
                    let lacking = usize::try_from(lacking).unwrap_or(usize::MAX).div_ceil(groups.max(1));
                    let less = pages.saturating_sub(lacking.max(1));
                    pages = form.longest(looked.first, less, |index, group| of(index, group).is_some());
                }
                Err(error) => return Err(error),
            }
        };
        let sequence = match added {
            Some(sequence) => sequence,
            None => cache.add_by(tokens, namespace, &looked.keys)?.sequence,
        };
        let taken: Vec<(usize, usize)> = (0..groups)
            .flat_map(|group| form.needed(group, looked.first, pages).map(move |index| (index, group)))
            .collect();
        let bytes = taken.iter().map(|&(_, group)| form.bytes(group)).fold(0, usize::saturating_add);
        // A page of which any group came from the store did.
        let from_store = (looked.first..pages)
            .filter(|&index| (0..groups).any(|group| of(index, group).is_some_and(|(_, fetched)| *fetched)))
            .count();
        let mut state = self.inner.state();
        for &(index, group) in &taken {
            let kept = state.host.peek_mut(&form.key(&looked.keys[index], group));
            kept.into_iter().for_each(|kept| kept.fetched = false);
        }
        let figures = &mut state.figures;
        let missed = looked.keys.len().saturating_sub(looked.first);
        figures.device.found(looked.first, missed);
        figures.host.found(taken.len(), missed.saturating_mul(groups).saturating_sub(taken.len()));
        figures.host.went(taken.len(), bytes, Duration::ZERO);
        if !taken.is_empty() {
            figures.device.came(taken.len(), bytes, start.elapsed());
        }
        drop(state);
        let tokens = |pages: usize| u32::try_from(pages.saturating_mul(size)).unwrap_or(u32::MAX);
        let raised = pages.saturating_sub(looked.first);
        Ok(TieredAdded {
            sequence,
            device: tokens(looked.first),
            host: tokens(raised.saturating_sub(from_store)),
            store: tokens(from_store),
        })
    }

    /// What host memory has of a prompt beyond the device: of each page, for each group, and whether it came from the store
    /// and was not read since.
    fn take(&self, looked: &Looked, tokens: &[u32]) -> Vec<Option<(Arc<Vec<u8>>, bool)>> {
        let (form, size) = (&self.inner.form, self.inner.form.page_size as usize);
        let mut state = self.inner.state();
        let mut below = Vec::new();
        let pages = (looked.first..looked.keys.len()).zip(looked.keys.iter().skip(looked.first));
        for (index, key) in pages {
            let own = &tokens[index.saturating_mul(size)..][..size];
            let mut over = false;
            for (group, of) in form.groups.iter().enumerate() {
                let kept = state.host.peek(&form.key(key, group));
                let kept = kept.filter(|kept| form.rows(group, &kept.page, own).is_some());
                // Nothing after it is of use.
                over |= kept.is_none() && !of.returns();
                below.push(kept.map(|kept| (kept.page.clone(), kept.fetched)));
            }
            if over {
                break;
            }
        }
        // The first pages are used last, so that a prefix stays longer than what follows it.
        for key in looked.keys.iter().skip(looked.first).take(below.len()).rev() {
            for group in 0..form.groups.len() {
                state.host.get(&form.key(key, group));
            }
        }
        below
    }

    /// Leaves the full pages of a sequence to others, without waiting: copies those that are not below already to host
    /// memory, and from there to the store. Returns how many are on their way. While more than
    /// [`TiersConfig::in_flight_bytes`] are, it takes no more: put the sequence again after a [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`StoreError::Detached`]; [`PageError::StepUnderWay`] while its step is under way; those of
    /// [`PagedSequences::tokens`](crate::pages::PagedSequences::tokens).
    pub fn put(&mut self, cache: &PagedKvCache, sequence: SequenceId) -> Result<u32> {
        self.check_attached(cache)?;
        let books = cache.sequences();
        let size = self.inner.form.page_size as usize;
        let tokens = books.settled(sequence)?;
        let keys: Vec<PageKey> = books.keys(tokens, books.namespace(sequence)?).collect();
        let mut pages = Vec::new();
        for group in 0..self.inner.form.groups.len() {
            let held = books.pages(sequence, group)?;
            let there = books.whole_pages(sequence, group)?.filter(|&index| index < keys.len());
            pages.extend(there.map(|index| {
                let tokens = tokens[index.saturating_mul(size)..][..size].to_vec();
                Evicted { page: held[index], group, key: keys[index], tokens }
            }));
        }
        let state = self.inner.state();
        let has_store = self.inner.guard.has_store();
        pages.retain(|page| {
            let kept = state.host.peek(&self.inner.form.key(&page.key, page.group));
            kept.is_none_or(|kept| has_store && !kept.stored)
        });
        drop(state);
        let count = pages.len();
        let taken = count.saturating_sub(cache.lower(pages, true));
        Ok(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Polls the device, so that copies that are done go on to host memory. An engine that polls its device, or submits to
    /// it, does the same.
    pub fn poll(&self) {
        // A device that is lost has nothing to go on.
        let _ = self.context.device().poll(wgpu::PollType::Poll);
    }

    /// Sends everything in host memory to the store that it does not have, as before a restart.
    pub fn spill(&mut self) {
        let mut state = self.inner.state();
        if self.inner.guard.has_store() {
            let all = state.host.iter().filter(|(_, kept)| !kept.stored);
            let all: Vec<_> = all.map(|(key, kept)| (*key, kept.page.clone())).collect();
            state.puts.extend(all);
        }
        drop(state);
        self.inner.notify();
    }

    /// Waits until nothing is on its way down any more, for some time. Whether that is so. What a store refused is not on
    /// its way; [`Figures::failures`] tells of it.
    pub fn flush(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        loop {
            self.poll();
            let state = self.inner.state();
            if state.is_settled() {
                return true;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return false;
            }
            drop(self.inner.wait_for(state, PATIENCE));
        }
    }

    /// What has gone between the tiers, and what is on its way.
    pub fn figures(&self) -> Figures {
        self.inner.figures()
    }
}
