//! [`Attention`]: bound to a layer and to the caller's buffers, and recorded in every step.

use std::sync::{Arc, OnceLock};

use super::{
    options::{Options, Queries, Tensors},
    tensors::{OUTPUT, QUERIES, Window, check_binding},
    text::{self, Variant},
    tiles::{MOST_SPLITS, Tile, Units, most_parts},
    work::{Shape, Work, check_grid, check_splits, device_of, part_bytes, text_layout},
};
use crate::{
    AttentionError, DeviceError, Error, RangeError, ReadLayer, Recorder, Result, Scale, StepError, WgslNames,
    WriteError,
    device::binding::window_binding,
    plan::grid::spread,
    read::readable::Readable,
    shape::{
        layout::{Layout, binding_limit},
        table::TableLayout,
    },
};

/// Attention over one layer, bound to the caller's buffers, to be recorded in every step.
///
/// It serves every number of tokens up to that of its [`Options`], and every batch whose sequences the buffers hold.
#[derive(Debug)]
pub struct Attention {
    owner: Arc<()>,
    /// Window and sinks that a query sees, where that is not all.
    window: Option<(u32, u32)>,
    /// Sequences that each tensor holds rows for.
    sequences: [(&'static str, u32); 3],
    mask_positions: Option<u32>,
    layout: Layout,
    table: Option<TableLayout>,
    names: WgslNames<'static>,
    variant: Variant,
    work: Work,
    groups: Groups,
    /// By whether positions are split, and whether there is more than one token; made when the first step takes them.
    pipelines: [[OnceLock<wgpu::ComputePipeline>; 2]; 2],
    /// For each tile.
    combine: [OnceLock<wgpu::ComputePipeline>; 2],
}

/// A bind group and its layout.
type Group = (wgpu::BindGroupLayout, wgpu::BindGroup);

/// Bind groups of all kernels.
#[derive(Debug)]
struct Groups {
    /// The layer.
    cache: Group,
    /// Of the kernel that writes the output.
    whole: Group,
    /// Of the kernel that writes partial sums, and of that which joins them.
    split: Group,
    combine: Group,
}

/// Mirror of `Params` in `shaders/attend/params.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub tokens: u32,
    pub query: [u32; 4],
    pub output: [u32; 4],
    pub mask: [u32; 4],
    pub scale: f32,
    pub softcap: f32,
    pub sink_offset: u32,
}

impl Attention {
    /// Binds an attention over a layer to the caller's buffers, which it reads and writes when the commands run.
    ///
    /// # Errors
    /// [`AttentionError::QueryHeads`]; [`WriteError::NoTokens`]; [`AttentionError::AttentionScale`],
    /// [`AttentionError::Softcap`], [`AttentionError::Splits`]; [`AttentionError::AttentionWindow`],
    /// [`AttentionError::AttentionLag`]; [`AttentionError::MaskShape`]; [`AttentionError::TensorFormat`],
    /// [`AttentionError::TensorUsage`], [`AttentionError::TensorRange`], [`AttentionError::TensorMisaligned`],
    /// [`AttentionError::OutputShared`]; [`DeviceError::DeviceLimit`] where a buffer or a grid is larger than the
    /// device takes, or a layer of many segments has more buffers; [`DeviceError::Refused`] where a buffer belongs to
    /// another device (of another wgpu instance nothing can be told, see [`Context::new`](crate::Context::new));
    /// [`DeviceError::OutOfMemory`]; [`DeviceError::DeviceLost`].
    ///
    /// # Performance
    /// Creates four bind groups. Layers of one context share scratch memory, some megabytes on a large device. Layers
    /// that read and write the same tensors share a small uniform buffer. Pipelines are created when a step first needs
    /// them, or by [`warm_up`](Self::warm_up).
    pub fn new(layer: &impl ReadLayer, options: &Options, tensors: &Tensors<'_>) -> Result<Self> {
        let cache = layer.readable();
        let (context, config) = (cache.context, cache.config);
        let &Options { query_heads, tokens, causal, lag, packed, .. } = options;
        let num_heads = config.num_heads;
        let shared = query_heads.checked_div(num_heads).filter(|_| query_heads.is_multiple_of(num_heads));
        let group = shared
            .filter(|&group| group > 0)
            .ok_or(Error::Attention(AttentionError::QueryHeads { query_heads, num_heads }))?;
        if tokens == 0 || packed == Some(0) {
            return Err(Error::Write(WriteError::NoTokens));
        }
        let scale = options.scale.unwrap_or_else(|| 1.0 / (config.head_dim as f32).sqrt());
        if !scale.is_finite() {
            return Err(Error::Attention(AttentionError::AttentionScale { scale: Scale::new(scale) }));
        }
        let softcap = options.softcap.unwrap_or(1.0);
        if !softcap.is_normal() || softcap <= 0.0 {
            return Err(Error::Attention(AttentionError::Softcap { softcap: Scale::new(softcap) }));
        }
        let window = options.visible_window(config.placement)?;

        let (device, units) = (device_of(context, options, config.max_batch_size), Units::of(cache.layout));
        let tile = |tokens| {
            Tile::new(group, tokens, units, device).ok_or_else(|| {
                Error::Device(DeviceError::DeviceLimit {
                    limit: "max_compute_workgroup_storage_size",
                    needed: Tile::least_bytes(units, device),
                    available: device.memory.into(),
                })
            })
        };
        let tiles = [tile(1)?, tile(tokens)?];
        if let Some(splits) = options.splits.filter(|&splits| splits == 0 || splits > MOST_SPLITS) {
            return Err(Error::Attention(AttentionError::Splits { splits, most: MOST_SPLITS }));
        }
        check_splits(context, options.splits.unwrap_or(1))?;

        let bound = config.max_batch_size;
        // Packed queries are those of one sequence.
        let (sequences, rows, most) = packed.map_or((config.batch_size, tokens, bound), |rows| (1, rows, 1));
        let shape = |dim| [sequences, query_heads, rows, dim];
        let queries = Window::new(context, &QUERIES, &tensors.queries, shape(config.head_dim), (1, most))?;
        let lanes = tensors.output.format.lanes();
        let output = Window::new(context, &OUTPUT, &tensors.output, shape(config.value_dim), (lanes, most))?;
        let of_mask = |mask| Window::of_mask(context, mask, [sequences, query_heads, rows], most);
        let mask = tensors.mask.as_ref().map(of_mask).transpose()?;
        let of_sinks = |sinks| Window::of_sink_logits(context, sinks, query_heads);
        let sinks = tensors.sink_logits.as_ref().map(of_sinks).transpose()?;
        for (name, shared) in [
            ("queries", tensors.queries.buffer == tensors.output.buffer),
            ("mask", tensors.mask.is_some_and(|mask| mask.buffer == tensors.output.buffer)),
            ("sink logits", tensors.sink_logits.is_some_and(|sinks| sinks.buffer == tensors.output.buffer)),
            ("cache", cache.storage.contains(tensors.output.buffer)),
        ] {
            if shared {
                return Err(Error::Attention(AttentionError::OutputShared { name }));
            }
        }
        let held = |window: Option<&Window<'_>>| match (packed, window) {
            (None, Some(window)) => window.sequences,
            _ => bound,
        };
        let of = [("queries", Some(&queries)), ("output", Some(&output)), ("mask", mask.as_ref())];
        let sequences = of.map(|(name, window)| (name, held(window)));
        let variant = Variant {
            tile: tiles[0],
            group,
            split: false,
            written: options.queries == Queries::Written,
            causal,
            window: window.map(|(window, sinks)| (window.saturating_sub(lag), sinks)),
            lag,
            capped: options.softcap.is_some(),
            masked: mask.is_some(),
            sink_logits: sinks.is_some(),
            packed: packed.map(|_| bound),
            queries: tensors.queries.format,
            output: tensors.output.format,
        };
        let names = WgslNames::new("cache_").group(1).wide();
        let bound = sequences.iter().map(|&(_, held)| held).fold(bound, u32::min);
        if packed.is_none() {
            let count = tiles[1].count(group, tokens);
            check_grid(context, count, tiles[1], cache.layout.planes_of(config.batch_size))?;
        }
        let of_tensors = 2u32.saturating_add(mask.is_some().into()).saturating_add(sinks.is_some().into());
        let buffers = cache.wgsl_bindings().saturating_add(of_tensors);
        let available = context.limits().max_storage_buffers_per_shader_stage;
        if buffers > available {
            let (limit, needed) = ("max_storage_buffers_per_shader_stage", buffers.into());
            return Err(Error::Device(DeviceError::DeviceLimit { limit, needed, available: available.into() }));
        }
        if context.limits().max_bind_groups < 2 {
            return Err(Error::Device(DeviceError::DeviceLimit { limit: "max_bind_groups", needed: 2, available: 1 }));
        }

