//! Sliding windows over pages, compared with dense caches and rings.

use wgpu_kv_cache::{
    AttentionError, CacheConfig, Error, Format, HostRows, KvCache, PagedConfig, PagedKvCache, Pair, Placement,
    RangeError, SequenceError, Write,
    attention::{Options, attend},
    pages::{Append, RETURNED},
};

use crate::{DONE, Gpu, Outcome, Test, paged::Both, rows::numbers};

pub const TESTS: &[Test] = &[
    ("windows_of_pages::attention_is_that_of_a_dense_cache", attention_is_that_of_a_dense_cache),
    ("windows_of_pages::what_is_not_kept_is_refused", what_is_not_kept_is_refused),
    ("windows_of_pages::sequences_move_between_rings_and_pages", sequences_move_between_rings_and_pages),
];

const RING: Placement = Placement::Ring { window: 9, sinks: 2, slack: 0 };

/// A hybrid model: every other layer has a window.
fn hybrid(layer: CacheConfig, page_size: u32, pages: u32) -> PagedConfig {
    let layers = vec![layer.placement(RING), layer, layer.placement(RING), layer];
    PagedConfig { layers, ..PagedConfig::new(layer, 1, page_size, pages) }
}

/// Pages go back and are used again by layers of the other group, and every query still sees what it should.
fn attention_is_that_of_a_dense_cache(gpu: &Gpu) -> Outcome {
    // The dense caches keep all positions, so their attention has the window as an option.
    let options = Options { window: Some(9), sinks: 2, splits: Some(2), ..Options::packed(2, 33) };
    for (page_size, pages, formats) in [(4, 64, [Format::F16, Format::F32]), (2, 110, [Format::Q8_0, Format::Q4_0])] {
        let layer = CacheConfig::new(3, 1, 32, 200).formats(formats[0], formats[1]);
        let config = hybrid(layer, page_size, pages);
        // Layers of the two groups share planes.
        let stored = CacheConfig { batch_size: pages, max_batch_size: pages, max_seq_len: page_size, ..layer };
        assert_eq!(config.bytes()?, 2 * KvCache::new(&gpu.context, stored)?.memory_allocated_bytes());
        let mut both = Both::new(&gpu.context, &gpu.context, &config)?;
        for counts in
            [[12, 3, 0], [1, 1, 1], [1, 1, 20], [20, 0, 1], [1, 1, 1], [1, 30, 1], [1, 1, 1], [2, 1, 0], [9, 1, 1]]
        {
            both.append(&counts)?;
            both.attend(&options, counts.iter().sum())?;
            both.compare()?;
        }
        let books = both.paged.sequences();
        let there =
            |group| books.pages(both.ids[0], group).map(|pages| pages.iter().filter(|page| **page != RETURNED).count());
        let whole = 47u32.div_ceil(page_size) as usize;
        assert_eq!(there(1)?, whole);
        assert!(there(0)? < whole, "pages went back");
    }
    DONE
}

fn what_is_not_kept_is_refused(gpu: &Gpu) -> Outcome {
    let layer = CacheConfig::new(2, 1, 8, 200);
    let mut both = Both::new(&gpu.context, &gpu.context, &hybrid(layer, 4, 64))?;
    both.append(&[40, 2])?;
    both.append(&[1, 1])?;
    let (id, cache) = (both.ids[0], &both.paged);
    let oldest = cache.sequences().oldest(id, 0)?;
    assert_eq!(oldest, 32, "the query at 40 sees from 32 on");
    let evicted = |position| Err(Error::Range(RangeError::Evicted { sequence: id.row(), position, oldest }));
    assert_eq!(cache.get(0, id, 5..41).map(drop), evicted(5));
    assert_eq!(cache.get(0, id, 31..33).map(drop), evicted(31));
    cache.get(0, id, 32..41)?;
    cache.get(0, id, 0..4)?; // the sinks' page
    cache.get(1, id, 0..41)?;
    let queries = numbers(2 * 8, 3);
    let refused = |options: Options| {
        let queries = numbers((2 * options.tokens * 8) as usize, 3);
        attend(&cache.layer(2)?, &options, &queries, None).map(drop)
    };
    let base = Options::last(1, 1);
    for (wanted, wanted_sinks) in [(10, 0), (9, 3)] {
        let expected = AttentionError::AttentionWindow { window: 9, sinks: 2, wanted, wanted_sinks };
        assert_eq!(refused(Options { window: Some(wanted), sinks: wanted_sinks, ..base }), Err(expected.into()));
    }
    assert_eq!(refused(Options::last(1, 2)), Err(RangeError::Evicted { sequence: 0, position: 31, oldest }.into()));
    refused(base)?;
    attend(&cache.layer(1)?, &base, &queries, None)?;
    let expected = SequenceError::RollbackEvicted { sequence: id.row(), length: 39, shortest: 40, sinks: 2, oldest };
    assert_eq!(both.paged.truncate(id, 39), Err(expected.into()));
    both.paged.truncate(id, 40)?;
    DONE
}

