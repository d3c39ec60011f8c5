//! [`Tiers`]: what is below a cache, attached to it.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    below::Below, config::TiersConfig, fetcher, figures::Figures, form::Form, guard::Guard, inner::Inner, keeper,
    prefetch::Prefetch, prompt::Prompt, request::Request,
};
use crate::{
    Context, Error, PageError, PagedKvCache, Result, StoreError,
    pages::{Evicted, PageKey, SequenceId},
    store::Object,
};

/// How little the threads of the tiers ask for, of 19: the scheduler of Linux gives 110 of 1024 parts.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// How long to wait for the device or a thread before looking again.
const PATIENCE: Duration = Duration::from_millis(2);

/// Of a core that both want, this thread gets a tenth and the engine the rest, where the system knows of that. No step
/// should wait for what the tiers do beside it.
fn yield_to_engine() {
    // On Linux a priority is that of a thread. Where it is refused, the thread works as others do.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICE);
}

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

impl Tiers {
    /// Attaches tiers to a cache. Pages that are evicted from it go down from now on. Tiers that were attached before
    /// are no longer.
    ///
    /// # Errors
    /// [`StoreError::BudgetTooSmall`] if host memory or the store has no room for a page; [`StoreError::Thread`].
    pub fn new(cache: &mut PagedKvCache, config: TiersConfig) -> Result<Self> {
        let TiersConfig { identity, host_bytes, store, write_through, in_flight_bytes } = config;
        let form = Form::new(cache, &identity);
        let page_bytes = form.most_bytes();
        let store_bytes = store.as_ref().and_then(|store| store.budget()).unwrap_or(u64::MAX);
        for (tier, bytes, page_bytes) in
            [("host memory", host_bytes, page_bytes), ("the store", store_bytes, Object::bytes(page_bytes))]
        {
            let page_bytes = page_bytes as u64;
            if page_bytes > bytes {
                return Err(StoreError::BudgetTooSmall { tier, bytes, page_bytes }.into());
            }
        }
        let inner = Arc::new(Inner::new(form, Guard::new(store), write_through, [host_bytes, in_flight_bytes]));
        let tiers = Tiers { inner: inner.clone(), context: cache.context().clone() };
        for (name, run) in [("kv-cache keeper", keeper::run as fn(&Inner)), ("kv-cache fetcher", fetcher::run)] {
            let inner = inner.clone();
            let work = move || {
                yield_to_engine();
                run(&inner);
            };
            let started = thread::Builder::new().name(name.to_owned()).spawn(work);
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

    /// Begins to bring what the store has of a prompt to host memory, for an [`add`](Self::add) later. What is there
    /// already stays there as long as the prefetch does.
    ///
    /// # Errors
    /// [`StoreError::Detached`].
    pub fn prefetch(&self, cache: &PagedKvCache, tokens: &[u32], namespace: Option<&str>) -> Result<Prefetch> {
        self.check_attached(cache)?;
        let prompt = Prompt::new(cache, tokens, namespace);
        let request = Arc::new(Request::new(&self.inner.form, &prompt));
        if prompt.pages() > prompt.first {
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
            request.finish(prompt.first);
        }
        Ok(Prefetch::new(request, self.inner.clone()))
    }

    /// Adds a sequence that begins with those of the tokens that the device has, and those after them that host memory
    /// has, which are uploaded and submitted. It does not wait, for the device or the store: what only the store has is
    /// found after a [prefetch](Self::prefetch). If the pool has no room for all of it, the sequence begins with less.
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
        let prompt = Prompt::new(cache, tokens, namespace);
        let below = Below::find(&self.inner, &prompt);
        let start = Instant::now();
        let (sequence, pages) = self.begin(cache, &prompt, &below)?;
        self.count(&prompt, &below, pages, start.elapsed());
        let tokens = |pages: usize| u32::try_from(pages).unwrap_or(u32::MAX).saturating_mul(self.inner.form.page_size);
        let (raised, store) = (pages.saturating_sub(prompt.first), below.stored(pages));
        let host = tokens(raised.saturating_sub(store));
        Ok(TieredAdded { sequence, device: tokens(prompt.first), host, store: tokens(store) })
    }

    /// Adds a sequence that begins with as many pages as there are and the pool has room for, and tells how many.
    fn begin(&self, cache: &mut PagedKvCache, prompt: &Prompt<'_>, below: &Below<'_>) -> Result<(SequenceId, usize)> {
        let form = &self.inner.form;
        let mut pages = below.longest(prompt.pages());
        while pages > prompt.first {
            let own = &prompt.tokens[..pages.saturating_mul(form.page_size as usize)];
            match cache.add_pages(own, prompt.namespace, &prompt.keys, |index, group| below.rows(index, group)) {
                Ok(sequence) => return Ok((sequence, pages)),
                Err(Error::Page(PageError::OutOfPages { needed, free, evictable })) => {
                    let lacking = needed.saturating_sub(u64::from(free).saturating_add(evictable.into()));
                    let lacking = usize::try_from(lacking).unwrap_or(usize::MAX).div_ceil(form.groups.len().max(1));
                    pages = below.longest(pages.saturating_sub(lacking.max(1)));
                }
                Err(error) => return Err(error),
            }
        }
        let added = cache.add_by(prompt.tokens, prompt.namespace, &prompt.keys)?;
        Ok((added.sequence, prompt.first))
    }

    /// Counts what a sequence of so many pages was served from.
    fn count(&self, prompt: &Prompt<'_>, below: &Below<'_>, pages: usize, time: Duration) {
        let form = &self.inner.form;
        let mut state = self.inner.state();
        let (mut taken, mut bytes) = (0usize, 0usize);
        for (index, group) in below.needed(pages) {
            let kept = state.host.peek_mut(&form.key(&prompt.keys[index], group));
            kept.into_iter().for_each(|kept| kept.fetched = false);
            (taken, bytes) = (taken.saturating_add(1), bytes.saturating_add(form.bytes(group)));
        }
        let figures = &mut state.figures;
        let (asked, stored) = (prompt.pages().saturating_sub(prompt.first), below.stored(pages));
        let host = pages.saturating_sub(prompt.first).saturating_sub(stored);
        figures.device.found(prompt.first, asked);
        figures.host.found(host, asked.saturating_sub(host));
        figures.store.found(stored, 0);
        if taken > 0 {
            figures.host.went(taken, bytes, time);
            figures.device.came(taken, bytes, time);
        }
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
        let tokens = books.settled(sequence)?;
        let keys: Vec<PageKey> = books.keys(tokens, books.namespace(sequence)?).collect();
        let mut pages = Vec::new();
        for group in 0..self.inner.form.groups.len() {
            let held = books.pages(sequence, group)?;
            let there = books.whole_pages(sequence, group)?.filter(|&index| index < keys.len());
            pages.extend(there.map(|index| {
                let tokens = self.inner.form.tokens_of(tokens, index).to_vec();
                Evicted { page: held[index], group, key: keys[index], tokens }
            }));
        }
        let state = self.inner.state();
        let has_store = self.inner.guard.has_store();
        pages.retain(|page| {
            let key = self.inner.form.key(&page.key, page.group);
            if has_store { !state.is_stored(&key) } else { !state.host.contains(&key) }
        });
        drop(state);
        let count = pages.len();
        let taken = count.saturating_sub(cache.lower(pages, true));
        Ok(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Polls the device, so that copies that are done go on to host memory. An engine that polls its device, or submits
    /// to it, does the same.
    pub fn poll(&self) {
        // A device that is lost has nothing to go on.
        let _ = self.context.device().poll(wgpu::PollType::Poll);
    }

    /// Sends all that host memory and the pool hold, and the store does not, to the store, as before a restart, and
    /// waits for that, for some time. Whether nothing is on its way any more: see [`flush`](Self::flush). What was used
    /// last goes last, so that a store without room for all keeps it. Without a store nothing is sent.
    ///
    /// # Errors
    /// [`StoreError::Detached`].
    pub fn spill(&mut self, cache: &PagedKvCache, time: Duration) -> Result<bool> {
        self.check_attached(cache)?;
        let until = Instant::now().checked_add(time);
        let left = || until.map_or(time, |until| until.saturating_duration_since(Instant::now()));
        // What is on its way is in host memory then.
        if self.inner.guard.has_store() && self.flush(left()) {
            let mut state = self.inner.state();
            let all = state.host.by_use().filter(|(key, _)| !state.is_stored(key));
            let all: Vec<_> = all.map(|(key, kept)| (*key, kept.page.clone())).collect();
            state.puts.extend(all);
            drop(state);
            self.inner.notify();
            for pages in cache.sequences().offered().chunks(self.inner.pages_in_flight()) {
                if !self.flush(left()) {
                    return Ok(false);
                }
                cache.lower(pages.to_vec(), true);
            }
        }
        Ok(self.flush(left()))
    }

    /// Waits until nothing is on its way down any more, for some time. Whether that is so. What a store refused is not
    /// on its way; [`Figures::failures`] tells of it.
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
