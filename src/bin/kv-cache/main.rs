//! `kv-cache`: a key/value cache for transformers on any GPU that wgpu reaches, checked bit for bit.

mod adapters;
mod bench;
mod demo;
mod failure;
mod output;
mod plan;
mod quality;
mod random;
mod replay;
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
#[command(name = "kv-cache", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Verify(verify::Arguments),
    Adapters(adapters::Arguments),
    Plan(plan::Arguments),
    Bench(bench::Arguments),
    Replay(replay::Arguments),
    Quality(quality::Arguments),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error,wgpu_hal=off")).init();
    let done = match Arguments::parse().command.unwrap_or(Command::Demo(demo::Arguments::default())) {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Adapters(arguments) => adapters::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Quality(arguments) => quality::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{} {failure}", console::style("error:").red().bold().for_stderr());
            ExitCode::FAILURE
        }
    }
}
