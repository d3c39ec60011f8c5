//! The device: what is made on it, and what is recorded for it.

pub(crate) mod adapter;
pub(crate) mod binding;
pub(crate) mod context;
pub(crate) mod destination;
pub(crate) mod pipelines;
pub(crate) mod record;
pub(crate) mod ring;
pub(crate) mod source;
pub(crate) mod storage;
pub(crate) mod tensor;
pub(crate) mod wait;
