//! A server's loop over one pool of pages: 64 requests with shared beginnings, continuous batching, preemption.
//!
//!     scripts/with-drivers cargo run --release --example serve
//!
//! There is no model: rows come from a buffer that stands for the output of your kernels, and tokens from a counter.
//! Everything about keys and values is as in an engine.

use std::{collections::VecDeque, time::Instant};

use wgpu_kv_cache::{
    CacheConfig, Context, Error, Format, PageError, PagedConfig, PagedKvCache, RowsIn, Source, Strides, adapter_label,
    adapters,
    attention::{Attention, Options, Tensors},
    pages::{Append, SequenceId},
};

const LAYERS: usize = 4;
const HEADS: u32 = 4;
const QUERY_HEADS: u32 = 8;
const DIM: u32 = 64;
/// Sequences that run at a time, and tokens of a step.
const RUNNING: u32 = 16;
const BUDGET: u32 = 256;
const PAGE: u32 = 16;
const PAGES: u32 = 160;

/// A request, waiting or running.
struct Request {
    prompt: Vec<u32>,
    /// Tokens that it wants, and those that it has.
    wanted: usize,
    generated: Vec<u32>,
}

/// A request with rows in the cache.
struct Running {
    request: Request,
    sequence: SequenceId,
}

impl Request {
    /// The tokens whose rows it needs before the next one can be computed.
    fn tokens(&self) -> Vec<u32> {
        [&self.prompt[..], &self.generated].concat()
    }
}

/// 64 requests: four system prompts, each followed by one of four documents, and a question of its own.
fn requests() -> VecDeque<Request> {
    let request = |number: u32| {
        let system = (0..80).map(|token| 1000 * (number % 4) + token);
        let document = (0..100).map(|token| 10_000 + 1000 * (number / 4 % 4) + token);
        let question = (0..10 + number % 23).map(|token| 100_000 + 100 * number + token);
        let prompt = system.chain(document).chain(question).collect();
        Request { prompt, wanted: 8 + number as usize % 40, generated: Vec::new() }
    };
    (0..64).map(request).collect()
}

