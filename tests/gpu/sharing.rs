//! Pages in stores: put by one cache, found by others, whatever the store does.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use wgpu_kv_cache::{
    CacheConfig, Context, Error, Format, HostRows, HostTensor, PageError, PagedConfig, PagedKvCache, Pair, Placement,
    pages::{Append, SequenceId},
    store::{FolderStore, MemoryStore, ObjectKey, SharedPages, Store},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("sharing::a_prefix_is_found_after_a_restart", a_prefix_is_found_after_a_restart),
    ("sharing::what_differs_is_not_found", what_differs_is_not_found),
    ("sharing::a_store_may_fail_at_any_moment", a_store_may_fail_at_any_moment),
];

const SIZE: u32 = 4;

/// A hybrid model: a layer that keeps all, one with a window and a sink, one of another format.
fn config(pages: u32) -> PagedConfig {
    let layer = CacheConfig::new(4, 2, 32, 200).formats(Format::Q8_0, Format::F16);
    let ring = layer.placement(Placement::Ring { window: 7, sinks: 1, slack: 0 });
    let layers = vec![layer, ring, layer.value_dim(5).formats(Format::F32, Format::Bf16)];
    PagedConfig { layers, ..PagedConfig::new(layer, 1, SIZE, pages) }
}

/// The row of a token follows from it and its position, so that a wrong one is seen.
fn rows(config: &PagedConfig, tokens: &[u32], from: usize) -> Vec<[Vec<f32>; 2]> {
    let of_layer = |(layer, own): (usize, &CacheConfig)| {
        let side = |dim: u32, sign: f32| {
            let mut numbers = Vec::new();
            for (position, token) in tokens.iter().enumerate().skip(from) {
                for at in 0..own.num_heads * dim {
                    let number = (token * 31 + position as u32 * 7 + at + layer as u32 * 3) % 61;
                    numbers.push(sign * number as f32);
                }
            }
            numbers
        };
        [side(own.head_dim, 1.0), side(own.value_dim, -1.0)]
    };
    config.layers.iter().enumerate().map(of_layer).collect()
}

/// Appends the tokens of a sequence from one on.
fn append(cache: &mut PagedKvCache, id: SequenceId, tokens: &[u32], from: usize) -> Result<(), Error> {
    let rows = rows(&config(1), tokens, from);
    let rows: Vec<_> =
        rows.iter().map(|[keys, values]| Pair { keys: HostRows::from(keys), values: HostRows::from(values) }).collect();
    cache.append(&[Append::new(id, &tokens[from..])], &rows)
}

fn extracted(cache: &PagedKvCache, id: SequenceId) -> Result<Vec<Pair<HostTensor>>, Error> {
    cache.extract(id)?.into_iter().map(|rows| rows.read()).collect()
}

/// The rows of a sequence in a cache of its own, without a store.
fn expected(context: &Context, tokens: &[u32]) -> Result<Vec<Pair<HostTensor>>, Error> {
    let mut cache = PagedKvCache::new(context, &config(120))?;
    let id = cache.add(&[], None)?.sequence;
    append(&mut cache, id, tokens, 0)?;
    extracted(&cache, id)
}

fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|token| token * token % 97).collect()
}

