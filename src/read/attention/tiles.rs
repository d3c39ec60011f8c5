//! How the work of an attention is cut: what a workgroup and each of its threads take, and splits of the positions.
//! Pure arithmetic.

use crate::{
    read::include::{unit_vectors, units},
    shape::layout::Layout,
};

/// Threads of a workgroup, unless a row has so many units that it takes more.
const WORKGROUP: u32 = 64;
/// Threads that every device gives a workgroup.
const MOST_LANES: u32 = 256;
/// Vectors that a thread sums up in registers, for all rows of its tile.
const MOST_SUMS: u32 = 32;
/// Vectors of queries that a thread keeps in registers.
const MOST_HELD: u32 = 16;
/// Units of a long row that a thread takes, as far as a workgroup has threads.
const MOST_UNITS: u32 = 8;
const MOST_UNITS_OF_CPU: u32 = 4;
/// Threads that share a row at most, unless it is long.
const LANES: u32 = 16;
/// Threads that share a row on a software driver.
const LANES_OF_CPU: u32 = 8;
/// A software driver keeps them in the cache of its core.
const MOST_OF_CPU: u32 = 32;
/// Positions that a thread reads at a time.
const POSITIONS: u32 = 4;
/// Positions of a split at least.
const LEAST_OF_SPLIT: u32 = 256;

/// Workgroups that keep a large device busy.
const WORKGROUPS_WANTED: u32 = 512;
/// A software driver has a few threads.
const WORKGROUPS_WANTED_OF_CPU: u32 = 16;
/// The most parts in which positions are read, unless a device takes no more of them at once.
pub(super) const MOST_SPLITS: u32 = 64;
/// The most rows of a tile.
const MOST_ROWS: u32 = 8;
/// Workgroup memory that every device has by WebGPU's default limits, in bytes.
const WORKGROUP_BYTES: u32 = 16 << 10;

/// Threads of a workgroup of `combine`.
pub(super) const COMBINE: u32 = 64;
/// Bytes of workgroup memory of `combine`, without those that find packed queries: seven numbers a thread.
pub(super) const COMBINE_BYTES: u64 = 28 * COMBINE as u64;

/// Bytes of workgroup memory by which so many threads find packed queries.
pub(super) const fn found_bytes(threads: u32) -> u64 {
    (threads as u64).saturating_mul(8).saturating_add(16)
}

/// Turns of loops that Mesa's llvmpipe takes in one invocation, all loops together: after 65 535 it leaves every loop
/// without a word (`LP_MAX_TGSI_LOOP_ITERATIONS`). Some are left for what is not counted.
const TURNS_OF_CPU: u64 = 60_000;

/// What of a layer decides how a row is read: units of a row of each side, and vectors of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Units {
    pub keys: [u32; 2],
    pub values: [u32; 2],
}

impl Units {
    pub fn of(layout: &Layout) -> Self {
        let side = |sizes| [units(sizes), unit_vectors(sizes)];
        Units { keys: side(&layout.keys), values: side(&layout.values) }
    }
}

/// What a workgroup takes, as `attend.wgsl` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub workgroup: u32,
    /// Threads that share a row of the cache.
    pub lanes: u32,
    /// Query heads of tokens; a multiple of `round`.
    pub rows: u32,
    /// Rows that go through workgroup memory at once.
    pub round: u32,
    /// Units of a key and of a value that a thread reads.
    pub units: [u32; 2],
    /// Each lane reads neighbouring units; otherwise they lie with the lanes alternately.
    pub neighbours: bool,
    /// Queries are in registers; otherwise in workgroup memory.
    pub held: bool,
    /// Threads of a row share its scores by shuffles of their subgroup; otherwise in workgroup memory.
    pub subgroups: bool,
}

