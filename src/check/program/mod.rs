//! Programs of cache operations, which run on a device and on the reference. Both are compared after every operation.
//!
//! The crate checks itself this way, and `kv-cache verify --random` checks an adapter. An engine can check its own use
//! of the cache: describe it as a [`Program`] and [`run`](Program::run) it.

mod change;
mod data;
mod operation;
#[cfg(feature = "pages")]
pub mod paged;
mod run;

pub use self::{
    data::{Layout, Rows},
    operation::{Change, Failure, FailureKind, Fault, Lengths, Operation, Path, Positions, Program, Span},
};
