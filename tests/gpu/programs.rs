//! Random programs of all operations, device against reference, the whole storage compared after every step.

use std::collections::HashSet;

use wgpu_kv_cache::{
    Context, CostModel, Format, Placement,
    program::{Operation, Program},
};

use crate::{DONE, Gpu, Outcome, Test};

#[path = "../../src/bin/kv-cache/random.rs"]
mod random;

pub const TESTS: &[Test] =
    &[("programs::random", random), ("programs::random_in_small_bindings", random_in_small_bindings)];

/// Programs that are drawn for each form and device, none twice: 3000 for each adapter, of 40 shapes.
const DRAWN: u64 = 750;

fn random(gpu: &Gpu) -> Outcome {
    run(&gpu.context, 0)
}

fn random_in_small_bindings(gpu: &Gpu) -> Outcome {
    run(&gpu.small, 1)
}

/// Runs the programs that add to what is covered; `KV_CACHE_PROGRAMS` asks for a number of the drawn ones instead.
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
        // A context for each shape, so that the pipelines of its head sizes end with it.
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

/// A plane of the program fits a small binding, of which a cache then has some.
fn fitted(context: &Context, mut program: Program) -> Program {
    let most = u32::try_from(context.limits().max_storage_buffer_binding_size / (24 * 4)).unwrap_or(u32::MAX);
    program.config.head_dim = program.config.head_dim.min(most);
    program.config.value_dim = program.config.value_dim.min(most);
    program
}

/// The seeds whose programs have something that none before them has: an operation, in each way in which it is called,
/// on a placement; and on a stored format, of which each form and device takes a fourth.
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

/// An operation and the way in which it is called.
fn call(operation: &Operation) -> String {
    let name = |text: String| text.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
    let way = match operation {
        Operation::Update { path, .. } => format!("{path:?}"),
        Operation::Sequences { change, in_pass } => format!("{} in a pass: {in_pass}", name(format!("{change:?}"))),
        _ => String::new(),
    };
    format!("{} {way}", name(format!("{operation:?}")))
}

/// Leaves operations out as long as the program fails.
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