impl Tile {
    /// Tiles for `tokens` queries of `group` query heads a KV head. `None` where not even one row fits the device.
    pub fn new(group: u32, tokens: u32, units: Units, device: Device) -> Option<Self> {
        let ([keys, key_vectors], [values, value_vectors]) = (units.keys, units.values);
        let threads = device.threads.min(MOST_LANES);
        let fewest = keys.min(values).max(1);
        let lanes = if device.coalesced { LANES } else { LANES_OF_CPU };
        let mut lanes = previous_power_of_two(fewest).min(lanes);
        let most_units = if device.coalesced { MOST_UNITS } else { MOST_UNITS_OF_CPU };
        while keys.max(values).div_ceil(lanes) > most_units && lanes < previous_power_of_two(threads) {
            lanes = lanes.saturating_mul(2);
        }
        let workgroup = WORKGROUP.min(previous_power_of_two(threads)).max(lanes);
        let own = [keys.div_ceil(lanes), values.div_ceil(lanes)];
        let sums = own[1].saturating_mul(value_vectors).max(1);
        let (most_sums, most_held) = if device.coalesced { (MOST_SUMS, MOST_HELD) } else { (MOST_OF_CPU, MOST_OF_CPU) };
        // The weights that a thread makes at once are as many as a row of a tile has for each lane.
        let most = most_sums.checked_div(sums)?.clamp(1, MOST_ROWS).min(lanes.saturating_mul(2));
        // Whole tokens, or as few tiles of a token as may be, of the same size.
        let wanted = match most.checked_div(group)? {
            0 => group.div_ceil(group.div_ceil(most)),
            fit => group.saturating_mul(fit.min(tokens.max(1))),
        };
        let tile = |rows: u32, rounds: u32, held| {
            let round = rows.div_ceil(rounds);
            let rows = round.saturating_mul(rounds);
            let subgroups = lanes <= device.subgroup && round.next_power_of_two() <= lanes;
            Tile { workgroup, lanes, rows, round, units: own, neighbours: !device.coalesced, held, subgroups }
        };
        let held = |rows: u32| rows.saturating_mul(own[0]).saturating_mul(key_vectors) <= most_held;
        let sizes = (1..=wanted).rev().flat_map(|rows| (1..=rows).map(move |rounds| (rows, rounds)));
        // The queries of one row are held if need be, however long.
        let tiles = sizes.map(|(rows, rounds)| tile(rows, rounds, held(rows))).chain([tile(1, 1, true)]);
        let memory = u64::from(device.memory.min(WORKGROUP_BYTES));
        let fits = |tile: &Tile| tile.bytes_of_all(units, device) <= memory;
        tiles.filter(|tile| tile.rows <= most.max(wanted)).find(fits)
    }

    /// Bytes of workgroup memory that the smallest tile, and the kernel that joins splits, take.
    pub fn least_bytes(units: Units, device: Device) -> u64 {
        let most = Device { memory: WORKGROUP_BYTES, ..device };
        Tile::new(1, 1, units, most).map_or(u64::MAX, |tile| Tile { held: true, ..tile }.bytes_of_all(units, device))
    }

    /// Bytes of workgroup memory of the kernel that takes more, with those that find packed queries.
    fn bytes_of_all(&self, units: Units, device: Device) -> u64 {
        let found = |threads| device.packed.map_or(0, |_| found_bytes(threads));
        let attend = self.bytes(units).saturating_add(found(self.workgroup));
        attend.max(COMBINE_BYTES.saturating_add(found(COMBINE)))
    }

    /// Groups of threads, each of which reads a row of the cache.
    pub const fn groups(&self) -> u32 {
        self.workgroup.checked_div(self.lanes).expect("a tile has lanes")
    }

    /// Rounds in which the rows go through workgroup memory.
    pub const fn rounds(&self) -> u32 {
        self.rows.checked_div(self.round).expect("a round has rows")
    }

    /// Pairs of row and group of a round that a thread owns.
    pub const fn owners(&self) -> u32 {
        self.round.saturating_mul(self.groups()).div_ceil(self.workgroup)
    }

    /// Positions of a chunk.
    pub const fn chunk(&self) -> u32 {
        self.groups().saturating_mul(POSITIONS)
    }

