//! Sources and destinations bound to a layer: bind groups made once and recorded with every step.

use std::{ops::Range, sync::Arc};

use crate::{
    CacheConfig, Context, Error, Result, Side, Source,
    kernels::{Chunk, Kernel, Pipeline, SideVariant, Window},
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
}

/// Dispatches that write to planes: of scatter for a source, of advance for a layer.
#[derive(Debug)]
pub(crate) struct Writes {
    pipeline: Pipeline,
    keys: SideVariant,
    values: SideVariant,
    chunks: Vec<BoundChunk>,
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
                    storage.lengths.as_entire_binding(),
                    segment.keys.as_entire_binding(),
                    segment.values.as_entire_binding(),
                ];
                let bindings = bind(context, &pipeline, &bindings)?;
                Ok(BoundChunk { planes: segment.plane_count(), first_token: 0, bindings })
            })
            .collect::<Result<_>>()?;
        Ok(Writes { pipeline, keys, values, chunks })
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
                    storage.lengths.as_entire_binding(),
                    segment.keys.as_entire_binding(),
                    segment.values.as_entire_binding(),
                    window_binding(source.keys.buffer, &keys.bytes),
                    window_binding(source.values.buffer, &values.bytes),
                ];
                let bindings = bind(context, &pipeline, &bindings)?;
                Ok(BoundChunk { planes: block.plane_count(), first_token: block.tokens.start, bindings })
            })
            .collect::<Result<_>>()?;
        let writes = Writes { pipeline, keys, values, chunks };
        Ok(BoundSource { owner: owner.clone(), tokens: source.tokens, writes })
    }

    /// Rows of each sequence and head that the source holds.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    pub(crate) fn writes(&self) -> &Writes {
        &self.writes
    }
}

/// Where one side of a range is copied to: a buffer of the caller's, dense from an offset on.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of 4.
    pub offset: u64,
}

/// Dispatches that copy rows of one side out.
#[derive(Debug)]
pub(crate) struct Reads {
    pipeline: Pipeline,
    windows: Vec<(wgpu::BindGroup, [u32; 3])>,
}

impl Destination<'_> {
    /// Checks usage, alignment and range for a dense tensor of `bytes` bytes.
    pub(crate) fn check(&self, side: Side, bytes: u64) -> Result<()> {
        if !self.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::BufferUsage { side, needed: "STORAGE", actual: format!("{:?}", self.buffer.usage()) });
        }
        if !self.offset.is_multiple_of(4) {
            return Err(Error::Misaligned { side, offset: self.offset, alignment: 4 });
        }
        let needed = self.offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(4));
        match needed {
            Some(needed) if needed <= self.buffer.size() => Ok(()),
            needed => Err(Error::BufferRange { side, needed: needed.unwrap_or(u64::MAX), actual: self.buffer.size() }),
        }
    }
}

