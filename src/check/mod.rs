//! Checks the device: the CPU reference, programs that run on both, and attention in f64.

#[cfg(feature = "attention")]
mod attention;
pub mod program;
pub(crate) mod reference;