        let part_bytes = part_bytes(config.value_dim);
        let room =
            binding_limit(context.limits()).saturating_sub(16).checked_div(part_bytes).expect("a part has bytes");
        let rows = [(tiles[0], 1), (tiles[1], tokens)].map(|(tile, tokens)| {
            let count = match packed {
                Some(rows) => tile.most_packed(group, rows, bound).saturating_mul(num_heads.into()),
                None => tile.count(group, tokens).saturating_mul(cache.layout.planes_of(bound).into()),
            };
            count.saturating_mul(tile.rows.into())
        });
        let rows = rows[0].max(rows[1]);
        let least = tiles.map(|tile| tile.least_splits(units, cache.positions(), device)).into_iter().fold(1, u32::max);
        let parts = most_parts(options.splits, rows, (least, room), (tiles, device));
        let partial_bytes = parts.saturating_mul(part_bytes).saturating_add(16);
        check_binding(context, partial_bytes)?;
        let partials = context.scratch(partial_bytes)?;
        let params = context.uniform(bytemuck::bytes_of(&Params {
            tokens,
            query: queries.numbers,
            output: output.numbers,
            mask: mask.as_ref().map_or([0; 4], |mask| mask.numbers),
            scale,
            softcap,
            sink_offset: sinks.as_ref().map_or(0, |sinks| sinks.numbers[0]),
        }))?;

        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let params = || (0, wgpu::BufferBindingType::Uniform, params.as_entire_binding());
        let partials = |read_only| (3, storage(read_only), window_binding(&partials, &(0..partial_bytes)));
        let output = || {
            let sinks = sinks.as_ref().map(|sinks| (6, storage(true), sinks.binding()));
            sinks.into_iter().chain([(2, storage(false), output.binding())])
        };
        let group_of = |last: &mut dyn Iterator<Item = _>| {
            let mut bound = vec![params(), (1, storage(true), queries.binding())];
            bound.extend(last);
            bound.extend(mask.as_ref().map(|mask| (4, storage(true), mask.binding())));
            context.group("attend", &bound)
        };
        let lengths = (5, storage(true), cache.lengths());
        let groups = Groups {
            cache: context.group_of(
                "attend",
                &cache.wgsl_layout(&names, wgpu::ShaderStages::COMPUTE)?,
                &cache.wgsl_entries(&names)?,
            )?,
            whole: group_of(&mut output())?,
            split: group_of(&mut [partials(false)].into_iter())?,
            combine: {
                let bound: Vec<_> = [params(), partials(true), lengths].into_iter().chain(output()).collect();
                context.group("combine", &bound)?
            },
        };
        Ok(Attention {
            owner: cache.identity.clone(),
            window,
            sequences,
            mask_positions: tensors.mask.map(|mask| mask.shape[3]),
            layout: cache.layout.clone(),
            table: cache.table.map(|table| table.layout),
            names,
            variant,
            work: Work { options: *options, device, group, tiles, parts },
            groups,
            pipelines: Default::default(),
            combine: Default::default(),
        })
    }

