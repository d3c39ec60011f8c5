//! [`Report`]: the results of a run of the benchmark, which can be printed, saved and read back.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use console::style;
use serde::{Deserialize, Serialize};
use wgpu_kv_cache::{CostModel, adapter_label};

use super::{
    clock::Clock,
    figure::{Chosen, Figure, Group, HEADS},
    prediction::Prediction,
};
use crate::{Failure, output, output::Out};

/// All figures of one run on one device.
#[derive(Serialize, Deserialize)]
pub struct Report {
    pub adapter: String,
    pub device_type: String,
    pub driver: String,
    pub driver_info: String,
    /// Date of the run, in UTC.
    pub date: String,
    pub clock: Clock,
    /// Why the wall clock is used; empty if device timestamps are.
    pub clock_reason: String,
    pub repetitions: usize,
    pub limits: Vec<Limit>,
    /// The calibrated cost model, which chooses the forms.
    pub cost_model: CostModel,
    pub figures: Vec<Figure>,
    /// What a GPU was expected to reach in attention.
    #[serde(default)]
    pub prediction: Option<Prediction>,
}

/// A limit of the device that matters to a cache.
#[derive(Serialize, Deserialize)]
pub struct Limit {
    pub name: String,
    pub value: u64,
}

impl Report {
    pub fn new(
        adapter: &wgpu::Adapter,
        clock: Clock,
        clock_reason: String,
        repetitions: usize,
        cost_model: CostModel,
    ) -> Self {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let limits = [
            ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size),
            ("max_buffer_size", limits.max_buffer_size),
            ("max_storage_buffers_per_shader_stage", limits.max_storage_buffers_per_shader_stage.into()),
            ("min_storage_buffer_offset_alignment", limits.min_storage_buffer_offset_alignment.into()),
            ("max_compute_workgroups_per_dimension", limits.max_compute_workgroups_per_dimension.into()),
            ("max_immediate_size", limits.max_immediate_size.into()),
        ];
        Report {
            adapter: adapter_label(&info),
            device_type: format!("{:?}", info.device_type),
            driver: info.driver,
            driver_info: info.driver_info,
            date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            clock,
            clock_reason,
            repetitions,
            limits: limits.map(|(name, value)| Limit { name: name.to_owned(), value }).into(),
            cost_model,
            figures: Vec::new(),
            prediction: None,
        }
    }

    /// Reads a report that `--json` printed.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::NotReport { path: path.to_owned(), message: error.to_string() })
    }

    pub fn figures_of(&self, group: Group) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(move |figure| figure.group == group)
    }

    /// Describes the clock, the reason for it, and the number of repetitions.
    pub fn method(&self) -> String {
        let why = if self.clock_reason.is_empty() { String::new() } else { format!(" ({})", self.clock_reason) };
        format!("{}{why}, medians of {}", self.clock.name(), self.repetitions)
    }

    /// Describes the calibrated cost model.
    pub fn costs(&self) -> String {
        let CostModel { dispatch_ns, copy_ns, kernel_gb_per_s, copy_gb_per_s, .. } = self.cost_model;
        format!(
            "{:.1} µs per dispatch, {:.2} µs per copy, {kernel_gb_per_s:.1} GB/s in kernels, \
             {copy_gb_per_s:.1} GB/s in copies",
            dispatch_ns / 1e3,
            copy_ns / 1e3,
        )
    }

    /// Prints the tables.
    pub fn print(&self, out: &mut Out) -> io::Result<()> {
        writeln!(out, "{}  {} {}", style(&self.adapter).bold(), self.driver, self.driver_info)?;
        writeln!(out, "{}; {} KV heads; {}", self.method(), HEADS, self.costs())?;
        for group in Group::ALL {
            let mut table = output::table(&["case", "bytes", "", "kernel", "", "copies", "device copy"], 1);
            for figure in self.figures_of(group) {
                let mark = |form| if figure.chosen == form { "→" } else { "" };
                table.add_row([
                    figure.case.clone(),
                    output::bytes(figure.bytes),
                    mark(Chosen::Kernel).to_owned(),
                    figure.kernel.text(),
                    mark(Chosen::Copies).to_owned(),
                    figure.copies.map_or_else(String::new, |copies| copies.text()),
                    format!("{:.2} GB/s", figure.device_copy.gigabytes_per_second),
                ]);
            }
            writeln!(out, "\n{}\n{table}", style(group.title()).bold())?;
        }
        if let Some(prediction) = &self.prediction {
            writeln!(out, "\n{}", prediction.text())?;
        }
        writeln!(
            out,
            "\n±: half the interquartile range. Per cent: share of the bandwidth of the device's own copy of the \
             same bytes. →: the cost model's choice."
        )
    }
}
