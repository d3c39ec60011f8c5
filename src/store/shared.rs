//! [`SharedPages`]: pages of a paged cache in a store, for other caches.

use std::{
    fmt,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Object, ObjectKey, Store,
    form::{Form, encoded},
};
use crate::{
    Error, HostRows, HostTensor, PageError, PagedKvCache, Pair, Result, Side,
    pages::{PageKey, SequenceId, StepKind},
};

/// Failures of a store in a row after which it is left alone.
const MOST_FAILURES: u32 = 3;
/// For how long.
const REST: Duration = Duration::from_secs(10);

/// Pages of paged caches in a [`Store`], so that a prefix that one cache has computed is found by another: after a
/// restart, in another process, on another device. Caches share pages if the caller's identity, the shape and formats of
/// all layers, and the page size are equal; a namespace is part of a page's key.
///
/// A store that fails, lies or is slow costs hits, never an error and never a wrong row: each object has a checksum, its key,
/// and the tokens of its page. After three failures in a row the store is left alone for ten seconds.
///
/// Calls wait for the store and for the device.
///
/// ```no_run
/// use std::sync::Arc;
/// use wgpu_kv_cache::{PagedKvCache, Result, pages::SequenceId, store::{FolderStore, SharedPages}};
///
/// fn answer(cache: &mut PagedKvCache, prompt: &[u32]) -> Result<SequenceId> {
///     let store = Arc::new(FolderStore::open("prefixes", 8 << 30)?);
///     let mut shared = SharedPages::new(store, "SmolLM2-135M, revision 93efa2f, RoPE 100000");
///     let added = shared.add(cache, prompt, None)?;
///     let rest = &prompt[added.cached as usize + added.fetched as usize..];
///     // Compute the rest and append it, then leave its pages to others:
///     shared.put(cache, added.sequence)?;
///     Ok(added.sequence)
/// }
/// ```
pub struct SharedPages {
    store: Arc<dyn Store>,
    identity: String,
    figures: Figures,
    failures: u32,
    rests_until: Option<Instant>,
}

impl fmt::Debug for SharedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPages").field("figures", &self.figures).finish_non_exhaustive()
    }
}

/// A sequence that begins with what a cache or a store had of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedAdded {
    /// Its handle.
    pub sequence: SequenceId,
    /// How many of its tokens the cache had.
    pub cached: u32,
    /// How many more the store had. The others are to be appended.
    pub fetched: u32,
}

/// What has gone to a store and come from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Pages that were looked for.
    pub queried: u64,
    /// Pages that came from the store, and their bytes.
    pub fetched: u64,
    /// Bytes of these pages.
    pub fetched_bytes: u64,
    /// Pages that went to the store.
    pub put: u64,
    /// Bytes of these pages.
    pub put_bytes: u64,
    /// Objects that were not what they should be, and were removed.
    pub damaged: u64,
    /// Calls of the store that failed.
    pub failures: u64,
    /// Time that calls of the store took.
    pub waited: Duration,
}

impl Figures {
    /// The figures in the text format of Prometheus.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        for (name, help, number) in [
            ("pages_queried", "Pages that were looked for in the store", self.queried),
            ("pages_fetched", "Pages that came from the store", self.fetched),
            ("fetched_bytes", "Bytes of pages that came from the store", self.fetched_bytes),
            ("pages_put", "Pages that went to the store", self.put),
            ("put_bytes", "Bytes of pages that went to the store", self.put_bytes),
            ("pages_damaged", "Objects that were not what they should be", self.damaged),
            ("store_failures", "Calls of the store that failed", self.failures),
        ] {
            let name = format!("kv_cache_{name}_total");
            let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter\n{name} {number}");
        }
        let name = "kv_cache_store_seconds_total";
        let seconds = self.waited.as_secs_f64();
        let _ =
            writeln!(text, "# HELP {name} Time that calls of the store took.\n# TYPE {name} counter\n{name} {seconds}");
        text
    }
}

impl SharedPages {
    /// Shares pages by a store, with caches of the same identity: all that makes rows not interchangeable, such as the
    /// model, its revision, the rotary embedding, an adapter.
    pub fn new(store: Arc<dyn Store>, identity: impl Into<String>) -> Self {
        let figures = Figures::default();
        SharedPages { store, identity: identity.into(), figures, failures: 0, rests_until: None }
    }

