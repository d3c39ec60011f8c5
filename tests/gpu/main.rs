//! Behaviour on every adapter present, in both forms of updates and ranges: kernels, and buffer copies wherever they
//! are possible. Each test runs once per adapter and form, and its name includes both.
//!
//! `KV_CACHE_REQUIRE` lists adapters that must be present, separated by `;`. An entry matches an adapter whose label
//! contains all of its words, as in `llvmpipe [vulkan];SwiftShader`. If a driver fails to load, the run then fails
//! instead of testing fewer adapters.

mod arithmetic;
mod attention;
mod bugs;
mod cells;
mod cells_of_pages;
mod conversions;
#[path = "../common/destroyed.rs"]
mod destroyed;
mod engine;
mod extremes;
mod foreign;
mod formats;
mod full_disk;
mod host;
mod keeping;
mod large;
mod limits;
mod packed;
mod paged;
mod programs;
mod reading;
mod refused_steps;
mod rows;
mod saving;
mod sequences;
mod soak;
mod steps;
mod submissions;
mod tiers;
mod tiers_faults;
mod waiting;
mod windows_of_pages;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wgpu_kv_cache::{Context, CostModel, Format, adapter_label, adapters};

/// The input of a test.
#[derive(Debug)]
pub struct Gpu {
    /// A device with all limits of the adapter.
    pub context: Context,
    /// A device with bindings of 4 KiB, grids 16 wide and no immediates. Storage is cut into segments and chunks, and
    /// the parameters of steps go through the ring.
    pub small: Context,
    /// The adapter of both devices.
    pub adapter: wgpu::Adapter,
    /// The cost model of both, which selects the form.
    pub costs: CostModel,
}

impl Gpu {
    /// On GL, wgpu panics when a thread waits too long while another compiles, so tests on GL run one at a time.
    fn alone(&self) -> Option<MutexGuard<'static, ()>> {
        let gl = self.adapter.get_info().backend == wgpu::Backend::Gl;
        gl.then(|| GL.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a device with other limits but the same cost model.
    ///
    /// # Errors
    /// Those of [`Context::open_with`].
    pub fn open(adapter: &wgpu::Adapter, limits: wgpu::Limits, costs: CostModel) -> wgpu_kv_cache::Result<Context> {
        let context = Context::open_with(adapter, limits)?;
        Ok(Context::with_costs(context.device(), context.queue(), costs))
    }
}

/// Completed, or ignored with a reason.
pub type Outcome = Result<Completion, Failed>;
/// Name and body.
pub type Test = (&'static str, fn(&Gpu) -> Outcome);

pub const DONE: Outcome = Ok(Completion::Completed);

/// Each test on GL holds this lock.
static GL: Mutex<()> = Mutex::new(());

fn main() {
    let _ = env_logger::Builder::from_default_env().is_test(true).try_init();
    if let Some(served) = soak::process() {
        served.expect("requests are served until the process is killed");
        return;
    }
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials()).exit();
}

fn trials() -> Vec<Trial> {
    let found = match adapters() {
        Ok(found) => found,
        Err(error) => return vec![Trial::test("adapters", move || Err(error.into()))],
    };
    let labels: Vec<_> = found.iter().map(|adapter| adapter_label(&adapter.get_info())).collect();
    let required = std::env::var("KV_CACHE_REQUIRE").unwrap_or_default();
    let mut trials: Vec<_> = required
        .split(';')
        .map(str::trim)
        .filter(|words| !words.is_empty())
        .map(|words| {
            let there = labels.iter().any(|label| words.split_whitespace().all(|word| label.contains(word)));
            let message = format!("no adapter is labelled with {words:?}; there are {labels:?}");
            Trial::test(format!("{words} is there"), move || if there { Ok(()) } else { Err(message.into()) })
        })
        .collect();
    let mut of_devices = Vec::new();
    for (form, costs) in [("kernels", CostModel::KERNELS), ("copies", CostModel::COPIES)] {
        for (adapter, label) in found.iter().zip(&labels) {
            let mut trials = Vec::new();
            let gpu = match open(adapter, costs) {
                Ok(gpu) => Arc::new(gpu),
                Err(error) => {
                    of_devices.push(vec![Trial::test(format!("open on {label}"), move || Err(error.into()))]);
                    continue;
                }
            };
            let every_form = [
                host::TESTS,
                engine::TESTS,
                conversions::TESTS,
                programs::TESTS,
                sequences::TESTS,
                bugs::TESTS,
                steps::TESTS,
                refused_steps::TESTS,
                foreign::TESTS,
                waiting::TESTS,
                large::TESTS,
            ];
            // Tests in which copies are not possible.
            let kernels_only: &[&[Test]] = if costs == CostModel::KERNELS {
                &[
                    arithmetic::TESTS,
                    formats::TESTS,
                    reading::TESTS,
                    attention::TESTS,
                    extremes::TESTS,
                    packed::TESTS,
                    paged::TESTS,
                    windows_of_pages::TESTS,
                    saving::TESTS,
                    tiers::TESTS,
                    full_disk::TESTS,
                    tiers_faults::TESTS,
                    keeping::TESTS,
                    programs::OF_PAGES,
                    limits::TESTS,
                    submissions::TESTS,
                    soak::TESTS,
                    sequences::OF_KERNELS,
                    large::OF_KERNELS,
                ]
            } else {
                &[]
            };
            for &(name, test) in every_form.iter().chain(kernels_only).copied().flatten() {
                trials.push(trial(format!("{name} by {form} on {label}"), &gpu, test));
            }
            if costs == CostModel::KERNELS {
                trials.extend(cells(&gpu, label));
            }
            of_devices.push(trials);
        }
    }
    trials.extend(in_turn(of_devices));
    trials
}

/// Takes the first test of each list, then the second of each, and so on. Tests that run at the same time then use
/// different devices and do not wait for each other's kernels.
fn in_turn(lists: Vec<Vec<Trial>>) -> Vec<Trial> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut turns = Vec::new();
    loop {
        let before = turns.len();
        turns.extend(lists.iter_mut().filter_map(Iterator::next));
        if turns.len() == before {
            return turns;
        }
    }
}

