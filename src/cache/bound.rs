//! [`BoundSource`]: the caller's buffers, bound to a layer once and used in every step. [`Writes`]: the dispatches that
//! write to the layer's planes.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use crate::{
    BufferError, CacheConfig, Context, DeviceError, Error, Result, Side, Source, WriteError,
    cache::copies::CopySource,
    device::{
        binding::{bind, uniform_binding, uniform_buffer, window_binding, window_bytes},
        record::{Dispatch, Recorder, StepData, dispatch},
        source::{SourceWindow, block_corners},
        storage::{Segment, Storage},
    },
    kernels::{Chunk, Entry, Kernel, SideVariant, StepPath, WriteGrid, WriteVariant},
    plan::{
        grid::{Block, grid, grid_of_planes, grid_of_runs, split},
        step::Step,
    },
    shape::layout::{Layout, WORKGROUP_SIZE, binding_limit},
};

/// Buffers of the caller, bound to one layer for [`KvCache::record_update`](crate::KvCache::record_update).
///
/// It serves updates of any number of tokens up to its own, and any batch whose sequences its buffers hold, up to
/// [`max_batch_size`](crate::CacheConfig::max_batch_size). It holds the bind groups and a small uniform buffer;
/// recording with it allocates nothing on the device.
#[derive(Debug)]
pub struct BoundSource {
    pub(crate) owner: Arc<()>,
    pub(crate) tokens: u32,
    /// Number of sequences whose rows fit the buffers.
    pub(crate) sequences: u32,
    writes: Writes,
    copies: Option<CopySource>,
}

/// Dispatches that write to planes: the scatter kernel for a source, the advance kernel for a layer.
#[derive(Debug)]
pub(crate) struct Writes {
    kernel: fn(WriteVariant) -> Kernel,
    /// Of steps whose runs are single rows, and of others.
    variants: [WriteVariant; 2],
    /// Strides of keys and values that become pipeline constants in steps of one token.
    token_strides: [Option<[u32; 2]>; 2],
    /// Pipelines by [`StepPath`], by whether a run is more than a row, and by whether there is one token. Each is
    /// created when a step first needs it.
    pipelines: [[[OnceLock<wgpu::ComputePipeline>; 2]; 2]; 2],
    chunks: Vec<BoundChunk>,
    uniform_bytes: u64,
}

/// A step that can be recorded without failing.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    writes: &'a Writes,
    pipeline: &'a wgpu::ComputePipeline,
    data: StepData,
    step: &'a Step,
    rows: u32,
    tokens: u32,
    context: &'a Context,
}

impl Prepared<'_> {
    pub fn record(self, recorder: &mut impl Recorder, label: &'static str) {
        let Prepared { writes, pipeline, data, step, rows, tokens, context } = self;
        let dispatches = writes.chunks_of(step, tokens).map(|(chunk, runs)| {
            let grid = writes.grid(chunk, step, (runs, rows), context.limits());
            Dispatch { pipeline, bindings: &chunk.bindings, grid: grid.expect("it was made before") }
        });
        dispatch(recorder, label, data, dispatches);
    }
}

/// The planes of a segment, and the tokens of the source, that one dispatch writes.
#[derive(Debug)]
struct BoundChunk {
    /// Groups of the planes.
    groups: Range<u32>,
    first_token: u32,
    /// Whether this chunk also sets the lengths.
    sets_lengths: bool,
    bindings: wgpu::BindGroup,
}

