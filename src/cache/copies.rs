//! The copy form of updates and ranges: records the runs of a step as wgpu buffer copies and clears instead of a
//! kernel.

use crate::{
    RowsIn, Side, Source,
    device::storage::Storage,
    plan::step::{Run, Step},
    shape::{layout::Layout, placement::count},
};

/// Keys or values of a source that buffer copies can read.
#[derive(Clone, Debug)]
struct CopySide {
    buffer: wgpu::Buffer,
    offset: u64,
    /// Strides of sequence, head and token, in bytes.
    strides: [u64; 3],
    /// Whether the tokens of one head are adjacent.
    contiguous: bool,
}

/// A source that buffer copies can read: it has the formats of the cache, and its rows start and end on whole words.
#[derive(Clone, Debug)]
pub(crate) struct CopySource {
    sides: [CopySide; 2],
}

impl CopySide {
    fn new(rows: &RowsIn<'_>, layout: &Layout, side: Side) -> Option<Self> {
        let sizes = layout.side(side);
        let width = u64::from(rows.format.unit_bytes());
        let strides = [rows.strides.sequence, rows.strides.head, rows.strides.token];
        let contiguous = rows.strides.token == u64::from(sizes.units);
        // A stride that is never taken may have any value, so this saturates.
        let strides = strides.map(|stride| stride.saturating_mul(width));
        let words = sizes.is_contiguous()
            && sizes.row_bytes.is_multiple_of(4)
            && rows.offset.is_multiple_of(4)
            && strides.into_iter().all(|stride| stride.is_multiple_of(4));
        let copyable = rows.format == sizes.format && rows.buffer.usage().contains(wgpu::BufferUsages::COPY_SRC);
        (words && copyable).then(|| CopySide { buffer: rows.buffer.clone(), offset: rows.offset, strides, contiguous })
    }

    fn start(&self, sequence: u32, head: u32, token: u32) -> u64 {
        let indices = [sequence, head, token].map(u64::from);
        // The rows lie in the buffer, as [`RowsIn::check`] has verified, so this does not saturate, except for a stride
        // that is never taken: it is multiplied by 0.
        let steps = indices.into_iter().zip(self.strides).map(|(index, stride)| index.saturating_mul(stride));
        steps.fold(self.offset, u64::saturating_add)
    }
}

impl CopySource {
    /// Returns `None` if only a kernel can copy the source.
    pub fn new(source: &Source<'_>, layout: &Layout) -> Option<Self> {
        let keys = CopySide::new(&source.keys, layout, Side::Keys)?;
        let values = CopySide::new(&source.values, layout, Side::Values)?;
        Some(CopySource { sides: [keys, values] })
    }

    /// Number of copies and clears that a step takes, including one for the lengths.
    pub fn count(&self, step: &Step, layout: &Layout) -> u64 {
        let side = |side: &CopySide| -> u64 {
            let run = |run: &Run| {
                let rows = u64::from(run.rows());
                let copies = if side.contiguous { rows.min(1) } else { rows };
                copies.saturating_add(u64::from(run.gap().min(1))).saturating_mul(layout.heads.into())
            };
            step.runs.iter().map(run).fold(0, u64::saturating_add)
        };
        self.sides.iter().map(side).fold(1, u64::saturating_add)
    }

    /// Records the rows and gaps of a step. The caller records the lengths.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, step: &Step, layout: &Layout, storage: &Storage) {
        for (side, from) in Side::BOTH.into_iter().zip(&self.sides) {
            let sizes = layout.side(side);
            for run in &step.runs {
                for head in 0..layout.heads {
                    let (to, plane) = storage.plane(layout, side, run.group, head);
                    let slot = |slot: u32| plane.saturating_add(sizes.rows_bytes(slot));
                    if run.gap() > 0 {
                        encoder.clear_buffer(to, slot(run.first), Some(sizes.rows_bytes(run.gap())));
                    }
                    let rows = run.rows();
                    let (pieces, rows) = if from.contiguous { (rows.min(1), rows) } else { (rows, 1) };
                    for piece in 0..pieces {
                        let from_offset = from.start(run.sequence, head, run.token.saturating_add(piece));
                        let to_offset = slot(run.start.saturating_add(piece));
                        let bytes = sizes.rows_bytes(rows);
                        encoder.copy_buffer_to_buffer(&from.buffer, from_offset, to, to_offset, bytes);
                    }
                }
            }
        }
    }
}

/// Whether a range of one side can be copied to a buffer of this usage.
pub(crate) fn range_is_copyable(layout: &Layout, side: Side, usage: wgpu::BufferUsages) -> bool {
    let sizes = layout.side(side);
    sizes.is_contiguous() && sizes.row_bytes.is_multiple_of(4) && usage.contains(wgpu::BufferUsages::COPY_DST)
}

/// Number of copies and clears that a range of one side takes.
pub(crate) fn count_range(step: &Step, layout: &Layout) -> u64 {
    let of = |run: &Run| u64::from(run.rows().min(1)).saturating_add(run.gap().min(1).into());
    step.runs.iter().map(of).fold(0, u64::saturating_add).saturating_mul(layout.heads.into())
}

/// Records a range of one side: copies rows and clears gaps. The output begins with the planes of `first_sequence`.
pub(crate) fn record_range(
    encoder: &mut wgpu::CommandEncoder,
    step: &Step,
    first_sequence: u32,
    layout: &Layout,
    storage: &Storage,
    side: Side,
    (to, offset): (&wgpu::Buffer, u64),
) {
    let sizes = layout.side(side);
    let first = layout.planes_of(first_sequence);
    for run in &step.runs {
        for head in 0..layout.heads {
            let (from, plane) = storage.plane(layout, side, run.group, head);
            // The rows of the output lie in its buffer, as [`Destination::check`](crate::Destination) has verified.
            let output = u64::from(count(&(first..layout.plane(run.sequence, head)))).saturating_mul(step.rows.into());
            let row =
                |row: u32| output.saturating_add(row.into()).saturating_mul(sizes.row_bytes).saturating_add(offset);
            if run.gap() > 0 {
                let first = run.token.saturating_sub(run.gap());
                encoder.clear_buffer(to, row(first), Some(sizes.rows_bytes(run.gap())));
            }
            if run.rows() > 0 {
                let start = plane.saturating_add(sizes.rows_bytes(run.start));
                encoder.copy_buffer_to_buffer(from, start, to, row(run.token), sizes.rows_bytes(run.rows()));
            }
        }
    }
}