fn main() -> Result<(), Error> {
    let adapter = adapters()?.swap_remove(0);
    let context = Context::open(&adapter)?;
    println!("on {}", adapter_label(&adapter.get_info()));
    let (device, queue) = (context.device(), context.queue());

    let layer = CacheConfig::new(RUNNING, HEADS, DIM, 1024).formats(Format::F16, Format::F16);
    let mut cache = PagedKvCache::new(&context, &PagedConfig::new(layer, LAYERS, PAGE, PAGES))?;

    // Your buffers: keys, values and queries of up to BUDGET tokens, packed, and the output of attention.
    let rows = |heads: u32| {
        let numbers: Vec<f32> = (0..BUDGET * heads * DIM).map(|i| (i as f32 * 0.37).sin()).collect();
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(BUDGET * heads * DIM) * 4,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&numbers));
        buffer
    };
    let (keys, values, queries, output) = (rows(HEADS), rows(HEADS), rows(QUERY_HEADS), rows(QUERY_HEADS));
    let packed = |buffer, heads| {
        let strides = Strides::bthd(heads, BUDGET, DIM);
        RowsIn { buffer, offset: 0, format: Format::F32, strides }
    };
    let source = Source { keys: packed(&keys, HEADS), values: packed(&values, HEADS), tokens: BUDGET };
    let tensors = Tensors {
        queries: packed(&queries, QUERY_HEADS),
        output: packed(&output, QUERY_HEADS),
        mask: None,
        sink_logits: None,
    };
    let (mut sources, mut attentions) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        sources.push(cache.bind_source(layer, &source)?);
        attentions.push(Attention::new(&cache.layer(layer)?, &Options::packed(QUERY_HEADS, BUDGET), &tensors)?);
    }

    let mut waiting = requests();
    let longest = waiting.iter().map(|request| request.prompt.len() + request.wanted).max().unwrap_or(0);
    let mut running: Vec<Running> = Vec::new();
    let (mut steps, mut computed, mut cached, mut preempted, mut done, mut most, mut at_once) = (0, 0, 0, 0, 0, 0, 0);
    let (start, mut admits) = (Instant::now(), true);
    while !(waiting.is_empty() && running.is_empty()) {
        // Who runs: those that run already, and those that wait while there are pages for all that they bring.
        while let Some(request) = waiting.front().filter(|_| admits && running.len() < RUNNING as usize) {
            let tokens = request.tokens();
            if cache.sequences().check_room(&tokens, None).is_err() {
                break;
            }
            let added = cache.add(&tokens, None)?;
            cached += added.cached;
            let request = waiting.pop_front().expect("it is there");
            running.push(Running { request, sequence: added.sequence });
        }
        // What each appends: the rest of its prompt, or its last token, within the budget of the step.
        let mut budget = BUDGET as usize;
        let mut parts = Vec::new();
        for Running { request, sequence } in &running {
            let tokens = request.tokens();
            let length = cache.sequences().length(*sequence)? as usize;
            let count = (tokens.len() - length).min(budget);
            budget -= count;
            parts.push(tokens[length..length + count].to_vec());
        }
        let appends: Vec<_> =
            running.iter().zip(&parts).map(|(running, part)| Append::new(running.sequence, part)).collect();

        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            let begun = cache.begin_step(&mut pass, &appends).map(drop);
            if let Err(Error::Page(PageError::OutOfPages { .. })) = begun {
                // The request that came last waits again. What it computed may still be found later.
                let last = running.pop().expect("a step without sequences needs no pages");
                cache.free(last.sequence)?;
                waiting.push_front(last.request);
                preempted += 1;
                admits = false;
                continue;
            }
            begun?;
            for layer in 0..LAYERS {
                // Your kernels compute keys, values and queries here.
                cache.record_update(layer, &mut pass, &sources[layer])?;
                attentions[layer].record(&cache.layer(layer)?, &mut pass)?;
            }
        }
        queue.submit([encoder.finish()]);
        cache.submitted()?;
        admits = true;
        steps += 1;
        computed += parts.iter().map(Vec::len).sum::<usize>();
        most = most.max(cache.sequences().counts().referenced);
        at_once = at_once.max(running.len());

        // A request whose rows are all there has its next token; one that has all it wanted leaves.
        let mut still = Vec::new();
        for Running { mut request, sequence } in running {
            if cache.sequences().length(sequence)? as usize == request.prompt.len() + request.generated.len() {
                request.generated.push(7 * steps + request.generated.len() as u32);
            }
            if request.generated.len() < request.wanted {
                still.push(Running { request, sequence });
            } else {
                cache.free(sequence)?;
                done += 1;
            }
        }
        running = still;
    }
    context.wait()?;

    let counts = cache.sequences().counts();
    let (computed, cached) = (computed as u32, cached);
    println!("{done} requests in {steps} steps, up to {at_once} at a time, {:.2} s", start.elapsed().as_secs_f64());
    println!(
        "pages of {PAGE} tokens: {most} of {PAGES} in use at most, {} evicted, {preempted} requests preempted",
        counts.evictions
    );
    println!("prefixes: {} of {} pages that were looked for were there", counts.hits, counts.queried);
    println!(
        "tokens: {computed} computed, {cached} found: {:.0} % of the work saved",
        100.0 * f64::from(cached) / f64::from(computed + cached)
    );
    let dense = at_once as u64 * (longest as u64).next_multiple_of(u64::from(PAGE)) * cache.memory_allocated_bytes()
        / u64::from(PAGE * PAGES);
    println!(
        "memory: {:.1} MiB; as many sequences of the longest length would take {:.1} MiB",
        cache.memory_allocated_bytes() as f64 / f64::from(1 << 20),
        dense as f64 / f64::from(1 << 20)
    );
    Ok(())
}