impl Writes {
    /// Prepares a step of `tokens` tokens of the source, whose runs write at most `rows` rows each. Everything that can
    /// fail happens here.
    pub fn prepare<'a>(
        &'a self,
        context: &'a Context,
        data: StepData,
        step: &'a Step,
        (rows, tokens): (u32, u32),
    ) -> Result<Prepared<'a>> {
        let mut variant = WriteVariant { step: data.path(), ..self.variant_for(rows) };
        if tokens == 1 {
            [variant.keys.strides, variant.values.strides] = self.token_strides;
        }
        let pipeline = self.pipeline(context, variant, rows)?;
        for (chunk, runs) in self.chunks_of(step, tokens) {
            self.grid(chunk, step, (runs, rows), context.limits())?;
        }
        Ok(Prepared { writes: self, pipeline, data, step, rows, tokens, context })
    }

    /// Records a step of empty runs that sets no lengths, by each kind of pipeline: for runs of one row and of more, and
    /// for one token and as many as the source has.
    pub fn record_warm_up(
        &self,
        context: &Context,
        data: &StepData,
        step: &Step,
        tokens: u32,
        recorder: &mut impl Recorder,
    ) -> Result<()> {
        for rows in [1, 2] {
            for tokens in [1, tokens] {
                self.prepare(context, data.clone(), step, (rows, tokens))?.record(recorder, "kv-cache warm-up");
            }
        }
        Ok(())
    }

    /// Returns the chunks that a step of `tokens` tokens dispatches, and the number of its runs in each.
    fn chunks_of(&self, step: &Step, tokens: u32) -> impl Iterator<Item = (&BoundChunk, u32)> {
        self.chunks.iter().filter_map(move |chunk| {
            let runs = if chunk.first_token < tokens { step.runs_in(&chunk.groups) } else { 0 };
            (runs > 0 || chunk.sets_lengths).then_some((chunk, runs))
        })
    }

    /// Returns the grid of a chunk whose runs have at most `rows` rows.
    fn grid(
        &self,
        chunk: &BoundChunk,
        step: &Step,
        (runs, rows): (u32, u32),
        limits: &wgpu::Limits,
    ) -> Result<[u32; 3]> {
        let sequences = if chunk.sets_lengths { step.count() } else { 0 };
        let variant = self.variant_for(rows);
        let heads = variant.heads_at_once.checked_div(variant.heads_of_thread).expect("a thread has a head");
        let planes = u64::from(runs).saturating_mul(heads.into());
        let high = planes.max(sequences.div_ceil(WORKGROUP_SIZE).into());
        match variant.grid {
            WriteGrid::Flat { rows } => grid(variant.units(rows).saturating_mul(planes).max(sequences.into()), limits),
            WriteGrid::Runs => grid_of_planes(variant.units(rows), high, limits),
            WriteGrid::ShortRuns => grid_of_runs(variant.units(rows), high, limits),
        }
    }

    /// The variant for a step whose runs have at most `rows` rows.
    const fn variant_for(&self, rows: u32) -> WriteVariant {
        let [single, longer] = self.variants;
        if rows <= 1 { single } else { longer }
    }

    /// Returns the pipeline of a variant for runs of at most `rows` rows, which is created on first use.
    fn pipeline(&self, context: &Context, variant: WriteVariant, rows: u32) -> Result<&wgpu::ComputePipeline> {
        let kind = &self.pipelines[variant.step as usize][usize::from(rows > 1)];
        let pipeline = &kind[usize::from(variant.keys.strides.is_some())];
        match pipeline.get() {
            Some(pipeline) => Ok(pipeline),
            None => {
                let made = context.pipeline((self.kernel)(variant))?;
                Ok(pipeline.get_or_init(|| made))
            }
        }
    }

    /// Number of dispatches that a step of `tokens` tokens takes.
    pub fn count(&self, step: &Step, tokens: u32) -> u64 {
        self.chunks_of(step, tokens).count() as u64
    }

    fn new(
        kernel: fn(WriteVariant) -> Kernel,
        variants: [WriteVariant; 2],
        chunks: Vec<BoundChunk>,
        uniform_bytes: u64,
    ) -> Self {
        let (token_strides, pipelines) = ([None; 2], Default::default());
        Writes { kernel, variants, token_strides, pipelines, chunks, uniform_bytes }
    }

    /// Creates the chunks of the advance kernel, which reads no source: one per segment, or more if a grid is not high
    /// enough.
    pub fn advance(context: &Context, layout: &Layout, storage: &Storage) -> Result<Self> {
        let [keys, values] = Side::BOTH.map(|side| SideVariant::new(layout, side, None, false));
        let variant = WriteVariant {
            keys,
            values,
            heads: layout.heads,
            heads_at_once: layout.heads_at_once(context.limits()),
            heads_of_thread: 1,
            has_parts: false,
            step: StepPath::Ring,
            grid: WriteGrid::Flat { rows: 1 },
            cut_by_tokens: false,
        };
        let mut blocks = Vec::new();
        for (segment, planes) in storage.segments_of(&(0..layout.planes)) {
            let mut parts = Vec::new();
            let fits = |block: &Block| layout.fits_a_grid(&block.planes, context.limits());
            split(Block { planes, tokens: 0..1 }, &fits, &|_| false, &mut parts)
                .expect("one plane is no more than a grid is high");
            blocks.extend(parts.into_iter().map(|block| (segment, block)));
        }
        let chunk = |(segment, block): &(&Segment, Block)| Chunk {
            first_plane: block.planes.start,
            planes: block.plane_count(),
            segment_plane: segment.index(block),
            sequences: if sets_lengths(block) { layout.sequences() } else { 0 },
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
                Ok(BoundChunk::new(block, layout, bind(context, Entry::Advance, &bindings)?))
            })
            .collect::<Result<_>>()?;
        let single = WriteVariant { has_parts: blocks.len() > 1, ..variant };
        let variants = [single, WriteVariant { grid: WriteGrid::Runs, ..single }];
        Ok(Writes::new(Kernel::Advance, variants, chunks, buffer.size()))
    }
}