impl Reads {
    /// `rows` rows of every plane into `destination`, after [`Destination::check`].
    pub fn new(
        context: &Context,
        layout: &Layout,
        storage: &Storage,
        side: Side,
        rows: u32,
        destination: &Destination<'_>,
    ) -> Result<Self> {
        let sizes = layout.side(side);
        let width = u64::from(sizes.format.element_bytes());
        let wide = sizes.row_bytes.is_multiple_of(16) && destination.offset.is_multiple_of(16);
        let kernel = Kernel::Gather { stored: sizes.format, dim: sizes.dim, max_seq_len: layout.max_seq_len, wide };
        let pipeline = context.pipeline(kernel)?;
        let limit = binding_limit(context.limits());
        let alignment = u64::from(context.limits().min_storage_buffer_offset_alignment);
        // Only a block of one plane has fewer than all rows, so every block is contiguous in the output.
        let bytes = |block: &Block| -> (Range<u64>, u64) {
            let first = u64::from(block.planes.start) * u64::from(rows) + u64::from(block.tokens.start);
            let start = destination.offset + first * sizes.row_bytes;
            let end = start + u64::from(block.plane_count()) * u64::from(block.token_count()) * sizes.row_bytes;
            let aligned = start - start % alignment;
            (aligned..end.next_multiple_of(4), start - aligned)
        };
        let fits = |block: &Block| {
            let (window, _) = bytes(block);
            window.end - window.start <= limit
        };
        let mut blocks = Vec::new();
        if rows > 0 {
            for segment in &storage.segments {
                let mut parts = Vec::new();
                split(Block { planes: segment.planes.clone(), tokens: 0..rows }, &fits, &|_| false, &mut parts).ok_or(
                    Error::DeviceLimit {
                        limit: "max_storage_buffer_binding_size",
                        needed: sizes.row_bytes + alignment,
                        available: limit,
                    },
                )?;
                blocks.extend(parts.into_iter().map(|block| (segment, block)));
            }
        }
        let uniforms: Vec<_> = blocks
            .iter()
            .map(|(segment, block)| Window {
                first_plane: block.planes.start,
                planes: block.plane_count(),
                segment_plane: block.planes.start - segment.planes.start,
                heads: layout.heads,
                first_row: block.tokens.start,
                rows: block.token_count(),
                offset: u32::try_from(bytes(block).1 / width).expect("an offset inside its alignment"),
                spare: 0,
            })
            .collect();
        let buffer = uniform_buffer(context, &uniforms)?;
        let windows = (0..)
            .zip(&blocks)
            .map(|(at, (segment, block))| {
                let (window, _) = bytes(block);
                let unit = if wide { 16 } else { 4 };
                let units = (window.end - window.start).div_ceil(unit);
                let bindings = [
                    uniform_binding::<Window>(context, &buffer, at),
                    segment.side(side).as_entire_binding(),
                    window_binding(destination.buffer, &window),
                ];
                Ok((bind(context, &pipeline, &bindings)?, grid(units, 1, context.limits())))
            })
            .collect::<Result<_>>()?;
        Ok(Reads { pipeline, windows })
    }

    pub fn dispatches(&self) -> impl Iterator<Item = Dispatch<'_>> {
        self.windows.iter().map(|(bindings, grid)| Dispatch { pipeline: &self.pipeline, bindings, grid: *grid })
    }
}

/// One buffer of uniforms, each at a bindable offset.
fn uniform_buffer<T: bytemuck::Pod>(context: &Context, uniforms: &[T]) -> Result<wgpu::Buffer> {
    let stride = uniform_stride::<T>(context);
    let mut contents = vec![0; stride * uniforms.len()];
    for (slot, uniform) in contents.chunks_exact_mut(stride).zip(uniforms) {
        slot[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(uniform));
    }
    context.create_filled("chunks", &contents, wgpu::BufferUsages::UNIFORM)
}

fn uniform_stride<T>(context: &Context) -> usize {
    size_of::<T>().next_multiple_of(context.limits().min_uniform_buffer_offset_alignment as usize)
}

fn uniform_binding<'a, T>(context: &Context, buffer: &'a wgpu::Buffer, index: u64) -> wgpu::BindingResource<'a> {
    let offset = index * uniform_stride::<T>(context) as u64;
    window_binding(buffer, &(offset..offset + size_of::<T>() as u64))
}

fn window_binding<'a>(buffer: &'a wgpu::Buffer, bytes: &Range<u64>) -> wgpu::BindingResource<'a> {
    let size = wgpu::BufferSize::new(bytes.end - bytes.start);
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: bytes.start, size })
}

fn bind(context: &Context, pipeline: &Pipeline, bindings: &[wgpu::BindingResource<'_>]) -> Result<wgpu::BindGroup> {
    let entries: Vec<_> = (0..)
        .zip(bindings)
        .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
        .collect();
    let layout = &pipeline.bindings;
    context.create("a bind group", 0, |device| {
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some("kv-cache"), layout, entries: &entries })
    })
}
