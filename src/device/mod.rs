//! Everything that talks to wgpu below the caches: the context, pipelines and bind groups, the storage of a layer,
//! slots for steps, and the caller's buffers.

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
