//! The table of targets. Each figure of the cache is compared with a baseline in the same run on the same device, as
//! medians of interleaved repetitions after warm-up. `make bench` prints the table and marks rows that miss.
//!
//!     cargo bench --bench targets [-- ADAPTER [pages | forks | tiers]]
//!
//! With `pages` or `tiers`, only the rows about these; with `forks`, those of pages about forks.

#[path = "targets/by_hand.rs"]
mod by_hand;
#[path = "targets/host.rs"]
mod host;
#[path = "targets/pages.rs"]
mod pages;
#[path = "targets/reading.rs"]
mod reading;
#[path = "targets/tiers.rs"]
mod tiers;

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, Destination, Form, Format, KvCache, Pair, Result, RowsIn, Side,
    Source, Strides, Write, adapter_label, adapters, find_adapter,
};

/// KV heads and head size in every row.
pub const HEADS: u32 = 8;
pub const DIM: u32 = 128;
/// Layers of a decoding step.
pub const LAYERS: usize = 32;

/// The bound that a figure has to meet.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    AtLeast(f64),
    AtMost(f64),
}

/// Prints the rows of the table and counts those that miss.
#[derive(Debug, Default)]
pub struct Table {
    missed: usize,
}

impl Table {
    pub fn row(&mut self, what: &str, against: &str, reach: Reach, figure: f64, unit: &str) {
        let (sign, target, holds) = match reach {
            Reach::AtLeast(target) => ("≥", target, figure >= target),
            Reach::AtMost(target) => ("≤", target, figure <= target),
        };
        self.missed += usize::from(!holds);
        let mark = if holds { "  " } else { "✗ " };
        println!("{mark}{what:<52} {against:<44} {sign} {target:<6} {figure:>9.3}{unit}");
    }

    pub fn note(&self, text: &str) {
        println!("      {text}");
    }
}

/// Records the work to be timed into an encoder.
pub type Record<'a> = Box<dyn FnMut(&mut wgpu::CommandEncoder) -> Result<()> + 'a>;

/// Returns the median of each form in seconds, including the time to record. Repetitions of the forms are interleaved.
///
/// # Errors
/// Those of the recording.
pub fn medians(context: &Context, repetitions: usize, forms: &mut [Record<'_>]) -> Result<Vec<f64>> {
    let mut times = vec![Vec::new(); forms.len()];
    for repetition in 0..repetitions + 2 {
        for (form, times) in forms.iter_mut().zip(&mut times) {
            context.wait()?;
            let start = Instant::now();
            let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            form(&mut encoder)?;
            context.queue().submit([encoder.finish()]);
            context.wait()?;
            if repetition >= 2 {
                times.push(start.elapsed());
            }
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64)
    };
    Ok(times.into_iter().map(median).collect())
}

pub fn buffer(context: &Context, bytes: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: bytes,
        usage,
        mapped_at_creation: false,
    });
    let pattern: Vec<u32> = (0..bytes / 4).map(|i| 0x3f80_0000 | (i as u32).wrapping_mul(2_654_435_761) >> 9).collect();
    context.queue().write_buffer(&buffer, 0, bytemuck::cast_slice(&pattern));
    buffer
}

/// The device's own copy of that many bytes.
fn one_copy(context: &Context, bytes: u64) -> Record<'static> {
    let (from, to) = (buffer(context, bytes), buffer(context, bytes));
    Box::new(move |encoder| {
        encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes);
        Ok(())
    })
}

/// Binds dense rows of both sides.
///
/// # Errors
/// Those of [`KvCache::bind_source`].
pub fn bind(
    cache: &KvCache,
    keys: &wgpu::Buffer,
    values: &wgpu::Buffer,
    format: Format,
    tokens: u32,
) -> Result<BoundSource> {
    let rows_in = |buffer| RowsIn { buffer, offset: 0, format, strides: Strides::bhtd(HEADS, tokens, DIM) };
    cache.bind_source(&Source { keys: rows_in(keys), values: rows_in(values), tokens })
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // `cargo bench` passes --bench. Without it, as under `cargo test`, one repetition is enough.
    let whole = std::env::args().any(|argument| argument == "--bench");
    let mut words = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let (wanted, part) = (words.next(), words.next());
    let adapter = match wanted {
        Some(name) => find_adapter(&name)?,
        None => adapters()?.swap_remove(0),
    };
    let repetitions = if whole { 101 } else { 1 };
    let context = Context::open(&adapter)?;
    let info = adapter.get_info();
    println!("{}, {} {}", adapter_label(&info), info.driver, info.driver_info);
    println!("medians of {repetitions} interleaved repetitions, wall clock\n");
    println!("  {:<52} {:<44} {:<8} {:>9}", "what", "against", "reach", "measured");
    let mut table = Table::default();
    match part.as_deref() {
        None => all(&context, &adapter, (repetitions, whole), &mut table)?,
        Some("pages") => pages::rows(&context, repetitions, whole, &mut table)?,
        Some("forks") => pages::forks(&context, repetitions.min(21), &mut table)?,
        Some("tiers") => tiers::rows(&context, whole, &mut table)?,
        Some(part) => return Err(format!("the part must be pages, forks or tiers, but is {part}").into()),
    }
    println!("\n{} rows miss", table.missed);
    Ok(())
}

