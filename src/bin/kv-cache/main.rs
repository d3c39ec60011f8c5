//! `kv-cache`: a key/value cache for transformers on any GPU that wgpu reaches, checked bit for bit.

mod adapters;
mod demo;
mod failure;
mod output;
mod plan;
mod random;
mod timing;
mod trace;
mod trial;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// A key/value cache for transformers on any GPU that wgpu reaches, checked bit for bit against the CPU.
///
/// Without a subcommand it runs `demo`.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Put a real model's keys and values through the cache on every adapter, and verify every bit.
    Demo(demo::Arguments),
    /// Check adapters with your own engine's keys and values, or with random programs.
    Verify(verify::Arguments),
    /// List what wgpu sees, with the limits and features that matter to a cache.
    Adapters(adapters::Arguments),
    /// Tell how much memory a model's cache needs, before any GPU is touched.
    Plan(plan::Arguments),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error,wgpu_hal=off")).init();
    let done = match Arguments::parse().command.unwrap_or(Command::Demo(demo::Arguments::default())) {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Adapters(arguments) => adapters::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{} {failure}", console::style("error:").red().bold().for_stderr());
            ExitCode::FAILURE
        }
    }
}
