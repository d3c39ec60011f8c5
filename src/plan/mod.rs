//! Plans what an operation does, without a device.

pub(crate) mod costs;
pub(crate) mod grid;
pub(crate) mod operations;
pub(crate) mod sequences;
pub(crate) mod step;
