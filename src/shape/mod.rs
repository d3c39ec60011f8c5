//! The shape of a cache: sizes, placements, and the rows that go in and out.

#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
mod codec;
pub(crate) mod config;
pub(crate) mod layout;
pub(crate) mod limits;
pub(crate) mod placement;
pub(crate) mod table;
pub(crate) mod tensor;
pub(crate) mod write;