fn all(
    context: &Context,
    adapter: &wgpu::Adapter,
    (repetitions, whole): (usize, bool),
    table: &mut Table,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    prefill(context, repetitions, table)?;
    range(context, repetitions, table)?;
    decode(context, if whole { repetitions } else { 1 }, whole, table)?;
    reset(context, repetitions, table)?;
    reading::rows(context, repetitions, table)?;
    pages::rows(context, repetitions, whole, table)?;
    tiers::rows(context, whole, table)?;
    host::rows(whole, table)?;
    host::resources(adapter, table)?;
    host::attentions(adapter, whole, table)?;
    first_update(context, table)?;
    costs(context, table)?;
    Ok(())
}

/// Long updates: matching formats against one copy, conversions against a kernel for exactly that shape.
fn prefill(context: &Context, repetitions: usize, table: &mut Table) -> Result<()> {
    for tokens in [256, 1024, 4096] {
        let config = CacheConfig::new(1, HEADS, DIM, 4096).formats(Format::F16, Format::F16);
        let mut cache = KvCache::new(context, config)?;
        let bytes = config.bytes_per_token()? * u64::from(tokens);
        let (keys, values) = (buffer(context, bytes / 2), buffer(context, bytes / 2));
        let source = bind(&cache, &keys, &values, Format::F16, tokens)?;
        let times = medians(
            context,
            repetitions,
            &mut [
                Box::new(|encoder| cache.record_update(encoder, &source, Write::at(0, tokens))),
                one_copy(context, bytes),
            ],
        )?;
        let what = format!("prefill of {tokens} tokens, f16 to f16");
        table.row(
            &what,
            "one buffer copy of the same bytes",
            Reach::AtLeast(0.9),
            times[1] / times[0],
            " × its bandwidth",
        );
    }
    for (stored, tokens) in [(Format::F16, 1024), (Format::Bf16, 1024)] {
        let config = CacheConfig::new(1, HEADS, DIM, 4096).formats(stored, stored);
        let mut cache = KvCache::new(context, config)?;
        let bytes = u64::from(HEADS * tokens * DIM) * 4;
        let (keys, values) = (buffer(context, bytes), buffer(context, bytes));
        let source = bind(&cache, &keys, &values, Format::F32, tokens)?;
        let planes = Side::BOTH.map(|side| cache.view().side(side).segments().next().expect("one").buffer.clone());
        let hand = by_hand::Convert::new(context, stored, tokens, 4096, [&keys, &values], [&planes[0], &planes[1]]);
        let times = medians(
            context,
            repetitions,
            &mut [
                Box::new(|encoder| cache.record_update(encoder, &source, Write::at(0, tokens))),
                Box::new(|encoder| {
                    hand.record(encoder);
                    Ok(())
                }),
            ],
        )?;
        let what = format!("prefill of {tokens} tokens, f32 to {stored}");
        table.row(
            &what,
            "a kernel by hand for that one shape",
            Reach::AtLeast(0.95),
            times[1] / times[0],
            " × its speed",
        );
        table.note(&format!("cache {:.3} ms, by hand {:.3} ms", times[0] * 1e3, times[1] * 1e3));
    }
    Ok(())
}