    /// Maximum number of queries of each sequence.
    pub fn tokens(&self) -> u32 {
        self.work.options.tokens
    }

    /// Creates every pipeline that a step may need. Without it, the first step that needs one waits for it.
    ///
    /// # Errors
    /// [`StepError::ForeignAttention`]; [`DeviceError::OutOfMemory`]; [`DeviceError::DeviceLost`].
    pub fn warm_up(&self, layer: &impl ReadLayer) -> Result<()> {
        let cache = layer.readable();
        self.check_owner(cache)?;
        for tile in [0, 1] {
            self.attend_pipeline(cache, tile, false)?;
            if self.work.parts > 0 {
                self.attend_pipeline(cache, tile, true)?;
                self.combine_pipeline(cache, tile)?;
            }
        }
        Ok(())
    }

    /// Records the attention over the rows that the layer holds at this point of the command stream. With
    /// [`Queries::Written`], the queries are the rows of the update that was recorded last for this layer.
    ///
    /// # Errors
    /// [`StepError::ForeignAttention`]; [`StepError::StepNotRecorded`] where a step was begun whose rows are not
    /// recorded for this layer; [`StepError::BatchBeyondBound`]; [`StepError::MoreTokensThanBound`] where the update
    /// wrote more tokens of a sequence than there is room for; [`AttentionError::MaskTooShort`];
    /// [`RangeError::Evicted`] where a query may see a position that a ring no longer stores, which
    /// [`Write::attended`](crate::Write::attended) refuses beforehand; [`DeviceError::DeviceLimit`] where a grid is
    /// larger than the device takes; [`DeviceError::OutOfMemory`] and [`DeviceError::DeviceLost`], where a pipeline is
    /// the first of its kind.
    ///
    /// # Performance
    /// One dispatch, or two where positions are split. Allocates nothing in the steady state.
    pub fn record(&self, layer: &impl ReadLayer, recorder: &mut impl Recorder) -> Result<()> {
        let cache = layer.readable();
        let tokens = self.check(cache)?;
        if tokens == 0 {
            return Ok(());
        }
        let Shape { splits, tiles, rows, planes, tile } = self.work.shape(cache, tokens)?;
        let attend = self.attend_pipeline(cache, tile, splits > 1)?;
        let combine = (splits > 1).then(|| self.combine_pipeline(cache, tile)).transpose()?;
        let [x, z] = spread(rows.into(), cache.context.limits())?;
        recorder.in_pass("kv-cache attention", |pass| {
            pass.set_pipeline(attend);
            pass.set_bind_group(0, if combine.is_some() { &self.groups.split.1 } else { &self.groups.whole.1 }, &[]);
            pass.set_bind_group(1, &self.groups.cache.1, &[]);
            pass.dispatch_workgroups(splits, tiles, planes);
            if let Some(combine) = combine {
                pass.set_pipeline(combine);
                pass.set_bind_group(0, &self.groups.combine.1, &[]);
                pass.dispatch_workgroups(x, planes, z);
            }
        });
        Ok(())
    }

