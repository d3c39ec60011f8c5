//! [`BoundSource`]: a source bound to a layer, and the dispatches that write to planes.

use std::sync::{Arc, OnceLock};

use crate::{
    CacheConfig, Context, Error, Result, Side, Source,
    binding::{bind, uniform_binding, uniform_buffer, window_binding},
    copies::CopySource,
    kernels::{Chunk, Kernel, SideVariant, StepPath, WriteVariant},
    layout::{Layout, binding_limit},
    pipelines::Entry,
    plan::{Block, Step, grid, grid_of_planes, split},
    record::{Dispatch, Recorder, StepData, dispatch},
    ring::StepRing,
    source::{SourceWindow, block_corners},
    storage::{Segment, Storage},
};

/// Buffers of the caller's bound to one layer, for [`KvCache::record_update`](crate::KvCache::record_update).
///
/// Holds the bind groups and a small uniform buffer; recording with it allocates nothing on the device.
#[derive(Debug)]
pub struct BoundSource {
    pub(crate) owner: Arc<()>,
    pub(crate) tokens: u32,
    /// Sequences of the batch that it was bound for.
    pub(crate) batch_size: u32,
    writes: Writes,
    copies: Option<CopySource>,
}

/// Dispatches that write to planes: of scatter for a source, of advance for a layer.
#[derive(Debug)]
pub(crate) struct Writes {
    kernel: fn(WriteVariant) -> Kernel,
    variant: WriteVariant,
    /// By [`StepPath`], whether runs are single rows, and whether sequences have more than one; made when the first step
    /// takes them.
    pipelines: [[[OnceLock<wgpu::ComputePipeline>; 2]; 2]; 2],
    chunks: Vec<BoundChunk>,
    uniform_bytes: u64,
}

/// A step of some [`Writes`] that can be recorded without failing.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    chunks: &'a [BoundChunk],
    pipeline: &'a wgpu::ComputePipeline,
    data: StepData,
    units: u64,
    runs: u32,
    single_rows: bool,
    tokens: u32,
    context: &'a Context,
}

impl Prepared<'_> {
    pub fn record(self, recorder: &mut impl Recorder, label: &'static str) {
        let Prepared { chunks, pipeline, data, units, runs, single_rows, tokens, context } = self;
        let limits = context.limits();
        let chunks = chunks.iter().filter(|chunk| chunk.first_token < tokens);
        let dispatches = chunks.map(|chunk| Dispatch {
            pipeline,
            bindings: &chunk.bindings,
            grid: if single_rows {
                grid(units * u64::from(chunk.planes) * u64::from(runs), limits)
            } else {
                grid_of_planes(units, chunk.planes * runs, limits)
            },
        });
        dispatch(recorder, label, data, dispatches);
    }
}

#[derive(Debug)]
struct BoundChunk {
    planes: u32,
    first_token: u32,
    bindings: wgpu::BindGroup,
}

