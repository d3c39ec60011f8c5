//! Programs of a [paged cache](crate::PagedKvCache), which run on a device and on a reference that knows no block table
//! and hashes nothing. Both are compared after every operation, and the rows of all sequences at the end.

#[cfg(feature = "attention")]
mod attend;
mod operation;
mod reference;
mod rows;
mod run;

pub use self::{
    operation::{PagedOperation, PagedOutcome, PagedProgram, PagedRefusal},
    rows::TokenRows,
    run::PagedRun,
};
