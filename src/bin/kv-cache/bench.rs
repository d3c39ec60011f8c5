//! `kv-cache bench`.

use std::time::Duration;

use clap::Args;
use console::style;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, CostModel, Destination, Form, Format, KvCache, Pair, RowsIn,
    Source, Strides, Write, adapter_label, adapters, find_adapter,
};

use crate::{Failure, output, timing};

const HEADS: u32 = 8;
const LAYERS: usize = 32;

/// Measure updates and ranges beside the device's own buffer copy of the same bytes.
///
/// Each figure is the median of interleaved submissions by the wall clock, from recording to done, after warm-up, with
/// the middle half of the times as spread. Updates of matching formats and ranges are measured in both forms, as kernels
/// and as copies; the arrow marks the one that the calibrated cost model chooses.
#[derive(Args)]
pub struct Arguments {
    /// This adapter instead of the first: its index or a part of its name, as `kv-cache adapters` prints them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Fewer and smaller cases, under a minute on a software driver.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// What one case measured.
struct Figure {
    group: &'static str,
    case: String,
    bytes: u64,
    kernel: Times,
    /// `None` where the formats differ.
    copies: Option<Times>,
    device_copy: Times,
    chosen: Form,
}

/// Median and the middle half of some times.
#[derive(Clone, Copy)]
struct Times {
    median: Duration,
    low: Duration,
    high: Duration,
}

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |quarter: usize| times.get(times.len() * quarter / 4).copied().unwrap_or_default();
        Times { median: at(2), low: at(1), high: at(3) }
    }

    fn json(&self, bytes: u64) -> Value {
        json!({
            "median_seconds": self.median.as_secs_f64(),
            "first_quartile_seconds": self.low.as_secs_f64(),
            "third_quartile_seconds": self.high.as_secs_f64(),
            "gigabytes_per_second": timing::gigabytes_per_second(bytes, self.median),
        })
    }

    /// Time with spread, bandwidth, and per cent of the device's copy.
    fn text(&self, bytes: u64, copy: &Times) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!(
            "{:.3} ms ±{:>2.0} %  {:>7.2} GB/s {:>4.0} %",
            ms(self.median),
            (ms(self.high) - ms(self.low)) / 2.0 / ms(self.median) * 100.0,
            timing::gigabytes_per_second(bytes, self.median),
            ms(copy.median) / ms(self.median) * 100.0
        )
    }
}

impl Figure {
    fn json(&self) -> Value {
        json!({
            "group": self.group,
            "case": self.case,
            "bytes": self.bytes,
            "kernel": self.kernel.json(self.bytes),
            "copies": self.copies.map(|times| times.json(self.bytes)),
            "device_copy": self.device_copy.json(self.bytes),
            "chosen": if self.chosen == Form::Copies { "copies" } else { "kernel" },
        })
    }
}

/// What all cases share.
struct Bench {
    context: Context,
    /// The same device, always by kernels and always by copies.
    forms: [Context; 2],
    /// The same device by the calibrated model.
    model: Context,
    repetitions: usize,
}