fn a_prefix_is_found_after_a_restart(gpu: &Gpu) -> Outcome {
    let folder = tempfile::tempdir()?;
    let tokens = prompt(30);
    {
        let mut first = PagedKvCache::new(&gpu.context, &config(120))?;
        let mut shared = SharedPages::new(Arc::new(FolderStore::open(folder.path(), 1 << 20)?), "model");
        let added = shared.add(&mut first, &tokens, None)?;
        assert_eq!((added.cached, added.fetched), (0, 0));
        append(&mut first, added.sequence, &tokens, 0)?;
        // 7 full pages, in three groups. Put again, nothing goes.
        assert_eq!((shared.put(&first, added.sequence)?, shared.put(&first, added.sequence)?), (21, 0));
        assert_eq!(shared.figures().put, 21);
    }
    // Another process, another pool.
    for (context, pages) in [(&gpu.context, 120), (&gpu.context, 60)] {
        let mut second = PagedKvCache::new(context, &config(pages))?;
        let mut shared = SharedPages::new(Arc::new(FolderStore::open(folder.path(), 1 << 20)?), "model");
        let added = shared.add(&mut second, &tokens, None)?;
        assert_eq!((added.cached, added.fetched), (0, 28));
        // All pages of the layers that keep all; of the window those of the 6 positions that the next query sees before
        // its own, and that of the sink.
        assert_eq!(shared.figures().fetched, 7 + 7 + 3);
        append(&mut second, added.sequence, &tokens, 28)?;
        assert_eq!(extracted(&second, added.sequence)?, expected(&gpu.context, &tokens)?);
        // What came is found on the device from now on.
        let again = shared.add(&mut second, &tokens, None)?;
        assert_eq!((again.cached, again.fetched, shared.figures().fetched), (28, 0, 17));
        // A longer prompt of which the store has more than the device: both together.
        let longer = [&tokens[..], &prompt(20)].concat();
        append(&mut second, again.sequence, &longer, 28)?;
        shared.put(&second, again.sequence)?;
        let mut third = PagedKvCache::new(&gpu.context, &config(120))?;
        let short = shared.add(&mut third, &tokens[..14], None)?;
        assert_eq!(short.fetched, 12);
        append(&mut third, short.sequence, &tokens[..14], 12)?;
        let both = shared.add(&mut third, &longer, None)?;
        assert_eq!((both.cached, both.fetched), (12, 36));
        append(&mut third, both.sequence, &longer, 48)?;
        assert_eq!(extracted(&third, both.sequence)?, expected(&gpu.context, &longer)?);
        let text = shared.figures().prometheus();
        assert!(text.contains("# TYPE kv_cache_pages_fetched_total counter\nkv_cache_pages_fetched_total "), "{text}");
    }
    DONE
}

fn what_differs_is_not_found(gpu: &Gpu) -> Outcome {
    let store = Arc::new(MemoryStore::new(1 << 20)?);
    let tokens = prompt(18);
    let mut first = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut shared = SharedPages::new(store.clone(), "model");
    let added = shared.add(&mut first, &tokens, Some("x"))?.sequence;
    append(&mut first, added, &tokens, 0)?;
    assert_eq!(shared.put(&first, added)?, 12);
    let found = |config: &PagedConfig, identity: &str, namespace| -> Result<u32, Error> {
        let mut cache = PagedKvCache::new(&gpu.context, config)?;
        Ok(SharedPages::new(store.clone(), identity).add(&mut cache, &tokens, namespace)?.fetched)
    };
    let own = config(60);
    assert_eq!(
        (found(&own, "model", Some("x"))?, found(&own, "model", None)?, found(&own, "other", Some("x"))?),
        (16, 0, 0)
    );
    type Change = fn(&mut PagedConfig);
    let changes: [Change; 9] = [
        |config| config.page_size = 2,
        |config| config.layers[0].key_format = Format::Q4_0,
        |config| config.layers[0] = config.layers[0].scales(2.0, 1.0),
        |config| config.layers[2].value_dim = 6,
        |config| config.layers[2].num_heads = 1,
        |config| config.layers.truncate(2),
        |config| config.layers[1].placement = Placement::Linear,
        |config| config.layers[1].placement = Placement::Ring { window: 8, sinks: 1, slack: 0 },
        |config| config.layers.swap(0, 2),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut other = config(60);
        change(&mut other);
        assert_eq!(found(&other, "model", Some("x"))?, 0, "change {index}");
    }
    // Other pages, more sequences and longer ones are no difference.
    let mut larger = config(99);
    larger.layers.iter_mut().for_each(|layer| (layer.max_batch_size, layer.max_seq_len) = (9, 300));
    assert_eq!(found(&larger, "model", Some("x"))?, 16);
    // Rows of other weights are not left to others.
    first.clear_prefixes();
    let mut cleared = SharedPages::new(Arc::new(MemoryStore::new(1 << 20)?), "model");
    assert_eq!(cleared.put(&first, added)?, 0);
    // Without room for them, what the store has is not taken.
    let mut full = PagedKvCache::new(&gpu.context, &config(9))?;
    let added = shared.add(&mut full, &tokens, Some("x"))?;
    assert_eq!((added.cached, added.fetched, full.sequences().counts().referenced), (0, 0, 0));
    // A pool that shares nothing fetches nothing.
    let mut alone = PagedKvCache::new(&gpu.context, &PagedConfig { share_prefixes: false, ..config(60) })?;
    assert_eq!(shared.add(&mut alone, &tokens, Some("x"))?.fetched, 0);
    let twice = full.free(added.sequence).and_then(|()| full.free(added.sequence));
    assert!(matches!(twice, Err(Error::Page(PageError::FreedSequence { .. }))));
    DONE
}

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
                let at = bytes.len() - 5;
                bytes[at] ^= 16;
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

