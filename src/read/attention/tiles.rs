//! How the work of an attention is cut: rows of a tile, and splits of the positions. Pure arithmetic.

/// Threads of a workgroup, and positions that it takes at a time.
pub(super) const WORKGROUP: u32 = 64;

/// Workgroups that keep a large device busy.
const WORKGROUPS_WANTED: u32 = 512;
/// A software driver has a few threads.
const WORKGROUPS_WANTED_OF_CPU: u32 = 16;
/// The most parts in which positions are read, unless a device takes no more of them at once.
pub(super) const MOST_SPLITS: u32 = 64;
/// The most rows of a tile.
const MOST_ROWS: u32 = 32;
/// Workgroup memory that every device has by WebGPU's default limits, in bytes.
const WORKGROUP_BYTES: u32 = 16 << 10;
/// Vectors of queries that a tile keeps at most: 8 KiB.
const MOST_STAGED: u32 = 512;

/// Turns of loops that Mesa's llvmpipe takes in one invocation, all loops together: after 65 535 it leaves every loop
/// without a word (`LP_MAX_TGSI_LOOP_ITERATIONS`). Some are left for what is not counted.
const TURNS_OF_CPU: u64 = 60_000;

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
    /// Tiles for `tokens` queries of `group` query heads a KV head, on a device with so much workgroup memory: all
    /// query heads of a KV head, and tokens up to 16 rows. `None` where not even one row fits.
    pub fn new(group: u32, tokens: u32, [head_dim, value_dim]: [u32; 2], device: Device) -> Option<Self> {
        let memory = device.memory.min(WORKGROUP_BYTES);
        // The tokens whose rows are at most 16, one at least.
        let fit = 16u32.checked_div(group)?.clamp(1, tokens.max(1));
        let wanted = group.saturating_mul(fit).min(MOST_ROWS);
        let chunk_fits = |rows| positions_at_once(rows, [head_dim, value_dim], device) > 0 || rows == 1;
        let fits = |rows: &u32| bytes_without_queries(*rows) <= memory && chunk_fits(*rows);
        let rows = (1..=wanted).rev().find(fits)?;
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

    /// Rows of those tiles.
    pub fn rows_of(&self, group: u32, tokens: u32) -> u64 {
        self.count(group, tokens).saturating_mul(self.rows.into())
    }

    /// Bytes of workgroup memory.
    #[cfg(test)]
    pub fn bytes(&self) -> u32 {
        bytes_without_queries(self.rows) + 16 * self.staged.saturating_sub(1)
    }
}

/// Bytes of workgroup memory with one vector of queries, which is always there: scores, slots, three numbers a row, a
/// vector a thread.
const fn bytes_without_queries(rows: u32) -> u32 {
    const OF_WORKGROUP: u32 = 4 * WORKGROUP + 16 * WORKGROUP + 16;
    let scores = rows.saturating_mul(4 * WORKGROUP);
    let numbers = rows.div_ceil(4).saturating_mul(3 * 16);
    OF_WORKGROUP.saturating_add(scores).saturating_add(numbers)
}

/// What of a device decides how work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// A driver on the CPU.
    pub is_cpu: bool,
    /// Workgroup memory, in bytes.
    pub memory: u32,
}

impl Device {
    /// Workgroups that keep it busy.
    pub fn workgroups_wanted(&self) -> u32 {
        if self.is_cpu { WORKGROUPS_WANTED_OF_CPU } else { WORKGROUPS_WANTED }
    }
}

/// Positions that one workgroup can take with tiles of so many rows, in whole chunks: all, but for a driver on the CPU.
fn positions_at_once(rows: u32, [head_dim, value_dim]: [u32; 2], device: Device) -> u32 {
    if !device.is_cpu {
        return u32::MAX;
    }
    let [rows, keys, values] = [rows, head_dim.div_ceil(4), value_dim.div_ceil(4)].map(u64::from);
    let workgroup = u64::from(WORKGROUP);
    let threads = values.min(workgroup).max(1);
    let lanes = workgroup.checked_div(threads).unwrap_or(1).max(1);
    let value_turns = values.div_ceil(threads);
    // A loop over rows, and the turn that it is in.
    let over_rows = rows.saturating_add(1);
    // The loops of `attend.wgsl`, in their order: before the chunks, for each chunk, and after them.
    let staged = keys.saturating_mul(rows).div_ceil(workgroup);
    let joined = over_rows.saturating_mul(value_turns.saturating_mul(lanes.saturating_add(1)));
    let scores = keys.saturating_mul(over_rows).saturating_add(rows.saturating_mul(2));
    let reduced = workgroup.saturating_add(1).saturating_mul(2);
    let of_values = workgroup.div_ceil(lanes).saturating_mul(over_rows).saturating_add(over_rows);
    let chunk = scores.saturating_add(reduced).saturating_add(value_turns.saturating_mul(of_values)).saturating_add(1);
    let left = TURNS_OF_CPU.saturating_sub(staged).saturating_sub(joined);
    let positions = left.checked_div(chunk).unwrap_or(0).saturating_mul(workgroup);
    u32::try_from(positions).unwrap_or(u32::MAX)
}

