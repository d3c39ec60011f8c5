//! Pages below the pool: evicted and found again, put by one cache and found by others, whatever the store does.

use std::{sync::Arc, time::Duration};

use wgpu_kv_cache::{
    CacheConfig, Context, Error, Format, HostRows, HostTensor, PageError, PagedConfig, PagedKvCache, Pair, Placement,
    pages::{Append, SequenceId},
    store::{FolderStore, MemoryStore, Store},
    tiers::{TieredAdded, Tiers, TiersConfig},
};

use crate::{DONE, Gpu, Outcome, Test};

pub const TESTS: &[Test] = &[
    ("tiers::evicted_pages_come_back", evicted_pages_come_back),
    ("tiers::a_prefix_is_found_after_a_restart", a_prefix_is_found_after_a_restart),
    ("tiers::what_differs_is_not_found", what_differs_is_not_found),
    ("tiers::what_is_prefetched_stays", what_is_prefetched_stays),
    ("tiers::what_the_store_has_is_not_put_again", what_the_store_has_is_not_put_again),
    ("tiers::spill_leaves_what_the_pool_has", spill_leaves_what_the_pool_has),
    ("tiers::bad_input_changes_nothing", bad_input_changes_nothing),
];

pub const SIZE: u32 = 4;

/// A hybrid model: a layer that keeps all, one with a window and a sink, one of another format.
pub fn config(pages: u32) -> PagedConfig {
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
pub fn append(cache: &mut PagedKvCache, id: SequenceId, tokens: &[u32], from: usize) -> Result<(), Error> {
    let rows = rows(&config(1), tokens, from);
    let rows: Vec<_> =
        rows.iter().map(|[keys, values]| Pair { keys: HostRows::from(keys), values: HostRows::from(values) }).collect();
    cache.append(&[Append::new(id, &tokens[from..])], &rows)
}

pub fn extracted(cache: &PagedKvCache, id: SequenceId) -> Result<Vec<Pair<HostTensor>>, Error> {
    cache.extract(id)?.into_iter().map(|rows| rows.read()).collect()
}

/// The rows of a sequence in a cache of its own, without a store.
pub fn expected(context: &Context, tokens: &[u32]) -> Result<Vec<Pair<HostTensor>>, Error> {
    let mut cache = PagedKvCache::new(context, &config(120))?;
    let id = cache.add(&[], None)?.sequence;
    append(&mut cache, id, tokens, 0)?;
    extracted(&cache, id)
}

pub fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|token| token * token % 97).collect()
}

/// Long enough for everything, unless a thread is stuck.
pub const LONG: Duration = Duration::from_secs(60);
pub const HOST_BYTES: u64 = 1 << 20;

pub fn tiers(cache: &mut PagedKvCache, host_bytes: u64, store: Option<Arc<dyn Store>>) -> Result<Tiers, Error> {
    Tiers::new(cache, TiersConfig { store, ..TiersConfig::new("model", host_bytes) })
}

/// Adds a sequence after all that the store has came.
pub fn add(
    tiers: &mut Tiers,
    cache: &mut PagedKvCache,
    tokens: &[u32],
    namespace: Option<&str>,
) -> Result<TieredAdded, Error> {
    let prefetch = tiers.prefetch(cache, tokens, namespace)?;
    assert!(prefetch.wait(LONG));
    pollster::block_on(prefetch.ready());
    assert!(prefetch.is_ready());
    let added = tiers.add(cache, tokens, namespace)?;
    assert!(prefetch.tokens() <= Some(added.cached()) || cache.sequences().free_pages() < 30, "{prefetch:?} {added:?}");
    Ok(added)
}

/// Leaves the pages of a prompt in a store, and tells how many.
pub fn leave(gpu: &Gpu, store: Arc<dyn Store>, tokens: &[u32], namespace: Option<&str>) -> Result<u32, Error> {
    let mut cache = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut own = tiers(&mut cache, HOST_BYTES, Some(store))?;
    let id = add(&mut own, &mut cache, tokens, namespace)?.sequence;
    append(&mut cache, id, tokens, 0)?;
    let put = own.put(&cache, id)?;
    assert!(own.flush(LONG));
    Ok(put)
}

