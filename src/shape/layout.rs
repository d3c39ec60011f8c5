//! The layout of a layer: sizes of rows and planes, and segments of whole planes. Pure arithmetic, in checked `u64`.
//!
//! [`Layout::unbounded`] refuses a layer whose number of planes does not fit 32 bits, or whose size in bytes does not
//! fit 64. Arithmetic inside a layout therefore cannot overflow. It uses saturating operations, which never wrap.

use std::ops::Range;

use crate::{
    CacheConfig, ConfigError, DeviceError, Error, Format, Placement, Result, Scale, SequenceError, Side,
    shape::{
        codec::check_scale,
        placement::{PIECES, count},
    },
};

/// Largest binding that is safe on every driver: 2^31 − 4 bytes.
pub(crate) const MAX_BINDING_BYTES: u64 = (1 << 31) - 4;

/// Number of storage buffers that the largest kernel binds: step, lengths, and source and planes of both sides.
const STORAGE_BUFFERS: u32 = 6;

/// Size of a run of a step on the device, in bytes.
pub(crate) const RUN_BYTES: u64 = 24;
/// Size of what precedes lengths and runs in a step on the device, in bytes.
pub(crate) const HEAD_BYTES: u64 = 12;

/// Size of a step as immediates, in bytes.
pub(crate) const IMMEDIATE_BYTES: u32 = 32;

/// Number of threads in a workgroup of every kernel.
pub(crate) const WORKGROUP_SIZE: u32 = 256;

/// Sizes of one side's rows and planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SideLayout {
    pub format: Format,
    pub scale: Scale,
    pub dim: u32,
    /// Number of elements of a row, or of words of a packed row.
    pub units: u32,
    pub row_bytes: u64,
    /// Size of `slots` rows, rounded up to whole words so that two planes never share a word, or to 16 bytes in a
    /// packed format.
    pub plane_bytes: u64,
}

/// Where every plane of a layer is stored. Segment `i` of the keys holds the same planes as segment `i` of the values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    pub keys: SideLayout,
    pub values: SideLayout,
    /// Whether groups of planes are pages of a pool, and not sequences.
    pub paged: bool,
    pub planes: u32,
    pub heads: u32,
    pub slots: u32,
    pub placement: Placement,
    pub planes_per_segment: u32,
}

impl SideLayout {
    /// Size of the codes of a packed row, or of the whole row in any other format.
    pub fn code_bytes(&self) -> u64 {
        let words = u64::from(self.format.code_words(self.dim));
        if self.format.is_packed() { words.saturating_mul(4) } else { self.row_bytes }
    }

    /// Size of the block scales of a row, which are stored after the codes of all slots.
    pub fn scale_bytes(&self) -> u64 {
        self.row_bytes.saturating_sub(self.code_bytes())
    }

    /// Size of a number of planes.
    pub fn planes_bytes(&self, planes: u32) -> u64 {
        self.plane_bytes.saturating_mul(planes.into())
    }

    /// Size of a number of rows, if they are contiguous.
    pub fn rows_bytes(&self, rows: u32) -> u64 {
        self.row_bytes.saturating_mul(rows.into())
    }

    /// Byte offset in a plane of the codes of a slot, or of its row in a format that is not packed.
    pub fn codes_at(&self, slot: u32) -> u64 {
        self.code_bytes().saturating_mul(slot.into())
    }

    /// Whether consecutive rows are contiguous in memory: the format has no block scales.
    pub fn is_contiguous(&self) -> bool {
        self.scale_bytes() == 0
    }

    fn new(config: &CacheConfig, side: Side) -> Result<Self> {
        let (format, dim) = (config.format(side), config.dim(side));
        let units = config.units(side);
        let row_bytes = format.row_bytes(dim);
        let overflow = || {
            Error::Config(ConfigError::SizeOverflow {
                what: "bytes of one plane",
                factors: format!("{} × {units} × {}", config.slots(), format.unit_bytes()),
                bits: 64,
            })
        };
        let plane_bytes = row_bytes
            .checked_mul(config.slots().into())
            .and_then(|bytes| bytes.checked_next_multiple_of(if format.is_packed() { 16 } else { 4 }))
            .ok_or_else(overflow)?;
        Ok(SideLayout { format, scale: config.scale(side), dim, units, row_bytes, plane_bytes })
    }
}

