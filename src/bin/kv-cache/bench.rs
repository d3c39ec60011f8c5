//! `kv-cache bench`.

mod attention;
mod cases;
mod clock;
mod compare;
mod figure;
mod measure;
mod page;
mod plot;
mod prediction;
mod report;

use std::{fs, path::PathBuf};

use clap::Args;
use wgpu_kv_cache::{adapter_label, adapters, find_adapter};

use self::{cases::Sweep, clock::Stopwatch, prediction::Prediction, report::Report};
use crate::{Failure, output, output::Out};

/// Measure updates, ranges and attention, and compare them with a buffer copy of the same bytes on the device.
///
/// Each figure is the median of interleaved submissions after warm-up; the spread is the middle half of the times.
/// Times are device timestamps if the device supports them, or else wall-clock times from the start of recording to the
/// end of the wait. Ranges, and updates that do not convert, are measured in both forms, as kernels and as copies; the
/// arrow marks the one that the calibrated cost model chooses. Attention is measured over 256 to 131072 positions as
/// far as the cache takes no more than 4 GiB, or 256 MiB on a driver that runs on the CPU.
#[derive(Args)]
pub struct Arguments {
    /// Use this adapter instead of the first, by its index or a part of its name, as `kv-cache adapters` prints them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Measure fewer and smaller cases, in less than a minute on a software driver.
    #[arg(long)]
    quick: bool,
    /// Use the wall clock even if the device has timestamps, which do not include the host's recording and submitting.
    #[arg(long)]
    wall: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Also write an HTML page with the device, its limits, tables and plots.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Measure nothing; compare two reports from --json.
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], conflicts_with_all = ["adapter", "quick", "wall", "report"])]
    compare: Option<Vec<PathBuf>>,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    if let Some([before, after]) = arguments.compare.as_deref() {
        return compare::run(&Report::read(before)?, &Report::read(after)?, arguments.json, out);
    }
    if let Some(path) = &arguments.report {
        // Fail before minutes of measuring if the path cannot be written.
        write(path, "")?;
    }
    let adapter = match &arguments.adapter {
        Some(wanted) => find_adapter(wanted)?,
        None => adapters()?.swap_remove(0),
    };
    let stopwatch = Stopwatch::open(&adapter, arguments.wall)?;
    let costs = stopwatch.context().calibrate()?;
    let is_cpu = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
    let sweep = if arguments.quick { Sweep::quick() } else { Sweep::whole(is_cpu) };
    let mut report = Report::new(&adapter, stopwatch.clock(), stopwatch.reason.clone(), sweep.repetitions, costs);
    report.figures = sweep.measure(&stopwatch, costs, &adapter_label(&adapter.get_info()))?;
    if !is_cpu {
        report.prediction = Prediction::of(&report.adapter, &report.figures);
    }
    if let Some(path) = &arguments.report {
        write(path, &page::html(&report))?;
    }
    if arguments.json {
        output::json(out, &report)?;
    } else {
        report.print(out)?;
    }
    Ok(())
}

fn write(path: &PathBuf, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|source| Failure::File { path: path.clone(), source })
}
