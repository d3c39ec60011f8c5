//! Random programs of all operations, run on the device and on the reference. The whole storage is compared after each
//! operation.

use std::collections::HashSet;

use wgpu_kv_cache::{
    Context, CostModel, Format, Placement,
    program::{Operation, Program, paged::PagedProgram},
};

use crate::{DONE, Gpu, Outcome, Test};

#[path = "../../src/bin/kv-cache/random.rs"]
mod random;
#[path = "../../src/bin/kv-cache/random_pages.rs"]
mod random_pages;

pub const TESTS: &[Test] =
    &[("programs::random", random), ("programs::random_in_small_bindings", random_in_small_bindings)];

pub const OF_PAGES: &[Test] =
    &[("programs::of_pages", of_pages), ("programs::of_pages_in_small_bindings", of_pages_in_small_bindings)];

/// Number of programs drawn per form and device. Seeds never repeat, so an adapter gets 3000 programs in 40 shapes.
const DRAWN: u64 = 750;

fn random(gpu: &Gpu) -> Outcome {
    run(&gpu.context, 0)
}

fn random_in_small_bindings(gpu: &Gpu) -> Outcome {
    run(&gpu.small, 1)
}

/// Runs the drawn programs that add to the coverage. If `KV_CACHE_PROGRAMS` is set, runs that many programs instead,
/// without a choice.
fn run(context: &Context, device: u64) -> Outcome {
    let copies = *context.costs() == CostModel::COPIES;
    let part = 2 * device + u64::from(copies);
    let first = DRAWN * part;
    let seeds: Vec<u64> = match std::env::var("KV_CACHE_PROGRAMS").ok() {
        Some(number) => {
            let wrong = || format!("KV_CACHE_PROGRAMS must be a number, but is {number}");
            (first..first + number.parse::<u64>().map_err(|_| wrong())?).collect()
        }
        None => covering(first..first + DRAWN, part),
    };
    let mut shape = None;
    for seed in seeds {
        // Each shape gets its own context, so that the pipelines for its head sizes are dropped with it.
        let number = seed / random::PROGRAMS_OF_A_SHAPE;
        let context = match &shape {
            Some((known, context)) if *known == number => context,
            _ => {
                let fresh = Context::with_costs(context.device(), context.queue(), *context.costs());
                &shape.insert((number, fresh)).1
            }
        };
        let program = fitted(context, random::program(seed));
        if let Err(failure) = program.run(context) {
            let (program, failure) = shrink(context, program, failure.to_string());
            return Err(format!("seed {seed}: {failure}\n{program:#?}").into());
        }
    }
    DONE
}

fn of_pages(gpu: &Gpu) -> Outcome {
    run_pages(gpu, &gpu.context, 0)
}

fn of_pages_in_small_bindings(gpu: &Gpu) -> Outcome {
    run_pages(gpu, &gpu.small, 1_000_000)
}

/// Runs programs of paged caches, some of each shape; as many as `KV_CACHE_PAGED_PROGRAMS` says.
fn run_pages(gpu: &Gpu, context: &Context, first: u64) -> Outcome {
    let (shapes, each) = match std::env::var("KV_CACHE_PAGED_PROGRAMS").ok() {
        Some(number) => {
            let wrong = || format!("KV_CACHE_PAGED_PROGRAMS must be a number, but is {number}");
            let number = number.parse::<u64>().map_err(|_| wrong())?;
            (number.div_ceil(random_pages::PROGRAMS_OF_A_SHAPE), random_pages::PROGRAMS_OF_A_SHAPE)
        }
        None => (6, 25),
    };
    for shape in 0..shapes {
        // Each shape gets its own context, so that its pipelines are dropped with it.
        let context = Context::with_costs(context.device(), context.queue(), gpu.costs);
        for index in 0..each {
            let seed = first + shape * random_pages::PROGRAMS_OF_A_SHAPE + index;
            let program = random_pages::program(seed);
            if let Err(failure) = program.run(&context) {
                let (program, failure) = shrink_pages(&context, program, failure.to_string());
                return Err(format!("seed {seed}: {failure}\n{program:#?}").into());
            }
        }
    }
    DONE
}

/// Removes operations for as long as the program still fails.
fn shrink_pages(context: &Context, mut program: PagedProgram, mut failure: String) -> (PagedProgram, String) {
    let mut index = 0;
    while index < program.operations.len() {
        let mut smaller = program.clone();
        smaller.operations.remove(index);
        match smaller.run(context) {
            Err(still) => (program, failure) = (smaller, still.to_string()),
            Ok(()) => index += 1,
        }
    }
    (program, failure)
}

/// Limits the head sizes so that a plane fits a small binding. The cache then has several segments.
fn fitted(context: &Context, mut program: Program) -> Program {
    let most = u32::try_from(context.limits().max_storage_buffer_binding_size / (24 * 4)).unwrap_or(u32::MAX);
    program.config.head_dim = program.config.head_dim.min(most);
    program.config.value_dim = program.config.value_dim.min(most);
    program
}

/// The seeds whose programs cover something that no earlier one does: an operation and the way it is called, on a
/// placement or on a stored format. Each combination of form and device covers a quarter of the formats.
fn covering(seeds: std::ops::Range<u64>, part: u64) -> Vec<u64> {
    let mut covered = HashSet::new();
    let adds = |seed: &u64| {
        let program = random::program(*seed);
        let Program { config, ref placements, .. } = program;
        let mut new = false;
        for operation in &program.operations {
            let call = call(operation);
            for placement in placements.iter().chain([&config.placement]) {
                let ring = matches!(placement, Placement::Ring { .. });
                new |= covered.insert((call.clone(), format!("ring: {ring}")));
            }
            for (side, format) in [(0, config.key_format), (1, config.value_format)] {
                let index = Format::ALL.iter().position(|one| *one == format).expect("it is one of all") as u64;
                if (index + side) % 4 == part {
                    new |= covered.insert((call.clone(), format!("{side}: {format}")));
                }
            }
        }
        new
    };
    seeds.filter(adds).collect()
}

/// The name of an operation and the way it is called.
fn call(operation: &Operation) -> String {
    let name = |text: String| text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
    let way = match operation {
        Operation::Update { path, .. } => format!("{path:?}"),
        Operation::Sequences { change, in_pass } => format!("{} in a pass: {in_pass}", name(format!("{change:?}"))),
        _ => String::new(),
    };
    format!("{} {way}", name(format!("{operation:?}")))
}

/// Removes operations for as long as the program still fails.
fn shrink(context: &Context, mut program: Program, mut failure: String) -> (Program, String) {
    let mut index = 0;
    while index < program.operations.len() {
        let mut smaller = program.clone();
        smaller.operations.remove(index);
        match smaller.run(context) {
            Err(still) => (program, failure) = (smaller, still.to_string()),
            Ok(()) => index += 1,
        }
    }
    (program, failure)
}
