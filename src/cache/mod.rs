//! The caches: of one layer, and of all layers of a model.

pub(crate) mod batched;
pub(crate) mod bound;
#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
mod calibrate;
pub(crate) mod checkpoint;
pub(crate) mod copies;
pub(crate) mod layer;
pub(crate) mod permutation;
pub(crate) mod reads;
pub(crate) mod report;
pub(crate) mod view;