pub const fn parts(added: &TieredAdded) -> (u32, u32, u32) {
    (added.device, added.host, added.store)
}

fn evicted_pages_come_back(gpu: &Gpu) -> Outcome {
    for (context, length, pages) in [(&gpu.context, 30, 30), (&gpu.small, 15, 14)] {
        // Room for one prompt at a time, in each of 3 groups.
        let mut cache = PagedKvCache::new(context, &config(pages))?;
        let mut tiers = tiers(&mut cache, HOST_BYTES, None)?;
        let cached = length / SIZE * SIZE;
        let prompts: Vec<Vec<u32>> = (0..4).map(|first| [&[first][..], &prompt(length - 1)].concat()).collect();
        for tokens in &prompts {
            let added = tiers.add(&mut cache, tokens, None)?;
            assert_eq!(parts(&added), (0, 0, 0));
            append(&mut cache, added.sequence, tokens, 0)?;
            cache.free(added.sequence)?;
        }
        assert!(cache.sequences().counts().evictions > u64::from(pages));
        assert!(tiers.flush(LONG));
        let figures = tiers.figures();
        let evicted = cache.sequences().counts().evictions;
        assert_eq!(
            (figures.host_pages, figures.device.pages_out, figures.host.pages_in, figures.lost),
            (evicted, evicted, evicted, 0)
        );
        for tokens in prompts.iter().chain(&prompts) {
            let added = tiers.add(&mut cache, tokens, None)?;
            assert_eq!((added.cached(), added.store), (cached, 0), "{added:?}");
            append(&mut cache, added.sequence, tokens, cached as usize)?;
            assert_eq!(extracted(&cache, added.sequence)?, expected(&gpu.context, tokens)?);
            cache.free(added.sequence)?;
            assert!(tiers.flush(LONG));
        }
        let figures = tiers.figures();
        assert!(figures.host.hits > 0 && figures.device.pages_in == figures.host.pages_out, "{figures:?}");
        // A page that is below already is not copied again.
        assert!(figures.host.pages_in < cache.sequences().counts().evictions, "{figures:?}");
        // The pages of a step that is dropped are gone from the device, and were taken down.
        let other = cache.add(&[], None)?.sequence;
        let long: Vec<u32> = (200..200 + cached).collect();
        let mut encoder = context.device().create_command_encoder(&Default::default());
        cache.begin_step(&mut encoder, &[Append::new(other, &long)])?;
        cache.dropped();
        for tokens in &prompts {
            assert!(tiers.flush(LONG));
            let added = tiers.add(&mut cache, tokens, None)?;
            assert_eq!(added.cached(), cached);
            append(&mut cache, added.sequence, tokens, cached as usize)?;
            assert_eq!(extracted(&cache, added.sequence)?, expected(&gpu.context, tokens)?);
            cache.free(added.sequence)?;
        }
    }
    // What leaves host memory for others, with nothing below it, is not lost on its way.
    let mut cache = PagedKvCache::new(&gpu.context, &config(30))?;
    let mut small = tiers(&mut cache, 2048, None)?;
    for first in 0..4 {
        let tokens = [&[first][..], &prompt(29)].concat();
        let added = small.add(&mut cache, &tokens, None)?;
        append(&mut cache, added.sequence, &tokens, added.cached() as usize)?;
        cache.free(added.sequence)?;
        assert!(small.flush(LONG));
    }
    let figures = small.figures();
    assert!(figures.host.pages_in > figures.host_pages && figures.host_bytes <= 2048, "{figures:?}");
    assert_eq!((figures.lost, figures.store), (0, Default::default()));
    DONE
}

