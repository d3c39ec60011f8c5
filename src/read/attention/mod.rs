//! Scaled dot-product attention over a layer, reading it in place.
//!
//! Built on nothing but [`KvCache::wgsl`](crate::KvCache::wgsl). A workgroup takes a part of the positions of one KV
//! head for a tile of up to eight rows (a row is a query head of a token), and reads each cached byte of that part once
//! for them. Groups of threads share a row of the cache and read four positions at a time, 16 bytes a load; see
//! [`Reading`] and the head of `shaders/attend/attend.wgsl`. With few sequences the positions are split among
//! workgroups, whose parts a second dispatch joins ("Flash-Decoding", Dao et al., 2023). The softmax is online in f32
//! (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
//!
//! This is made for decoding and for short prompts, where reading the cache takes the time. At long prompts the
//! multiply-adds take it: an engine whose device has cooperative matrices (`EXPERIMENTAL_COOPERATIVE_MATRIX`) should
//! use a kernel of its own there, over the rows that it is about to write, or over the cache by
//! [`KvCache::wgsl`](crate::KvCache::wgsl).
//!
//! An [`Attention`] is made once for each layer and recorded in every step, whatever its number of sequences and
//! tokens: by default it belongs to the update before it, and the query at row `t` is the `t`-th row that was just
//! written.
//!
//! ```
//! use wgpu_kv_cache::{
//!     CacheConfig, Context, Format, KvCache, RowsIn, Source, Strides, Write,
//!     attention::{Attention, Options, Tensors},
//! };
//!
//! # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
//! # let context = Context::new(&device, &queue);
//! // 32 query heads share 8 KV heads of 128.
//! let mut cache = KvCache::new(&context, CacheConfig::new(1, 8, 128, 4096).formats(Format::Q8_0, Format::Q8_0))?;
//! let buffer = || device.create_buffer(&wgpu::BufferDescriptor {
//!     label: None, size: 32 * 128 * 4, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false,
//! });
//! let (keys, values, queries, output) = (buffer(), buffer(), buffer(), buffer()); // yours
//! let dense = |buffer, heads| {
//!     let strides = Strides::bhtd(heads, 1, 128);
//!     RowsIn { buffer, offset: 0, format: Format::F32, strides }
//! };
//! let source = cache.bind_source(&Source { keys: dense(&keys, 8), values: dense(&values, 8), tokens: 1 })?;
//! let tensors = Tensors { queries: dense(&queries, 32), output: dense(&output, 32), mask: None, sink_logits: None };
//! let attention = Attention::new(&cache, &Options::new(32, 1), &tensors)?;
//!
//! // In every step, behind the kernels that compute the rows:
//! let mut encoder = device.create_command_encoder(&Default::default());
//! cache.record_update(&mut encoder, &source, Write::append(1))?;
//! attention.record(&cache, &mut encoder)?;
//! queue.submit([encoder.finish()]);
//! # Ok::<(), wgpu_kv_cache::Error>(())
//! ```

mod bound;
mod host;
mod options;
mod tensors;
mod text;
mod tiles;
mod work;

pub use self::{
    bound::Attention,
    host::{Extras, MaskRows, attend, attend_async},
    options::{Mask, Options, Queries, Reading, SinkLogits, Tensors},
};