/// The least parts in which so many positions must be read with a tile.
pub(super) fn least_splits(tile: Tile, dims: [u32; 2], positions: u32, device: Device) -> u32 {
    positions.div_ceil(positions_at_once(tile.rows, dims, device).max(WORKGROUP)).max(1)
}

/// As many splits as fill a device that wants so many workgroups, of some chunks of positions each.
pub(super) fn splits(wanted: u32, workgroups: u64, positions: u32) -> u32 {
    let by_device = u64::from(wanted).div_ceil(workgroups.max(1));
    let by_positions = u64::from(positions.div_ceil(4 * WORKGROUP));
    u32::try_from(by_device.min(by_positions)).unwrap_or(u32::MAX).clamp(1, MOST_SPLITS)
}

/// Rows of partial sums that steps of up to `rows` rows have: with the splits that were asked for, or with those that
/// [`splits`] chooses as far as there is `room`. `least` parts are always taken.
pub(super) fn most_parts(
    asked: Option<u32>,
    rows: u64,
    (least, room): (u32, u64),
    (tiles, device): ([Tile; 2], Device),
) -> u64 {
    match asked.map(|splits| splits.max(least)) {
        Some(1) => 0,
        Some(splits) => rows.saturating_mul(splits.into()),
        None => {
            let by_device = most_workgroups(device.workgroups_wanted());
            let by_device = by_device.saturating_mul(tiles[0].rows.max(tiles[1].rows).into());
            let least = if least > 1 { rows.saturating_mul(least.into()) } else { 0 };
            by_device.min(rows.saturating_mul(MOST_SPLITS.into())).max(least).min(room)
        }
    }
}

/// The most workgroups of a step that is split as [`splits`] says.
fn most_workgroups(wanted: u32) -> u64 {
    // Fewer than `wanted` workgroups are split, into fewer than `wanted ÷ workgroups + 1`.
    u64::from(wanted).saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(memory: u32) -> Device {
        Device { is_cpu: false, memory }
    }

    #[test]
    fn a_tile_fits_the_workgroup_memory_that_webgpu_gives() {
        for group in 1..=40 {
            for tokens in [1, 2, 5, 16, 100] {
                for dim in [1, 64, 80, 128, 256, 576, 2048, u32::MAX] {
                    for memory in [1 << 10, 2 << 10, 8 << 10, 16 << 10, 32 << 10] {
                        match Tile::new(group, tokens, [dim, dim], gpu(memory)) {
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
        assert_eq!(Tile::new(32, 1, [64; 2], gpu(16 << 10)), Some(Tile { rows: 32, staged: 0 }));
        assert_eq!(Tile::new(3, 1, [64; 2], gpu(16 << 10)), Some(Tile { rows: 3, staged: 48 }));
        assert_eq!(Tile::new(3, 9, [64; 2], gpu(16 << 10)), Some(Tile { rows: 15, staged: 240 }));
    }

    #[test]
    fn a_driver_on_the_cpu_takes_no_more_turns_than_it_has() {
        let cpu = Device { is_cpu: true, memory: 32 << 10 };
        for (dim, group, positions) in [(8, 1, 32_768), (64, 4, 32_768), (256, 32, 8192), (4096, 32, 70)] {
            let tile = Tile::new(group, 1, [dim, dim], cpu).unwrap();
            let splits = least_splits(tile, [dim, dim], positions, cpu);
            assert!(positions.div_ceil(splits) <= positions_at_once(tile.rows, [dim, dim], cpu), "{dim}, {group}");
        }
        let tile = Tile { rows: 4, staged: 64 };
        // 80 of 16 vectors of keys for 4 rows, 8 of rows, 130 to reduce, 85 of values in 4 lanes, itself: 304 turns a
        // chunk.
        assert_eq!(positions_at_once(4, [64, 64], cpu), 197 * 64);
        assert_eq!(least_splits(tile, [64, 64], 197 * 64, cpu), 1);
        assert_eq!(least_splits(tile, [64, 64], 197 * 64 + 1, cpu), 2);
        assert_eq!(least_splits(tile, [64, 64], u32::MAX, gpu(16 << 10)), 1);
    }

    #[test]
    fn parts_of_all_workgroups_are_bounded() {
        for wanted in [16, 512] {
            for workgroups in 1..2000 {
                for positions in [1, 1000, u32::MAX] {
                    let splits = splits(wanted, workgroups, positions);
                    assert!(splits == 1 || workgroups * u64::from(splits) <= most_workgroups(wanted));
                }
            }
        }
    }
}
