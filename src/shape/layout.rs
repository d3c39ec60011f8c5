//! Where planes lie: row and plane sizes, and segments of whole planes. Pure arithmetic, in checked `u64`.
//!
//! [`Layout::unbounded`] refuses a layer whose planes do not fit 32 bits, or whose bytes do not fit 64. So nothing that
//! is counted or measured inside of one saturates: it is written with saturating operations, which never wrap.

use std::ops::Range;

use crate::{
    CacheConfig, ConfigError, DeviceError, Error, Format, Placement, Result, Scale, SequenceError, Side,
    shape::{
        codec::check_scale,
        placement::{PIECES, count},
    },
};

/// The largest binding that is safe on every driver: 2^31 − 4 bytes.
pub(crate) const MAX_BINDING_BYTES: u64 = (1 << 31) - 4;

/// Storage buffers that the largest kernel binds: step, lengths, and source and planes of both sides.
const STORAGE_BUFFERS: u32 = 6;

/// Bytes of a run, and of what stands before lengths and runs, of a step on the device.
pub(crate) const RUN_BYTES: u64 = 24;
pub(crate) const HEAD_BYTES: u64 = 12;

/// Bytes of a step as immediates.
pub(crate) const IMMEDIATE_BYTES: u32 = 32;

/// Threads of one workgroup, in every kernel.
pub(crate) const WORKGROUP_SIZE: u32 = 256;

/// Sizes of one side's rows and planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SideLayout {
    pub format: Format,
    pub scale: Scale,
    pub dim: u32,
    /// Elements of a row, or words of a packed one.
    pub units: u32,
    pub row_bytes: u64,
    /// `slots` rows, rounded up to whole words, so that no two planes share a word; of a packed format to 16 bytes.
    pub plane_bytes: u64,
}

/// Where every plane of a layer lies. Segment `i` of the keys holds the same planes as segment `i` of the values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    pub keys: SideLayout,
    pub values: SideLayout,
    pub planes: u32,
    pub heads: u32,
    pub slots: u32,
    pub placement: Placement,
    pub planes_per_segment: u32,
}

impl SideLayout {
    /// Bytes of the codes of a packed row; of any other, of the row.
    pub fn code_bytes(&self) -> u64 {
        let words = u64::from(self.format.code_words(self.dim));
        if self.format.is_packed() { words.saturating_mul(4) } else { self.row_bytes }
    }

    /// Bytes of the scales of a row, which lie behind the codes of all slots.
    pub fn scale_bytes(&self) -> u64 {
        self.row_bytes.saturating_sub(self.code_bytes())
    }

    /// Bytes of so many planes.
    pub fn planes_bytes(&self, planes: u32) -> u64 {
        self.plane_bytes.saturating_mul(planes.into())
    }

    /// Bytes of so many rows, where they are contiguous.
    pub fn rows_bytes(&self, rows: u32) -> u64 {
        self.row_bytes.saturating_mul(rows.into())
    }

    /// Bytes from the start of a plane to the codes of a slot; of a format that is not packed, to its row.
    pub fn codes_at(&self, slot: u32) -> u64 {
        self.code_bytes().saturating_mul(slot.into())
    }

