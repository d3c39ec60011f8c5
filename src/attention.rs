//! Scaled dot-product attention over a layer, reading it in place.
//!
//! Built on nothing but [`KvCache::wgsl`]: it proves that every format and placement can be read by one text, measures reading,
//! and is enough for a first engine. One workgroup takes a part of the positions of one KV head for all query heads that share it
//! (up to 32), so that each cached byte is read once for them; with few sequences the positions are split among workgroups, whose
//! parts a second dispatch joins ("Flash-Decoding", Dao et al., 2023). The softmax is online in f32 (Milakov and Gimelshein,
//! "Online normalizer calculation for softmax", 2018).
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

mod host;
mod reference;
mod tensors;
mod text;

use std::sync::Arc;

pub use host::{MaskRows, attend};
pub use reference::reference;

use self::tensors::{OUTPUT, QUERIES, Window, check_binding};
use crate::{
    Error, KvCache, Placement, Recorder, Result, RowsIn, Scale, WgslNames,
    binding::{uniform_binding, uniform_buffer},
    pipelines::buffer_entry,
};

/// What queries see and how it is weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Query heads, a multiple of the KV heads; query head `h` reads KV head `h ÷ (query_heads ÷ num_heads)`.
    pub query_heads: u32,
    /// Queries of each sequence.
    pub tokens: u32,
    /// Queries are the last `tokens` positions of their sequence, and see none after their own. Otherwise all see what the last
    /// position sees. A sequence with fewer positions has queries that see nothing.
    pub causal: bool,
    /// Sees its own position and so many minus one before it, and `sinks`; of a ring at most what it keeps, which is the default.
    pub window: Option<u32>,
    /// With a window: the first positions, which are always seen.
    pub sinks: u32,
    /// What scores are multiplied by; 1 ÷ √`head_dim` unless said.
    pub scale: Option<f32>,
    /// Scores become `softcap × tanh(score ÷ softcap)`, before the mask.
    pub softcap: Option<f32>,
    /// Parts in which the positions are read; chosen by the size of the device unless said.
    pub splits: Option<u32>,
}

impl Options {
    /// Causal attention of `tokens` queries a sequence.
    #[must_use]
    pub const fn new(query_heads: u32, tokens: u32) -> Self {
        Options { query_heads, tokens, causal: true, window: None, sinks: 0, scale: None, softcap: None, splits: None }
    }
}

/// A mask that is added to the scores, f32, dense: `[1 or batch, 1 or query_heads, 1 or tokens, positions]`.
///
/// Column `p` is position `p`, so there must be as many as the longest sequence has positions. Minus infinity hides a position.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of 4.
    pub offset: u64,
    /// Its shape; axes of 1 are for all.
    pub shape: [u32; 4],
}

/// The caller's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Tensors<'a> {
    /// Queries, `[batch, query_heads, tokens, head_dim]` by strides, in f32, f16 or bf16.
    pub queries: RowsIn<'a>,
    /// The output, `[batch, query_heads, tokens, value_dim]` by strides, in f32, f16 or bf16; of 16 bits with an even
    /// `value_dim`, even strides, and an offset of whole words. Rows must not overlap.
    pub output: RowsIn<'a>,
    /// Added to the scores.
    pub mask: Option<Mask<'a>>,
}

/// Attention over one layer, bound to the caller's buffers, to be recorded in every step.
#[derive(Debug)]
pub struct Attention {
    owner: Arc<()>,
    batch_size: u32,
    tokens: u32,
    /// Window and sinks that a query sees, where that is not all.
    window: Option<(u32, u32)>,
    causal: bool,
    mask_positions: Option<u32>,
    splits: u32,
    attend: Dispatches,
    combine: Option<Dispatches>,
}

#[derive(Debug)]
struct Dispatches {
    pipeline: wgpu::ComputePipeline,
    groups: Vec<wgpu::BindGroup>,
    grid: [u32; 3],
}

/// Mirror of `Params` in `shaders/attend_params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    tokens: u32,
    query: [u32; 4],
    output: [u32; 4],
    mask: [u32; 4],
    scale: f32,
    softcap: f32,
    spare: u32,
}