/// Heads of a run that a thread writes, `most` at most. A software driver reads the run for every thread, where a GPU
/// reads it once for many. Heads whose rows do not lie side by side are too many streams for its caches, and quantising
/// takes longer than reading a run.
fn heads_of_thread(context: &Context, variant: &WriteVariant, source: &Source<'_>, most: u32) -> u32 {
    let is_cpu = context.device().adapter_info().device_type == wgpu::DeviceType::Cpu;
    let sides = [(&source.keys, &variant.keys), (&source.values, &variant.values)];
    let mut helps = sides.into_iter().map(|(rows, side)| {
        let side_by_side = rows.strides.head == u64::from(rows.format.units(side.dim));
        side_by_side && !side.quantises()
    });
    if !is_cpu || !helps.all(|helps| helps) {
        return 1;
    }
    (1..=most).rev().find(|&count| variant.heads.is_multiple_of(count)).unwrap_or(1)
}

/// Whether the dispatch of a block also sets the lengths of all sequences.
fn sets_lengths(block: &Block) -> bool {
    block.planes.start == 0 && block.tokens.start == 0
}

impl BoundChunk {
    fn new(block: &Block, layout: &Layout, bindings: wgpu::BindGroup) -> Self {
        let (groups, first_token) = (layout.groups_of(&block.planes), block.tokens.start);
        let sets_lengths = sets_lengths(block) && !layout.paged;
        BoundChunk { groups, first_token, sets_lengths, bindings }
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
            return Err(Error::Write(WriteError::NoTokens));
        }
        for (side, rows) in [(Side::Keys, &source.keys), (Side::Values, &source.values)] {
            if storage.contains(rows.buffer) {
                return Err(Error::Buffer(BufferError::OwnStorage { side }));
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
        // The rows of a block of pages may be any of the source.
        let rows_of = |block: &Block| match layout.paged {
            true => Block { planes: 0..layout.planes_of(sequences), tokens: block.tokens.clone() },
            false => block.clone(),
        };
        let windows = |block: &Block| {
            let block = &rows_of(block);
            let keys = source.keys.window(block, heads, config.head_dim, alignment);
            let values = source.values.window(block, heads, config.value_dim, alignment);
            (keys, values)
        };
        let fits = |block: &Block| {
            let (keys, values) = windows(block);
            let bound = [keys, values].iter().all(|window| window_bytes(&window.bytes) <= limit);
            bound && layout.fits_a_grid(&block.planes, context.limits())
        };
        let by_tokens = |block: &Block| {
            layout.paged || source.keys.reaches_by_tokens(block, heads) || source.values.reaches_by_tokens(block, heads)
        };
        let written = 0..if layout.paged { layout.planes } else { layout.planes_of(sequences) };
        let mut blocks = Vec::new();
        for (segment, planes) in storage.segments_of(&written) {
            let mut parts = Vec::new();
            let block = Block { planes, tokens: 0..source.tokens };
            split(block, &fits, &by_tokens, &mut parts).ok_or(Error::Device(DeviceError::DeviceLimit {
                limit: "max_storage_buffer_binding_size",
                needed: if layout.paged {
                    let (keys, values) = windows(&Block { planes: 0..layout.planes, tokens: 0..1 });
                    window_bytes(&keys.bytes).max(window_bytes(&values.bytes))
                } else {
                    let row_bytes = layout.keys.row_bytes.max(layout.values.row_bytes);
                    row_bytes.saturating_mul(2).saturating_add(alignment.into())
                },
                available: limit,
            }))?;
            blocks.extend(parts.into_iter().map(|block| (segment, block)));
        }

        let token_strides = if let [(_, block)] = &blocks[..] {
            let of = |window: SourceWindow| Some([window.strides[0], window.strides[1]]);
            let (keys, values) = windows(block);
            [of(keys), of(values)]
        } else {
            [None; 2]
        };
        let has_parts = blocks.iter().any(|(_, block)| block.planes.start > 0);
        let variant = WriteVariant {
            keys,
            values,
            heads,
            heads_at_once: layout.heads_at_once(context.limits()),
            heads_of_thread: 1,
            has_parts,
            step: StepPath::Ring,
            grid: WriteGrid::Flat { rows: 1 },
            cut_by_tokens: blocks.iter().any(|(_, block)| block.token_count() < source.tokens),
        };
        let uniforms: Vec<_> = blocks
            .iter()
            .map(|(segment, block)| {
                let (keys, values) = windows(block);
                let ([first_sequence, first_head, first_token], _) = block_corners(&rows_of(block), heads);
                Chunk {
                    first_plane: block.planes.start,
                    planes: block.plane_count(),
                    segment_plane: segment.index(block),
                    sequences: if sets_lengths(block) { layout.sequences() } else { 0 },
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
                Ok(BoundChunk::new(block, layout, bind(context, Entry::Scatter, &bindings)?))
            })
            .collect::<Result<_>>()?;
        let grid = match (layout.paged, layout.slots) {
            (false, _) => WriteGrid::Runs,
            (true, rows) if variant.units(rows) < WORKGROUP_SIZE.into() => WriteGrid::Flat { rows },
            (true, _) => WriteGrid::ShortRuns,
        };
        let heads_of_thread = |most| if has_parts { 1 } else { heads_of_thread(context, &variant, source, most) };
        // Single rows are few threads, of which all cores need some.
        let single = WriteVariant { heads_of_thread: heads_of_thread(4), ..variant };
        let variants = [single, WriteVariant { heads_of_thread: heads_of_thread(8), grid, ..variant }];
        let writes = Writes { token_strides, ..Writes::new(Kernel::Scatter, variants, chunks, buffer.size()) };
        let copies = CopySource::new(source, layout);
        Ok(BoundSource { owner: owner.clone(), tokens: source.tokens, sequences, writes, copies })
    }

    /// Number of rows of each sequence and head that the source holds.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Number of sequences that fit the source's buffers, up to `max_batch_size`.
    pub fn sequences(&self) -> u32 {
        self.sequences
    }

    /// Bytes that the source occupies on the device: 64 for each dispatch of a full update, each rounded up to
    /// `min_uniform_buffer_offset_alignment` (256 by default).
    pub fn device_bytes(&self) -> u64 {
        self.writes.uniform_bytes
    }

    pub(crate) fn writes(&self) -> &Writes {
        &self.writes
    }

    /// The copy form of the source; `None` if only a kernel can copy it.
    pub(crate) fn copies(&self) -> Option<&CopySource> {
        self.copies.as_ref()
    }
}
