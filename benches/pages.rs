//! The bookkeeping of pages: its times, and a trace of conversations through it.
//!
//!     cargo bench --bench pages [-- TRACE.jsonl]

use std::{error::Error, fs, time::Instant};

use wgpu_kv_cache::pages::{Added, Append, PagedSequences, PagesConfig};

/// Sequences of a decoding step.
const SEQUENCES: u32 = 256;
/// Tokens of a block of the trace.
const BLOCK: u32 = 512;

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

/// Requests one after the other: each finds what it can, appends the rest, and ends.
fn conversations(path: &str) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut requests: Vec<Vec<u32>> = Vec::new();
    for line in text.lines() {
        let request: serde_json::Value = serde_json::from_str(line)?;
        let blocks = request["hash_ids"].as_array().ok_or("a request has no hash_ids")?;
        let block = |id: &serde_json::Value| Some(vec![u32::try_from(id.as_u64()?).ok()?; BLOCK as usize]);
        let tokens: Option<Vec<Vec<u32>>> = blocks.iter().map(block).collect();
        requests.push(tokens.ok_or("an id is no 32-bit number")?.concat());
    }
    let blocks: usize = requests.iter().map(|tokens| tokens.len() / BLOCK as usize).sum();
    let longest = requests.iter().map(Vec::len).max().unwrap_or(0);
    println!("{} requests, {blocks} blocks of {BLOCK} tokens; the longest has {longest} tokens", requests.len());
    for count in [1000, 5000, 20_000, u32::MAX] {
        let pages = count.min(u32::try_from(blocks)?);
        let mut pool = PagedSequences::new(PagesConfig::new(BLOCK, pages, 1))?;
        let start = Instant::now();
        for tokens in &requests {
            let Added { sequence, cached } = pool.add(tokens, None)?;
            pool.begin_step(&[Append::new(sequence, &tokens[cached as usize..])])?;
            pool.submitted();
            pool.free(sequence)?;
        }
        let counts = pool.counts();
        let room = pages as usize * BLOCK as usize;
        println!(
            "{pages:>7} pages: {:>6} blocks found, {:>6} evicted, {:.2} s; room for {} sequences of the longest, or {} of the \
             mean length",
            counts.hits,
            counts.evictions,
            start.elapsed().as_secs_f64(),
            room / longest.max(1),
            pages as usize * requests.len() / blocks.max(1),
        );
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` passes --bench. Without it, as under `cargo test`, one repetition is enough.
    let whole = std::env::args().any(|argument| argument == "--bench");
    let repetitions = if whole { 501 } else { 1 };
    planning(repetitions)?;
    long_prompt(repetitions.min(21))?;
    match std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        Some(path) => conversations(&path),
        None => Ok(()),
    }
}
