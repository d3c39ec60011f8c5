//! [`CacheView`]: the storage of a layer, for engines that bind it in their own kernels instead of copying rows out.

use std::ops::Range;

use crate::{
    Error, Format, Result, SequenceError, Side, Strides,
    device::{
        binding::window_binding,
        storage::{Lengths, Storage},
    },
    shape::layout::{Layout, SideLayout},
};

/// The storage of one layer without a copy: the buffers to bind, and the offsets and strides of rows in them.
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, Context, Format, KvCache, Side};
///
/// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// # let context = Context::new(&device, &queue);
/// let config = CacheConfig::new(2, 8, 64, 1024).formats(Format::F16, Format::F16);
/// let cache = KvCache::new(&context, config)?;
/// let keys = cache.view().side(Side::Keys);
/// assert_eq!(keys.strides().token, 64);
/// let row = keys.row(1, 3, 10)?; // sequence 1, head 3, position 10
/// assert_eq!(row.offset, ((8 + 3) * 1024 + 10) * 64 * 2);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CacheView<'a> {
    storage: &'a Storage,
    layout: &'a Layout,
    lengths: &'a [u32],
}

/// Keys or values of a [`CacheView`].
#[derive(Clone, Copy, Debug)]
pub struct SideView<'a> {
    storage: &'a Storage,
    layout: &'a Layout,
    side: Side,
}

/// One buffer, which holds whole planes.
#[derive(Clone, Debug)]
pub struct SegmentView<'a> {
    /// The buffer, with usages `STORAGE`, `COPY_SRC` and `COPY_DST`. It holds nothing else.
    pub buffer: &'a wgpu::Buffer,
    /// The planes in the buffer, by index `sequence × num_heads + head`.
    pub planes: Range<u32>,
}

/// The location of one position in a segment, for a kernel that writes rows directly to the cache.
#[derive(Clone, Debug)]
pub struct SlotView<'a> {
    /// The segment.
    pub segment: SegmentView<'a>,
    /// Byte offset of the position's row in the segment's first plane.
    pub offset: u64,
    /// Bytes from one plane to the next. A head is one plane, a sequence `num_heads` planes.
    pub plane_bytes: u64,
    /// Bytes from one token to the next; in a packed format, from codes to codes.
    pub token_bytes: u64,
    /// Byte range of the row's scales, from the same start as `offset`; empty if the format has none.
    pub scales: Range<u64>,
}

/// The location of one row.
#[derive(Clone, Debug)]
pub struct RowView<'a> {
    /// The buffer of the row's segment.
    pub buffer: &'a wgpu::Buffer,
    /// Byte offset of the row in the buffer.
    pub offset: u64,
    /// Bytes of the row; in a packed format, of its codes.
    pub bytes: u64,
    /// Byte range of the row's scales in the buffer; empty if the format has none.
    pub scales: Range<u64>,
}

/// A buffer with one number per sequence, `[max_batch_size]` of u32: lengths or positions.
#[derive(Clone, Copy, Debug)]
pub struct PerSequenceView<'a> {
    /// The buffer, with usages `STORAGE`, `COPY_SRC` and `COPY_DST`.
    pub buffer: &'a wgpu::Buffer,
    /// Byte offset of the first number; it can be bound.
    pub offset: u64,
    /// Bytes of the numbers, 4 per sequence.
    pub bytes: u64,
}

impl<'a> PerSequenceView<'a> {
    /// Returns the numbers as a binding of a bind group.
    #[must_use]
    pub fn binding(&self) -> wgpu::BindingResource<'a> {
        window_binding(self.buffer, &(self.offset..self.offset.saturating_add(self.bytes)))
    }
}

impl<'a> CacheView<'a> {
    pub(crate) fn new(storage: &'a Storage, layout: &'a Layout, lengths: &'a [u32]) -> Self {
        CacheView { storage, layout, lengths }
    }

    /// Returns the view of the keys or the values.
    pub fn side(&self, side: Side) -> SideView<'a> {
        SideView { storage: self.storage, layout: self.layout, side }
    }

    /// The length of each sequence, as the host tracks it.
    pub fn lengths(&self) -> &'a [u32] {
        self.lengths
    }

    /// The same lengths on the device. A recorded update sets them at its place in the command stream, so kernels
    /// recorded after it read the new lengths.
    pub fn lengths_on_device(&self) -> PerSequenceView<'a> {
        let Lengths { buffer, offset, bytes } = &self.storage.lengths;
        PerSequenceView { buffer, offset: *offset, bytes: *bytes }
    }
}