    /// What has gone to the store and come from it.
    pub const fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Calls the store, unless it is left alone. What fails is counted and told in the log.
    fn call<T>(&mut self, call: impl FnOnce(&dyn Store) -> std::io::Result<T>) -> Option<T> {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let start = Instant::now();
        let done = call(&*self.store);
        self.figures.waited = self.figures.waited.saturating_add(start.elapsed());
        match done {
            Ok(done) => {
                (self.failures, self.rests_until) = (0, None);
                Some(done)
            }
            Err(error) => {
                self.figures.failures = self.figures.failures.saturating_add(1);
                self.failures = self.failures.saturating_add(1);
                // The text of an error may have an address with a password.
                log::warn!("a store of pages failed: {}", error.kind());
                if self.failures >= MOST_FAILURES {
                    self.rests_until = Instant::now().checked_add(REST);
                }
                None
            }
        }
    }

    /// Leaves the full pages of a sequence to others: those that are there and that the store does not have. Returns how
    /// many went to the store.
    ///
    /// # Errors
    /// Those of [`PagedKvCache::get`].
    pub fn put(&mut self, cache: &PagedKvCache, sequence: SequenceId) -> Result<u32> {
        let books = cache.sequences();
        let form = Form::new(cache, &self.identity);
        let size = form.page_size as usize;
        let tokens = books.settled(sequence)?;
        let keys: Vec<PageKey> = books.keys(tokens, books.namespace(sequence)?).collect();
        let mut put = 0u32;
        for group in 0..form.groups.len() {
            let held = books.whole_pages(sequence, group)?;
            let there: Vec<usize> = held.filter(|&index| index < keys.len()).collect();
            let names: Vec<ObjectKey> = there.iter().map(|&index| form.key(&keys[index], group)).collect();
            let Some(present) = self.call(|store| store.exists(&names)) else { continue };
            let missing: Vec<usize> =
                there.iter().zip(&present).filter(|(_, present)| !**present).map(|(&index, _)| index).collect();
            for run in missing.chunk_by(|a, b| a.saturating_add(1) == *b) {
                let rows = Self::read(cache, sequence, &form.groups[group], run, size)?;
                for (at, &index) in run.iter().enumerate() {
                    let key = form.key(&keys[index], group);
                    let mut payload = Vec::with_capacity(form.bytes(group));
                    let own = &tokens[index.saturating_mul(size)..][..size];
                    payload.extend_from_slice(&encoded(own));
                    for (&layer, rows) in form.groups[group].iter().zip(&rows) {
                        for side in Side::BOTH {
                            let head = form.head_bytes(layer, side);
                            let all = rows.side(side).bytes().chunks_exact(head.saturating_mul(run.len()));
                            all.for_each(|rows| payload.extend_from_slice(&rows[at.saturating_mul(head)..][..head]));
                        }
                    }
                    let object = Object::encode(&key, &payload);
                    if self.call(|store| store.put(&key, &object)).is_some() {
                        put = put.saturating_add(1);
                        self.figures.put = self.figures.put.saturating_add(1);
                        self.figures.put_bytes = self.figures.put_bytes.saturating_add(object.len() as u64);
                    }
                }
            }
        }
        Ok(put)
    }

    /// The rows of neighbouring pages in some layers.
    fn read(
        cache: &PagedKvCache,
        sequence: SequenceId,
        layers: &[usize],
        pages: &[usize],
        size: usize,
    ) -> Result<Vec<Pair<HostTensor>>> {
        let position = |page: Option<&usize>, more: usize| {
            let page = page.map_or(0, |page| page.saturating_add(more));
            u32::try_from(page.saturating_mul(size)).unwrap_or(u32::MAX)
        };
        let range = position(pages.first(), 0)..position(pages.last(), 1);
        layers.iter().map(|&layer| cache.get(layer, sequence, range.clone())?.read()).collect()
    }

