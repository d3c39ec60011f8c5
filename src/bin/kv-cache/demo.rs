//! `kv-cache demo`, and the parts that `kv-cache verify FILE` shares with it.

use std::io::{self, Write};

use clap::Args;
use console::style;
use serde_json::json;
use wgpu_kv_cache::{Context, Format, adapter_label, adapters, find_adapter};

use crate::{Failure, output, output::Out, trace::Trace, trial, trial::Trial};

/// Number of tokens of the recorded trace that the prefill writes.
const PREFILL: u32 = 64;

/// Run a real model's keys and values through the cache on every adapter, and verify every bit.
#[derive(Args, Default)]
pub struct Arguments {
    /// Use only this adapter, by its index or a part of its name, as `kv-cache adapters` prints them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    let trace = Trace::recorded()?;
    if !arguments.json {
        writeln!(out, "{}", style("A KV cache on the GPU, with a real model's keys and values").bold())?;
        writeln!(
            out,
            "\nThe keys and values were recorded while SmolLM2-135M read a story of {} tokens ({} layers, {} KV heads\n\
             of {}).",
            trace.tokens,
            trace.layers.len(),
            trace.num_heads,
            trace.head_dim
        )?;
        writeln!(
            out,
            "They go through the cache as in an engine, on every adapter and in every format: {PREFILL} tokens at\n\
             once (prefill), then {} one by one (decode). Then the whole storage, the lengths and copied ranges are\n\
             read back and compared with a CPU reference, bit for bit.",
            trace.tokens - PREFILL
        )?;
    }
    put_through(out, &trace, PREFILL, arguments.adapter.as_deref(), arguments.json)
}

/// Returns the named adapter, or all adapters if none is named.
pub fn chosen(adapter: Option<&str>) -> Result<Vec<wgpu::Adapter>, Failure> {
    match adapter {
        Some(wanted) => Ok(vec![find_adapter(wanted)?]),
        None => Ok(adapters()?),
    }
}

/// Verifies a trace in every format on the chosen adapters, and prints memory and times.
pub fn put_through(
    out: &mut Out,
    trace: &Trace,
    prefill: u32,
    adapter: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    out.flush()?;
    let chosen = chosen(adapter)?;
    let mut trials: Vec<Trial> = Vec::new();
    for (index, adapter) in chosen.iter().enumerate() {
        let label = adapter_label(&adapter.get_info());
        let context = Context::open(adapter)?;
        let first = trials.len();
        for format in Format::ALL {
            let bar = output::progress(trial::steps(trace, prefill), &format!("{label}, {format}"));
            let trial = trial::run(&context, &label, trace, prefill, format, &bar);
            bar.finish_and_clear();
            trials.push(trial?);
        }
        if !as_json {
            if index == 0 {
                print_memory(out, &trials)?;
            }
            print_times(out, &label, trace, &trials[first..])?;
            out.flush()?;
        }
    }
    if as_json {
        output::json(
            out,
            &json!({
                "trace": trace.title,
                "trials": trials.iter().map(Trial::json).collect::<Vec<_>>(),
            }),
        )?;
    } else {
        writeln!(
            out,
            "\n{} {} layers × {} formats × {} adapters: {} elements compared, no differences.",
            style("verified").green().bold(),
            trace.layers.len(),
            Format::ALL.len(),
            chosen.len(),
            output::count(trials.iter().map(|trial| trial.elements).sum())
        )?;
        writeln!(
            out,
            "Times are medians of the wall clock, from recording to completion. GB/s counts the bytes written once."
        )?;
    }
    Ok(())
}

/// Prints the memory reports, with one column per format.
fn print_memory(out: &mut Out, trials: &[Trial]) -> io::Result<()> {
    let texts: Vec<_> = trials.iter().map(|trial| trial.report.to_string()).collect();
    writeln!(out, "\n{}", style("Memory report").bold())?;
    for lines in
        texts[0].lines().enumerate().map(|(i, _)| texts.iter().map(move |text| text.lines().nth(i).unwrap_or("")))
    {
        let mut name = "";
        let mut row = String::new();
        for line in lines {
            let (field, value) = line.split_once(' ').unwrap_or((line, ""));
            name = field;
            row.push_str(&format!("{:>12}", value.trim()));
        }
        writeln!(out, "  {name:<24}{row}")?;
    }
    Ok(())
}

fn print_times(out: &mut Out, label: &str, trace: &Trace, trials: &[Trial]) -> io::Result<()> {
    let layers = trace.layers.len();
    let Some(first) = trials.first() else { return Ok(()) };
    writeln!(out, "\n{}", style(label).bold())?;
    let prefill = format!("prefill {} × {layers}", first.prefill.tokens);
    let decode = format!("step 1 × {layers}");
    let mut table =
        output::table(&["format", "verified", &prefill, "GB/s", "device copy", &decode, "GB/s", "device copy"], 2);
    for trial in trials {
        let phase = |phase: &trial::Phase| {
            [
                format!("{:.3} ms", phase.time.as_secs_f64() * 1e3),
                format!("{:.3}", phase.bandwidth()),
                format!("{:.3} GB/s", phase.copy_bandwidth()),
            ]
        };
        let verified = format!("{} {} layers, bit for bit", style("✓").green(), layers);
        let cells =
            [trial.format.to_string(), verified].into_iter().chain(phase(&trial.prefill)).chain(phase(&trial.decode));
        table.add_row(cells);
    }
    writeln!(out, "{table}")
}
