//! `kv-cache verify`.

use std::{io::Write, path::PathBuf};

use clap::Args;
use console::style;
use serde_json::json;
use wgpu_kv_cache::{Context, CostModel, adapter_label};

use crate::{
    Failure,
    demo::{chosen, put_through},
    output,
    output::Out,
    random, random_pages,
    trace::Trace,
};

/// Verify adapters with your own engine's keys and values, or with random programs.
///
/// With FILE, does what `demo` does, with your trace: a safetensors file with `layers.{i}.keys` and
/// `layers.{i}.values` for every layer i from 0, each `[batch, kv_head, tokens, dim]` in F32, F16 or BF16.
///
/// With --random, runs programs of all operations over random shapes, formats and placements, and compares results,
/// lengths and the whole storage with the reference after every operation. As many programs of paged caches compare
/// pages, prefixes and lengths after every operation, and the rows of all sequences at the end. A third of the shapes
/// use kernels only, a third use buffer copies wherever they can, and a third use the default cost model of the device.
#[derive(Args)]
pub struct Arguments {
    /// The trace to verify.
    #[arg(required_unless_present = "random", conflicts_with_all = ["random", "seed"])]
    file: Option<PathBuf>,
    /// Number of tokens of the trace that are written at once; the others follow one by one [default: two thirds].
    #[arg(long, value_name = "TOKENS", conflicts_with = "random")]
    prefill: Option<u32>,
    /// Run this many random programs, and as many of paged caches.
    #[arg(long, value_name = "N")]
    random: Option<u64>,
    /// Seed of the first program; program i has seed + i. If absent, a random seed is used and printed.
    #[arg(long, value_name = "S", requires = "random")]
    seed: Option<u64>,
    /// Use only this adapter, by its index or a part of its name, as `kv-cache adapters` prints them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    match (&arguments.file, arguments.random) {
        (Some(path), _) => {
            let trace = Trace::open(path)?;
            let prefill = arguments.prefill.unwrap_or((trace.tokens * 2).div_ceil(3));
            if prefill == 0 || prefill > trace.tokens {
                let rule = format!("--prefill must be from 1 to the trace's {} tokens, but is {prefill}", trace.tokens);
                return Err(Failure::Argument { rule });
            }
            put_through(out, &trace, prefill, arguments.adapter.as_deref(), arguments.json)
        }
        (None, Some(programs)) => random_programs(arguments, programs, out),
        (None, None) => unreachable!("clap asks for one of the two"),
    }
}

fn random_programs(arguments: &Arguments, programs: u64, out: &mut Out) -> Result<(), Failure> {
    if programs == 0 {
        return Err(Failure::Argument { rule: "--random must be at least 1, but is 0".to_owned() });
    }
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..) >> 32);
    let mut verified = Vec::new();
    for adapter in chosen(arguments.adapter.as_deref())? {
        let label = adapter_label(&adapter.get_info());
        let context = Context::open(&adapter)?;
        let bar = output::progress(programs, &label);
        let (mut operations, mut shape, mut shape_of_pages) = (0, None, None);
        for index in 0..programs {
            let seed = seed.wrapping_add(index);
            let program = random::program(seed);
            let number = seed / random::PROGRAMS_OF_A_SHAPE;
            let of_shape = match &shape {
                Some((known, context)) if *known == number => context,
                _ => {
                    // A context holds its pipelines, so a new one for each shape drops those of the last.
                    let forms = [CostModel::KERNELS, CostModel::COPIES, *context.costs()];
                    let costs = forms[(number % 3) as usize];
                    let fresh = Context::with_costs(context.device(), context.queue(), costs);
                    &shape.insert((number, fresh)).1
                }
            };
            program.run(of_shape).map_err(|failure| {
                bar.finish_and_clear();
                Failure::Program { adapter: label.clone(), seed, failure: Box::new(failure) }
            })?;
            operations += program.operations.len();
            let program = random_pages::program(seed);
            let number = seed / random_pages::PROGRAMS_OF_A_SHAPE;
            let of_shape = match &shape_of_pages {
                Some((known, context)) if *known == number => context,
                _ => {
                    let fresh = Context::with_costs(context.device(), context.queue(), *context.costs());
                    &shape_of_pages.insert((number, fresh)).1
                }
            };
            program.run(of_shape).map_err(|failure| {
                bar.finish_and_clear();
                Failure::Program { adapter: label.clone(), seed, failure: Box::new(failure) }
            })?;
            operations += program.operations.len();
            bar.inc(1);
        }
        bar.finish_and_clear();
        if !arguments.json {
            writeln!(
                out,
                "{} {label}: {programs} programs, and as many of paged caches, from seed {seed}, {operations} operations, \
                 device and reference agree bit for bit",
                style("verified").green().bold()
            )?;
            out.flush()?;
        }
        verified.push(json!({
            "adapter": label, "verified": true, "programs": programs, "seed": seed, "operations": operations,
        }));
    }
    if arguments.json {
        output::json(out, &verified)?;
    }
    Ok(())
}
