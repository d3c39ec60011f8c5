//! What an operation does to each sequence, checked before anything is recorded. Pure: no wgpu object in sight.
//!
//! A plan turns positions into [`Run`]s: contiguous slots of one sequence. Kernels know only runs, so another
//! placement (a ring, pages) is another way to make runs and costs the kernels nothing.

use std::ops::Range;

use crate::{CacheConfig, Error, HostRows, Result, Side, Write, write::Positions};

/// Mirror of `Run` in `shaders/step.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Run {
    /// Slot of the first row touched; rows `first..start` become zero.
    pub first: u32,
    /// Slot of the first row that holds a token.
    pub start: u32,
    /// Slot after the last row that holds a token.
    pub end: u32,
    /// Row of the source (of a gather: of the output) that belongs to `start`.
    pub token: u32,
    /// The sequence's length afterwards.
    pub length: u32,
}

/// Runs of one operation, one per sequence. Kept between operations, so that planning allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Of an update, the most rows of any run, `end - first`; of a range, the rows of the output.
    pub rows: u32,
    pub runs: Vec<Run>,
}

/// Runs of one sequence: linear placement has one. The kernels that write take any number; gather takes one, because a
/// loop, however short, makes a kernel on a software driver half as fast.
pub(crate) const RUNS_PER_SEQUENCE: u32 = 1;

impl Step {
    pub fn with_capacity(batch_size: u32) -> Self {
        Step { rows: 0, runs: Vec::with_capacity(batch_size as usize) }
    }

    /// Bytes of a step of `batch_size` sequences, with their lengths afterwards at its end.
    pub const fn bytes(batch_size: u32) -> u64 {
        Self::lengths_offset(batch_size) + 4 * batch_size as u64
    }

    /// Bytes before the lengths, which no kernel reads there and the copy form copies.
    pub const fn lengths_offset(batch_size: u32) -> u64 {
        size_of::<Run>() as u64 * batch_size as u64
    }

    /// The step as immediates, if it does the same to every sequence.
    pub fn immediate(&self) -> Option<Run> {
        let (&run, rest) = self.runs.split_first()?;
        rest.iter().all(|other| *other == run).then_some(run)
    }

    /// The same runs for a kernel that writes the gaps only.
    pub fn gaps_only(&mut self) {
        self.rows = self.runs.iter().map(|run| run.start - run.first).max().unwrap_or(0).max(1);
    }

    /// Rows written, gaps included; of a gather, rows that are valid.
    pub fn touched_rows(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.end - run.first)).sum()
    }

    /// Whether no sequence is written to.
    pub fn is_empty(&self) -> bool {
        self.runs.iter().all(|run| run.start == run.end)
    }
}

/// Checks a write against the lengths and plans its runs.
pub(crate) fn plan_write(config: &CacheConfig, lengths: &[u32], write: &Write<'_>, step: &mut Step) -> Result<()> {
    let tokens = write.tokens;
    if tokens == 0 {
        return Err(Error::NoTokens);
    }
    let per_sequence = |name, actual: usize| {
        if actual == lengths.len() {
            Ok(())
        } else {
            Err(Error::PerSequenceLength { name, batch_size: config.batch_size, actual })
        }
    };
    if let Positions::Each(positions) = write.positions {
        per_sequence("positions", positions.len())?;
    }
    if let Some(counts) = write.counts {
        per_sequence("counts", counts.len())?;
    }
    step.runs.clear();
    step.rows = 0;
    for ((sequence, &length), index) in (0..).zip(lengths).zip(0..) {
        let index: usize = index;
        let count = write.counts.map_or(tokens, |counts| counts[index]);
        if count > tokens {
            return Err(Error::CountAboveTokens { sequence, count, tokens });
        }
        if count == 0 {
            step.runs.push(Run { length, ..Run::default() });
            continue;
        }
        let position = match write.positions {
            Positions::Append => length,
            Positions::At(position) => position,
            Positions::Each(positions) => positions[index],
        };
        let end = position
            .checked_add(count)
            .filter(|end| *end <= config.max_seq_len)
            .ok_or(Error::WriteBeyondCapacity { sequence, position, count, max_seq_len: config.max_seq_len })?;
        let first = position.min(length);
        step.rows = step.rows.max(end - first);
        step.runs.push(Run { first, start: position, end, token: 0, length: end });
    }
    Ok(())
}

/// Checks a range against the lengths and plans the rows that each sequence has of it.
pub(crate) fn plan_read(lengths: &[u32], range: &Range<u32>, step: &mut Step) -> Result<()> {
    let write_pos = lengths.iter().copied().max().unwrap_or(0);
    if range.start > range.end {
        return Err(Error::RangeReversed { start: range.start, end: range.end });
    }
    if range.end > write_pos {
        return Err(Error::RangeBeyondWritten { end: range.end, write_pos });
    }
    step.rows = range.end - range.start;
    step.runs.clear();
    step.runs.extend(lengths.iter().map(|&length| {
        let end = length.min(range.end).max(range.start);
        Run { first: range.start, start: range.start, end, token: 0, length }
    }));
    Ok(())
}

/// Checks that host rows hold exactly the elements of `tokens` tokens.
pub(crate) fn check_rows(config: &CacheConfig, side: Side, rows: HostRows<'_>, tokens: u32) -> Result<()> {
    let expected = [config.batch_size, config.num_heads, tokens, config.dim(side)]
        .into_iter()
        .try_fold(1u64, |product, factor| product.checked_mul(factor.into()))
        .unwrap_or(u64::MAX);
    let actual = rows.len() as u64;
    if expected == actual { Ok(()) } else { Err(Error::SliceLength { side, expected, actual }) }
}

/// A rectangle of work: planes of one segment, and tokens (of a gather: rows) of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub planes: Range<u32>,
    pub tokens: Range<u32>,
}

impl Block {
    /// How many planes.
    pub fn plane_count(&self) -> u32 {
        self.planes.end - self.planes.start
    }

    /// How many tokens of each.
    pub fn token_count(&self) -> u32 {
        self.tokens.end - self.tokens.start
    }
}

/// Cuts a block into halves until each part fits, along tokens where `by_tokens` says so and along planes
/// otherwise. `None` if even one row of one plane does not fit.
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
        let middle = range.start + (range.end - range.start) / 2;
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

/// Workgroups that hold `units` threads, spread over x and y of a grid.
pub(crate) fn grid(units: u64, limits: &wgpu::Limits) -> [u32; 3] {
    let [x, y] = spread(units, limits);
    [x, y, 1]
}

/// Workgroups of `grid_planes`: `units` threads spread over x and z, for each of `planes` in y. No chunk has more planes
/// than a grid is high.
pub(crate) fn grid_of_planes(units: u64, planes: u32, limits: &wgpu::Limits) -> [u32; 3] {
    let [x, z] = spread(units, limits);
    [x, planes, z]
}

/// Workgroups that hold `units` threads, as a product of two dimensions of a grid.
fn spread(units: u64, limits: &wgpu::Limits) -> [u32; 2] {
    let groups = units.div_ceil(crate::layout::WORKGROUP_SIZE.into()).max(1);
    let most = u64::from(limits.max_compute_workgroups_per_dimension);
    let second = groups.div_ceil(most);
    let first = groups.div_ceil(second);
    [first, second].map(|groups| u32::try_from(groups).expect("a segment holds fewer than 2^31 units"))
}

#[cfg(test)]
#[path = "../tests/unit/plan.rs"]
mod tests;
