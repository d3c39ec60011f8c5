//! The failures that end the program with status 1.

use std::{io, path::PathBuf};

use wgpu_kv_cache::Difference;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Cache(#[from] wgpu_kv_cache::Error),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: not a safetensors file, or truncated: {source}")]
    NotSafetensors { path: String, source: safetensors::SafeTensorError },
    #[error("{path}: {rule}")]
    Trace { path: String, rule: String },
    #[error("{}: {error}", path.display())]
    NotSaved { path: PathBuf, error: wgpu_kv_cache::Error },
    #[error("{}: not a JSON object: {message}", path.display())]
    NotJson { path: PathBuf, message: String },
    #[error("{}: not a program: {message}", path.display())]
    NotProgram { path: PathBuf, message: String },
    #[error("{adapter}: operation {operation}: {difference}")]
    Replay { adapter: String, operation: usize, difference: String },
    #[error("{}: not a report of bench --json: {message}", path.display())]
    NotReport { path: PathBuf, message: String },
    #[error("{path}: {rule}")]
    Model { path: String, rule: String },
    #[error("{rule}")]
    Argument { rule: String },
    #[error("{adapter}, {format}: {difference}")]
    Different { adapter: String, format: String, difference: Box<Difference> },
    #[error("{adapter}, {format}: layer {layer}: lengths should be {expected:?}, but are {actual:?} on the device")]
    Lengths { adapter: String, format: String, layer: usize, expected: Vec<u32>, actual: Vec<u32> },
    #[error(
        "{adapter}: program with seed {seed}: {failure}\nto reproduce: kv-cache \
         verify --random 1 --seed {seed} --adapter \"{adapter}\""
    )]
    Program { adapter: String, seed: u64, failure: Box<wgpu_kv_cache::program::Failure> },
}