fn a_prefix_is_found_after_a_restart(gpu: &Gpu) -> Outcome {
    let folder = tempfile::tempdir()?;
    let open =
        || -> Result<Option<Arc<dyn Store>>, Error> { Ok(Some(Arc::new(FolderStore::open(folder.path(), 1 << 20)?))) };
    let tokens = prompt(30);
    {
        let mut first = PagedKvCache::new(&gpu.context, &config(120))?;
        let mut tiers = tiers(&mut first, HOST_BYTES, open()?)?;
        let added = add(&mut tiers, &mut first, &tokens, None)?;
        assert_eq!(parts(&added), (0, 0, 0));
        append(&mut first, added.sequence, &tokens, 0)?;
        // 7 full pages, in three groups. Put again, nothing goes.
        assert_eq!(tiers.put(&first, added.sequence)?, 21);
        assert!(tiers.flush(LONG));
        assert_eq!((tiers.put(&first, added.sequence)?, tiers.figures().store.pages_in), (0, 21));
    }
    // Another process, another pool.
    for (context, pages) in [(&gpu.context, 120), (&gpu.context, 60)] {
        let mut second = PagedKvCache::new(context, &config(pages))?;
        let mut own = tiers(&mut second, HOST_BYTES, open()?)?;
        // What is not prefetched is not waited for.
        let none = own.add(&mut second, &tokens, None)?;
        assert_eq!(parts(&none), (0, 0, 0));
        second.free(none.sequence)?;
        let added = add(&mut own, &mut second, &tokens, None)?;
        assert_eq!(parts(&added), (0, 0, 28));
        // All pages of the layers that keep all; of the window those of the 6 positions that the next query sees before
        // its own, and that of the sink.
        assert_eq!(own.figures().store.pages_out, 7 + 7 + 3);
        append(&mut second, added.sequence, &tokens, 28)?;
        assert_eq!(extracted(&second, added.sequence)?, expected(&gpu.context, &tokens)?);
        // What came is found on the device from now on.
        let again = add(&mut own, &mut second, &tokens, None)?;
        assert_eq!((parts(&again), own.figures().store.pages_out), ((28, 0, 0), 17));
        // A longer prompt of which the store has more than the device: both together.
        let longer = [&tokens[..], &prompt(20)].concat();
        append(&mut second, again.sequence, &longer, 28)?;
        own.put(&second, again.sequence)?;
        assert!(own.flush(LONG));
        let mut third = PagedKvCache::new(context, &config(120))?;
        let mut own = tiers(&mut third, HOST_BYTES, open()?)?;
        let short = add(&mut own, &mut third, &tokens[..14], None)?;
        assert_eq!(parts(&short), (0, 0, 12));
        append(&mut third, short.sequence, &tokens[..14], 12)?;
        let both = add(&mut own, &mut third, &longer, None)?;
        assert_eq!(parts(&both), (12, 0, 36));
        append(&mut third, both.sequence, &longer, 48)?;
        assert_eq!(extracted(&third, both.sequence)?, expected(&gpu.context, &longer)?);
        let text = own.figures().prometheus();
        assert!(
            text.contains("# TYPE kv_cache_tier_hits_total counter\nkv_cache_tier_hits_total{tier=\"device\"} 3\n"),
            "{text}"
        );
    }
    DONE
}

/// Also where host memory has it no longer: it is not copied from the device again.
fn what_the_store_has_is_not_put_again(gpu: &Gpu) -> Outcome {
    let store = Arc::new(MemoryStore::new(1 << 20)?);
    let mut cache = PagedKvCache::new(&gpu.context, &config(120))?;
    // Room for the 12 pages of one prompt, and not for those of two.
    let mut own = tiers(&mut cache, 12_000, Some(store.clone()))?;
    let prompts: Vec<Vec<u32>> = (0..2).map(|first| [&[first][..], &prompt(17)].concat()).collect();
    let mut ids = Vec::new();
    for tokens in &prompts {
        let id = own.add(&mut cache, tokens, None)?.sequence;
        append(&mut cache, id, tokens, 0)?;
        assert_eq!(own.put(&cache, id)?, 12);
        assert!(own.flush(LONG));
        ids.push(id);
    }
    let before = own.figures();
    assert!(before.host_pages < 24, "{before:?}");
    assert_eq!((own.put(&cache, ids[0])?, own.put(&cache, ids[1])?), (0, 0));
    assert!(own.spill(&cache, LONG)?);
    assert_eq!(own.figures(), before);
    DONE
}

