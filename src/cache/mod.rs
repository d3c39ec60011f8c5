//! The caches: [`KvCache`](crate::KvCache) for one layer and [`BatchedKvCache`](crate::BatchedKvCache) for all layers
//! of a model, and what they record.

pub(crate) mod batched;
pub(crate) mod bound;
#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
mod calibrate;
pub(crate) mod checkpoint;
pub(crate) mod copies;
pub(crate) mod layer;
#[cfg(feature = "pages")]
pub(crate) mod paged;
pub(crate) mod permutation;
pub(crate) mod reads;
pub(crate) mod report;
pub(crate) mod view;