impl<'a> SideView<'a> {
    fn sizes(&self) -> &'a SideLayout {
        self.layout.side(self.side)
    }

    /// Format of the elements.
    pub fn format(&self) -> Format {
        self.sizes().format
    }

    /// Bytes of one row. In a packed format this includes its scales.
    pub fn row_bytes(&self) -> u64 {
        self.sizes().row_bytes
    }

    /// Bytes from one plane to the next: the rows of a plane, rounded up to a multiple of 4, or of 16 in a packed
    /// format.
    pub fn plane_bytes(&self) -> u64 {
        self.sizes().plane_bytes
    }

    /// Distances between rows inside one segment, in elements. In a packed format, distances between codes, in words.
    pub fn strides(&self) -> Strides {
        let units = |bytes: u64| if self.format().unit_bytes() == 2 { bytes / 2 } else { bytes / 4 };
        let head = units(self.plane_bytes());
        let sequence = head.saturating_mul(self.layout.heads.into());
        Strides { sequence, head, token: units(self.sizes().code_bytes()) }
    }

    /// The buffers, in order of planes. There is one unless the keys or values are larger than a binding.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = SegmentView<'a>> + use<'a> {
        let side = self.side;
        self.storage
            .segments
            .iter()
            .map(move |segment| SegmentView { buffer: segment.side(side), planes: segment.planes.clone() })
    }

    /// Locates a position in every segment.
    ///
    /// Write rows there, then make them valid with [`KvCache::record_advance`](crate::KvCache::record_advance). If
    /// [`row_bytes`](Self::row_bytes) is not a multiple of 4 (16-bit formats, odd head sizes), neighbouring positions
    /// share a word: write only your half of it, from one thread.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the layer has no slot for the position.
    pub fn slots_at(&self, position: u32) -> Result<impl ExactSizeIterator<Item = SlotView<'a>> + use<'a>> {
        let slot = self.slot(position)?;
        let (plane_bytes, token_bytes) = (self.sizes().plane_bytes, self.sizes().code_bytes());
        let offset = self.sizes().codes_at(slot);
        let scales = self.scales(slot);
        Ok(self.segments().map(move |segment| SlotView {
            segment,
            offset,
            plane_bytes,
            token_bytes,
            scales: scales.clone(),
        }))
    }

    /// Locates the row of a sequence, head and position, valid or not.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the layer has no such sequence or head, or no slot for the position.
    pub fn row(&self, sequence: u32, head: u32, position: u32) -> Result<RowView<'a>> {
        check_index("sequence", sequence, self.layout.groups())?;
        check_index("head", head, self.layout.heads)?;
        let slot = self.slot(position)?;
        let (buffer, plane) = self.storage.plane(self.layout, self.side, sequence, head);
        let bytes = self.sizes().code_bytes();
        let scales = self.scales(slot);
        let scales = plane.saturating_add(scales.start)..plane.saturating_add(scales.end);
        Ok(RowView { buffer, offset: plane.saturating_add(self.sizes().codes_at(slot)), bytes, scales })
    }

    /// Returns the byte range in a plane of a slot's scales, which follow the codes of all slots.
    fn scales(&self, slot: u32) -> Range<u64> {
        let bytes = self.sizes().scale_bytes();
        let start = self.sizes().codes_at(self.layout.slots).saturating_add(bytes.saturating_mul(slot.into()));
        start..start.saturating_add(bytes)
    }

    /// Returns the slot of a position. In a ring every position has one.
    fn slot(&self, position: u32) -> Result<u32> {
        let slot = self.layout.placement.slot(position);
        check_index("position", slot, self.layout.slots)?;
        Ok(slot)
    }
}

fn check_index(name: &'static str, index: u32, count: u32) -> Result<()> {
    if index < count { Ok(()) } else { Err(Error::Sequence(SequenceError::IndexOutOfRange { name, index, count })) }
}