    /// Tiles for queries of sequences, packed: no more than those of `sequences` that have `rows` together.
    pub fn most_packed(&self, group: u32, rows: u32, sequences: u32) -> u64 {
        let whole = self.count(group, rows).saturating_add(sequences.into());
        self.count(group, 1).saturating_mul(rows.into()).min(whole)
    }

    /// Tiles for `tokens` queries of `group` query heads.
    pub fn count(&self, group: u32, tokens: u32) -> u64 {
        // Both are 32 bits wide, so their product fits.
        u64::from(group).saturating_mul(tokens.into()).div_ceil(self.rows.into())
    }

    /// Bytes of workgroup memory, without those that find packed queries.
    pub fn bytes(&self, units: Units) -> u64 {
        let [rows, round, groups, lanes] = [self.rows, self.round, self.groups(), self.lanes].map(u64::from);
        let parts = round.saturating_mul(groups).saturating_mul(lanes.saturating_add(1)).saturating_mul(16);
        let weights = rows.saturating_mul(groups).saturating_mul(16);
        let factors = rows.div_ceil(4).saturating_mul(groups).saturating_mul(16);
        let vectors = u64::from(self.units[0]).saturating_mul(units.keys[1].into());
        let staged = if self.held { 0 } else { rows.saturating_mul(vectors).saturating_mul(lanes).saturating_mul(16) };
        parts.saturating_add(weights).saturating_add(factors).saturating_add(staged)
    }

    /// Positions that one workgroup can take: all, but for a driver on the CPU.
    fn positions_at_once(&self, units: Units, device: Device) -> u32 {
        if !device.is_cpu {
            return u32::MAX;
        }
        let over = |count: u32| u64::from(count.div_ceil(self.workgroup)).saturating_add(1);
        let vectors = self.units[0].saturating_mul(units.keys[1]);
        let staged = over(self.rows.saturating_mul(vectors).saturating_mul(self.lanes));
        let tree = u64::from(self.groups().ilog2()).saturating_mul(over(self.rows.saturating_mul(self.groups())));
        let sums = u64::from(self.rounds().saturating_mul(self.units[1]).saturating_mul(units.values[1]));
        let joined =
            over(self.round.saturating_mul(self.lanes)).saturating_mul(u64::from(self.groups()).saturating_add(1));
        let chunks = TURNS_OF_CPU
            .saturating_sub(device.finding_turns())
            .saturating_sub(staged)
            .saturating_sub(tree)
            .saturating_sub(sums.saturating_mul(joined));
        u32::try_from(chunks.saturating_mul(self.chunk().into())).unwrap_or(u32::MAX)
    }

    /// The least parts in which so many positions must be read.
    pub fn least_splits(&self, units: Units, positions: u32, device: Device) -> u32 {
        positions.div_ceil(self.positions_at_once(units, device).max(self.chunk())).max(1)
    }
}

/// The largest power of two that is no larger; 1 of 0.
const fn previous_power_of_two(number: u32) -> u32 {
    match number.checked_ilog2() {
        Some(log) => 1 << log,
        None => 1,
    }
}

/// What of a device decides how work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// A driver on the CPU.
    pub is_cpu: bool,
    /// Neighbouring threads read neighbouring bytes.
    pub coalesced: bool,
    /// Workgroup memory, in bytes.
    pub memory: u32,
    /// Threads of a workgroup.
    pub threads: u32,
    /// Threads of the smallest subgroup; 0 where there are no operations on subgroups.
    pub subgroup: u32,
    /// Sequences whose tiles a workgroup finds, where queries are packed.
    pub packed: Option<u32>,
}

impl Device {
    /// Turns of loops that a thread takes to find its tile, as `place/packed.wgsl` does, with any number of threads.
    fn finding_turns(&self) -> u64 {
        self.packed.map_or(0, |sequences| u64::from(sequences).saturating_mul(2).saturating_add(self.threads.into()))
    }

    /// Workgroups that keep it busy.
    pub fn workgroups_wanted(&self) -> u32 {
        if self.is_cpu { WORKGROUPS_WANTED_OF_CPU } else { WORKGROUPS_WANTED }
    }
}

