//! Stores that fail, forget and lie, and bugs of other systems.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use wgpu_kv_cache::{
    Error, PageError, PagedKvCache,
    pages::{Append, SequenceId},
    store::{MemoryStore, Object, ObjectKey, Store},
    tiers::{Tiers, TiersConfig},
};

use crate::{
    DONE, Gpu, Outcome, Test,
    tiers::{HOST_BYTES, LONG, SIZE, add, append, config, expected, extracted, leave, parts, prompt, tiers},
};

pub const TESTS: &[Test] = &[
    ("tiers_faults::a_store_may_fail_at_any_moment", a_store_may_fail_at_any_moment),
    ("tiers_faults::a_failed_put_is_put_again", a_failed_put_is_put_again),
    ("tiers_faults::an_empty_value_under_a_key_is_a_miss", an_empty_value_under_a_key_is_a_miss),
    ("tiers_faults::what_is_not_decided_is_not_left_to_others", what_is_not_decided_is_not_left_to_others),
    ("tiers_faults::a_full_store_is_still_read", a_full_store_is_still_read),
    ("tiers_faults::a_store_that_hangs_holds_nobody_up", a_store_that_hangs_holds_nobody_up),
];

/// Fails, forgets, cuts, changes and swaps objects at random.
struct Unreliable {
    inner: MemoryStore,
    random: Mutex<fastrand::Rng>,
    /// Of ten calls, so many go wrong.
    wrong: u32,
    last: Mutex<Vec<u8>>,
    calls: AtomicU32,
}

impl Unreliable {
    fn fails(&self) -> io::Result<u32> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut random = self.random.lock().unwrap();
        if random.u32(..10) >= self.wrong {
            return Ok(u32::MAX);
        }
        match random.u32(..6) {
            0 => Err(io::ErrorKind::TimedOut.into()),
            kind => Ok(kind),
        }
    }
}

impl Store for Unreliable {
    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        let kind = self.fails()?;
        let Some(mut bytes) = self.inner.get(key)? else { return Ok(None) };
        let other = std::mem::replace(&mut *self.last.lock().unwrap(), bytes.clone());
        match kind {
            1 => return Ok(None),
            2 => bytes.truncate(bytes.len() / 2),
            3 => {
                let at = bytes.len().saturating_sub(5);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 16);
            }
            4 => bytes = other,
            5 => bytes.clear(),
            _ => {}
        }
        Ok(Some(bytes))
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        match self.fails()? {
            1 => Ok(()),
            2 => self.inner.put(key, &bytes[..bytes.len() / 3]),
            3 => self.inner.put(key, &[]),
            _ => self.inner.put(key, bytes),
        }
    }

    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        match self.fails()? {
            1 => Ok(vec![true; keys.len()]),
            2 => Ok(vec![false; keys.len()]),
            // Not even of the right number.
            3 => Ok(Vec::new()),
            _ => self.inner.exists(keys),
        }
    }

    fn remove(&self, key: &ObjectKey) -> io::Result<()> {
        self.fails()?;
        self.inner.remove(key)
    }
}

fn unreliable(bytes: u64, wrong: u32) -> Result<Arc<Unreliable>, Error> {
    Ok(Arc::new(Unreliable {
        inner: MemoryStore::new(bytes)?,
        random: Mutex::new(fastrand::Rng::with_seed(wrong.into())),
        wrong,
        last: Mutex::default(),
        calls: AtomicU32::new(0),
    }))
}

