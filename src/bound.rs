//! [`BoundSource`]: a source bound to a layer, and the dispatches that write to planes.

use std::sync::Arc;

use crate::{
    CacheConfig, Context, Error, Result, Side, Source,
    binding::{bind, uniform_binding, uniform_buffer, window_binding},
    copies::CopySource,
    kernels::{Chunk, Kernel, Pipeline, SideVariant},
    layout::{Layout, binding_limit},
    plan::{Block, Step, grid, split},
    record::Dispatch,
    source::block_corners,
    storage::{Segment, Storage},
};

/// Buffers of the caller's bound to one layer, for [`KvCache::record_update`](crate::KvCache::record_update).
///
/// Holds the bind groups and a small uniform buffer; recording with it allocates nothing on the device.
#[derive(Debug)]
pub struct BoundSource {
    pub(crate) owner: Arc<()>,
    pub(crate) tokens: u32,
    writes: Writes,
    copies: Option<CopySource>,
}

/// Dispatches that write to planes: of scatter for a source, of advance for a layer.
#[derive(Debug)]
pub(crate) struct Writes {
    pipeline: Pipeline,
    keys: SideVariant,
    values: SideVariant,
    chunks: Vec<BoundChunk>,
    uniform_bytes: u64,
}

#[derive(Debug)]
struct BoundChunk {
    planes: u32,
    first_token: u32,
    bindings: wgpu::BindGroup,
}

impl Writes {
    /// The dispatches of one step.
    pub fn dispatches<'a>(
        &'a self,
        step: &'a Step,
        limits: &'a wgpu::Limits,
        tokens: u32,
    ) -> impl Iterator<Item = Dispatch<'a>> {
        let units = self.keys.units(step.rows).max(self.values.units(step.rows));
        self.chunks.iter().filter(move |chunk| chunk.first_token < tokens).map(move |chunk| Dispatch {
            pipeline: &self.pipeline,
            bindings: &chunk.bindings,
            grid: grid(units * u64::from(chunk.planes), 2, limits),
        })
    }

    /// How many dispatches a step of so many tokens takes.
    pub fn count(&self, tokens: u32) -> u64 {
        self.chunks.iter().filter(|chunk| chunk.first_token < tokens).count() as u64
    }

    /// Chunks that write no source, one per segment.
    pub fn advance(context: &Context, layout: &Layout, storage: &Storage) -> Result<Self> {
        let [keys, values] = Side::BOTH.map(|side| SideVariant::new(layout, side, None, false));
        let pipeline = context.pipeline(Kernel::Advance { keys, values })?;
        let chunk = |segment: &Segment| Chunk {
            first_plane: segment.planes.start,
            planes: segment.plane_count(),
            heads: layout.heads,
            ..Chunk::default()
        };
        let uniforms: Vec<_> = storage.segments.iter().map(chunk).collect();
        let buffer = uniform_buffer(context, &uniforms)?;
        let chunks = (0..)
            .zip(&storage.segments)
            .map(|(index, segment)| {
                let bindings = [
                    uniform_binding::<Chunk>(context, &buffer, index),
                    window_binding(&storage.lengths.buffer, &storage.lengths.range()),
                    segment.keys.as_entire_binding(),
                    segment.values.as_entire_binding(),
                ];
                let bindings = bind(context, &pipeline, &bindings)?;
                Ok(BoundChunk { planes: segment.plane_count(), first_token: 0, bindings })
            })
            .collect::<Result<_>>()?;
        Ok(Writes { pipeline, keys, values, chunks, uniform_bytes: buffer.size() })
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
            rows.check(side, [config.batch_size, config.num_heads, source.tokens, config.dim(side)])?;
        }
        let keys = SideVariant::new(layout, Side::Keys, Some(source.keys.format), source.keys.is_wide());
        let values = SideVariant::new(layout, Side::Values, Some(source.values.format), source.values.is_wide());
        let pipeline = context.pipeline(Kernel::Scatter { keys, values })?;

        let (heads, limit) = (config.num_heads, binding_limit(context.limits()));
        let alignment = context.limits().min_storage_buffer_offset_alignment;
        let windows = |block: &Block| {
            let keys = source.keys.window(block, heads, config.head_dim, alignment);
            let values = source.values.window(block, heads, config.value_dim, alignment);
            (keys, values)
        };
        let fits = |block: &Block| {
            let (keys, values) = windows(block);
            [keys, values].iter().all(|window| window.bytes.end - window.bytes.start <= limit)
        };
        let by_tokens = |block: &Block| {
            source.keys.reaches_by_tokens(block, heads) || source.values.reaches_by_tokens(block, heads)
        };
        let mut blocks = Vec::new();
        for (index, segment) in storage.segments.iter().enumerate() {
            let mut parts = Vec::new();
            let block = Block { planes: segment.planes.clone(), tokens: 0..source.tokens };
            split(block, &fits, &by_tokens, &mut parts).ok_or(Error::DeviceLimit {
                limit: "max_storage_buffer_binding_size",
                needed: layout.keys.row_bytes.max(layout.values.row_bytes) * 2 + u64::from(alignment),
                available: limit,
            })?;
            blocks.extend(parts.into_iter().map(|block| (index, block)));
        }

        let uniforms: Vec<_> = blocks
            .iter()
            .map(|(index, block)| {
                let (keys, values) = windows(block);
                let ([first_sequence, first_head, first_token], _) = block_corners(block, heads);
                Chunk {
                    first_plane: block.planes.start,
                    planes: block.plane_count(),
                    segment_plane: block.planes.start - storage.segments[*index].planes.start,
                    heads,
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
            .map(|(at, (index, block))| {
                let (keys, values) = windows(block);
                let segment = &storage.segments[*index];
                let bindings = [
                    uniform_binding::<Chunk>(context, &buffer, at),
                    window_binding(&storage.lengths.buffer, &storage.lengths.range()),
                    segment.keys.as_entire_binding(),
                    segment.values.as_entire_binding(),
                    window_binding(source.keys.buffer, &keys.bytes),
                    window_binding(source.values.buffer, &values.bytes),
                ];
                let bindings = bind(context, &pipeline, &bindings)?;
                Ok(BoundChunk { planes: block.plane_count(), first_token: block.tokens.start, bindings })
            })
            .collect::<Result<_>>()?;
        let writes = Writes { pipeline, keys, values, chunks, uniform_bytes: buffer.size() };
        let copies = CopySource::new(source, layout);
        Ok(BoundSource { owner: owner.clone(), tokens: source.tokens, writes, copies })
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
