//! Random programs of all operations, device against reference, the whole storage compared after every step.

use wgpu_kv_cache::{Context, CostModel, program::Program};

use crate::{DONE, Gpu, Outcome, Test};

#[path = "../../src/bin/kv-cache/random.rs"]
mod random;

pub const TESTS: &[Test] =
    &[("programs::random", random), ("programs::random_in_small_bindings", random_in_small_bindings)];

/// Programs for each form and device, none twice: 3000 for each adapter, of 40 shapes. `KV_CACHE_PROGRAMS` asks for
/// another number.
const PROGRAMS: u64 = 750;

fn random(gpu: &Gpu) -> Outcome {
    run(&gpu.context, 0)
}

fn random_in_small_bindings(gpu: &Gpu) -> Outcome {
    run(&gpu.small, 2 * PROGRAMS)
}

fn run(context: &Context, first: u64) -> Outcome {
    let copies = *context.costs() == CostModel::COPIES;
    let first = first + if copies { PROGRAMS } else { 0 };
    let asked = std::env::var("KV_CACHE_PROGRAMS").ok();
    let programs = match asked {
        Some(number) => number.parse().map_err(|_| format!("KV_CACHE_PROGRAMS must be a number, but is {number}"))?,
        None => PROGRAMS,
    };
    let mut shape = None;
    for seed in first..first + programs {
        // A context for each shape, so that the pipelines of its head sizes end with it.
        let number = seed / random::PROGRAMS_OF_A_SHAPE;
        let context = match &shape {
            Some((known, context)) if *known == number => context,
            _ => {
                let fresh = Context::with_costs(context.device(), context.queue(), *context.costs());
                &shape.insert((number, fresh)).1
            }
        };
        let mut program = random::program(seed);
        // So that a plane fits a small binding, of which a cache then has some.
        let most = u32::try_from(context.limits().max_storage_buffer_binding_size / (24 * 4)).unwrap_or(u32::MAX);
        program.config.head_dim = program.config.head_dim.min(most);
        program.config.value_dim = program.config.value_dim.min(most);
        if let Err(failure) = program.run(context) {
            let (program, failure) = shrink(context, program, failure.to_string());
            return Err(format!("seed {seed}: {failure}\n{program:#?}").into());
        }
    }
    DONE
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
