//! [`Storage`]: the buffers of one layer. Keys and values are split into segments of whole planes, each small enough to
//! bind.

use std::ops::Range;

use crate::{
    CacheConfig, Context, HostTensor, Pair, Result, Side,
    device::tensor::read_buffers_async,
    plan::grid::Block,
    shape::{layout::Layout, placement::count, tensor::dense_bytes},
};

/// One buffer of keys and one of values, which hold the same planes.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub planes: Range<u32>,
    pub keys: wgpu::Buffer,
    pub values: wgpu::Buffer,
}

/// All segments of a layer, and the lengths of its sequences.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub segments: Vec<Segment>,
    pub lengths: Lengths,
}

/// The lengths buffer of one layer on the device: the length of each sequence, `[max_batch_size]` of u32; its start
/// (the position of the first row of the last write), `[max_batch_size]` of u32; and the scales of keys and values,
/// f32.
#[derive(Clone, Debug)]
pub(crate) struct Lengths {
    pub buffer: wgpu::Buffer,
    pub offset: u64,
    pub bytes: u64,
}

impl Lengths {
    /// Allocates the lengths of one layer. Each layer has its own buffer: wgpu tracks whole buffers, so steps of two
    /// layers that wrote to one buffer would wait for each other.
    pub fn allocate(context: &Context, layout: &Layout) -> Result<Self> {
        let batch_size = layout.sequences();
        let mut contents = vec![0; (batch_size as usize).saturating_mul(2)];
        contents.extend(Side::BOTH.map(|side| layout.side(side).scale.get().to_bits()));
        let buffer = context.create_filled("cached lengths", bytemuck::cast_slice(&contents), USAGE)?;
        Ok(Lengths { buffer, offset: 0, bytes: u64::from(batch_size).saturating_mul(4) })
    }

    /// Size of lengths and starts in bytes.
    pub fn with_starts(&self) -> u64 {
        self.bytes.saturating_mul(2)
    }

    /// Range of the buffer that holds lengths, starts and scales.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.buffer.size()
    }
}

const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

impl Storage {
    /// Allocates the segments of a layout. wgpu makes new buffers read as zero.
    pub fn new(context: &Context, layout: &Layout, lengths: Lengths) -> Result<Self> {
        let segments = layout
            .segments()
            .map(|planes| {
                let buffer = |side: Side, what| {
                    let bytes = layout.side(side).planes_bytes(count(&planes));
                    context.create_buffer(what, bytes, USAGE, false)
                };
                let keys = buffer(Side::Keys, "cached keys")?;
                let values = buffer(Side::Values, "cached values")?;
                Ok(Segment { planes, keys, values })
            })
            .collect::<Result<_>>()?;
        Ok(Storage { segments, lengths })
    }

    /// Returns the segments that hold some of these planes, each with those that it holds.
    pub fn segments_of(&self, planes: &Range<u32>) -> impl Iterator<Item = (&Segment, Range<u32>)> {
        self.segments.iter().filter_map(|segment| {
            let held = segment.planes.start.max(planes.start)..segment.planes.end.min(planes.end);
            (held.start < held.end).then_some((segment, held))
        })
    }

    /// All buffers of keys and values.
    pub fn planes(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.segments.iter().flat_map(|segment| [&segment.keys, &segment.values])
    }

    /// Whether `buffer` is one of the layer's own buffers: keys, values or lengths.
    pub fn contains(&self, buffer: &wgpu::Buffer) -> bool {
        self.planes().chain([&self.lengths.buffer]).any(|own| own == buffer)
    }

    /// Returns the buffer that holds a plane, and the plane's byte offset in it.
    pub fn plane(&self, layout: &Layout, side: Side, sequence: u32, head: u32) -> (&wgpu::Buffer, u64) {
        let plane = layout.plane(sequence, head);
        let index = plane.checked_div(layout.planes_per_segment).expect("a segment holds a plane");
        let segment = &self.segments[index as usize];
        (segment.side(side), layout.side(side).planes_bytes(count(&(segment.planes.start..plane))))
    }

    /// Reads every row of every plane as stored, valid or not.
    pub async fn read_async(
        &self,
        context: &Context,
        config: &CacheConfig,
        layout: &Layout,
    ) -> Result<Pair<HostTensor>> {
        let sources: Vec<_> = Side::BOTH
            .into_iter()
            .flat_map(|side| self.segments.iter().map(move |segment| segment.side(side)))
            .map(|buffer| (buffer, 0..buffer.size()))
            .collect();
        let read = read_buffers_async(context, &sources).await?;
        let host = |bytes: u64| usize::try_from(bytes).expect("what was read fits the address space");
        let (keys, values) = read.split_at(host(layout.side_bytes(Side::Keys)));
        let side = |side: Side, read: &[u8]| {
            let sizes = layout.side(side);
            let shape = config.shape(side);
            let slots = config.slots() as usize;
            let mut bytes = Vec::with_capacity(host(dense_bytes(shape, sizes.format)));
            for plane in read.chunks_exact(host(sizes.plane_bytes)) {
                let (codes, scales) = plane.split_at(host(sizes.code_bytes()).saturating_mul(slots));
                if sizes.is_contiguous() {
                    bytes.extend_from_slice(codes);
                    continue;
                }
                let rows =
                    codes.chunks_exact(host(sizes.code_bytes())).zip(scales.chunks_exact(host(sizes.scale_bytes())));
                rows.for_each(|(codes, scales)| bytes.extend(codes.iter().chain(scales)));
            }
            HostTensor::new(shape, sizes.format, sizes.scale, bytes)
        };
        Ok(Pair { keys: side(Side::Keys, keys), values: side(Side::Values, values) })
    }
}

impl Segment {
    /// Index of the block's first plane within this segment.
    pub fn index(&self, block: &Block) -> u32 {
        count(&(self.planes.start..block.planes.start))
    }

    pub fn side(&self, side: Side) -> &wgpu::Buffer {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }
}
