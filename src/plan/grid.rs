//! Splits work into blocks that fit a binding and a grid, and computes the grids of their dispatches. Pure arithmetic.

use std::ops::Range;

use crate::{DeviceError, Error, Result, shape::placement::count};

/// A rectangle of work: some planes of one segment, and the same tokens of each plane. In a gather, `tokens` are rows
/// of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub planes: Range<u32>,
    pub tokens: Range<u32>,
}

impl Block {
    /// Number of planes.
    pub fn plane_count(&self) -> u32 {
        count(&self.planes)
    }

    /// Number of tokens of each plane.
    pub fn token_count(&self) -> u32 {
        count(&self.tokens)
    }
}

/// Halves a block until each part fits, and appends the parts to `parts`. Cuts along tokens if there is only one plane
/// or `by_tokens` holds, and along planes otherwise. Returns `None` if not even one token of one plane fits.
pub(crate) fn split(
    block: Block,
    fits: &impl Fn(&Block) -> bool,
    by_tokens: &impl Fn(&Block) -> bool,
    parts: &mut Vec<Block>,
) -> Option<()> {
    if fits(&block) {
        parts.push(block);
        return Some(());
    }
    let Block { planes, tokens } = block;
    let halves = |range: &Range<u32>| {
        let middle = range.start.midpoint(range.end);
        [range.start..middle, middle..range.end]
    };
    let block = Block { planes: planes.clone(), tokens: tokens.clone() };
    if tokens.len() > 1 && (planes.len() == 1 || by_tokens(&block)) {
        for tokens in halves(&tokens) {
            split(Block { planes: planes.clone(), tokens }, fits, by_tokens, parts)?;
        }
    } else if planes.len() > 1 {
        for planes in halves(&planes) {
            split(Block { planes, tokens: tokens.clone() }, fits, by_tokens, parts)?;
        }
    } else {
        return None;
    }
    Some(())
}

/// Returns the grid for `units` threads: workgroups spread over x and y.
///
/// # Errors
/// [`DeviceError::DeviceLimit`] if the device does not allow so many workgroups.
pub(crate) fn grid(units: u64, limits: &wgpu::Limits) -> Result<[u32; 3]> {
    let [x, y] = spread(workgroups(units), limits)?;
    Ok([x, y, 1])
}

/// Returns the grid for `units` threads in each of `planes` planes: workgroups spread over x and z, and planes in y.
///
/// # Errors
/// [`DeviceError::DeviceLimit`] if the device does not allow so many workgroups.
pub(crate) fn grid_of_planes(units: u64, planes: u64, limits: &wgpu::Limits) -> Result<[u32; 3]> {
    let [x, z] = spread(workgroups(units), limits)?;
    let available = u64::from(limits.max_compute_workgroups_per_dimension);
    match u32::try_from(planes) {
        Ok(y) if planes <= available => Ok([x, y, z]),
        _ => Err(Error::Device(DeviceError::DeviceLimit {
            limit: "max_compute_workgroups_per_dimension",
            needed: planes,
            available,
        })),
    }
}

/// Returns the grid for `units` threads in each of `runs` short runs: workgroups in x, and runs spread over y and z.
///
/// # Errors
/// [`DeviceError::DeviceLimit`] if the device does not allow so many workgroups.
pub(crate) fn grid_of_runs(units: u64, runs: u64, limits: &wgpu::Limits) -> Result<[u32; 3]> {
    let [y, z] = if runs == 0 { [0, 1] } else { spread(runs, limits)? };
    let (needed, available) = (workgroups(units), limits.max_compute_workgroups_per_dimension);
    match u32::try_from(needed) {
        Ok(x) if x <= available => Ok([x, y, z]),
        _ => {
            let (limit, available) = ("max_compute_workgroups_per_dimension", available.into());
            Err(Error::Device(DeviceError::DeviceLimit { limit, needed, available }))
        }
    }
}

/// Number of workgroups for `units` threads, at least 1.
fn workgroups(units: u64) -> u64 {
    units.div_ceil(crate::shape::layout::WORKGROUP_SIZE.into()).max(1)
}

/// Spreads workgroups over two dimensions of a grid. The product of the two may be larger than `groups`.
///
/// # Errors
/// [`DeviceError::DeviceLimit`] if the device does not allow so many workgroups.
pub(crate) fn spread(groups: u64, limits: &wgpu::Limits) -> Result<[u32; 2]> {
    let most = u64::from(limits.max_compute_workgroups_per_dimension);
    let second = groups.div_ceil(most);
    if second > most {
        let limit = "max_compute_workgroups_per_dimension";
        return Err(Error::Device(DeviceError::DeviceLimit { limit, needed: second, available: most }));
    }
    let first = groups.div_ceil(second);
    Ok([first, second].map(|groups| u32::try_from(groups).expect("a limit is 32 bits wide")))
}

#[cfg(test)]
#[path = "../../tests/unit/grid.rs"]
mod tests;