    /// Whether a run of rows is one run of bytes.
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
    /// All planes in one segment, however large.
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
        if let Placement::Ring { window, sinks, slack } = config.placement {
            window.checked_add(sinks).and_then(|rows| rows.checked_add(slack)).ok_or_else(|| {
                Error::Config(ConfigError::SizeOverflow {
                    what: "slots of one plane",
                    factors: format!("{sinks} + {window} + {slack}"),
                    bits: 32,
                })
            })?;
        }
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
        Ok(Layout { keys, values, planes, heads, slots, placement, planes_per_segment: planes })
    }

    /// Segments that a device with these limits can bind.
    pub fn for_limits(config: &CacheConfig, limits: &wgpu::Limits) -> Result<Self> {
        let mut layout = Self::unbounded(config)?;
        let batch = config.max_batch_size;
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
            ("max_storage_buffer_binding_size", step_bytes(batch, layout.runs()), binding_limit(limits)),
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

    /// Workgroup memory that quantising takes: three words a thread for each side that is stored in blocks.
    fn workgroup_bytes(&self) -> u32 {
        let sides = [&self.keys, &self.values].into_iter();
        sides.filter(|side| matches!(side.format, Format::Q8_0 | Format::Q4_0)).map(|_| 3 * 4 * WORKGROUP_SIZE).sum()
    }

    /// The most runs of one sequence.
    pub fn runs(&self) -> u32 {
        runs(self.placement)
    }

    /// Heads of a group that a grid takes above each other, with as many runs of each as a sequence has: all, where
    /// they are not more than a grid is high.
    pub fn heads_at_once(&self, limits: &wgpu::Limits) -> u32 {
        let runs = self.runs().saturating_add(1);
        let most = limits.max_compute_workgroups_per_dimension.checked_div(runs).unwrap_or(1);
        self.heads.min(most.max(1))
    }

    /// Whether a grid takes some planes above each other, with the runs of all groups that they lie in.
    pub fn fits_a_grid(&self, planes: &Range<u32>, limits: &wgpu::Limits) -> bool {
        let (at_once, groups) = (self.heads_at_once(limits), self.groups_of(planes));
        let runs = u64::from(count(&groups)).saturating_mul(self.runs().saturating_add(1).into());
        let high = runs.saturating_mul(at_once.into()) <= limits.max_compute_workgroups_per_dimension.into();
        high && (at_once == self.heads || count(&groups) == 1 && count(planes) <= at_once)
    }

    /// The groups of planes, one plane a head, that some planes lie in.
    pub fn groups_of(&self, planes: &Range<u32>) -> Range<u32> {
        let group = |plane: u32| plane.checked_div(self.heads).expect("no dimension is zero");
        group(planes.start)..group(planes.end.saturating_sub(1)).saturating_add(1)
    }

    /// Bytes of a key row and a value row.
    pub fn row_bytes(&self) -> u64 {
        self.keys.row_bytes.saturating_add(self.values.row_bytes)
    }

    pub fn side(&self, side: Side) -> &SideLayout {
        match side {
            Side::Keys => &self.keys,
            Side::Values => &self.values,
        }
    }

    /// Sequences that there is room for.
    pub fn sequences(&self) -> u32 {
        self.planes.checked_div(self.heads).expect("no dimension is zero")
    }

    /// The planes of so many sequences, of which there is room for.
    pub fn planes_of(&self, sequences: u32) -> u32 {
        sequences.saturating_mul(self.heads)
    }

    /// The plane of a sequence and head.
    pub fn plane(&self, sequence: u32, head: u32) -> u32 {
        self.planes_of(sequence).saturating_add(head)
    }

    /// Bytes of one side, padding included.
    pub fn side_bytes(&self, side: Side) -> u64 {
        self.side(side).planes_bytes(self.planes)
    }

    /// Bytes of both sides, padding included.
    pub fn bytes(&self) -> u64 {
        self.side_bytes(Side::Keys).saturating_add(self.side_bytes(Side::Values))
    }

    /// Bytes of the largest buffer.
    pub fn segment_bytes_max(&self) -> u64 {
        self.keys.plane_bytes.max(self.values.plane_bytes).saturating_mul(self.planes_per_segment.into())
    }

    /// The planes of each segment.
    pub fn segments(&self) -> impl Iterator<Item = Range<u32>> + use<> {
        let (planes, step) = (self.planes, self.planes_per_segment);
        let bound = move |segment: u32| planes.min(segment.saturating_mul(step));
        (0..planes.div_ceil(step)).map(move |segment| bound(segment)..bound(segment.saturating_add(1)))
    }
}

/// The most runs of slots that contiguous positions of one sequence lie in.
pub(crate) const fn runs(placement: Placement) -> u32 {
    match placement {
        Placement::Linear => 1,
        Placement::Ring { .. } => PIECES,
    }
}

/// Bytes of a step with room for the lengths of so many sequences, each with up to `runs` runs, and one of rows that it
/// does not have.
pub(crate) const fn step_bytes(room: u32, runs: u32) -> u64 {
    let runs = RUN_BYTES.saturating_mul((runs as u64).saturating_add(1));
    runs.saturating_add(8).saturating_mul(room as u64).saturating_add(HEAD_BYTES)
}

/// The largest window that a device with these limits can bind and allocate.
pub(crate) fn binding_limit(limits: &wgpu::Limits) -> u64 {
    let limit = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(MAX_BINDING_BYTES);
    limit & !3
}