impl Layout {
    /// Returns the layout with all planes in one segment, however large.
    pub fn unbounded(config: &CacheConfig) -> Result<Self> {
        let dimensions = [
            ("batch_size", config.batch_size),
            ("num_heads", config.num_heads),
            ("head_dim", config.head_dim),
            ("value_dim", config.value_dim),
            match config.placement {
                Placement::Linear => ("max_seq_len", config.max_seq_len),
                Placement::Ring { window, .. } => ("window", window),
            },
        ];
        if let Some(&(name, _)) = dimensions.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Config(ConfigError::ZeroDimension { name }));
        }
        check_scale(config.key_scale)?;
        check_scale(config.value_scale)?;
        let (batch, heads) = (config.max_batch_size, config.num_heads);
        if config.batch_size > batch {
            return Err(Error::Sequence(SequenceError::BatchTooLarge {
                batch_size: config.batch_size,
                max_batch_size: batch,
            }));
        }
        config.placement.check()?;
        let planes = batch.checked_mul(heads).ok_or_else(|| {
            Error::Config(ConfigError::SizeOverflow {
                what: "number of planes",
                factors: format!("{batch} × {heads}"),
                bits: 32,
            })
        })?;
        let keys = SideLayout::new(config, Side::Keys)?;
        let values = SideLayout::new(config, Side::Values)?;
        keys.plane_bytes
            .checked_add(values.plane_bytes)
            .and_then(|bytes| bytes.checked_mul(planes.into()))
            .ok_or_else(|| {
                Error::Config(ConfigError::SizeOverflow {
                    what: "bytes of one layer",
                    factors: format!("{planes} × ({} + {})", keys.plane_bytes, values.plane_bytes),
                    bits: 64,
                })
            })?;
        let (slots, placement) = (config.slots(), config.placement);
        Ok(Layout { keys, values, paged: false, planes, heads, slots, placement, planes_per_segment: planes })
    }

    /// Returns the layout with segments that a device with these limits can bind.
    pub fn for_limits(config: &CacheConfig, limits: &wgpu::Limits) -> Result<Self> {
        Self::unbounded(config)?.in_segments(limits)
    }

    fn in_segments(self, limits: &wgpu::Limits) -> Result<Self> {
        let mut layout = self;
        let wanted = [
            (
                "max_storage_buffers_per_shader_stage",
                STORAGE_BUFFERS.into(),
                limits.max_storage_buffers_per_shader_stage.into(),
            ),
            (
                "max_dynamic_storage_buffers_per_pipeline_layout",
                1,
                limits.max_dynamic_storage_buffers_per_pipeline_layout.into(),
            ),
            ("max_bind_groups", 2, limits.max_bind_groups.into()),
            ("max_compute_workgroup_size_x", WORKGROUP_SIZE.into(), limits.max_compute_workgroup_size_x.into()),
            (
                "max_compute_invocations_per_workgroup",
                WORKGROUP_SIZE.into(),
                limits.max_compute_invocations_per_workgroup.into(),
            ),
            (
                "max_compute_workgroups_per_dimension",
                layout.runs().saturating_add(1).into(),
                limits.max_compute_workgroups_per_dimension.into(),
            ),
            ("max_storage_buffer_binding_size", layout.step_bytes(), binding_limit(limits)),
            (
                "max_compute_workgroup_storage_size",
                layout.workgroup_bytes().into(),
                limits.max_compute_workgroup_storage_size.into(),
            ),
        ];
        if let Some(&(limit, needed, available)) = wanted.iter().find(|(_, needed, available)| available < needed) {
            return Err(Error::Device(DeviceError::DeviceLimit { limit, needed, available }));
        }
        let limit_bytes = binding_limit(limits);
        for side in Side::BOTH {
            let plane_bytes = layout.side(side).plane_bytes;
            if plane_bytes > limit_bytes {
                return Err(Error::Config(ConfigError::PlaneTooLarge { side, plane_bytes, limit_bytes }));
            }
        }
        let plane_bytes = layout.keys.plane_bytes.max(layout.values.plane_bytes);
        let held = limit_bytes.checked_div(plane_bytes).expect("no dimension is zero");
        layout.planes_per_segment = u32::try_from(held).unwrap_or(u32::MAX).min(layout.planes);
        Ok(layout)
    }

    /// Size of the largest step with runs of all sequences; 0 of pages, whose steps have slots of any size.
    pub fn step_bytes(&self) -> u64 {
        if self.paged { 0 } else { step_bytes(self.groups(), self.runs()) }
    }

    /// Size of the workgroup memory for quantising: three words per thread for each side that is stored in blocks.
    fn workgroup_bytes(&self) -> u32 {
        let sides = [&self.keys, &self.values].into_iter();
        sides.filter(|side| matches!(side.format, Format::Q8_0 | Format::Q4_0)).map(|_| 3 * 4 * WORKGROUP_SIZE).sum()
    }

    /// Maximum number of runs of one sequence.
    pub fn runs(&self) -> u32 {
        runs(self.placement)
    }

    /// Number of heads of a group that a grid can cover in its y dimension, if each has as many runs as a sequence can
    /// have, and one for absent rows. All heads if the device's limit allows, and of pages, whose runs are spread over
    /// two dimensions.
    pub fn heads_at_once(&self, limits: &wgpu::Limits) -> u32 {
        if self.paged {
            return self.heads;
        }
        let runs = self.runs().saturating_add(1);
        let most = limits.max_compute_workgroups_per_dimension.checked_div(runs).unwrap_or(1);
        self.heads.min(most.max(1))
    }

    /// Whether one grid can cover these planes in its y dimension, with the runs of all groups that they belong to.
    pub fn fits_a_grid(&self, planes: &Range<u32>, limits: &wgpu::Limits) -> bool {
        if self.paged {
            return true;
        }
        let (at_once, groups) = (self.heads_at_once(limits), self.groups_of(planes));
        let runs = u64::from(count(&groups)).saturating_mul(self.runs().saturating_add(1).into());
        let high = runs.saturating_mul(at_once.into()) <= limits.max_compute_workgroups_per_dimension.into();
        high && (at_once == self.heads || count(&groups) == 1 && count(planes) <= at_once)
    }

    /// Returns the groups that some planes belong to. A group has one plane per head.
    pub fn groups_of(&self, planes: &Range<u32>) -> Range<u32> {
        let group = |plane: u32| plane.checked_div(self.heads).expect("no dimension is zero");
        group(planes.start)..group(planes.end.saturating_sub(1)).saturating_add(1)
    }

    /// Size of a key row and a value row together.
    pub fn row_bytes(&self) -> u64 {
        self.keys.row_bytes.saturating_add(self.values.row_bytes)
    }

    pub fn side(&self, side: Side) -> &SideLayout {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    /// Returns the layout of a pool of pages, with segments that a device with these limits can bind: of a batch whose
    /// sequences are the pages.
    #[cfg(feature = "pages")]
    pub fn of_pages(config: &CacheConfig, limits: &wgpu::Limits) -> Result<Self> {
        Layout { paged: true, ..Self::unbounded(config)? }.in_segments(limits)
    }

    /// Number of sequences whose lengths are stored beside the planes. A pool has one table for all layers instead.
    pub fn sequences(&self) -> u32 {
        if self.paged { 0 } else { self.groups() }
    }

    /// Number of groups of planes: of sequences, or of pages.
    pub fn groups(&self) -> u32 {
        self.planes.checked_div(self.heads).expect("no dimension is zero")
    }

    /// Number of planes of some sequences, which the layer has room for.
    pub fn planes_of(&self, sequences: u32) -> u32 {
        sequences.saturating_mul(self.heads)
    }

    /// Index of the plane of a sequence and head.
    pub fn plane(&self, sequence: u32, head: u32) -> u32 {
        self.planes_of(sequence).saturating_add(head)
    }

    /// Size of one side, including padding.
    pub fn side_bytes(&self, side: Side) -> u64 {
        self.side(side).planes_bytes(self.planes)
    }

    /// Size of both sides, including padding.
    pub fn bytes(&self) -> u64 {
        self.side_bytes(Side::Keys).saturating_add(self.side_bytes(Side::Values))
    }

    /// Size of the largest buffer.
    pub fn segment_bytes_max(&self) -> u64 {
        self.keys.plane_bytes.max(self.values.plane_bytes).saturating_mul(self.planes_per_segment.into())
    }

    /// Returns the planes of each segment.
    pub fn segments(&self) -> impl Iterator<Item = Range<u32>> + use<> {
        let (planes, step) = (self.planes, self.planes_per_segment);
        let bound = move |segment: u32| planes.min(segment.saturating_mul(step));
        (0..planes.div_ceil(step)).map(move |segment| bound(segment)..bound(segment.saturating_add(1)))
    }
}

/// Maximum number of runs of slots that contiguous positions of one sequence occupy.
pub(crate) const fn runs(placement: Placement) -> u32 {
    match placement {
        Placement::Linear => 1,
        Placement::Ring { .. } => PIECES,
    }
}

/// Size of a step with room for the lengths and starts of `room` sequences, with up to `runs` runs each and one more
/// for rows that a sequence does not have.
pub(crate) const fn step_bytes(room: u32, runs: u32) -> u64 {
    let runs = RUN_BYTES.saturating_mul((runs as u64).saturating_add(1));
    runs.saturating_add(8).saturating_mul(room as u64).saturating_add(HEAD_BYTES)
}

/// Size of the largest window that a device with these limits can bind and allocate.
pub(crate) fn binding_limit(limits: &wgpu::Limits) -> u64 {
    let limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(MAX_BINDING_BYTES);
    limit & !3
}