/// Nothing was evicted or put: what is in the pool goes, a hit of host memory that went up again, and what only host
/// memory has.
fn spill_leaves_what_the_pool_has(gpu: &Gpu) -> Outcome {
    let folder = tempfile::tempdir()?;
    let open =
        || -> Result<Option<Arc<dyn Store>>, Error> { Ok(Some(Arc::new(FolderStore::open(folder.path(), 1 << 20)?))) };
    let prompts: Vec<Vec<u32>> = (0..4).map(|first| [&[first][..], &prompt(17)].concat()).collect();
    for in_flight_bytes in [1, 1 << 20] {
        // Room for two prompts of 5 pages in 3 groups.
        let mut cache = PagedKvCache::new(&gpu.context, &config(30))?;
        let config = TiersConfig { store: open()?, in_flight_bytes, ..TiersConfig::new("model", HOST_BYTES) };
        let mut own = Tiers::new(&mut cache, config)?;
        let mut ids = Vec::new();
        for tokens in &prompts {
            let added = own.add(&mut cache, tokens, None)?;
            append(&mut cache, added.sequence, tokens, added.cached() as usize)?;
            ids.push(added.sequence);
            // One stays in use.
            if ids.len() > 1 {
                cache.free(ids.remove(0))?;
            }
        }
        assert!(own.spill(&cache, LONG)?);
        assert_eq!((own.figures().lowering_bytes, own.figures().failures), (0, 0));
        // Again, nothing goes.
        let put = own.figures().store.pages_in;
        assert!(own.spill(&cache, LONG)?);
        assert_eq!(own.figures().store.pages_in, put);
        // In one transfer of everything, as in many of one page, what is still in the pool is found by another process.
        let mut other = PagedKvCache::new(&gpu.context, &self::config(120))?;
        let mut of_other = tiers(&mut other, HOST_BYTES, open()?)?;
        let found: Vec<u32> = prompts
            .iter()
            .map(|tokens| {
                let added = add(&mut of_other, &mut other, tokens, None)?;
                append(&mut other, added.sequence, tokens, added.cached() as usize)?;
                assert_eq!(extracted(&other, added.sequence)?, expected(&gpu.context, tokens)?);
                Ok(added.store)
            })
            .collect::<Result<_, Error>>()?;
        assert_eq!(found[3], 16, "{found:?}");
        assert!(in_flight_bytes == 1 || found == [16; 4], "{found:?}");
        std::fs::remove_dir_all(folder.path())?;
        std::fs::create_dir(folder.path())?;
    }
    // Other tiers are no longer attached, and without a store there is nothing to leave.
    let mut cache = PagedKvCache::new(&gpu.context, &config(30))?;
    let mut first = tiers(&mut cache, HOST_BYTES, open()?)?;
    let mut second = tiers(&mut cache, HOST_BYTES, None)?;
    assert_eq!(first.spill(&cache, LONG), Err(wgpu_kv_cache::StoreError::Detached.into()));
    assert!(second.spill(&cache, LONG)?);
    DONE
}

