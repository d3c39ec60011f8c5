//! Programs of cache operations, run on a device and on the reference and compared after every step.
//!
//! This is how the crate checks itself, how `kv-cache verify --random` checks an adapter, and how an engine can check
//! its own use of the cache: describe what it does as a [`Program`] and [`run`](Program::run) it.

mod data;
mod operation;
mod run;

pub use self::{
    data::{Layout, Rows},
    operation::{Change, Failure, FailureKind, Fault, Lengths, Operation, Path, Positions, Program, Span},
};