/// Threads of a workgroup, and positions that it takes at a time.
const WORKGROUP: u32 = 64;
/// Workgroups that keep a large device busy.
const WORKGROUPS_WANTED: u32 = 512;
const MOST_SPLITS: u32 = 64;
const MOST_ROWS: u32 = 32;

/// Rows of a tile: all query heads of a KV head, and tokens up to 16 rows.
fn rows_of_tile(group: u32, tokens: u32) -> u32 {
    if group >= 16 { group.min(MOST_ROWS) } else { (16 / group).min(tokens) * group }
}

impl Attention {
    /// Binds an attention over a layer to buffers of the caller's, which it reads and writes when the commands run.
    ///
    /// # Errors
    /// [`Error::QueryHeads`]; [`Error::NoTokens`]; [`Error::AttentionScale`], [`Error::Softcap`], [`Error::Splits`];
    /// [`Error::AttentionWindow`]; [`Error::MaskShape`]; [`Error::TensorFormat`], [`Error::TensorUsage`], [`Error::TensorRange`],
    /// [`Error::TensorMisaligned`], [`Error::OutputShared`]; [`Error::DeviceLimit`] where a buffer or a grid is larger than the
    /// device takes, or a layer of many segments has more buffers; [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    ///
    /// # Performance
    /// Makes pipelines where they are the first of their kind, two bind groups, a small uniform buffer, and where positions are
    /// split, scratch memory of `splits × (value_dim + 4) × 4` bytes for each query.
    pub fn new(cache: &KvCache, options: &Options, tensors: &Tensors<'_>) -> Result<Self> {
        let (context, config) = (cache.context(), *cache.config());
        let &Options { query_heads, tokens, causal, .. } = options;
        let num_heads = config.num_heads;
        if query_heads == 0 || !query_heads.is_multiple_of(num_heads) {
            return Err(Error::QueryHeads { query_heads, num_heads });
        }
        if tokens == 0 {
            return Err(Error::NoTokens);
        }
        let scale = options.scale.unwrap_or_else(|| 1.0 / (config.head_dim as f32).sqrt());
        if !scale.is_finite() {
            return Err(Error::AttentionScale { scale: Scale::new(scale) });
        }
        let softcap = options.softcap.unwrap_or(1.0);
        if !softcap.is_finite() || softcap <= 0.0 {
            return Err(Error::Softcap { softcap: Scale::new(softcap) });
        }
        let window = visible_window(config.placement, options)?;

        let limits = context.limits();
        let group = query_heads / num_heads;
        let rows = rows_of_tile(group, tokens);
        let rows_of_plane = u64::from(group) * u64::from(tokens);
        let tiles = rows_of_plane.div_ceil(rows.into());
        let planes = config.batch_size * num_heads;
        let most = limits.max_compute_workgroups_per_dimension;
        for needed in [tiles, planes.into(), rows_of_plane.div_ceil(most.into())] {
            if needed > u64::from(most) {
                return Err(Error::DeviceLimit {
                    limit: "max_compute_workgroups_per_dimension",
                    needed,
                    available: most.into(),
                });
            }
        }
        let splits = match options.splits {
            Some(splits) if splits == 0 || splits > MOST_SPLITS => {
                return Err(Error::Splits { splits, most: MOST_SPLITS });
            }
            Some(splits) => splits,
            None => splits_for(context, config.slots(), tiles * u64::from(planes)),
        };

        let shape = |dim| [config.batch_size, query_heads, tokens, dim];
        let queries = Window::new(context, &QUERIES, &tensors.queries, shape(config.head_dim), 1)?;
        let output_lanes = 4 / tensors.output.format.unit_bytes();
        let output = Window::new(context, &OUTPUT, &tensors.output, shape(config.value_dim), output_lanes)?;
        let mask = tensors.mask.as_ref().map(|mask| Window::of_mask(context, mask, shape(0))).transpose()?;
        for (name, shared) in [
            ("queries", tensors.queries.buffer == tensors.output.buffer),
            ("mask", tensors.mask.is_some_and(|mask| mask.buffer == tensors.output.buffer)),
            ("cache", cache.storage.contains(tensors.output.buffer)),
        ] {
            if shared {
                return Err(Error::OutputShared { name });
            }
        }

        let params = Params {
            tokens,
            query: queries.numbers,
            output: output.numbers,
            mask: mask.as_ref().map_or([0; 4], |mask| mask.numbers),
            scale,
            softcap,
            spare: 0,
        };
        let params = uniform_buffer(context, &[params])?;
        let names = WgslNames::new("cache_").group(1);
        let variant = text::Variant {
            rows,
            group,
            splits,
            causal,
            window,
            capped: options.softcap.is_some(),
            masked: mask.is_some(),
            queries: tensors.queries.format,
            output: tensors.output.format,
        };
        let partials = (splits > 1)
            .then(|| {
                let vectors = u64::from(config.value_dim.div_ceil(4)) + 1;
                let bytes = u64::from(planes) * rows_of_plane * u64::from(splits) * vectors * 16;
                check_binding(context, bytes)?;
                context.create_buffer("partial sums", bytes, wgpu::BufferUsages::STORAGE, false)
            })
            .transpose()?;

        let uniform =
            |binding| (binding, wgpu::BufferBindingType::Uniform, uniform_binding::<Params>(context, &params, 0));
        let storage =
            |binding, read_only, resource| (binding, wgpu::BufferBindingType::Storage { read_only }, resource);
        let output_binding = || storage(2, false, output.binding());
        let mut bound = vec![uniform(0), storage(1, true, queries.binding())];
        bound.push(match &partials {
            Some(partials) => storage(3, false, partials.as_entire_binding()),
            None => output_binding(),
        });
        bound.extend(mask.as_ref().map(|mask| storage(4, true, mask.binding())));
        let attend = Dispatches::new(
            context,
            "attend",
            text::attend(&cache.wgsl(&names)?, config.head_dim, &variant),
            &bound,
            Some((cache, &names)),
            [splits, clamp_u32(tiles), planes],
        )?;
        let combine = partials
            .as_ref()
            .map(|partials| {
                let bound = [uniform(0), output_binding(), storage(3, true, partials.as_entire_binding())];
                let rows = clamp_u32(rows_of_plane);
                let deep = rows.div_ceil(most);
                let grid = [rows.div_ceil(deep), planes, deep];
                Dispatches::new(context, "combine", text::combine(&config, &variant), &bound, None, grid)
            })
            .transpose()?;
        Ok(Attention {
            owner: cache.identity.clone(),
            batch_size: config.batch_size,
            tokens,
            window,
            causal,
            mask_positions: tensors.mask.map(|mask| mask.shape[3]),
            splits,
            attend,
            combine,
        })
    }

