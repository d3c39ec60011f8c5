//! [`CacheView`]: the storage as it lies, for engines that bind it.

use std::ops::Range;

use crate::{
    Error, Format, Result, SequenceError, Side, Strides,
    device::{
        binding::window_binding,
        storage::{Lengths, Storage},
    },
    shape::layout::{Layout, SideLayout},
};

/// The storage of one layer without any copy: what to bind, and where everything lies in it.
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

/// One buffer of whole planes.
#[derive(Clone, Debug)]
pub struct SegmentView<'a> {
    /// The buffer, with usages `STORAGE`, `COPY_SRC` and `COPY_DST`. It holds nothing else.
    pub buffer: &'a wgpu::Buffer,
    /// The planes that it holds; plane `sequence × num_heads + head`.
    pub planes: Range<u32>,
}

/// The place of one position in a segment, for a kernel that writes rows straight into the cache.
#[derive(Clone, Debug)]
pub struct SlotView<'a> {
    /// The segment.
    pub segment: SegmentView<'a>,
    /// Bytes from the buffer's start to the position's row in the segment's first plane.
    pub offset: u64,
    /// Bytes from a plane to the next; a head is one plane, a sequence `num_heads` planes.
    pub plane_bytes: u64,
    /// Bytes from a token to the next; of a packed format, of codes.
    pub token_bytes: u64,
    /// Where the scales of the row lie, in bytes from the same start as `offset`; empty where the format has none.
    pub scales: Range<u64>,
}

/// The place of one row.
#[derive(Clone, Debug)]
pub struct RowView<'a> {
    /// The buffer of its segment.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes from the buffer's start.
    pub offset: u64,
    /// Bytes of the row; of a packed format, of its codes.
    pub bytes: u64,
    /// Where its scales lie, in bytes from the buffer's start; empty where the format has none.
    pub scales: Range<u64>,
}

/// A buffer with one number per sequence, `[max_batch_size]` of u32: lengths or positions.
#[derive(Clone, Copy, Debug)]
pub struct PerSequenceView<'a> {
    /// The buffer, with usages `STORAGE`, `COPY_SRC` and `COPY_DST`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes from the buffer's start; bindable.
    pub offset: u64,
    /// Bytes of the numbers, 4 a sequence.
    pub bytes: u64,
}

impl<'a> PerSequenceView<'a> {
    /// The numbers as an entry of a bind group.
    #[must_use]
    pub fn binding(&self) -> wgpu::BindingResource<'a> {
        window_binding(self.buffer, &(self.offset..self.offset.saturating_add(self.bytes)))
    }
}

impl<'a> CacheView<'a> {
    pub(crate) fn new(storage: &'a Storage, layout: &'a Layout, lengths: &'a [u32]) -> Self {
        CacheView { storage, layout, lengths }
    }

    /// Keys or values.
    pub fn side(&self, side: Side) -> SideView<'a> {
        SideView { storage: self.storage, layout: self.layout, side }
    }

    /// Length of each sequence, as the host tracks it.
    pub fn lengths(&self) -> &'a [u32] {
        self.lengths
    }

    /// The same lengths on the device. Every recorded update sets them at its place in the command stream, so a kernel
    /// recorded after it reads the new ones.
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

    /// Bytes from one plane to the next: the rows of a plane, rounded up to 4 bytes, in a packed format to 16.
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

    /// The buffers, in order of planes. There is one unless a side is larger than a binding.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = SegmentView<'a>> + use<'a> {
        let side = self.side;
        self.storage
            .segments
            .iter()
            .map(move |segment| SegmentView { buffer: segment.side(side), planes: segment.planes.clone() })
    }

    /// Where a position lies in every segment.
    ///
    /// Write rows there, then make them valid by [`KvCache::record_advance`](crate::KvCache::record_advance). Where
    /// [`row_bytes`](Self::row_bytes) is no multiple of 4 (16-bit formats, odd head sizes), neighbouring positions
    /// share a word: write only your half of it, in one thread.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`].
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

    /// Where the row of a sequence, head and position lies, valid or not.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`].
    pub fn row(&self, sequence: u32, head: u32, position: u32) -> Result<RowView<'a>> {
        check_index("sequence", sequence, self.layout.sequences())?;
        check_index("head", head, self.layout.heads)?;
        let slot = self.slot(position)?;
        let (buffer, plane) = self.storage.plane(self.layout, self.side, sequence, head);
        let bytes = self.sizes().code_bytes();
        let scales = self.scales(slot);
        let scales = plane.saturating_add(scales.start)..plane.saturating_add(scales.end);
        Ok(RowView { buffer, offset: plane.saturating_add(self.sizes().codes_at(slot)), bytes, scales })
    }

    /// Where the scales of a slot lie in a plane: behind the codes of all slots.
    fn scales(&self, slot: u32) -> Range<u64> {
        let bytes = self.sizes().scale_bytes();
        let start = self.sizes().codes_at(self.layout.slots).saturating_add(bytes.saturating_mul(slot.into()));
        start..start.saturating_add(bytes)
    }

    /// The slot of a position. A ring has one for every position.
    fn slot(&self, position: u32) -> Result<u32> {
        let slot = self.layout.placement.slot(position);
        check_index("position", slot, self.layout.slots)?;
        Ok(slot)
    }
}

fn check_index(name: &'static str, index: u32, count: u32) -> Result<()> {
    if index < count { Ok(()) } else { Err(Error::Sequence(SequenceError::IndexOutOfRange { name, index, count })) }
}