fn a_store_may_fail_at_any_moment(gpu: &Gpu) -> Outcome {
    let random = &mut fastrand::Rng::with_seed(3);
    let (mut from_store, mut from_host) = (0, 0);
    for wrong in [0, 1, 4, 10] {
        let store = unreliable(1 << 16, wrong)?;
        for _ in 0..5 {
            // A restart: caches begin empty, and the store stays. Some have host memory for a few pages only.
            let mut cache = PagedKvCache::new(&gpu.context, &config(30))?;
            let host_bytes = [1 << 13, 1 << 15][random.usize(..2)];
            let through = TiersConfig::new("model", host_bytes).store(store.clone()).write_through(random.bool());
            let mut tiers = Tiers::new(&mut cache, through)?;
            let mut live: Vec<(SequenceId, Vec<u32>)> = Vec::new();
            for _ in 0..8 {
                if live.len() == 4 {
                    let (id, _) = live.swap_remove(random.usize(..4));
                    cache.free(id)?;
                }
                let tokens = [&[random.u32(..2)], &prompt(random.u32(4..16))[..], &[random.u32(..3)]].concat();
                let prefetch = tiers.prefetch(&cache, &tokens, None)?;
                if random.bool() {
                    assert!(prefetch.wait(LONG));
                }
                let added = tiers.add(&mut cache, &tokens, None)?;
                let begun = added.cached() as usize;
                assert!(begun < tokens.len() && begun.is_multiple_of(SIZE as usize));
                match append(&mut cache, added.sequence, &tokens, begun) {
                    Err(Error::Page(PageError::OutOfPages { .. })) => {
                        cache.free(added.sequence)?;
                        live.drain(..).try_for_each(|(id, _)| cache.free(id))?;
                        continue;
                    }
                    done => done?,
                }
                live.push((added.sequence, tokens));
                // No other sequence has changed.
                for (id, tokens) in &live {
                    assert_eq!(extracted(&cache, *id)?, expected(&gpu.context, tokens)?, "{wrong} of 10 go wrong");
                }
                if random.bool() {
                    tiers.put(&cache, added.sequence)?;
                }
                if random.bool() {
                    let (id, _) = live.swap_remove(random.usize(..live.len()));
                    cache.free(id)?;
                }
                from_store += added.store;
                from_host += added.host;
            }
            live.drain(..).try_for_each(|(id, _)| cache.free(id))?;
            assert_eq!(cache.sequences().counts().referenced, 0);
            if random.bool() {
                assert!(tiers.spill(&cache, LONG)?);
            }
        }
    }
    assert!(from_store > 0 && from_host > 0, "{from_store} {from_host}");
    // A store that is down costs three calls, and then none for a while.
    let calls = Arc::new(AtomicU32::new(0));
    struct Down(Arc<AtomicU32>);
    impl Store for Down {
        fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
            self.exists(&[*key]).map(|_| None)
        }
        fn put(&self, key: &ObjectKey, _: &[u8]) -> io::Result<()> {
            self.exists(&[*key]).map(drop)
        }
        fn exists(&self, _: &[ObjectKey]) -> io::Result<Vec<bool>> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                1 => panic!("a store may do this too"),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        }
        fn remove(&self, key: &ObjectKey) -> io::Result<()> {
            self.exists(&[*key]).map(drop)
        }
    }
    let mut cache = PagedKvCache::new(&gpu.context, &config(70))?;
    let mut own = tiers(&mut cache, HOST_BYTES, Some(Arc::new(Down(calls.clone()))))?;
    for _ in 0..20 {
        let added = add(&mut own, &mut cache, &prompt(12), None)?;
        cache.free(added.sequence)?;
    }
    let figures = own.figures();
    assert_eq!((calls.load(Ordering::Relaxed), figures.failures, figures.rests), (3, 3, true));
    DONE
}

/// Has damaged objects, and hangs when it shall remove one.
struct Stuck(Arc<AtomicBool>);

impl Store for Stuck {
    fn get(&self, _: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        Ok(Some(vec![7; 100]))
    }
    fn put(&self, _: &ObjectKey, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        Ok(vec![true; keys.len()])
    }
    fn remove(&self, _: &ObjectKey) -> io::Result<()> {
        while self.0.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }
}

/// A map of which a put may fail half way: what was written stays.
#[derive(Default)]
struct Half {
    objects: Mutex<HashMap<ObjectKey, Vec<u8>>>,
    fails: AtomicBool,
    hangs: AtomicBool,
}

impl Store for Half {
    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        while self.hangs.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(self.objects.lock().unwrap().get(key).cloned())
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        let fails = self.fails.swap(false, Ordering::Relaxed);
        let written = if fails { &bytes[..bytes.len() / 2] } else { bytes };
        self.objects.lock().unwrap().insert(*key, written.to_vec());
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        let objects = self.objects.lock().unwrap();
        Ok(keys.iter().map(|key| objects.contains_key(key)).collect())
    }

    fn remove(&self, key: &ObjectKey) -> io::Result<()> {
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }
}