type Record<'a> = Box<dyn FnMut(&mut wgpu::CommandEncoder) -> Result<(), Failure> + 'a>;

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let adapter = match &arguments.adapter {
        Some(wanted) => find_adapter(wanted)?,
        None => adapters()?.swap_remove(0),
    };
    let (info, context) = (adapter.get_info(), Context::open(&adapter)?);
    let costs = context.calibrate()?;
    let with = |costs| Context::with_costs(context.device(), context.queue(), costs);
    let bench = Bench {
        forms: [with(CostModel::KERNELS), with(CostModel::COPIES)],
        model: with(costs),
        repetitions: if arguments.quick { 9 } else { 25 },
        context,
    };
    let tokens: Vec<u32> =
        if arguments.quick { vec![1, 16, 256, 1024] } else { (0..=16).map(|power| 1 << power).collect() };
    let batches: &[u32] = if arguments.quick { &[1, 8] } else { &[1, 8, 32] };
    let ranges: &[u32] = if arguments.quick { &[1, 256, 2048] } else { &[1, 16, 256, 1024, 4096] };
    let conversions = [(Format::F32, Format::F16), (Format::F32, Format::Bf16), (Format::F16, Format::F32)];

    let steps = 2 * tokens.len() + conversions.len() + batches.len() + ranges.len();
    let bar = output::progress(steps as u64, &adapter_label(&info));
    let mut figures = Vec::new();
    for dim in [64, 128] {
        for &tokens in &tokens {
            figures.push(bench.prefill(tokens, dim, Format::F16, Format::F16, &bar)?);
        }
    }
    for (source, stored) in conversions {
        figures.push(bench.prefill(1024, 128, source, stored, &bar)?);
    }
    for &batch in batches {
        figures.push(bench.decode(batch, &bar)?);
    }
    for &range in ranges {
        figures.push(bench.range(range, &bar)?);
    }
    bar.finish_and_clear();

    if arguments.json {
        output::json(&json!({
            "adapter": adapter_label(&info),
            "driver": info.driver,
            "driver_info": info.driver_info,
            "clock": "wall",
            "repetitions": bench.repetitions,
            "cost_model": costs,
            "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    println!("{}  {} {}", style(adapter_label(&info)).bold(), info.driver, info.driver_info);
    println!(
        "wall clock, medians of {}; {HEADS} KV heads; a dispatch {:.1} µs, a copy {:.2} µs, kernels {:.1} GB/s, copies {:.1} GB/s",
        bench.repetitions,
        costs.dispatch_ns / 1e3,
        costs.copy_ns / 1e3,
        costs.kernel_gb_per_s,
        costs.copy_gb_per_s
    );
    let mut group = "";
    let mut table = output::table(&[], 0);
    for figure in &figures {
        if figure.group != group {
            if !group.is_empty() {
                println!("{table}");
            }
            group = figure.group;
            println!("\n{}", style(group).bold());
            table = output::table(&["case", "bytes", "", "kernel", "", "copies", "device copy"], 1);
        }
        let mark = |form| if figure.chosen == form { "→" } else { "" };
        table.add_row([
            figure.case.clone(),
            output::bytes(figure.bytes),
            mark(Form::Kernel).to_owned(),
            figure.kernel.text(figure.bytes, &figure.device_copy),
            mark(Form::Copies).to_owned(),
            figure.copies.map_or_else(String::new, |times| times.text(figure.bytes, &figure.device_copy)),
            format!("{:.2} GB/s", timing::gigabytes_per_second(figure.bytes, figure.device_copy.median)),
        ]);
    }
    println!("{table}");
    println!(
        "\n±: half of the middle half of the times. Per cent: of the device's copy of the same bytes. →: the model's choice."
    );
    Ok(())
}

impl Bench {
    fn buffer(&self, bytes: u64) -> wgpu::Buffer {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let size = bytes.next_multiple_of(4);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        self.context.device().create_buffer(&descriptor)
    }

    /// Times some forms in turn, so that what disturbs one disturbs all.
    fn measure(&self, forms: &mut [Record<'_>]) -> Result<Vec<Times>, Failure> {
        let mut times = vec![Vec::new(); forms.len()];
        for repetition in 0..self.repetitions + 2 {
            for (form, times) in forms.iter_mut().zip(&mut times) {
                let mut outcome = Ok(());
                let time = timing::submission(&self.context, |encoder| {
                    outcome = form(encoder);
                    Ok(())
                })?;
                outcome?;
                if repetition >= 2 {
                    times.push(time);
                }
            }
        }
        Ok(times.into_iter().map(Times::new).collect())
    }

    /// The device's own copy of so many bytes.
    fn device_copy(&self, bytes: u64) -> Record<'static> {
        let bytes = bytes.next_multiple_of(4);
        let (from, to) = (self.buffer(bytes), self.buffer(bytes));
        Box::new(move |encoder| {
            encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes);
            Ok(())
        })
    }

    /// Figures of kernel, copies where they are possible, and the device's copy.
    fn figure(
        &self,
        group: &'static str,
        case: String,
        bytes: u64,
        chosen: Form,
        mut forms: Vec<Record<'_>>,
    ) -> Result<Figure, Failure> {
        forms.push(self.device_copy(bytes));
        let times = self.measure(&mut forms)?;
        let copies = (times.len() == 3).then(|| times[1]);
        Ok(Figure { group, case, bytes, kernel: times[0], copies, device_copy: times[times.len() - 1], chosen })
    }

    fn prefill(&self, tokens: u32, dim: u32, from: Format, to: Format, bar: &ProgressBar) -> Result<Figure, Failure> {
        let config = CacheConfig::new(1, HEADS, dim, tokens).formats(to, to);
        let rows = self.buffer(u64::from(HEADS) * u64::from(tokens) * u64::from(dim * from.element_bytes()));
        let more = self.buffer(rows.size());
        let bind = |cache: &KvCache| cache.bind_source(&source(&rows, &more, from, tokens, dim));
        let write = Write::at(0, tokens);
        let model = KvCache::new(&self.model, config)?;
        let chosen = model.form(&bind(&model)?, write)?;
        drop(model);
        let forms = if from == to { 2 } else { 1 };
        let mut records: Vec<Record<'_>> = Vec::new();
        for context in &self.forms[..forms] {
            let mut cache = KvCache::new(context, config)?;
            let source = bind(&cache)?;
            records.push(Box::new(move |encoder| Ok(cache.record_update(encoder, &source, write)?)));
        }
        let group = if from == to { "Prefill, f16" } else { "Prefill, converting" };
        let case = format!("{tokens} × {dim}, {from} to {to}");
        bar.inc(1);
        self.figure(group, case, config.bytes_per_token()? * u64::from(tokens), chosen, records)
    }

    fn decode(&self, batch: u32, bar: &ProgressBar) -> Result<Figure, Failure> {
        let (dim, format) = (128, Format::F16);
        let config = CacheConfig::new(batch, HEADS, dim, 128).formats(format, format);
        let rows = self.buffer(config.bytes_per_token()? / 2);
        let more = self.buffer(rows.size());
        let bind = |cache: &KvCache| cache.bind_source(&source(&rows, &more, format, 1, dim));
        let write = Write::at(0, 1);
        let model = KvCache::new(&self.model, config)?;
        let chosen = model.form(&bind(&model)?, write)?;
        let mut records: Vec<Record<'_>> = Vec::new();
        for (context, by_copies) in self.forms.iter().zip([false, true]) {
            let mut cache = BatchedKvCache::new(context, config, LAYERS)?;
            let sources: Vec<BoundSource> = cache.layers().iter().map(bind).collect::<Result<_, _>>()?;
            records.push(Box::new(move |encoder| {
                // One pass for all layers where they are kernels, as in an engine.
                if by_copies {
                    for (layer, source) in sources.iter().enumerate() {
                        cache.record_update(layer, encoder, source, write)?;
                    }
                } else {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    for (layer, source) in sources.iter().enumerate() {
                        cache.record_update(layer, &mut pass, source, write)?;
                    }
                }
                Ok(())
            }));
        }
        bar.inc(1);
        let case = format!("batch {batch}, {LAYERS} layers × {dim}");
        self.figure("Decode step, f16", case, config.bytes_per_token()? * LAYERS as u64, chosen, records)
    }

    fn range(&self, rows: u32, bar: &ProgressBar) -> Result<Figure, Failure> {
        let (dim, format, capacity) = (128, Format::F16, 8192);
        let config = CacheConfig::new(1, HEADS, dim, capacity).formats(format, format);
        let bytes = config.bytes_per_token()? * u64::from(rows);
        let to = [self.buffer(bytes / 2), self.buffer(bytes / 2)];
        let range = 1000..1000 + rows;
        let mut records: Vec<Record<'_>> = Vec::new();
        for context in &self.forms {
            let mut cache = KvCache::new(context, config)?;
            timing::submission(context, |encoder| cache.record_advance(encoder, Write::at(0, capacity)))?;
            let (to, range) = (&to, range.clone());
            records.push(Box::new(move |encoder| {
                let destination = |buffer| Destination { buffer, offset: 0 };
                let destinations = Pair { keys: destination(&to[0]), values: destination(&to[1]) };
                Ok(cache.record_get(encoder, range.clone(), destinations)?)
            }));
        }
        let mut model = KvCache::new(&self.model, config)?;
        timing::submission(&self.model, |encoder| model.record_advance(encoder, Write::at(0, capacity)))?;
        let chosen = model.range_form(range)?;
        bar.inc(1);
        self.figure("Range, f16", format!("{rows} of {capacity} × {dim}"), bytes, chosen, records)
    }
}

fn source<'a>(keys: &'a wgpu::Buffer, values: &'a wgpu::Buffer, format: Format, tokens: u32, dim: u32) -> Source<'a> {
    let rows_in = |buffer| RowsIn { buffer, offset: 0, format, strides: Strides::bhtd(HEADS, tokens, dim) };
    Source { keys: rows_in(keys), values: rows_in(values), tokens }
}