/// As many splits as fill a device that wants so many workgroups, of some chunks of positions each.
pub(super) fn splits(wanted: u32, workgroups: u64, positions: u32) -> u32 {
    let by_device = u64::from(wanted).div_ceil(workgroups.max(1));
    let by_positions = u64::from(positions.div_ceil(LEAST_OF_SPLIT));
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
        Device { is_cpu: false, coalesced: true, memory, threads: 256, subgroup: 0, packed: None }
    }

    const CPU: Device =
        Device { is_cpu: true, coalesced: false, memory: 32 << 10, threads: 1024, subgroup: 0, packed: None };

    fn units(key_dim: u32, value_dim: u32, vectors: u32) -> Units {
        let side = |dim: u32| [dim.div_ceil(4 * vectors), vectors];
        Units { keys: side(key_dim), values: side(value_dim) }
    }

    #[test]
    fn a_tile_fits_the_workgroup_memory_that_webgpu_gives() {
        for group in 1..=40 {
            for tokens in [1, 2, 5, 16, 100] {
                for (dim, vectors) in [(1, 1), (64, 1), (64, 2), (80, 4), (128, 2), (256, 4), (576, 2), (4096, 1)] {
                    let units = units(dim, dim, vectors);
                    for memory in [1 << 10, 2 << 10, 8 << 10, 16 << 10, 32 << 10] {
                        for device in [gpu(memory), Device { packed: Some(9), ..gpu(memory) }, Device { memory, ..CPU }]
                        {
                            let what = format!("{group} {tokens} {dim} {device:?}");
                            let Some(tile) = Tile::new(group, tokens, units, device) else {
                                assert!(u64::from(memory) < Tile::least_bytes(units, device), "{what}");
                                continue;
                            };
                            assert!(
                                tile.bytes_of_all(units, device) <= u64::from(memory.min(WORKGROUP_BYTES)),
                                "{what} {tile:?}"
                            );
                            assert!(tile.rows.is_multiple_of(tile.round) && tile.workgroup.is_multiple_of(tile.lanes));
                            assert!(tile.lanes.is_power_of_two() && tile.groups().is_power_of_two(), "{what} {tile:?}");
                            assert!((1..=MOST_ROWS).contains(&tile.rows), "{what} {tile:?}");
                            assert!(tile.units[0] * tile.lanes >= units.keys[0], "{what} {tile:?}");
                            assert!(tile.units[1] * tile.lanes >= units.values[0], "{what} {tile:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_thread_of_a_gpu_keeps_four_loads_in_flight_and_its_sums_in_registers() {
        // f16 and q8_0 of 128: 4 query heads of one token, and of 8.
        for (vectors, tokens, lanes, rows) in [(2, 1, 16, 4), (2, 8, 16, 8), (4, 1, 8, 4), (4, 8, 8, 8)] {
            let tile = Tile::new(4, tokens, units(128, 128, vectors), gpu(16 << 10)).unwrap();
            assert_eq!((tile.lanes, tile.rows, tile.units), (lanes, rows, [1, 1]), "{vectors} {tokens}");
            assert!(!tile.neighbours && tile.rows * vectors <= MOST_SUMS);
        }
    }

    #[test]
    fn a_driver_on_the_cpu_takes_no_more_turns_than_it_has() {
        for (dim, group) in [(8, 1), (64, 4), (256, 32), (4096, 32)] {
            let units = units(dim, dim, 1);
            let tile = Tile::new(group, 1, units, CPU).unwrap();
            let most = tile.positions_at_once(units, CPU);
            assert!(most / tile.chunk() > 50_000 && most / tile.chunk() < 65_536, "{dim}, {group}: {tile:?}");
            assert_eq!(tile.least_splits(units, most, CPU), 1);
            assert_eq!(tile.least_splits(units, most + 1, CPU), 2);
            assert_eq!(tile.least_splits(units, u32::MAX, gpu(16 << 10)), 1);
        }
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