    fn check_owner(&self, cache: Readable<'_>) -> Result<()> {
        if Arc::ptr_eq(&self.owner, cache.identity) { Ok(()) } else { Err(Error::Step(StepError::ForeignAttention)) }
    }

    /// Checks a step against the layer, and tells the most rows of queries that a sequence has.
    fn check(&self, cache: Readable<'_>) -> Result<u32> {
        self.check_owner(cache)?;
        let (batch_size, sequences) = (cache.config.batch_size, cache.sequences);
        for (name, bound) in self.sequences {
            if batch_size > bound {
                return Err(Error::Step(StepError::BatchBeyondBound { name, bound, batch_size }));
            }
        }
        let Options { queries, tokens: bound, causal, .. } = self.work.options;
        if queries == Queries::Written && cache.awaits_step {
            return Err(Error::Step(StepError::StepNotRecorded));
        }
        let tokens = self.work.options.most_queries(sequences)?;
        if self.work.options.packed.is_some() {
            self.work.options.packed_rows(sequences)?;
        }
        let write_pos = cache.sequences.longest();
        if let Some(positions) = self.mask_positions.filter(|positions| *positions < write_pos) {
            return Err(Error::Attention(AttentionError::MaskTooShort { positions, write_pos }));
        }
        let Some((window, sinks)) = self.window else { return Ok(tokens) };
        let known = sequences.lengths.iter().zip(&sequences.oldest).zip(&sequences.starts);
        for (sequence, ((&length, &oldest), &start)) in (0..).zip(known) {
            // The first query: it sees the farthest back.
            let position = match queries {
                Queries::Written if start == length => continue,
                _ if !causal => length.saturating_sub(1),
                Queries::Written => start,
                Queries::Last => length.saturating_sub(bound),
            };
            let first = position
                .max(sinks)
                .saturating_sub(window.saturating_sub(1))
                .max(sinks)
                .max(cache.config.placement.sinks());
            if first < length && first < oldest {
                return Err(Error::Range(RangeError::Evicted { sequence, position: first, oldest }));
            }
        }
        Ok(tokens)
    }

    fn attend_pipeline(&self, cache: Readable<'_>, tile: usize, split: bool) -> Result<&wgpu::ComputePipeline> {
        let made = &self.pipelines[usize::from(split)][tile];
        if let Some(pipeline) = made.get() {
            return Ok(pipeline);
        }
        let variant = Variant { tile: self.work.tiles[tile], split, ..self.variant };
        let (tensors, _) = if split { &self.groups.split } else { &self.groups.whole };
        let key = format!("attend {variant:?} {:?}", text_layout(&self.layout, self.table));
        let units = Units::of(&self.layout);
        let text = || Ok(text::attend(&cache.wgsl(&self.names)?, [units.keys[1], units.values[1]], &variant));
        let pipeline = cache.context.pipeline_of("attend", &key, text, &[tensors, &self.groups.cache.0])?;
        Ok(made.get_or_init(|| pipeline))
    }

    fn combine_pipeline(&self, cache: Readable<'_>, tile: usize) -> Result<&wgpu::ComputePipeline> {
        let made = &self.combine[tile];
        if let Some(pipeline) = made.get() {
            return Ok(pipeline);
        }
        let (variant, config) = (Variant { tile: self.work.tiles[tile], split: true, ..self.variant }, cache.config);
        let key = format!("combine {variant:?} {:?}", text_layout(&self.layout, self.table));
        let starts = self.table.map_or(config.max_batch_size, |table| table.start(0));
        let text = || Ok(text::combine(&config, starts, &variant));
        let pipeline = cache.context.pipeline_of("combine", &key, text, &[&self.groups.combine.0])?;
        Ok(made.get_or_init(|| pipeline))
    }
}
