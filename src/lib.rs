#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss, clippy::unwrap_used)]
// An embedding crate's release build wraps silently, so what plans rest on is checked or saturates in every build.
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, reason = "the numbers of a test are small"))]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small"))]

// From the bottom up: a folder imports only from those before it.
mod cache;
mod device;
mod error;
mod format;
mod kernels;
#[cfg(feature = "pages")]
pub mod pages;
mod plan;
mod read;
#[cfg(feature = "save")]
pub mod save;
mod shape;
#[cfg(feature = "store")]
pub mod store;
#[cfg(all(feature = "store", not(target_family = "wasm")))]
pub mod tiers;

#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
mod check;

#[cfg(test)]
#[path = "../tests/unit/wgsl.rs"]
mod wgsl;

#[cfg(feature = "pages")]
pub use cache::paged::{PagedConfig, PagedKvCache, PagedLayer, PagedSource};
pub use cache::{
    batched::BatchedKvCache,
    bound::BoundSource,
    checkpoint::Checkpoint,
    layer::KvCache,
    report::MemoryReport,
    view::{CacheView, PerSequenceView, RowView, SegmentView, SideView, SlotView},
};
pub use check::program;
pub use check::reference::{Difference, ReferenceCache, compare_tensors};
pub use device::{
    adapter::{adapter_label, adapters, adapters_async, find_adapter, find_adapter_async},
    context::Context,
    destination::Destination,
    record::Recorder,
    source::{RowsIn, Source, Strides},
    tensor::GpuTensor,
};
#[cfg(feature = "save")]
pub use error::SaveError;
#[cfg(feature = "store")]
pub use error::StoreError;
pub use error::{
    AttentionError, BufferError, ConfigError, DeviceError, Error, PageError, RangeError, Result, RowError,
    SequenceError, StepError, WgslError, WriteError,
};
pub use format::{Format, HostRows, Side, scale::Scale};
pub use half;
pub use plan::costs::{CostModel, Form};
#[cfg(feature = "attention")]
pub use read::attention;
pub use read::{layer::ReadLayer, names::WgslNames};
pub use shape::{
    config::CacheConfig,
    placement::{Placement, Visible},
    tensor::{HostTensor, Pair},
    write::{PerSequence, Write},
};
pub use wgpu;