/// Reading a range, against one copy.
fn range(context: &Context, repetitions: usize, table: &mut Table) -> Result<()> {
    let config = CacheConfig::new(1, HEADS, DIM, 4096).formats(Format::F16, Format::F16);
    let mut cache = KvCache::new(context, config)?;
    let side = config.bytes_per_layer()? / 2;
    let (keys, values) = (buffer(context, side), buffer(context, side));
    let source = bind(&cache, &keys, &values, Format::F16, 4096)?;
    medians(context, 0, &mut [Box::new(|encoder| cache.record_update(encoder, &source, Write::at(0, 4096)))])?;
    for range in [1000..1256, 512..2560] {
        let bytes = config.bytes_per_token()? * u64::from(range.end - range.start);
        let (to_keys, to_values) = (buffer(context, bytes / 2), buffer(context, bytes / 2));
        let times = medians(
            context,
            repetitions,
            &mut [
                Box::new(|encoder| {
                    let to = |buffer| Destination::new(buffer, 0);
                    cache.record_get(encoder, range.clone(), Pair { keys: to(&to_keys), values: to(&to_values) })
                }),
                one_copy(context, bytes),
            ],
        )?;
        let what = format!("range of {} tokens, f16", range.end - range.start);
        table.row(
            &what,
            "one buffer copy of the same bytes",
            Reach::AtLeast(0.9),
            times[1] / times[0],
            " × its bandwidth",
        );
    }
    Ok(())
}

/// Reset of all layers, against clearing each of their buffers. Neither has a dispatch.
fn reset(context: &Context, repetitions: usize, table: &mut Table) -> Result<()> {
    let config = CacheConfig::new(1, HEADS, DIM, 128).formats(Format::F16, Format::F16);
    let mut cache = BatchedKvCache::new(context, config, LAYERS)?;
    let mut buffers = Vec::new();
    for layer in cache.layers() {
        let view = layer.view();
        buffers.push(view.lengths_on_device().buffer.clone());
        buffers.extend(
            Side::BOTH
                .iter()
                .flat_map(|&side| view.side(side).segments().map(|segment| segment.buffer.clone()))
                .collect::<Vec<_>>(),
        );
    }
    let times = medians(
        context,
        repetitions,
        &mut [
            Box::new(|encoder| {
                cache.record_reset(encoder);
                Ok(())
            }),
            Box::new(|encoder| {
                buffers.iter().for_each(|buffer| encoder.clear_buffer(buffer, 0, None));
                Ok(())
            }),
        ],
    )?;
    let against = format!("{} clears by hand, one a buffer", buffers.len());
    table.row("reset of 32 layers, no dispatch", &against, Reach::AtMost(1.1), times[0] / times[1], " × its time");
    Ok(())
}

/// One token through 32 layers, against handwritten kernels and copies that do nothing else.
fn decode(context: &Context, repetitions: usize, whole: bool, table: &mut Table) -> Result<()> {
    let batches: &[u32] = if whole { &[1, 8, 32] } else { &[1, 8] };
    for &batch in batches {
        let capacity = 128;
        let config = CacheConfig::new(batch, HEADS, DIM, capacity).formats(Format::F16, Format::F16);
        let cache = BatchedKvCache::new(context, config, LAYERS)?;
        let bytes = config.bytes_per_token()? / 2;
        let (keys, values) = (buffer(context, bytes), buffer(context, bytes));
        let sources: Vec<_> =
            cache.layers().iter().map(|layer| bind(layer, &keys, &values, Format::F16, 1)).collect::<Result<_>>()?;
        let planes: Vec<_> = cache
            .layers()
            .iter()
            .map(|layer| Side::BOTH.map(|side| layer.view().side(side).segments().next().expect("one").buffer.clone()))
            .collect();
        let hand = by_hand::Decode::new(context, false, batch, capacity, [&keys, &values], &planes);
        let cache = RefCell::new(cache);
        // Record as an engine would: one pass for all layers, unless copies are cheaper.
        let step = |encoder: &mut wgpu::CommandEncoder, position: u32| record_step(&cache, &sources, encoder, position);
        // Every step writes at the same position. Alternating between an earlier and a later one would make gaps.
        step_to(context, &step, capacity / 2)?;
        let times = medians(
            context,
            repetitions,
            &mut [
                Box::new(|encoder| step(encoder, capacity / 2)),
                Box::new(|encoder| {
                    hand.record_dispatches(encoder, capacity / 2);
                    Ok(())
                }),
                Box::new(|encoder| {
                    hand.record_copies(encoder, capacity / 2);
                    Ok(())
                }),
            ],
        )?;
        let (against, best) = if times[1] < times[2] { ("dispatches", times[1]) } else { ("copies", times[2]) };
        let what = format!("decode step, {LAYERS} layers, batch {batch}");
        table.row(
            &what,
            &format!("{against} by hand, the better form"),
            Reach::AtMost(1.1),
            times[0] / best,
            " × its time",
        );
        table.note(&format!(
            "cache {:.3} ms, dispatches by hand {:.3} ms, copies by hand {:.3} ms",
            times[0] * 1e3,
            times[1] * 1e3,
            times[2] * 1e3
        ));
        if batch == 8 {
            let other = BatchedKvCache::new(context, config, LAYERS)?;
            let other_sources: Vec<_> = other
                .layers()
                .iter()
                .map(|layer| bind(layer, &keys, &values, Format::F16, 1))
                .collect::<Result<_>>()?;
            let other = RefCell::new(other);
            let first = |encoder: &mut wgpu::CommandEncoder, position: u32| {
                record_step(&other, &other_sources, encoder, position)
            };
            step_to(context, &step, capacity - 1)?;
            let times = medians(
                context,
                repetitions,
                &mut [Box::new(|encoder| step(encoder, capacity - 1)), Box::new(|encoder| first(encoder, 0))],
            )?;
            let ratio = times[0] / times[1];
            table.row(
                "decode step at the last position",
                "the same at position 0",
                Reach::AtMost(1.05),
                ratio,
                " × its time",
            );
        }
    }
    Ok(())
}

