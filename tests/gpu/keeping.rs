//! `keep` of many rows, in every form of recording.

use wgpu_kv_cache::{
    CacheConfig, Error, Format, HostRows, KvCache, PagedConfig, PagedKvCache, Pair, Placement, Write, pages::Append,
};

use crate::{DONE, Gpu, Outcome, Test, rows::numbers};

pub const TESTS: &[Test] =
    &[("keeping::of_dense_caches_and_rings", of_dense_caches_and_rings), ("keeping::of_pages", of_pages)];

/// Indices that no two rows next to each other have.
fn odd(count: u32) -> Vec<u32> {
    (0..count).map(|index| 2 * index + 1).collect()
}

/// Rows at some positions of `[head, position, dim]`, as bytes.
fn picked(rows: &[u8], heads: usize, positions: &(impl Iterator<Item = u32> + Clone)) -> Vec<u8> {
    let head = rows.len() / heads;
    let of_head =
        |head: &[u8]| positions.clone().flat_map(|at| head[at as usize * 4..][..4].to_vec()).collect::<Vec<u8>>();
    rows.chunks_exact(head).flat_map(of_head).collect()
}

fn of_dense_caches_and_rings(gpu: &Gpu) -> Outcome {
    let ring = Placement::Ring { window: 500, sinks: 0, slack: 3000 };
    for (kept, batch, placement) in
        [(4, 1, Placement::Linear), (16, 4, Placement::Linear), (80, 1, Placement::Linear), (1400, 1, ring)]
    {
        for in_pass in [false, true] {
            let config = CacheConfig::new(batch, 2, 2, 3000).formats(Format::F16, Format::F16).placement(placement);
            let mut cache = KvCache::new(&gpu.context, config)?;
            let length = 2 * kept + 3;
            let rows = |seed| numbers((batch * 2 * length * 2) as usize, seed);
            cache.update(&rows(1), &rows(2), Write::append(length))?;
            let all = cache.get(length - 500.min(length)..length).and_then(|rows| rows.read());
            let before = if placement == Placement::Linear { cache.get(0..length)?.read()? } else { all? };
            // More than once, so that a step lies behind another.
            for _ in 0..3 {
                let mut encoder =
                    gpu.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                if in_pass {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    cache.record_keep(&mut pass, batch - 1, 2 * kept + 1, &odd(kept))?;
                } else {
                    cache.record_keep(&mut encoder, batch - 1, 2 * kept + 1, &odd(kept))?;
                }
                gpu.context.queue().submit([encoder.finish()]);
                let after = cache.extract(batch - 1)?.read()?;
                if placement == Placement::Linear {
                    let positions = (0..2).chain(odd(kept).into_iter().map(|index| index + 2));
                    let of = |all: &[u8]| {
                        let sequence = all.len() / batch as usize;
                        picked(&all[sequence * (batch - 1) as usize..], 2, &positions)
                    };
                    let [keys, values] = [before.keys.bytes(), before.values.bytes()].map(of);
                    assert!(
                        after.keys.bytes() == keys && after.values.bytes() == values,
                        "{kept} rows, pass: {in_pass}"
                    );
                } else {
                    // The last 250 of the rows that are kept were among the last 500.
                    let positions = (0..250).map(|index| 2 * index);
                    let expected = picked(before.keys.bytes(), 2, &positions);
                    let rows = after.keys.bytes();
                    let actual = picked(rows, 2, &(250..500));
                    assert!(actual == expected, "{kept} rows of a ring, pass: {in_pass}");
                }
                cache.clear_sequence(batch - 1)?;
                let counts: Vec<u32> =
                    (0..batch).map(|sequence| if sequence + 1 == batch { length } else { 0 }).collect();
                cache.update(&rows(1), &rows(2), Write::append(length).counts(&counts))?;
            }
        }
    }
    DONE
}

fn of_pages(gpu: &Gpu) -> Outcome {
    for (kept, page_size, pages) in [(700u32, 16, 200), (1500, 1024, 8)] {
        let layer = CacheConfig::new(2, 2, 2, 4000).formats(Format::F16, Format::F16);
        let mut cache = PagedKvCache::new(&gpu.context, &PagedConfig::new(layer, 2, page_size, pages))?;
        let length = 2 * kept + 3;
        let tokens: Vec<u32> = (0..length).collect();
        let id = cache.add(&[], None)?.sequence;
        let rows: Vec<_> = (0..4).map(|seed| numbers((2 * length * 2) as usize, seed)).collect();
        let pair = |layer: usize| Pair { keys: HostRows::from(&rows[layer]), values: HostRows::from(&rows[layer + 2]) };
        cache.append(&[Append::new(id, &tokens)], &[pair(0), pair(1)])?;
        let before: Vec<_> = cache.extract(id)?.into_iter().map(|rows| rows.read()).collect::<Result<_, Error>>()?;
        cache.keep(id, 2 * kept + 1, &odd(kept))?;
        let after: Vec<_> = cache.extract(id)?.into_iter().map(|rows| rows.read()).collect::<Result<_, Error>>()?;
        let positions = (0..2).chain(odd(kept).into_iter().map(|index| index + 2));
        for (before, after) in before.iter().zip(&after) {
            for (before, after) in [(&before.keys, &after.keys), (&before.values, &after.values)] {
                assert!(after.bytes() == picked(before.bytes(), 2, &positions), "{kept} rows of pages");
            }
        }
    }
    DONE
}
