#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss, clippy::unwrap_used)]
// An embedding crate's release build wraps silently, so what plans rest on is checked or saturates in every build.
#![warn(clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, reason = "the numbers of a test are small"))]
#![cfg_attr(test, allow(clippy::cast_possible_truncation, reason = "the numbers of a test are small"))]

mod adapter;
#[cfg(feature = "attention")]
pub mod attention;
mod batched;
mod binding;
mod bound;
#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
mod calibrate;
#[cfg(test)]
#[path = "../tests/unit/check.rs"]
mod check;
mod checkpoint;
mod config;
mod context;
mod copies;
mod costs;
mod destination;
mod error;
mod format;
mod grid;
mod kernels;
mod layer;
mod layout;
mod permute;
mod pipelines;
mod placement;
mod plan;
#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
pub mod program;
#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
mod quantise;
mod reader;
mod record;
#[allow(clippy::arithmetic_side_effects, reason = "serves checking and measuring: no plan rests on it")]
mod reference;
mod report;
mod ring;
mod scale;
mod sequences;
mod source;
mod step;
mod storage;
mod tensor;
mod view;
mod wait;
mod write;

pub use adapter::{adapter_label, adapters, adapters_async, find_adapter, find_adapter_async};
pub use batched::BatchedKvCache;
pub use bound::BoundSource;
pub use checkpoint::Checkpoint;
pub use config::CacheConfig;
pub use context::Context;
pub use costs::{CostModel, Form};
pub use destination::Destination;
pub use error::{Error, Result};
pub use format::{Format, HostRows, Side};
pub use half;
pub use layer::KvCache;
pub use placement::{Placement, Visible};
pub use reader::WgslNames;
pub use record::Recorder;
pub use reference::{Difference, ReferenceCache, compare_tensors};
pub use report::MemoryReport;
pub use scale::Scale;
pub use source::{RowsIn, Source, Strides};
pub use tensor::{GpuTensor, HostTensor, Pair};
pub use view::{CacheView, PerSequenceView, RowView, SegmentView, SideView, SlotView};
pub use wgpu;
pub use write::{PerSequence, Write};