impl Writes {
    /// Does for a step all that can fail.
    pub fn prepare<'a>(
        &'a self,
        context: &'a Context,
        ring: &StepRing,
        step: &Step,
        tokens: u32,
    ) -> Result<Prepared<'a>> {
        let single_rows = step.rows <= 1;
        let data = StepData::new(context, ring, step)?;
        let runs = step.per_sequence;
        let variant = WriteVariant { step: data.path(), single_rows, runs, ..self.variant };
        let pipeline = self.pipeline(context, variant)?;
        let units = variant.units(step.rows);
        Ok(Prepared { chunks: &self.chunks, pipeline, data, units, runs, single_rows, tokens, context })
    }

    /// The pipeline for steps of one kind.
    fn pipeline(&self, context: &Context, variant: WriteVariant) -> Result<&wgpu::ComputePipeline> {
        let kind = &self.pipelines[variant.step as usize][usize::from(variant.single_rows)];
        let pipeline = &kind[usize::from(variant.runs > 1)];
        match pipeline.get() {
            Some(pipeline) => Ok(pipeline),
            None => {
                let made = context.pipeline((self.kernel)(variant))?;
                Ok(pipeline.get_or_init(|| made))
            }
        }
    }

    /// How many dispatches a step of so many tokens takes.
    pub fn count(&self, tokens: u32) -> u64 {
        self.chunks.iter().filter(|chunk| chunk.first_token < tokens).count() as u64
    }

    fn new(
        kernel: fn(WriteVariant) -> Kernel,
        variant: WriteVariant,
        chunks: Vec<BoundChunk>,
        uniform_bytes: u64,
    ) -> Self {
        Writes { kernel, variant, pipelines: Default::default(), chunks, uniform_bytes }
    }

    /// Chunks that write no source, one for each segment, or more where a grid is not high enough.
    pub fn advance(context: &Context, layout: &Layout, storage: &Storage, batch_size: u32) -> Result<Self> {
        let [keys, values] = Side::BOTH.map(|side| SideVariant::new(layout, side, None, false));
        let variant = WriteVariant {
            keys,
            values,
            heads: layout.heads,
            step: StepPath::Ring,
            runs: 1,
            single_rows: true,
            cut_by_tokens: false,
        };
        let most = context.limits().max_compute_workgroups_per_dimension / layout.runs();
        let mut blocks = Vec::new();
        for (segment, planes) in storage.segments_of(&(0..batch_size * layout.heads)) {
            let mut parts = Vec::new();
            let fits = |block: &Block| block.plane_count() <= most;
            split(Block { planes, tokens: 0..1 }, &fits, &|_| false, &mut parts)
                .expect("one plane is no more than a grid is high");
            blocks.extend(parts.into_iter().map(|block| (segment, block)));
        }
        let chunk = |(segment, block): &(&Segment, Block)| Chunk {
            first_plane: block.planes.start,
            planes: block.plane_count(),
            segment_plane: block.planes.start - segment.planes.start,
            ..Chunk::default()
        };
        let uniforms: Vec<_> = blocks.iter().map(chunk).collect();
        let buffer = uniform_buffer(context, &uniforms)?;
        let chunks = (0..)
            .zip(&blocks)
            .map(|(index, (segment, block))| {
                let bindings = [
                    uniform_binding::<Chunk>(context, &buffer, index),
                    window_binding(&storage.lengths.buffer, &storage.lengths.range()),
                    segment.keys.as_entire_binding(),
                    segment.values.as_entire_binding(),
                ];
                let bindings = bind(context, Entry::Advance, &bindings)?;
                Ok(BoundChunk { planes: block.plane_count(), first_token: 0, bindings })
            })
            .collect::<Result<_>>()?;
        Ok(Writes::new(Kernel::Advance, variant, chunks, buffer.size()))
    }
}

