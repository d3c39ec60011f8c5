//! Scaled dot-product attention over a layer, reading it in place.
//!
//! Built on nothing but [`KvCache::wgsl`](crate::KvCache::wgsl): it proves that every format and placement can be read
//! by one text, measures reading, and is enough for a first engine. One workgroup takes a part of the positions of one
//! KV head for all query heads that share it (up to 32), so that each cached byte is read once for them; with few
//! sequences the positions are split among workgroups, whose parts a second dispatch joins ("Flash-Decoding", Dao et
//! al., 2023). The softmax is online in f32 (Milakov and Gimelshein, "Online normalizer calculation for softmax",
//! 2018).
//!
//! An [`Attention`] is made once for each layer and recorded in every step, whatever its number of sequences and
//! tokens: by default it belongs to the update before it, and the query at row `t` is the `t`-th row that was just
//! written.
//!
//! ```
//! use wgpu_kv_cache::{CacheConfig, Context, Format, KvCache, RowsIn, Strides, Write, attention::{Attention, Options, Tensors}};
//!
//! # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
//! # let context = Context::new(&device, &queue);
//! // 32 query heads share 8 KV heads of 128.
//! let mut cache = KvCache::new(&context, CacheConfig::new(1, 8, 128, 4096).formats(Format::Q8_0, Format::Q8_0))?;
//! let buffer = || device.create_buffer(&wgpu::BufferDescriptor {
//!     label: None, size: 32 * 128 * 4, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false,
//! });
//! let (queries, output) = (buffer(), buffer());
//! let dense = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(32, 1, 128) };
//! let tensors = Tensors { queries: dense(&queries), output: dense(&output), mask: None };
//! let attention = Attention::new(&cache, &Options::new(32, 1), &tensors)?;
//!
//! let mut encoder = device.create_command_encoder(&Default::default());
//! cache.update(&vec![0.5f32; 8 * 128], &vec![0.5f32; 8 * 128], Write::append(1))?;
//! attention.record(&cache, &mut encoder)?; // in every step
//! queue.submit([encoder.finish()]);
//! # Ok::<(), wgpu_kv_cache::Error>(())
//! ```

mod bound;
mod host;
mod options;
mod tensors;
mod text;
mod tiles;

pub use self::{
    bound::Attention,
    host::{MaskRows, attend, attend_async},
    options::{Mask, Options, Queries, Reading, Tensors},
};
