//! [`Reads`]: dispatches of the gather kernel, which copies rows out of the planes into a dense buffer.

use std::ops::Range;

use crate::{
    Context, Destination, DeviceError, Error, Result, Side,
    device::{
        binding::{bind, uniform_binding, uniform_buffer, window, window_binding, window_bytes},
        record::{Dispatch, StepData},
        storage::Storage,
    },
    kernels::{Entry, GatherVariant, Kernel, Window},
    plan::{
        grid::{Block, grid_of_planes, split},
        step::Step,
    },
    shape::{
        layout::{Layout, binding_limit},
        placement::count,
    },
};

/// Dispatches that copy rows of one side out of the planes.
#[derive(Debug)]
pub(crate) struct Reads {
    pipeline: wgpu::ComputePipeline,
    windows: Vec<(wgpu::BindGroup, [u32; 3])>,
}

impl Reads {
    /// Prepares the copy of the rows of a step, for all planes of some sequences, into `destination`. The caller has
    /// called [`Destination::check`].
    pub fn new(
        context: &Context,
        layout: &Layout,
        storage: &Storage,
        side: Side,
        sequences: &Range<u32>,
        (step, data): (&Step, &StepData),
        destination: &Destination<'_>,
    ) -> Result<Self> {
        let (sizes, rows) = (layout.side(side), step.rows);
        let wanted = layout.planes_of(sequences.start)..layout.planes_of(sequences.end);
        // Rows of pages may lie in any plane.
        let read = if layout.paged { 0..layout.planes } else { wanted.clone() };
        let output = destination.format.unwrap_or(sizes.format);
        let row_bytes = output.row_bytes(sizes.dim);
        let vectors = row_bytes.is_multiple_of(16) && destination.offset.is_multiple_of(16);
        let wide = vectors && output == sizes.format && sizes.is_contiguous();
        let heads_at_once = layout.heads_at_once(context.limits());
        let kernel = |has_parts| GatherVariant {
            stored: sizes.format,
            output,
            dim: sizes.dim,
            heads: layout.heads,
            slots: layout.slots,
            heads_at_once,
            has_parts,
            step: data.path(),
            wide,
        };
        let limit = binding_limit(context.limits());
        let alignment = context.limits().min_storage_buffer_offset_alignment;
        // Only a block of one plane has fewer than all rows, so every block is contiguous in the output. The rows of
        // the output lie in its buffer.
        let row = |row: u64| row.saturating_mul(row_bytes).saturating_add(destination.offset);
        let bytes = |block: &Block| -> (Range<u64>, u64) {
            let planes = if layout.paged { &wanted } else { &block.planes };
            let before = u64::from(count(&(wanted.start..planes.start)));
            let first = before.saturating_mul(rows.into()).saturating_add(block.tokens.start.into());
            let block_rows = u64::from(count(planes)).saturating_mul(block.token_count().into());
            window(row(first), row(first.saturating_add(block_rows)), alignment)
        };
        let fits = |block: &Block| {
            let (window, _) = bytes(block);
            window_bytes(&window) <= limit && layout.fits_a_grid(&block.planes, context.limits())
        };
        let refused = |needed| {
            let limit_name = "max_storage_buffer_binding_size";
            Error::Device(DeviceError::DeviceLimit { limit: limit_name, needed, available: limit })
        };
        let mut blocks = Vec::new();
        if rows > 0 {
            for (segment, planes) in storage.segments_of(&read) {
                let (whole, mut parts) = (Block { planes, tokens: 0..rows }, Vec::new());
                if layout.paged && !fits(&whole) {
                    // Each part of the pages may hold rows of all the output.
                    return Err(refused(window_bytes(&bytes(&whole).0)));
                }
                let least = row_bytes.saturating_add(alignment.into());
                split(whole, &fits, &|_| false, &mut parts).ok_or_else(|| refused(least))?;
                blocks.extend(parts.into_iter().map(|block| (segment, block)));
            }
        }
        let pipeline =
            context.pipeline(Kernel::Gather(kernel(blocks.iter().any(|(_, block)| block.planes.start > 0))))?;
        let uniforms: Vec<_> = blocks
            .iter()
            .map(|(segment, block)| Window {
                first_plane: block.planes.start,
                planes: block.plane_count(),
                segment_plane: segment.index(block),
                scale: sizes.scale.get().to_bits(),
                first_row: block.tokens.start,
                rows: block.token_count(),
                offset: output.units_of(bytes(block).1),
                output_plane: if layout.paged { wanted.start } else { block.planes.start },
            })
            .collect();
        let buffer = uniform_buffer(context, &uniforms)?;
        let windows = (0..)
            .zip(&blocks)
            .map(|(at, (segment, block))| {
                let (window, _) = bytes(block);
                // A run that starts in the middle of a word touches one more word than its bytes fill.
                let run_bytes = u64::from(block.token_count().min(step.longest)).saturating_mul(row_bytes);
                let units = if wide { run_bytes / 16 } else { (run_bytes / 4).saturating_add(1) };
                let runs = u64::from(step.runs_in(&layout.groups_of(&block.planes)));
                let planes = runs.saturating_mul(heads_at_once.into());
                let bindings = [
                    uniform_binding::<Window>(context, &buffer, at),
                    segment.side(side).as_entire_binding(),
                    window_binding(destination.buffer, &window),
                ];
                Ok((bind(context, Entry::Gather, &bindings)?, grid_of_planes(units, planes, context.limits())?))
            })
            .collect::<Result<_>>()?;
        Ok(Reads { pipeline, windows })
    }

    pub fn dispatches(&self) -> impl Iterator<Item = Dispatch<'_>> {
        self.windows.iter().map(|(bindings, grid)| Dispatch { pipeline: &self.pipeline, bindings, grid: *grid })
    }
}