    /// Parts in which the positions are read.
    pub fn splits(&self) -> u32 {
        self.splits
    }

    /// Records the attention over what the layer holds at that point of the command stream.
    ///
    /// # Errors
    /// [`Error::ForeignAttention`]; [`Error::BatchChanged`]; [`Error::MaskTooShort`]; [`Error::Evicted`] where a query may see a
    /// position that a ring no longer stores.
    ///
    /// # Performance
    /// One dispatch, or two where positions are split. Allocates nothing.
    pub fn record(&self, cache: &KvCache, recorder: &mut impl Recorder) -> Result<()> {
        if !Arc::ptr_eq(&self.owner, &cache.identity) {
            return Err(Error::ForeignAttention);
        }
        let batch_size = cache.config().batch_size;
        if batch_size != self.batch_size {
            return Err(Error::BatchChanged { bound: self.batch_size, batch_size });
        }
        let write_pos = cache.write_pos();
        if let Some(positions) = self.mask_positions.filter(|positions| *positions < write_pos) {
            return Err(Error::MaskTooShort { positions, write_pos });
        }
        if let Some((window, sinks)) = self.window {
            let known = cache.sequences.lengths.iter().zip(&cache.sequences.oldest);
            for (sequence, (&length, &oldest)) in (0..).zip(known) {
                let queries = if self.causal { self.tokens } else { 1 };
                let first = (length.saturating_sub(queries) + 1).saturating_sub(window).max(sinks);
                if first < length && first < oldest {
                    return Err(Error::Evicted { sequence, position: first, oldest });
                }
            }
        }
        recorder.in_pass("kv-cache attention", |pass| {
            for Dispatches { pipeline, groups, grid: [x, y, z] } in std::iter::once(&self.attend).chain(&self.combine) {
                pass.set_pipeline(pipeline);
                for (index, group) in (0..).zip(groups) {
                    pass.set_bind_group(index, group, &[]);
                }
                pass.dispatch_workgroups(*x, *y, *z);
            }
        });
        Ok(())
    }
}

