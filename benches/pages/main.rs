//! The bookkeeping of pages: its times, and a trace of conversations through it.
//!
//!     cargo bench --bench pages [-- TRACE]

mod conversations;

use std::{
    error::Error,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use wgpu_kv_cache::{
    CacheConfig, Context, PagedConfig, PagedKvCache,
    pages::{Added, Append, PagedSequences, PagesConfig},
    store::FolderStore,
    tiers::{Tiers, TiersConfig},
};

/// Sequences of a decoding step.
const SEQUENCES: u32 = 256;

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Prompts of many sequences, and a step of one token for each of them.
fn planning(repetitions: usize) -> Result<(), Box<dyn Error>> {
    let mut pool = PagedSequences::new(PagesConfig::new(16, 64 * SEQUENCES, SEQUENCES))?;
    let (mut added, mut prefill) = (Vec::new(), 0);
    for index in 0..SEQUENCES {
        let prompt: Vec<u32> = (0..100 + index).map(|token| 1000 * index + token).collect();
        let Added { sequence, .. } = pool.add(&prompt, None)?;
        prefill += allocation_counter::measure(|| drop(pool.begin_step(&[Append::new(sequence, &prompt)]))).count_total;
        pool.submitted();
        added.push(sequence);
    }
    println!("planning {SEQUENCES} prompts of 100 tokens and more: {prefill} heap allocations");
    let appends: Vec<Append<'_>> = added.iter().map(|id| Append::new(*id, &[7])).collect();
    let (mut planned, mut ended, mut allocations) = (Vec::new(), Vec::new(), 0);
    for _ in 0..repetitions {
        let start = Instant::now();
        let counted = allocation_counter::measure(|| drop(pool.begin_step(&appends)));
        planned.push(start.elapsed().as_secs_f64() * 1e6);
        allocations += counted.count_total;
        let start = Instant::now();
        pool.submitted();
        ended.push(start.elapsed().as_secs_f64() * 1e6);
    }
    println!(
        "planning a step of {SEQUENCES} sequences: {:.1} µs, {allocations} heap allocations in all steps; when it is submitted, \
         {:.1} µs (medians of {repetitions})",
        median(planned),
        median(ended),
    );
    Ok(())
}

/// A long prompt that the pool holds already.
fn long_prompt(repetitions: usize) -> Result<(), Box<dyn Error>> {
    let tokens: Vec<u32> = (0..100_001).collect();
    let mut pool = PagedSequences::new(PagesConfig::new(16, 7000, 4))?;
    let Added { sequence, .. } = pool.add(&tokens, None)?;
    pool.begin_step(&[Append::new(sequence, &tokens)])?;
    pool.submitted();
    let (mut found, mut freed) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        let start = Instant::now();
        let Added { sequence, cached } = pool.add(&tokens, None)?;
        found.push(start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(cached, 100_000);
        let start = Instant::now();
        pool.free(sequence)?;
        freed.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("adding 100000 cached tokens: {:.2} ms; freeing them {:.3} ms", median(found), median(freed));
    Ok(())
}

/// Requests one after the other: each finds what it can, appends the rest, and ends. A block of 512 tokens is a page.
fn without_tiers(requests: &[Vec<u32>]) -> Result<(), Box<dyn Error>> {
    let blocks: usize = requests.iter().map(Vec::len).sum();
    let longest = requests.iter().map(Vec::len).max().unwrap_or(0);
    println!("{} requests, {blocks} blocks; the longest has {longest} blocks", requests.len());
    for count in [1000, 5000, 20_000, u32::MAX] {
        let pages = count.min(u32::try_from(blocks)?);
        let mut pool = PagedSequences::new(PagesConfig::new(1, pages, 1))?;
        let start = Instant::now();
        for tokens in requests {
            let Added { sequence, cached } = pool.add(tokens, None)?;
            pool.begin_step(&[Append::new(sequence, &tokens[cached as usize..])])?;
            pool.submitted();
            pool.free(sequence)?;
        }
        let counts = pool.counts();
        println!(
            "{pages:>7} pages: {:>6} blocks found, {:>6} evicted, {:.2} s; room for {} sequences of the longest, or {} of the \
             mean length",
            counts.hits,
            counts.evictions,
            start.elapsed().as_secs_f64(),
            pages as usize / longest.max(1),
            pages as usize * requests.len() / blocks.max(1),
        );
    }
    Ok(())
}

/// The same through tiers, on a device that does nothing: 1000 pages on the device, 5000 in host memory, all in a
/// folder.
fn tiers(requests: &[Vec<u32>]) -> Result<(), Box<dyn Error>> {
    let longest = requests.iter().map(Vec::len).max().unwrap_or(0);
    let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    let layer = CacheConfig::new(1, 1, 1, u32::try_from(longest)?);
    let mut cache = PagedKvCache::new(&Context::new(&device, &queue), &PagedConfig::new(layer, 1, 1, 1000))?;
    let page_bytes = cache.config().page_bytes()? + 4;
    let folder = tempfile::tempdir()?;
    let store = Arc::new(FolderStore::open(folder.path(), 1 << 40)?);
    let mut tiers = Tiers::new(&mut cache, TiersConfig::new("trace", 5000 * page_bytes).store(store))?;
    let (mut found, start) = ([0u64; 3], Instant::now());
    for tokens in requests {
        let prefetch = tiers.prefetch(&cache, tokens, None)?;
        assert!(prefetch.wait(Duration::from_secs(60)), "the folder answers");
        let added = tiers.add(&mut cache, tokens, None)?;
        for (sum, tokens) in found.iter_mut().zip([added.device, added.host, added.store]) {
            *sum += u64::from(tokens);
        }
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        cache.begin_step(&mut encoder, &[Append::new(added.sequence, &tokens[added.cached() as usize..])])?;
        cache.record_advance(0)?;
        queue.submit([encoder.finish()]);
        cache.submitted()?;
        cache.free(added.sequence)?;
        assert!(tiers.flush(Duration::from_secs(60)), "what is evicted goes down");
    }
    let figures = tiers.figures();
    println!(
        "   1000 pages, 5000 in host memory, all others in a folder: {} blocks found = {} on the device + {} in host memory + \
         {} in the folder, {:.2} s; {} lost",
        found.iter().sum::<u64>(),
        found[0],
        found[1],
        found[2],
        start.elapsed().as_secs_f64(),
        figures.lost,
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` passes --bench. Without it, as under `cargo test`, one repetition is enough.
    let whole = std::env::args().any(|argument| argument == "--bench");
    let repetitions = if whole { 501 } else { 1 };
    planning(repetitions)?;
    long_prompt(repetitions.min(21))?;
    let requests = match std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        Some(path) => conversations::read(Path::new(&path))?,
        None => conversations::recorded()?,
    };
    let requests = if whole { &requests[..] } else { &requests[..50.min(requests.len())] };
    without_tiers(requests)?;
    tiers(requests)
}