fn what_differs_is_not_found(gpu: &Gpu) -> Outcome {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1 << 20)?);
    let tokens = prompt(18);
    assert_eq!(leave(gpu, store.clone(), &tokens, Some("x"))?, 12);
    let found = |config: &PagedConfig, identity: &str, namespace| -> Result<u32, Error> {
        let mut cache = PagedKvCache::new(&gpu.context, config)?;
        let mut tiers = Tiers::new(&mut cache, TiersConfig::new(identity, HOST_BYTES).store(store.clone()))?;
        Ok(add(&mut tiers, &mut cache, &tokens, namespace)?.store)
    };
    let own_config = config(60);
    assert_eq!(
        (
            found(&own_config, "model", Some("x"))?,
            found(&own_config, "model", None)?,
            found(&own_config, "other", Some("x"))?
        ),
        (16, 0, 0)
    );
    type Change = fn(&mut PagedConfig);
    let changes: [Change; 10] = [
        |config| config.page_size = 2,
        |config| config.layers[0].key_format = Format::Q4_0,
        // The same number of bytes.
        |config| config.layers[0].value_format = Format::Bf16,
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
    // Without room for all of it, a part is taken: the first page. Of a longer one, the window would need pages that
    // the prefetch did not bring.
    let mut full = PagedKvCache::new(&gpu.context, &config(9))?;
    let mut of_full = tiers(&mut full, HOST_BYTES, Some(store.clone()))?;
    let added = add(&mut of_full, &mut full, &tokens, Some("x"))?;
    assert_eq!((parts(&added), full.sequences().counts().referenced), ((0, 0, 4), 3));
    full.free(added.sequence)?;
    // A sequence that is too long is one also if a beginning of it is below.
    let mut of_long = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut below = tiers(&mut of_long, HOST_BYTES, Some(store.clone()))?;
    let long = [&tokens[..], &vec![0; 183]].concat();
    let prefetch = below.prefetch(&of_long, &long, Some("x"))?;
    assert!(prefetch.wait(LONG) && prefetch.tokens() == Some(16));
    let refused = below.add(&mut of_long, &long, Some("x"));
    assert!(matches!(refused, Err(Error::Page(PageError::TooManyTokens { tokens: 201, most: 200 }))), "{refused:?}");
    // A pool that shares nothing finds nothing.
    let mut alone = PagedKvCache::new(&gpu.context, &PagedConfig { share_prefixes: false, ..config(60) })?;
    let mut of_alone = tiers(&mut alone, HOST_BYTES, Some(store.clone()))?;
    assert_eq!(add(&mut of_alone, &mut alone, &tokens, Some("x"))?.cached(), 0);
    DONE
}

fn what_is_prefetched_stays(gpu: &Gpu) -> Outcome {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1 << 20)?);
    let tokens = prompt(18);
    assert_eq!(leave(gpu, store.clone(), &tokens, None)?, 12);
    // Host memory for 12 pages at most, which is what the prompt needs.
    let mut cache = PagedKvCache::new(&gpu.context, &config(30))?;
    let page = {
        let tiers = tiers(&mut cache, 1, None);
        let Err(Error::Store(wgpu_kv_cache::StoreError::BudgetTooSmall { tier, bytes: 1, page_bytes })) = tiers else {
            return Err(format!("{tiers:?}").into());
        };
        assert_eq!(tier, "host memory");
        page_bytes
    };
    // In a store it has a header.
    let refused = tiers(&mut cache, HOST_BYTES, Some(Arc::new(MemoryStore::new(page)?)));
    let Err(Error::Store(wgpu_kv_cache::StoreError::BudgetTooSmall { tier: "the store", bytes, .. })) = refused else {
        return Err(format!("{refused:?}").into());
    };
    assert_eq!(bytes, page);
    let mut own = tiers(&mut cache, 11 * page, Some(store.clone()))?;
    let prefetch = own.prefetch(&cache, &tokens, None)?;
    assert!(prefetch.wait(LONG));
    assert_eq!(prefetch.tokens(), Some(16));
    // Others are evicted meanwhile, more than host memory holds.
    for first in 100..106 {
        let other = [&[first][..], &prompt(20)].concat();
        let added = own.add(&mut cache, &other, None)?;
        append(&mut cache, added.sequence, &other, added.cached() as usize)?;
        cache.free(added.sequence)?;
        assert!(own.flush(LONG));
        assert!(own.figures().host_bytes <= 11 * page);
    }
    let added = own.add(&mut cache, &tokens, None)?;
    assert_eq!(parts(&added), (0, 0, 16));
    append(&mut cache, added.sequence, &tokens, 16)?;
    assert_eq!(extracted(&cache, added.sequence)?, expected(&gpu.context, &tokens)?);
    drop(prefetch);
    cache.free(added.sequence)?;
    // Dropped, it no longer stays; what had no room went to the store.
    for first in 110..116 {
        let other = [&[first][..], &prompt(20)].concat();
        let added = own.add(&mut cache, &other, None)?;
        append(&mut cache, added.sequence, &other, added.cached() as usize)?;
        cache.free(added.sequence)?;
        assert!(own.flush(LONG));
    }
    let added = own.add(&mut cache, &tokens, None)?;
    assert_eq!(parts(&added), (0, 0, 0));
    cache.free(added.sequence)?;
    for first in 100..106 {
        let other = [&[first][..], &prompt(20)].concat();
        let added = add(&mut own, &mut cache, &other, None)?;
        assert_eq!(added.cached(), 20, "{first}: {added:?} {:?}", own.figures());
        append(&mut cache, added.sequence, &other, 20)?;
        assert_eq!(extracted(&cache, added.sequence)?, expected(&gpu.context, &other)?);
        cache.free(added.sequence)?;
        assert!(own.flush(LONG));
    }
    assert_eq!(own.figures().lost, 0);
    // Host memory that holds less than the prompt: the first pages come.
    let mut cache = PagedKvCache::new(&gpu.context, &config(60))?;
    let mut own = tiers(&mut cache, 7 * page, Some(store))?;
    let added = add(&mut own, &mut cache, &tokens, None)?;
    assert!((4..16).contains(&added.store), "{added:?}");
    append(&mut cache, added.sequence, &tokens, added.cached() as usize)?;
    assert_eq!(extracted(&cache, added.sequence)?, expected(&gpu.context, &tokens)?);
    DONE
}

