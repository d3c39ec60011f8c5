//! `kv-cache`: a key/value cache for transformers on any GPU that wgpu reaches, checked bit for bit.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod adapters;
mod bench;
mod bytes;
mod demo;
mod failure;
mod inspect;
mod output;
mod plan;
mod quality;
mod random;
mod random_pages;
mod replay;
mod share;
mod timing;
mod trace;
mod trial;
mod verify;

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use failure::Failure;
use output::Out;

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
    Inspect(inspect::Arguments),
    Share(share::Arguments),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error,wgpu_hal=off")).init();
    let (done, status) = match Arguments::try_parse() {
        Ok(arguments) => {
            let mut out = output::open();
            let done = run(arguments, &mut out);
            // Print the output from before an error too.
            let told = out.flush();
            (done.and_then(|()| Ok(told?)), ExitCode::SUCCESS)
        }
        // Help and version are errors of clap too.
        Err(told) => {
            let printed = told.print().and_then(|()| io::stdout().flush());
            let done = if told.use_stderr() { Ok(()) } else { printed.map_err(Failure::from) };
            (done, if told.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS })
        }
    };
    match done {
        Ok(()) => status,
        // The reader closed the pipe because it needs no more.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // If standard error cannot be written, the status still reports the failure.
            let _ = writeln!(io::stderr(), "{} {failure}", console::style("error:").red().bold().for_stderr());
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, out: &mut Out) -> Result<(), Failure> {
    match arguments.command.unwrap_or(Command::Demo(demo::Arguments::default())) {
        Command::Demo(arguments) => demo::run(&arguments, out),
        Command::Verify(arguments) => verify::run(&arguments, out),
        Command::Adapters(arguments) => adapters::run(&arguments, out),
        Command::Plan(arguments) => plan::run(&arguments, out),
        Command::Bench(arguments) => bench::run(&arguments, out),
        Command::Replay(arguments) => replay::run(&arguments, out),
        Command::Quality(arguments) => quality::run(&arguments, out),
        Command::Inspect(arguments) => inspect::run(&arguments, out),
        Command::Share(arguments) => share::run(&arguments, out),
    }
}
