//! [`BoundSource`]: a source bound to a layer, and the dispatches that write to planes.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use crate::{
    CacheConfig, Context, Error, Result, Side, Source,
    binding::{bind, uniform_binding, uniform_buffer, window_binding, window_bytes},
    copies::CopySource,
    grid::{Block, grid, grid_of_planes, split},
    kernels::{Chunk, Kernel, SideVariant, StepPath, WriteVariant},
    layout::{Layout, binding_limit},
    pipelines::Entry,
    record::{Dispatch, Recorder, StepData, dispatch},
    source::{SourceWindow, block_corners},
    step::Step,
    storage::{Segment, Storage},
};

/// Buffers of the caller's bound to one layer, for [`KvCache::record_update`](crate::KvCache::record_update).
///
/// It serves every number of tokens up to its own, and every batch whose sequences its buffers hold, up to
/// [`max_batch_size`](crate::CacheConfig::max_batch_size). Holds the bind groups and a small uniform buffer; recording
/// with it allocates nothing on the device.
#[derive(Debug)]
pub struct BoundSource {
    pub(crate) owner: Arc<()>,
    pub(crate) tokens: u32,
    /// Sequences that it holds rows for.
    pub(crate) sequences: u32,
    writes: Writes,
    copies: Option<CopySource>,
}

/// Dispatches that write to planes: of scatter for a source, of advance for a layer.
#[derive(Debug)]
pub(crate) struct Writes {
    kernel: fn(WriteVariant) -> Kernel,
    variant: WriteVariant,
    /// Strides of keys and of values that steps of one token have as constants.
    token_strides: [Option<[u32; 2]>; 2],
    /// By [`StepPath`], whether runs are single rows, whether sequences have more than one, and whether there is one
    /// token; made when the first step takes them.
    pipelines: [[[[OnceLock<wgpu::ComputePipeline>; 2]; 2]; 2]; 2],
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
    /// Planes of the batch.
    planes: u32,
    context: &'a Context,
}

impl Prepared<'_> {
    pub fn record(self, recorder: &mut impl Recorder, label: &'static str) {
        let Prepared { chunks, pipeline, data, units, runs, single_rows, tokens, planes, context } = self;
        let dispatches = chunks.iter().filter_map(|chunk| {
            let planes = chunk.planes_of(planes, tokens)?;
            let grid = grid_of_chunk((units, runs, single_rows), planes, context.limits());
            Some(Dispatch { pipeline, bindings: &chunk.bindings, grid: grid.expect("the largest chunk fits a grid") })
        });
        dispatch(recorder, label, data, dispatches);
    }
}

/// The grid for some planes, each of which has so many runs of so many units. No chunk has more planes than a grid is
/// high by runs.
fn grid_of_chunk((units, runs, single_rows): (u64, u32, bool), planes: u32, limits: &wgpu::Limits) -> Result<[u32; 3]> {
    if single_rows {
        grid(units.saturating_mul(planes.into()).saturating_mul(runs.into()), limits)
    } else {
        grid_of_planes(units, planes.saturating_mul(runs), limits)
    }
}

/// Planes of a segment, and tokens of the source, that one dispatch writes.
#[derive(Debug)]
struct BoundChunk {
    planes: Range<u32>,
    first_token: u32,
    bindings: wgpu::BindGroup,
}

impl BoundChunk {
    /// How many of the first `planes` planes are its own, where a step of so many tokens has any of its tokens.
    fn planes_of(&self, planes: u32, tokens: u32) -> Option<u32> {
        let planes = self.planes.end.min(planes).saturating_sub(self.planes.start);
        (planes > 0 && self.first_token < tokens).then_some(planes)
    }
}