fn a_store_may_fail_at_any_moment(gpu: &Gpu) -> Outcome {
    let random = &mut fastrand::Rng::with_seed(3);
    let mut fetched = 0;
    for wrong in [0, 1, 4, 10] {
        let store = Arc::new(Unreliable {
            inner: MemoryStore::new(1 << 16)?,
            random: Mutex::new(fastrand::Rng::with_seed(wrong.into())),
            wrong,
            last: Mutex::default(),
            calls: AtomicU32::new(0),
        });
        for _ in 0..6 {
            // A restart: caches begin empty, and the store stays.
            let mut cache = PagedKvCache::new(&gpu.context, &config(70))?;
            let mut shared = SharedPages::new(store.clone(), "model");
            for _ in 0..5 {
                let tokens = [&prompt(random.u32(4..24))[..], &[random.u32(..3)]].concat();
                let added = shared.add(&mut cache, &tokens, None)?;
                let begun = (added.cached + added.fetched) as usize;
                assert!(begun < tokens.len() && begun.is_multiple_of(SIZE as usize));
                append(&mut cache, added.sequence, &tokens, begun)?;
                assert_eq!(
                    extracted(&cache, added.sequence)?,
                    expected(&gpu.context, &tokens)?,
                    "{wrong} of 10 go wrong"
                );
                shared.put(&cache, added.sequence)?;
                cache.free(added.sequence)?;
                fetched += added.fetched;
            }
            assert_eq!(cache.sequences().counts().referenced, 0);
        }
    }
    assert!(fetched > 0, "something was fetched");
    // A store that is down costs three calls, and then none for a while.
    let store = Arc::new(Unreliable {
        inner: MemoryStore::new(1)?,
        random: Mutex::new(fastrand::Rng::with_seed(0)),
        wrong: 0,
        last: Mutex::default(),
        calls: AtomicU32::new(0),
    });
    struct Down(Arc<Unreliable>);
    impl Store for Down {
        fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
            self.exists(&[*key]).map(|_| None)
        }
        fn put(&self, key: &ObjectKey, _: &[u8]) -> io::Result<()> {
            self.exists(&[*key]).map(drop)
        }
        fn exists(&self, _: &[ObjectKey]) -> io::Result<Vec<bool>> {
            self.0.calls.fetch_add(1, Ordering::Relaxed);
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        fn remove(&self, key: &ObjectKey) -> io::Result<()> {
            self.exists(&[*key]).map(drop)
        }
    }
    let mut cache = PagedKvCache::new(&gpu.context, &config(70))?;
    let mut shared = SharedPages::new(Arc::new(Down(store.clone())), "model");
    for _ in 0..20 {
        let added = shared.add(&mut cache, &prompt(12), None)?;
        cache.free(added.sequence)?;
    }
    assert_eq!((store.calls.load(Ordering::Relaxed), shared.figures().failures), (3, 3));
    DONE
}