/// A test on a device. With `KV_CACHE_TIMES`, standard error tells how long it took.
fn trial(name: String, gpu: &Arc<Gpu>, test: impl FnOnce(&Gpu) -> Outcome + Send + 'static) -> Trial {
    let gpu = gpu.clone();
    Trial::ignorable_test(name.clone(), move || {
        let _alone = gpu.alone();
        let start = Instant::now();
        let outcome = test(&gpu);
        if std::env::var_os("KV_CACHE_TIMES").is_some() {
            eprintln!("{:8.3} s  {name}", start.elapsed().as_secs_f64());
        }
        outcome
    })
}

/// One test per cell of the README's table.
fn cells(gpu: &Arc<Gpu>, label: &str) -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        for operation in cells::OPERATIONS {
            let name = format!("cells::{operation} × pages × {format} on {label}");
            trials.push(trial(name, gpu, move |gpu| cells_of_pages::cell(&gpu.context, format, operation).and(DONE)));
        }
        for (name, placement) in cells::PLACEMENTS {
            for operation in cells::OPERATIONS {
                let name = format!("cells::{operation} × {name} × {format} on {label}");
                trials.push(trial(name, gpu, move |gpu| {
                    cells::cell(&gpu.context, format, placement, operation).and(DONE)
                }));
            }
        }
    }
    trials
}

fn open(adapter: &wgpu::Adapter, costs: CostModel) -> wgpu_kv_cache::Result<Gpu> {
    let limits = adapter.limits();
    let small = wgpu::Limits {
        max_storage_buffer_binding_size: 4096,
        max_buffer_size: 8 << 20,
        max_compute_workgroups_per_dimension: 16,
        max_immediate_size: 0,
        min_storage_buffer_offset_alignment: 256,
        ..limits.clone()
    };
    Ok(Gpu {
        context: Gpu::open(adapter, limits, costs)?,
        small: Gpu::open(adapter, small, costs)?,
        adapter: adapter.clone(),
        costs,
    })
}
