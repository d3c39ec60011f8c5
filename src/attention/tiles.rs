//! How the work of an attention is cut: rows of a tile, and splits of the positions. Pure arithmetic.

use super::WORKGROUP;

/// Workgroups that keep a large device busy.
const WORKGROUPS_WANTED: u32 = 512;
/// A software driver has a few threads.
const WORKGROUPS_WANTED_OF_CPU: u32 = 16;
/// The most parts in which positions are read.
pub(super) const MOST_SPLITS: u32 = 64;
/// The most rows of a tile.
const MOST_ROWS: u32 = 32;
/// Workgroup memory that every device has by WebGPU's default limits, in bytes.
const WORKGROUP_BYTES: u32 = 16 << 10;
/// Vectors of queries that a tile keeps at most: 8 KiB.
const MOST_STAGED: u32 = 512;

/// Workgroup memory of the smallest tile, in bytes.
pub(super) const LEAST_BYTES: u32 = bytes_without_queries(1);

/// Rows of a tile, where a row is a query head of a token, and what of the queries it keeps in workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub rows: u32,
    /// Vectors of queries; 0 where they are too large and read again for each position.
    pub staged: u32,
}

impl Tile {
    /// Tiles for `tokens` queries of `group` query heads a KV head, in the workgroup memory of a device: all query heads of
    /// a KV head, and tokens up to 16 rows. `None` where not even one row fits.
    pub fn new(group: u32, tokens: u32, head_dim: u32, memory: u32) -> Option<Self> {
        let memory = memory.min(WORKGROUP_BYTES);
        // The tokens whose rows are at most 16, one at least.
        let fit = 16u32.checked_div(group)?.clamp(1, tokens.max(1));
        let wanted = group.saturating_mul(fit).min(MOST_ROWS);
        let rows = (1..=wanted).rev().find(|&rows| bytes_without_queries(rows) <= memory)?;
        let staged = u64::from(rows).saturating_mul(head_dim.div_ceil(4).into());
        let room = memory.saturating_sub(bytes_without_queries(rows)) / 16;
        let room = u64::from(room.saturating_add(1).min(MOST_STAGED));
        let staged = if staged <= room { u32::try_from(staged).unwrap_or(0) } else { 0 };
        Some(Tile { rows, staged })
    }

    /// Tiles for `tokens` queries of `group` query heads.
    pub fn count(&self, group: u32, tokens: u32) -> u64 {
        // Both are 32 bits wide, so their product fits.
        u64::from(group).saturating_mul(tokens.into()).div_ceil(self.rows.into())
    }

    /// Bytes of workgroup memory.
    #[cfg(test)]
    pub fn bytes(&self) -> u32 {
        bytes_without_queries(self.rows) + 16 * self.staged.saturating_sub(1)
    }
}

/// Bytes of workgroup memory with one vector of queries, which is always there: scores, slots, three numbers a row, a vector
/// a thread.
const fn bytes_without_queries(rows: u32) -> u32 {
    const OF_WORKGROUP: u32 = 4 * WORKGROUP + 16 * WORKGROUP + 16;
    let scores = rows.saturating_mul(4 * WORKGROUP);
    let numbers = rows.div_ceil(4).saturating_mul(3 * 16);
    OF_WORKGROUP.saturating_add(scores).saturating_add(numbers)
}

/// Workgroups that are wanted on a type of device.
pub(super) fn workgroups_wanted(device_type: wgpu::DeviceType) -> u32 {
    match device_type {
        wgpu::DeviceType::Cpu => WORKGROUPS_WANTED_OF_CPU,
        _ => WORKGROUPS_WANTED,
    }
}

/// As many splits as fill a device that wants so many workgroups, of some chunks of positions each.
pub(super) fn splits(wanted: u32, workgroups: u64, positions: u32) -> u32 {
    let by_device = u64::from(wanted).div_ceil(workgroups.max(1));
    let by_positions = u64::from(positions.div_ceil(4 * WORKGROUP));
    u32::try_from(by_device.min(by_positions)).unwrap_or(u32::MAX).clamp(1, MOST_SPLITS)
}

/// The most parts of all workgroups together, where they are split as [`splits`] says.
pub(super) fn most_parts(wanted: u32) -> u64 {
    // Fewer than `wanted` workgroups are split, into fewer than `wanted ÷ workgroups + 1`.
    u64::from(wanted).saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_fits_the_workgroup_memory_that_webgpu_gives() {
        for group in 1..=40 {
            for tokens in [1, 2, 5, 16, 100] {
                for dim in [1, 64, 80, 128, 256, 576, 2048, u32::MAX] {
                    for memory in [1 << 10, 2 << 10, 8 << 10, 16 << 10, 32 << 10] {
                        match Tile::new(group, tokens, dim, memory) {
                            Some(tile) => {
                                assert!(tile.bytes() <= memory.min(WORKGROUP_BYTES), "{group} {tokens} {dim} {tile:?}");
                                assert!(tile.rows >= 1 && tile.rows <= MOST_ROWS);
                            }
                            None => assert!(memory < bytes_without_queries(1)),
                        }
                    }
                }
            }
        }
        // 32 rows of 64 elements are 512 vectors, which do not fit beside their scores.
        assert_eq!(Tile::new(32, 1, 64, 16 << 10), Some(Tile { rows: 32, staged: 0 }));
        assert_eq!(Tile::new(3, 1, 64, 16 << 10), Some(Tile { rows: 3, staged: 48 }));
        assert_eq!(Tile::new(3, 9, 64, 16 << 10), Some(Tile { rows: 15, staged: 240 }));
    }

    #[test]
    fn parts_of_all_workgroups_are_bounded() {
        for wanted in [16, 512] {
            for workgroups in 1..2000 {
                for positions in [1, 1000, u32::MAX] {
                    let splits = splits(wanted, workgroups, positions);
                    assert!(splits == 1 || workgroups * u64::from(splits) <= most_parts(wanted));
                }
            }
        }
    }
}