    /// Adds a sequence that begins with those of the tokens that the cache has, and those after them that the store has. If
    /// the pool has no room for the latter, it begins with the former.
    ///
    /// # Errors
    /// Those of [`PagedKvCache::add`] and [`PagedKvCache::insert`], but for [`PageError::OutOfPages`].
    pub fn add(&mut self, cache: &mut PagedKvCache, tokens: &[u32], namespace: Option<&str>) -> Result<SharedAdded> {
        if cache.config().share_prefixes
            && let Some(added) = self.fetch(cache, tokens, namespace)?
        {
            return Ok(added);
        }
        let added = cache.add(tokens, namespace)?;
        Ok(SharedAdded { sequence: added.sequence, cached: added.cached, fetched: 0 })
    }

    fn fetch(
        &mut self,
        cache: &mut PagedKvCache,
        tokens: &[u32],
        namespace: Option<&str>,
    ) -> Result<Option<SharedAdded>> {
        let form = Form::new(cache, &self.identity);
        let size = form.page_size as usize;
        // One token at least is left to compute.
        let most = &tokens[..tokens.len().saturating_sub(1)];
        let keys: Vec<PageKey> = cache.sequences().keys(most, namespace).collect();
        let cached = cache.sequences().matched(tokens, namespace);
        let first = (cached as usize).checked_div(size).unwrap_or(0);
        if keys.len() <= first {
            return Ok(None);
        }
        let groups = form.groups.len();
        let names: Vec<ObjectKey> = keys[first..]
            .iter()
            .flat_map(|key| (0..groups).map(|group| form.key(key, group)).collect::<Vec<_>>())
            .collect();
        self.figures.queried = self.figures.queried.saturating_add(names.len() as u64);
        let Some(mut there) = self.call(|store| store.exists(&names)) else { return Ok(None) };
        let at = |index: usize, group: usize| index.saturating_sub(first).saturating_mul(groups).saturating_add(group);
        // Rows of objects that came, in the order of their names.
        let mut objects: Vec<Option<Vec<u8>>> = vec![None; names.len()];
        let pages = loop {
            let whole = |pages: &usize| {
                let has =
                    |group| form.needed(group, first, *pages).all(|index| there.get(at(index, group)) == Some(&true));
                (0..groups).all(has)
            };
            let Some(pages) = (first.saturating_add(1)..=keys.len()).rev().find(whole) else { return Ok(None) };
            let needed: Vec<(usize, usize)> = (0..groups)
                .flat_map(|group| form.needed(group, first, pages).map(move |index| (index, group)))
                .filter(|&(index, group)| objects[at(index, group)].is_none())
                .collect();
            let mut lost = false;
            for (index, group) in needed {
                let (place, own) = (at(index, group), &tokens[index.saturating_mul(size)..][..size]);
                let name = names[place];
                let object = self.call(|store| store.get(&name)).flatten();
                let bytes = object.as_ref().map_or(0, Vec::len) as u64;
                let rows = object.as_ref().map(|object| form.rows(group, &name, object, own).map(<[u8]>::to_vec));
                match rows {
                    Some(Some(rows)) => {
                        objects[place] = Some(rows);
                        self.figures.fetched = self.figures.fetched.saturating_add(1);
                        self.figures.fetched_bytes = self.figures.fetched_bytes.saturating_add(bytes);
                        continue;
                    }
                    Some(None) => {
                        self.figures.damaged = self.figures.damaged.saturating_add(1);
                        log::warn!("a store of pages has an object that is not what it should be");
                        let _ = self.call(|store| store.remove(&name));
                    }
                    None => {}
                }
                (there[place], lost) = (false, true);
                break;
            }
            if !lost {
                break pages;
            }
        };
        let length = pages.saturating_mul(size);
        let rows = form.assemble(&objects, (first, pages), &at);
        let layers = cache.config().layers.clone();
        let host: Vec<Pair<HostRows<'_>>> = rows
            .iter()
            .zip(&layers)
            .map(|((keys, values), config)| Pair {
                keys: HostRows::Stored { format: config.key_format, bytes: keys },
                values: HostRows::Stored { format: config.value_format, bytes: values },
            })
            .collect();
        match cache.insert_rows(&tokens[..length], namespace, &host, StepKind::Pages) {
            Ok(sequence) => {
                let fetched = u32::try_from(length).unwrap_or(u32::MAX).saturating_sub(cached);
                Ok(Some(SharedAdded { sequence, cached, fetched }))
            }
            Err(Error::Page(PageError::OutOfPages { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