fn bad_input_changes_nothing(gpu: &Gpu) -> Outcome {
    let (mut cache, mut other) =
        (PagedKvCache::new(&gpu.context, &config(60))?, PagedKvCache::new(&gpu.context, &config(60))?);
    let mut own = tiers(&mut cache, HOST_BYTES, None)?;
    let tokens = prompt(18);
    let detached = |result: Result<TieredAdded, Error>| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("not attached to this cache"), "{text}");
    };
    detached(own.add(&mut other, &tokens, None));
    assert!(own.prefetch(&other, &tokens, None).is_err());
    let id = other.add(&[], None)?.sequence;
    assert!(own.put(&other, id).is_err() && own.put(&cache, id).is_err());
    let added = own.add(&mut cache, &tokens, None)?.sequence;
    let mut encoder = gpu.context.device().create_command_encoder(&Default::default());
    cache.begin_step(&mut encoder, &[Append::new(added, &tokens)])?;
    assert!(matches!(own.add(&mut cache, &tokens, None), Err(Error::Page(PageError::StepUnderWay))));
    assert!(matches!(own.put(&cache, added), Err(Error::Page(PageError::StepUnderWay))));
    cache.dropped();
    append(&mut cache, added, &tokens, 0)?;
    assert_eq!(own.put(&cache, added)?, 12);
    assert!(own.flush(LONG));
    assert_eq!((own.figures().host_pages, own.put(&cache, added)?), (12, 0));
    let long = vec![0; 201];
    assert!(matches!(own.add(&mut cache, &long, None), Err(Error::Page(PageError::TooManyTokens { .. }))));
    assert_eq!(cache.sequences().counts().referenced, 12 + 3);
    // Rows of other weights are not found: the tiers were those of the weights before.
    cache.clear_prefixes();
    detached(own.add(&mut cache, &tokens, None));
    let mut of_new = Tiers::new(&mut cache, TiersConfig::new("model, revision 2", HOST_BYTES))?;
    assert_eq!((parts(&of_new.add(&mut cache, &tokens, None)?), of_new.put(&cache, added)?), ((0, 0, 0), 0));
    detached(own.add(&mut cache, &tokens, None));
    drop(of_new);
    // Without tiers, what is evicted is gone.
    let next = cache.add(&[], None)?.sequence;
    append(&mut cache, next, &prompt(100)[..60], 0)?;
    assert_eq!(own.figures().host_pages, 12);
    DONE
}
