//! How the work of a step is cut on a device, and what the device allows.

use super::{
    options::{Options, Reading},
    tiles::{Device, Tile, Units, splits},
};
use crate::{
    ConfigError, Context, DeviceError, Error, Result, Scale,
    device::binding::clamp_u32,
    read::readable::Readable,
    shape::{
        layout::{Layout, SideLayout, binding_limit},
        table::TableLayout,
    },
};

/// Sizes of the work of one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub splits: u32,
    pub tiles: u32,
    pub rows: u32,
    /// Planes, or KV heads where queries are packed.
    pub planes: u32,
    pub tile: usize,
}

/// What decides how the work of steps is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub options: Options,
    pub device: Device,
    /// Query heads of a KV head.
    pub group: u32,
    /// For steps of one token, and of more.
    pub tiles: [Tile; 2],
    /// Rows of partial sums that there is room for.
    pub parts: u64,
}

impl Work {
    /// How the work of a step is cut.
    pub(super) fn shape(&self, cache: Readable<'_>, tokens: u32) -> Result<Shape> {
        let (context, config) = (cache.context, cache.config);
        let index = usize::from(tokens > 1);
        let (tile, group) = (self.tiles[index], self.group);
        let (tiles, planes) = if self.options.packed.is_some() {
            let tiles = self.options.packed_tiles(cache.sequences, |count| tile.count(group, count));
            (tiles, config.num_heads)
        } else {
            (tile.count(group, tokens), cache.layout.planes_of(config.batch_size))
        };
        let (tiles, rows) = check_grid(context, tiles, tile, planes)?;
        let workgroups = u64::from(tiles).saturating_mul(planes.into());
        let (device, positions) = (self.device, cache.sequences.longest().min(cache.positions()));
        let of_batch = u64::from(rows).saturating_mul(planes.into());
        let splits = self.options.splits.unwrap_or_else(|| {
            let room = self.parts.checked_div(of_batch).expect("a step has rows");
            let most = clamp_u32(room).min(context.limits().max_compute_workgroups_per_dimension);
            splits(device.workgroups_wanted(), workgroups, positions).min(most).max(1)
        });
        let splits = splits.max(tile.least_splits(Units::of(cache.layout), positions, device));
        check_splits(context, splits)?;
        let parts = of_batch.saturating_mul(splits.into());
        if splits > 1 && parts > self.parts {
            // There is room for all that a binding holds.
            let needed = parts.saturating_mul(part_bytes(config.value_dim)).saturating_add(16);
            let limit = "max_storage_buffer_binding_size";
            return Err(Error::Device(DeviceError::DeviceLimit {
                limit,
                needed,
                available: binding_limit(context.limits()),
            }));
        }
        Ok(Shape { splits, tiles, rows, planes, tile: index })
    }
}

/// What of the device decides how work is cut.
pub(super) fn device_of(context: &Context, options: &Options, sequences: u32) -> Device {
    let info = context.device().adapter_info();
    let is_cpu = info.device_type == wgpu::DeviceType::Cpu;
    let limits = context.limits();
    let threads = limits.max_compute_workgroup_size_x.min(limits.max_compute_invocations_per_workgroup);
    let coalesced = options.reading.map_or(!is_cpu, |reading| reading == Reading::Coalesced);
    // A browser wants a directive for them that naga refuses.
    let has_subgroups = context.device().features().contains(wgpu::Features::SUBGROUP) && !cfg!(target_family = "wasm");
    let subgroup = if has_subgroups && options.subgroups { info.subgroup_min_size } else { 0 };
    Device {
        is_cpu,
        coalesced,
        memory: limits.max_compute_workgroup_storage_size,
        threads,
        subgroup,
        packed: options.packed.map(|_| sequences),
    }
}

/// Bytes of the partial sums of one row: its vectors, and the largest score with the sum of weights.
pub(super) fn part_bytes(value_dim: u32) -> u64 {
    u64::from(value_dim.div_ceil(4)).saturating_add(1).saturating_mul(16)
}

/// Whether a grid is as wide as there are splits.
pub(super) fn check_splits(context: &Context, splits: u32) -> Result<()> {
    let available = context.limits().max_compute_workgroups_per_dimension;
    if splits > available {
        let limit = "max_compute_workgroups_per_dimension";
        return Err(Error::Device(DeviceError::DeviceLimit {
            limit,
            needed: splits.into(),
            available: available.into(),
        }));
    }
    Ok(())
}

/// The tiles of a plane and their rows, where a grid has room for them and for the planes, and 32 bits for the rows.
pub(super) fn check_grid(context: &Context, tiles: u64, tile: Tile, planes: u32) -> Result<(u32, u32)> {
    let most = context.limits().max_compute_workgroups_per_dimension;
    let rows = tiles.saturating_mul(tile.rows.into());
    for needed in [tiles, planes.into(), rows.div_ceil(most.into())] {
        if needed > u64::from(most) {
            let limit = "max_compute_workgroups_per_dimension";
            return Err(Error::Device(DeviceError::DeviceLimit { limit, needed, available: most.into() }));
        }
    }
    let rows = u32::try_from(rows).map_err(|_| {
        Error::Config(ConfigError::SizeOverflow {
            what: "rows of queries",
            factors: format!("{tiles} × {}", tile.rows),
            bits: 32,
        })
    })?;
    Ok((clamp_u32(tiles), rows))
}

/// What the text that reads a layer depends on: of scales only whether they are 1.
pub(super) fn text_layout(layout: &Layout, table: Option<TableLayout>) -> (Layout, Option<TableLayout>) {
    let side = |side: &SideLayout| {
        let scale = if side.scale == Scale::ONE { Scale::ONE } else { Scale::new(f32::INFINITY) };
        SideLayout { scale, ..*side }
    };
    (Layout { keys: side(&layout.keys), values: side(&layout.values), ..layout.clone() }, table)
}