impl Writes {
    /// Does all that can fail for a step, of which runs of up to `rows` rows are written, of `tokens` tokens of the
    /// source.
    pub fn prepare<'a>(
        &'a self,
        context: &'a Context,
        data: StepData,
        step: &Step,
        (rows, tokens): (u32, u32),
    ) -> Result<Prepared<'a>> {
        let single_rows = rows <= 1;
        let runs = step.per_sequence;
        let mut variant = WriteVariant { step: data.path(), single_rows, runs, ..self.variant };
        if tokens == 1 {
            [variant.keys.strides, variant.values.strides] = self.token_strides;
        }
        let pipeline = self.pipeline(context, variant)?;
        let units = variant.units(rows);
        let planes = step.count().saturating_mul(variant.heads);
        let largest = self.chunks.iter().filter_map(|chunk| chunk.planes_of(planes, tokens)).max().unwrap_or(0);
        grid_of_chunk((units, runs, single_rows), largest, context.limits())?;
        Ok(Prepared { chunks: &self.chunks, pipeline, data, units, runs, single_rows, tokens, planes, context })
    }

    /// The pipeline for steps of one kind.
    fn pipeline(&self, context: &Context, variant: WriteVariant) -> Result<&wgpu::ComputePipeline> {
        let kind = &self.pipelines[variant.step as usize][usize::from(variant.single_rows)];
        let pipeline = &kind[usize::from(variant.runs > 1)][usize::from(variant.keys.strides.is_some())];
        match pipeline.get() {
            Some(pipeline) => Ok(pipeline),
            None => {
                let made = context.pipeline((self.kernel)(variant))?;
                Ok(pipeline.get_or_init(|| made))
            }
        }
    }

    /// How many dispatches a step of so many tokens takes that has the first `planes` planes.
    pub fn count(&self, planes: u32, tokens: u32) -> u64 {
        self.chunks.iter().filter_map(|chunk| chunk.planes_of(planes, tokens)).count() as u64
    }

    fn new(
        kernel: fn(WriteVariant) -> Kernel,
        variant: WriteVariant,
        chunks: Vec<BoundChunk>,
        uniform_bytes: u64,
    ) -> Self {
        Writes { kernel, variant, token_strides: [None; 2], pipelines: Default::default(), chunks, uniform_bytes }
    }

    /// Chunks that write no source, one for each segment, or more where a grid is not high enough.
    pub fn advance(context: &Context, layout: &Layout, storage: &Storage) -> Result<Self> {
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
        let most = layout.most_planes(context.limits());
        let mut blocks = Vec::new();
        for (segment, planes) in storage.segments_of(&(0..layout.planes)) {
            let mut parts = Vec::new();
            let fits = |block: &Block| block.plane_count() <= most;
            split(Block { planes, tokens: 0..1 }, &fits, &|_| false, &mut parts)
                .expect("one plane is no more than a grid is high");
            blocks.extend(parts.into_iter().map(|block| (segment, block)));
        }
        let chunk = |(segment, block): &(&Segment, Block)| Chunk {
            first_plane: block.planes.start,
            planes: block.plane_count(),
            segment_plane: segment.index(block),
            starts: storage.lengths.starts(),
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
                Ok(BoundChunk { planes: block.planes.clone(), first_token: 0, bindings })
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
        let sequences = [(Side::Keys, &source.keys), (Side::Values, &source.values)]
            .map(|(side, rows)| {
                let shape = [config.batch_size, config.num_heads, source.tokens, config.dim(side)];
                rows.sequences_held(shape, config.max_batch_size, rows.buffer.size())
            })
            .into_iter()
            .fold(config.max_batch_size, u32::min);
        let keys = SideVariant::new(layout, Side::Keys, Some(source.keys.format), source.keys.is_wide());
        let values = SideVariant::new(layout, Side::Values, Some(source.values.format), source.values.is_wide());

        let (heads, limit) = (config.num_heads, binding_limit(context.limits()));
        let alignment = context.limits().min_storage_buffer_offset_alignment;
        let windows = |block: &Block| {
            let keys = source.keys.window(block, heads, config.head_dim, alignment);
            let values = source.values.window(block, heads, config.value_dim, alignment);
            (keys, values)
        };
        let most = layout.most_planes(context.limits());
        let fits = |block: &Block| {
            let (keys, values) = windows(block);
            let bound = [keys, values].iter().all(|window| window_bytes(&window.bytes) <= limit);
            bound && block.plane_count() <= most
        };
        let by_tokens = |block: &Block| {
            source.keys.reaches_by_tokens(block, heads) || source.values.reaches_by_tokens(block, heads)
        };
        let mut blocks = Vec::new();
        for (segment, planes) in storage.segments_of(&(0..layout.planes_of(sequences))) {
            let mut parts = Vec::new();
            let block = Block { planes, tokens: 0..source.tokens };
            split(block, &fits, &by_tokens, &mut parts).ok_or(Error::DeviceLimit {
                limit: "max_storage_buffer_binding_size",
                needed: layout
                    .keys
                    .row_bytes
                    .max(layout.values.row_bytes)
                    .saturating_mul(2)
                    .saturating_add(alignment.into()),
                available: limit,
            })?;
            blocks.extend(parts.into_iter().map(|block| (segment, block)));
        }

        let token_strides = if let [(_, block)] = &blocks[..] {
            let of = |window: SourceWindow| Some([window.strides[0], window.strides[1]]);
            let (keys, values) = windows(block);
            [of(keys), of(values)]
        } else {
            [None; 2]
        };
        let variant = WriteVariant {
            keys,
            values,
            heads,
            step: StepPath::Ring,
            runs: 1,
            single_rows: true,
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
                    segment_plane: segment.index(block),
                    starts: storage.lengths.starts(),
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
                Ok(BoundChunk { planes: block.planes.clone(), first_token: block.tokens.start, bindings })
            })
            .collect::<Result<_>>()?;
        let writes = Writes { token_strides, ..Writes::new(Kernel::Scatter, variant, chunks, buffer.size()) };
        let copies = CopySource::new(source, layout);
        Ok(BoundSource { owner: owner.clone(), tokens: source.tokens, sequences, writes, copies })
    }

    /// Rows of each sequence and head that the source holds.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Sequences that it holds rows for: as many as its buffers have room for, up to `max_batch_size`.
    pub fn sequences(&self) -> u32 {
        self.sequences
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