/// A store that has no room left refuses three times, is not written to for a while, and serves what it has.
fn a_full_store_is_still_read(gpu: &Gpu) -> Outcome {
    struct Full(MemoryStore, AtomicU32);
    impl Store for Full {
        fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
            self.0.get(key)
        }
        fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
            match self.1.load(Ordering::Relaxed) {
                0 => self.0.put(key, bytes),
                calls => {
                    self.1.store(calls + 1, Ordering::Relaxed);
                    Err(io::ErrorKind::StorageFull.into())
                }
            }
        }
        fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
            self.0.exists(keys)
        }
        fn remove(&self, key: &ObjectKey) -> io::Result<()> {
            self.0.remove(key)
        }
    }
    let (store, tokens) = (Arc::new(Full(MemoryStore::new(HOST_BYTES)?, AtomicU32::new(0))), prompt(18));
    assert_eq!(leave(gpu, store.clone(), &tokens, None)?, 12);
    store.1.store(1, Ordering::Relaxed);
    let mut cache = PagedKvCache::new(&gpu.context, &config(120))?;
    let mut own = tiers(&mut cache, HOST_BYTES, Some(store.clone()))?;
    for first in 100..110 {
        let other = [&[first][..], &tokens].concat();
        let id = add(&mut own, &mut cache, &other, None)?.sequence;
        append(&mut cache, id, &other, 0)?;
        assert_eq!(own.put(&cache, id)?, 12);
        assert!(own.flush(LONG));
        cache.free(id)?;
    }
    let figures = own.figures();
    assert_eq!((store.1.load(Ordering::Relaxed), figures.failures, figures.rests, figures.lost), (4, 3, true, 0));
    let found = add(&mut own, &mut cache, &tokens, None)?;
    assert_eq!(parts(&found), (0, 0, 16));
    append(&mut cache, found.sequence, &tokens, 16)?;
    assert_eq!(extracted(&cache, found.sequence)?, expected(&gpu.context, &tokens)?);
    DONE
}

/// A put that failed counted as done in `LMCache` (#4991), and half of a value stayed under its key in pegaflow (#395).
fn a_failed_put_is_put_again(gpu: &Gpu) -> Outcome {
    let (store, tokens) = (Arc::new(Half::default()), prompt(18));
    store.fails.store(true, Ordering::Relaxed);
    let mut cache = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut own = tiers(&mut cache, HOST_BYTES, Some(store.clone()))?;
    let id = own.add(&mut cache, &tokens, None)?.sequence;
    append(&mut cache, id, &tokens, 0)?;
    assert_eq!(own.put(&cache, id)?, 12);
    assert!(own.flush(LONG));
    let figures = own.figures();
    assert_eq!((figures.failures, figures.host_pages), (1, 12));
    assert!(figures.store.pages_in < 12, "{figures:?}");
    // The half that is there is no page to others.
    let mut other = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut of_other = tiers(&mut other, HOST_BYTES, Some(store.clone()))?;
    let before = add(&mut of_other, &mut other, &tokens, None)?;
    assert!(before.store < 16 && of_other.figures().damaged <= 1, "{before:?}");
    other.free(before.sequence)?;
    store.objects.lock().unwrap().retain(|key, bytes| Object::decode(key, bytes).is_some());
    // It is put again, and whole.
    assert_eq!(u64::from(own.put(&cache, id)?), 12 - figures.store.pages_in);
    assert!(own.flush(LONG));
    assert_eq!((own.figures().store.pages_in, own.put(&cache, id)?), (12, 0));
    let found = add(&mut of_other, &mut other, &tokens, None)?;
    assert_eq!(found.cached(), 16);
    append(&mut other, found.sequence, &tokens, 16)?;
    assert_eq!(extracted(&other, found.sequence)?, expected(&gpu.context, &tokens)?);
    DONE
}

