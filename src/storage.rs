//! The buffers of one layer: [`Storage`].

use std::ops::Range;

use crate::{
    CacheConfig, Context, HostTensor, Pair, Result, Side,
    layout::Layout,
    tensor::{elements, read_buffer},
};

/// Planes `planes` of keys and of values.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub planes: Range<u32>,
    pub keys: wgpu::Buffer,
    pub values: wgpu::Buffer,
}

/// All segments of a layer, and the sequences' lengths.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub segments: Vec<Segment>,
    /// `[sequence]`, u32.
    pub lengths: wgpu::Buffer,
}

impl Storage {
    /// Allocates what the layout says. wgpu lets new buffers read as zero.
    pub fn new(context: &Context, layout: &Layout, batch_size: u32) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let segments = layout
            .segments()
            .map(|planes| {
                let buffer = |side: Side, what| {
                    let bytes = layout.side(side).plane_bytes * planes.len() as u64;
                    context.create_buffer(what, bytes, usage, false)
                };
                let keys = buffer(Side::Keys, "cached keys")?;
                let values = buffer(Side::Values, "cached values")?;
                Ok(Segment { planes, keys, values })
            })
            .collect::<Result<_>>()?;
        let lengths = context.create_buffer("cached lengths", u64::from(batch_size) * 4, usage, false)?;
        Ok(Storage { segments, lengths })
    }

    /// Every buffer.
    pub fn buffers(&self) -> impl Iterator<Item = &wgpu::Buffer> {
        self.segments.iter().flat_map(|segment| [&segment.keys, &segment.values]).chain([&self.lengths])
    }

    /// Whether a buffer is one of these.
    pub fn contains(&self, buffer: &wgpu::Buffer) -> bool {
        self.buffers().any(|own| own == buffer)
    }

    /// Every row of every plane as it lies in the storage, valid or not.
    pub fn read(&self, context: &Context, config: &CacheConfig, layout: &Layout) -> Result<Pair<HostTensor>> {
        let side = |side: Side| -> Result<HostTensor> {
            let sizes = layout.side(side);
            let row_count = usize::try_from(sizes.row_bytes).expect("a row fits a plane");
            let dense_bytes = row_count * config.max_seq_len as usize;
            let shape = config.shape(side);
            let total = elements(shape) * u64::from(sizes.format.element_bytes());
            let mut bytes = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
            for segment in &self.segments {
                let buffer = segment.side(side);
                let read = read_buffer(context, buffer, 0, buffer.size())?;
                let plane_bytes = usize::try_from(sizes.plane_bytes).expect("a plane fits a buffer");
                for plane in read.chunks_exact(plane_bytes) {
                    bytes.extend_from_slice(&plane[..dense_bytes]);
                }
            }
            Ok(HostTensor::new(shape, sizes.format, bytes))
        };
        Ok(Pair { keys: side(Side::Keys)?, values: side(Side::Values)? })
    }
}

impl Segment {
    /// How many planes.
    pub fn plane_count(&self) -> u32 {
        self.planes.end - self.planes.start
    }

    pub fn side(&self, side: Side) -> &wgpu::Buffer {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }
}