fn sequences_move_between_rings_and_pages(gpu: &Gpu) -> Outcome {
    for (page_size, formats) in [(4, [Format::F16, Format::Q8_0]), (1, [Format::F32, Format::Fp8E4M3])] {
        let layer = CacheConfig::new(1, 2, 32, 200).formats(formats[0], formats[1]);
        let config = hybrid(layer, page_size, 400);
        let mut dense: Vec<KvCache> =
            config.layers.iter().map(|layer| KvCache::new(&gpu.context, *layer)).collect::<Result<_, _>>()?;
        // Of layer and number: rows that differ.
        let rows = |tokens: u32, seed: usize| numbers((2 * tokens * 32) as usize, seed as u32);
        for length in [1u32, 5, 23] {
            for (seed, cache) in dense.iter_mut().enumerate() {
                cache.update(&rows(length, seed), &rows(length, seed + 9), Write::append(length))?;
            }
        }
        let read = |rows: Pair<wgpu_kv_cache::GpuTensor>| rows.read();
        let extracted: Vec<_> = dense.iter().map(|cache| cache.extract(0).and_then(read)).collect::<Result<_, _>>()?;
        let tokens: Vec<u32> = (0..29).collect();
        let mut paged = PagedKvCache::new(&gpu.context, &config)?;
        let given: Vec<_> =
            extracted.iter().map(|rows| Pair { keys: rows.keys.rows(), values: rows.values.rows() }).collect();
        let id = paged.insert(&tokens, None, &given)?;
        let again: Vec<_> = paged.extract(id)?.into_iter().map(read).collect::<Result<_, _>>()?;
        assert_eq!(again, extracted);
        // Pages before the window were never taken, and what a window lacks is not offered.
        let window = paged.sequences().pages(id, 0)?;
        assert_eq!(
            window.iter().filter(|page| **page == RETURNED).count() as u32,
            20 / page_size - 2u32.div_ceil(page_size)
        );
        let sinks = if page_size == 1 { 2 } else { 0 };
        assert_eq!(paged.sequences().matched(&tokens[..20], None), sinks);
        let mut longer = tokens.clone();
        longer.push(7);
        assert_eq!(paged.sequences().matched(&longer, None), if page_size == 1 { 29 } else { 0 });
        let short = SequenceError::RollbackEvicted { sequence: 0, length: 27, shortest: 28, sinks: 2, oldest: 20 };
        assert_eq!(paged.truncate(id, 27), Err(short.into()));
        // Both go on, with the same bits of the next token's attention.
        for (seed, cache) in dense.iter_mut().enumerate() {
            cache.update(&rows(1, seed + 20), &rows(1, seed + 30), Write::append(1))?;
        }
        let next: Vec<_> = (0..4).map(|seed| [rows(1, seed + 20), rows(1, seed + 30)]).collect();
        let next: Vec<_> = next
            .iter()
            .map(|[keys, values]| Pair { keys: HostRows::from(keys), values: HostRows::from(values) })
            .collect();
        paged.append(&[Append::new(id, &[29])], &next)?;
        let queries = numbers(4 * 32, 77);
        let options = Options { splits: Some(1), ..Options::last(4, 1) };
        for (layer, cache) in dense.iter().enumerate() {
            let (expected, actual) =
                (attend(cache, &options, &queries, None)?, attend(&paged.layer(layer)?, &options, &queries, None)?);
            let apart = crate::rows::distance(
                &expected.to_f32().iter().map(|x| f64::from(*x)).collect::<Vec<_>>(),
                &actual.to_f32(),
            );
            assert!(apart < crate::rows::BOUND, "layer {layer}: {apart}");
        }
        // And back into a ring.
        let back: Vec<_> = paged.extract(id)?.into_iter().map(read).collect::<Result<_, _>>()?;
        for (layer, cache) in dense.iter_mut().enumerate() {
            let expected = cache.extract(0)?.read()?;
            assert_eq!(back[layer], expected);
            cache.insert(0, 30, back[layer].keys.rows(), back[layer].values.rows())?;
            assert_eq!(cache.extract(0)?.read()?, expected);
        }
    }
    DONE
}
