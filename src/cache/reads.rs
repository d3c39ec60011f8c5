//! [`Reads`]: dispatches of the gather kernel, which copies rows out of the planes into a dense buffer.

use std::ops::Range;

use crate::{
    Context, Destination, DeviceError, Error, Result, Side,
    device::{
        binding::{bind, uniform_binding, uniform_buffer, window, window_binding, window_bytes},
        record::{Dispatch, StepData},
        storage::Storage,
    },
    kernels::{Entry, GatherVariant, Kernel, StepPath, Window},
    plan::{
        grid::{Block, grid_of_planes, grid_of_runs, split},
        step::Step,
    },
    shape::{
        layout::{Layout, binding_limit},
        placement::count,
    },
};

/// Dispatches that copy the rows of a step, of one side, out of the planes.
#[derive(Debug)]
pub(crate) struct Reads {
    bound: BoundReads,
    grids: Vec<[u32; 3]>,
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
        let bound = BoundReads::new(context, layout, storage, side, sequences, (step.rows, data.path()), destination)?;
        let grids = bound.grids(step, context.limits())?;
        Ok(Reads { bound, grids })
    }

    pub fn dispatches(&self) -> impl Iterator<Item = Dispatch<'_>> {
        self.bound.dispatches(&self.grids)
    }
}

/// A destination for rows of one side, bound once for steps of up to as many rows as it holds.
#[derive(Debug)]
pub(crate) struct BoundReads {
    pipeline: wgpu::ComputePipeline,
    windows: Vec<BoundWindow>,
    heads_at_once: u32,
    row_bytes: u64,
    /// Bytes of the windows' parameters.
    #[cfg(feature = "pages")]
    uniform_bytes: u64,
    /// Whether runs are many and no longer than a page.
    short_runs: bool,
    /// Whether a thread moves 16 bytes.
    wide: bool,
}

/// The planes of a segment, and the rows of the output, that one dispatch copies.
#[derive(Debug)]
struct BoundWindow {
    /// Groups of the planes.
    groups: Range<u32>,
    /// Rows of each plane's output.
    rows: u32,
    bindings: wgpu::BindGroup,
}

impl BoundReads {
    /// Binds a destination of `rows` rows of each of some sequences.
    pub fn new(
        context: &Context,
        layout: &Layout,
        storage: &Storage,
        side: Side,
        sequences: &Range<u32>,
        (rows, path): (u32, StepPath),
        destination: &Destination<'_>,
    ) -> Result<Self> {
        let sizes = layout.side(side);
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
            short_runs: layout.paged,
            step: path,
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
                let bindings = [
                    uniform_binding::<Window>(context, &buffer, at),
                    segment.side(side).as_entire_binding(),
                    window_binding(destination.buffer, &window),
                ];
                let bindings = bind(context, Entry::Gather, &bindings)?;
                Ok(BoundWindow { groups: layout.groups_of(&block.planes), rows: block.token_count(), bindings })
            })
            .collect::<Result<_>>()?;
        Ok(BoundReads {
            pipeline,
            windows,
            heads_at_once,
            row_bytes,
            #[cfg(feature = "pages")]
            uniform_bytes: buffer.size(),
            short_runs: layout.paged,
            wide,
        })
    }

    /// Bytes that it occupies on the device.
    #[cfg(feature = "pages")]
    pub const fn device_bytes(&self) -> u64 {
        self.uniform_bytes
    }

    /// The grids of a step.
    pub fn grids(&self, step: &Step, limits: &wgpu::Limits) -> Result<Vec<[u32; 3]>> {
        let grid = |window: &BoundWindow| {
            // A run that starts in the middle of a word touches one more word than its bytes fill.
            let run_bytes = u64::from(window.rows.min(step.longest)).saturating_mul(self.row_bytes);
            let units = if self.wide { run_bytes / 16 } else { (run_bytes / 4).saturating_add(1) };
            let planes = u64::from(step.runs_in(&window.groups)).saturating_mul(self.heads_at_once.into());
            let grid = if self.short_runs { grid_of_runs } else { grid_of_planes };
            grid(units, planes, limits)
        };
        self.windows.iter().map(grid).collect()
    }

    pub fn dispatches<'a>(&'a self, grids: &'a [[u32; 3]]) -> impl Iterator<Item = Dispatch<'a>> {
        let windows = self.windows.iter().zip(grids);
        windows.map(|(window, &grid)| Dispatch { pipeline: &self.pipeline, bindings: &window.bindings, grid })
    }
}