/// Records one token through all layers, in one pass or, if the cost model prefers them, as copies.
fn record_step(
    cache: &RefCell<BatchedKvCache>,
    sources: &[BoundSource],
    encoder: &mut wgpu::CommandEncoder,
    position: u32,
) -> Result<()> {
    let mut cache = cache.borrow_mut();
    let write = Write::at(position, 1);
    if cache.layer(0)?.form(&sources[0], write)? == Form::Copies {
        cache.begin_step(encoder, write)?;
        for (layer, source) in sources.iter().enumerate() {
            cache.record_update(layer, encoder, source)?;
        }
    } else {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        cache.begin_step(&mut pass, write)?;
        for (layer, source) in sources.iter().enumerate() {
            cache.record_update(layer, &mut pass, source)?;
        }
    }
    Ok(())
}

/// Runs one step at a position, so that the next one at the same position has no gap to fill.
fn step_to(
    context: &Context,
    step: &impl Fn(&mut wgpu::CommandEncoder, u32) -> Result<()>,
    position: u32,
) -> Result<()> {
    medians(context, 0, &mut [Box::new(|encoder| step(encoder, position))]).map(drop)
}

/// Milliseconds by which the first of ten steps takes longer than a later one.
fn extra_of_first(
    context: &Context,
    mut step: impl FnMut(&mut wgpu::CommandEncoder, u32) -> Result<()>,
) -> Result<f64> {
    let mut times = Vec::new();
    for position in 0..10 {
        context.wait()?;
        let start = Instant::now();
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        step(&mut encoder, position)?;
        context.queue().submit([encoder.finish()]);
        context.wait()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(first - times[times.len() / 2])
}

/// The extra time of the first update, with and without a warm-up.
fn first_update(context: &Context, table: &mut Table) -> Result<()> {
    let config = CacheConfig::new(1, HEADS, DIM, 4096).formats(Format::F16, Format::Bf16);
    let bytes = u64::from(HEADS * DIM) * 4;
    let (keys, values) = (buffer(context, bytes), buffer(context, bytes));
    let mut extra = Vec::new();
    for warm in [false, true] {
        // A new context has no pipelines yet, so the first update makes them.
        let context = Context::new(context.device(), context.queue());
        let mut cache = KvCache::new(&context, config)?;
        let source = bind(&cache, &keys, &values, Format::F32, 1)?;
        if warm {
            cache.warm_up(&source)?;
        }
        extra.push(extra_of_first(&context, |encoder, position| {
            cache.record_update(encoder, &source, Write::at(position, 1))
        })?);
    }
    table.row("first update after warm_up, extra time", "a later update", Reach::AtMost(0.5), extra[1], " ms");
    table.note(&format!("without warm_up {:.3} ms: wgpu clears 16 MiB, the driver finishes the pipeline", extra[0]));
    Ok(())
}

/// The calibration: its duration and its result.
fn costs(context: &Context, table: &mut Table) -> Result<()> {
    let start = Instant::now();
    let measured = context.calibrate()?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    table.row("calibration", "", Reach::AtMost(100.0), time, " ms");
    table.note(&format!("measured {measured:?}"));
    table.note(&format!("assumed  {:?}", context.costs()));
    Ok(())
}