impl BoundSource {
    pub(crate) fn new(
        context: &Context,
        config: &CacheConfig,
        layout: &Layout,
        storage: &Storage,
        owner: &Arc<()>,
        source: &Source<'_>,
    ) -> Result<Self> {
        if source.tokens == 0 {
            return Err(Error::NoTokens);
        }
        for (side, rows) in [(Side::Keys, &source.keys), (Side::Values, &source.values)] {
            if storage.contains(rows.buffer) {
                return Err(Error::OwnStorage { side });
            }
            let shape = [config.batch_size, config.num_heads, source.tokens, config.dim(side)];
            rows.check(side, config.format(side), shape)?;
        }
        let mut keys = SideVariant::new(layout, Side::Keys, Some(source.keys.format), source.keys.is_wide());
        let mut values = SideVariant::new(layout, Side::Values, Some(source.values.format), source.values.is_wide());

        let (heads, limit) = (config.num_heads, binding_limit(context.limits()));
        let alignment = context.limits().min_storage_buffer_offset_alignment;
        let windows = |block: &Block| {
            let keys = source.keys.window(block, heads, config.head_dim, alignment);
            let values = source.values.window(block, heads, config.value_dim, alignment);
            (keys, values)
        };
        let most = context.limits().max_compute_workgroups_per_dimension / layout.runs();
        let fits = |block: &Block| {
            let (keys, values) = windows(block);
            let bound = [keys, values].iter().all(|window| window.bytes.end - window.bytes.start <= limit);
            bound && block.plane_count() <= most
        };
        let by_tokens = |block: &Block| {
            source.keys.reaches_by_tokens(block, heads) || source.values.reaches_by_tokens(block, heads)
        };
        let mut blocks = Vec::new();
        for (segment, planes) in storage.segments_of(&(0..config.batch_size * heads)) {
            let mut parts = Vec::new();
            let block = Block { planes, tokens: 0..source.tokens };
            split(block, &fits, &by_tokens, &mut parts).ok_or(Error::DeviceLimit {
                limit: "max_storage_buffer_binding_size",
                needed: layout.keys.row_bytes.max(layout.values.row_bytes) * 2 + u64::from(alignment),
                available: limit,
            })?;
            blocks.extend(parts.into_iter().map(|block| (segment, block)));
        }

        if let ([(_, block)], 1) = (&blocks[..], source.tokens) {
            let of = |window: SourceWindow| [window.strides[0], window.strides[1]];
            let (key_window, value_window) = windows(block);
            (keys.strides, values.strides) = (Some(of(key_window)), Some(of(value_window)));
        }
        let variant = WriteVariant {
            keys,
            values,
            heads,
            step: StepPath::Ring,
            runs: 1,
            single_rows: source.tokens == 1,
            cut_by_tokens: blocks.iter().any(|(_, block)| block.token_count() < source.tokens),
        };
        let uniforms: Vec<_> = blocks
            .iter()
            .map(|(segment, block)| {
                let (keys, values) = windows(block);
                let ([first_sequence, first_head, first_token], _) = block_corners(block, heads);
                Chunk {
                    first_plane: block.planes.start,
                    planes: block.plane_count(),
                    segment_plane: block.planes.start - segment.planes.start,
                    spare: 0,
                    first_token,
                    end_token: block.tokens.end,
                    first_sequence,
                    first_head,
                    key_offset: keys.offset,
                    key_strides: keys.strides,
                    value_offset: values.offset,
                    value_strides: values.strides,
                }
            })
            .collect();
        let buffer = uniform_buffer(context, &uniforms)?;
        let chunks = (0..)
            .zip(&blocks)
            .map(|(at, (segment, block))| {
                let (keys, values) = windows(block);
                let bindings = [
                    uniform_binding::<Chunk>(context, &buffer, at),
                    window_binding(&storage.lengths.buffer, &storage.lengths.range()),
                    segment.keys.as_entire_binding(),
                    segment.values.as_entire_binding(),
                    window_binding(source.keys.buffer, &keys.bytes),
                    window_binding(source.values.buffer, &values.bytes),
                ];
                let bindings = bind(context, Entry::Scatter, &bindings)?;
                Ok(BoundChunk { planes: block.plane_count(), first_token: block.tokens.start, bindings })
            })
            .collect::<Result<_>>()?;
        let writes = Writes::new(Kernel::Scatter, variant, chunks, buffer.size());
        let copies = CopySource::new(source, layout);
        Ok(BoundSource { owner: owner.clone(), tokens: source.tokens, batch_size: config.batch_size, writes, copies })
    }

    /// Rows of each sequence and head that the source holds.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Bytes that it holds on the device: what its chunks are, 256 each.
    pub fn device_bytes(&self) -> u64 {
        self.writes.uniform_bytes
    }

    pub(crate) fn writes(&self) -> &Writes {
        &self.writes
    }

    /// The copy form, where it is possible.
    pub(crate) fn copies(&self) -> Option<&CopySource> {
        self.copies.as_ref()
    }
}