/// Mooncake #3465.
fn an_empty_value_under_a_key_is_a_miss(gpu: &Gpu) -> Outcome {
    let (store, tokens) = (Arc::new(Half::default()), prompt(18));
    assert_eq!(leave(gpu, store.clone(), &tokens, None)?, 12);
    store.objects.lock().unwrap().values_mut().for_each(Vec::clear);
    let mut other = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut of_other = tiers(&mut other, HOST_BYTES, Some(store.clone()))?;
    let added = add(&mut of_other, &mut other, &tokens, None)?;
    assert_eq!((parts(&added), of_other.figures().failures), ((0, 0, 0), 0));
    assert!(of_other.figures().damaged > 0);
    DONE
}

/// Rows that are drafts, of a step that is not submitted, or of a page that is not full.
fn what_is_not_decided_is_not_left_to_others(gpu: &Gpu) -> Outcome {
    let (store, tokens) = (Arc::new(Half::default()), prompt(12));
    let mut cache = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut own = tiers(&mut cache, HOST_BYTES, Some(store.clone()))?;
    let id = own.add(&mut cache, &[], None)?.sequence;
    append(&mut cache, id, &tokens[..6], 0)?;
    assert_eq!(own.put(&cache, id)?, 3, "one full page");
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    cache.begin_step(&mut encoder, &[Append::new(id, &tokens[6..]).drafts(5)])?;
    assert!(matches!(own.put(&cache, id), Err(Error::Page(PageError::StepUnderWay))));
    (0..3).try_for_each(|layer| cache.record_advance(layer))?;
    gpu.context.queue().submit([encoder.finish()]);
    cache.submitted()?;
    // 7 tokens are decided.
    assert!(own.flush(LONG));
    assert_eq!(own.put(&cache, id)?, 0);
    cache.accept(id, 1)?;
    assert_eq!(own.put(&cache, id)?, 3, "8 tokens are two pages");
    assert!(own.flush(LONG));
    assert_eq!((store.objects.lock().unwrap().len(), own.figures().store.pages_in), (6, 6));
    DONE
}

/// A call that does not come back keeps a prefetch waiting, and neither a request nor the end of the tiers.
fn a_store_that_hangs_holds_nobody_up(gpu: &Gpu) -> Outcome {
    let (store, tokens) = (Arc::new(Half::default()), prompt(18));
    assert_eq!(leave(gpu, store.clone(), &tokens, None)?, 12);
    store.hangs.store(true, Ordering::Relaxed);
    let mut cache = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut own = tiers(&mut cache, HOST_BYTES, Some(store.clone()))?;
    let prefetch = own.prefetch(&cache, &tokens, None)?;
    let waits = own.prefetch(&cache, &tokens[..9], None)?;
    assert!(!prefetch.wait(std::time::Duration::from_millis(20)) && !prefetch.is_ready());
    assert_eq!((prefetch.tokens(), own.figures().prefetches), (None, 1));
    let added = own.add(&mut cache, &tokens, None)?;
    assert_eq!(parts(&added), (0, 0, 0));
    append(&mut cache, added.sequence, &tokens, 0)?;
    assert_eq!(extracted(&cache, added.sequence)?, expected(&gpu.context, &tokens)?);
    // Nor does one that hangs in another call.
    let hangs = Arc::new(AtomicBool::new(true));
    let mut stuck = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut of_stuck = tiers(&mut stuck, HOST_BYTES, Some(Arc::new(Stuck(hangs.clone()))))?;
    let removes = of_stuck.prefetch(&stuck, &tokens, None)?;
    while of_stuck.figures().damaged == 0 {
        std::thread::yield_now();
    }
    let added = of_stuck.add(&mut stuck, &tokens, None)?;
    assert!(!removes.is_ready() && added.cached() == 0);
    drop(removes);
    hangs.store(false, Ordering::Relaxed);
    // One that is dropped waits for nothing, and the tiers end.
    drop(prefetch);
    drop(own);
    assert!(waits.wait(LONG), "the end of the tiers is the end of what waits");
    assert_eq!(waits.tokens(), Some(0));
    store.hangs.store(false, Ordering::Relaxed);
    DONE
}