/// Window and sinks that queries see, where that is not all.
fn visible_window(placement: Placement, options: &Options) -> Result<Option<(u32, u32)>> {
    match (placement, options.window) {
        (_, Some(0)) => Err(Error::ZeroDimension { name: "window" }),
        (Placement::Linear, None) => Ok(None),
        (Placement::Linear, Some(window)) => Ok(Some((window, options.sinks))),
        (Placement::Ring { window, sinks, .. }, None) => Ok(Some((window, sinks))),
        (Placement::Ring { window, sinks, .. }, Some(wanted)) => {
            let wanted_sinks = options.sinks;
            if wanted > window || wanted_sinks > sinks {
                return Err(Error::AttentionWindow { window, sinks, wanted, wanted_sinks });
            }
            Ok(Some((wanted, wanted_sinks)))
        }
    }
}

/// As many splits as fill a device, of some chunks of positions each. A software driver has a few threads.
fn splits_for(context: &crate::Context, slots: u32, workgroups: u64) -> u32 {
    let wanted = match context.device().adapter_info().device_type {
        wgpu::DeviceType::Cpu => 16,
        _ => WORKGROUPS_WANTED,
    };
    let by_device = u64::from(wanted).div_ceil(workgroups.max(1));
    let by_positions = u64::from(slots.div_ceil(4 * WORKGROUP));
    clamp_u32(by_device.min(by_positions).clamp(1, MOST_SPLITS.into()))
}

impl Dispatches {
    fn new(
        context: &crate::Context,
        entry: &'static str,
        text: String,
        bound: &[(u32, wgpu::BufferBindingType, wgpu::BindingResource<'_>)],
        cache: Option<(&KvCache, &WgslNames<'_>)>,
        grid: [u32; 3],
    ) -> Result<Self> {
        let group = |layout: &[wgpu::BindGroupLayoutEntry], entries: &[wgpu::BindGroupEntry<'_>]| {
            context.create("an attention's bind group", 0, |device| {
                let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(entry), entries: layout };
                let layout = device.create_bind_group_layout(&descriptor);
                let descriptor = wgpu::BindGroupDescriptor { label: Some(entry), layout: &layout, entries };
                let group = device.create_bind_group(&descriptor);
                (layout, group)
            })
        };
        let layout: Vec<_> = bound.iter().map(|(binding, ty, _)| buffer_entry(*binding, *ty, false)).collect();
        let entries: Vec<_> = bound
            .iter()
            .map(|(binding, _, resource)| wgpu::BindGroupEntry { binding: *binding, resource: resource.clone() })
            .collect();
        let mut made = vec![group(&layout, &entries)?];
        if let Some((cache, names)) = cache {
            made.push(group(&cache.wgsl_layout(names, wgpu::ShaderStages::COMPUTE)?, &cache.wgsl_entries(names)?)?);
        }
        let layouts: Vec<_> = made.iter().map(|(layout, _)| layout).collect();
        let pipeline = context.pipeline_of(entry, text, &layouts)?;
        Ok(Dispatches { pipeline, groups: made.into_iter().map(|(_, group)| group).collect(), grid })
    }
}

/// What was checked to fit a binding or a grid.
fn clamp_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
