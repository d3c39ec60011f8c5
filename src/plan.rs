//! What an operation does to each sequence, checked before anything is recorded. Pure: no wgpu object in sight.
//!
//! A plan turns positions into [`Run`]s: contiguous slots of one sequence. Kernels know only runs, so a ring is another
//! way to make runs, as pages would be.

use std::ops::Range;

use crate::{
    CacheConfig, Error, HostRows, PerSequence, Placement, Result, Side, Write,
    layout::runs,
    placement::{PIECES, count},
    sequences::Sequences,
    source::check_source_format,
    write::Positions,
};

/// In place of a length: it stays as it is.
pub(crate) const KEEP_LENGTH: u32 = u32::MAX;

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
    /// Position of the first token that is written; the length where none is.
    pub position: u32,
}

impl Run {
    /// Rows touched.
    pub fn touched(&self) -> u32 {
        count(&(self.first..self.end))
    }

    /// Rows that become zero.
    pub fn gap(&self) -> u32 {
        count(&(self.first..self.start))
    }

    /// Rows that hold a token.
    pub fn rows(&self) -> u32 {
        count(&(self.start..self.end))
    }
}

/// Mirror of `Step` in `shaders/step_immediate.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Immediate {
    pub sequences: u32,
    pub run: Run,
}

/// Runs of one operation, as many for each sequence. Kept between operations, so that planning allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Of an update, the most rows of any run, `end - first`; of a range, the rows of the output.
    pub rows: u32,
    /// How many runs each sequence has: 1, or all that a ring may need.
    pub per_sequence: u32,
    /// `[sequence, run]`; those that touch rows come first.
    pub runs: Vec<Run>,
    /// Of an update, the first position beyond the sinks that each sequence stores afterwards.
    pub oldest: Vec<u32>,
}

impl Step {
    /// Room for a batch of `batch_size` sequences with `runs` runs each.
    pub fn with_capacity(batch_size: u32, runs: u32) -> Self {
        let batch = batch_size as usize;
        Step {
            rows: 0,
            per_sequence: 1,
            runs: Vec::with_capacity(batch.saturating_mul(runs as usize)),
            oldest: Vec::with_capacity(batch),
        }
    }

    /// Bytes of a step of `batch_size` sequences: their number, their runs, and their lengths and starts afterwards.
    pub const fn bytes(batch_size: u32, runs: u32) -> u64 {
        let sequence = (size_of::<Run>() as u64).saturating_mul(runs as u64).saturating_add(8);
        sequence.saturating_mul(batch_size as u64).saturating_add(4)
    }

    /// Starts a new step.
    pub fn clear(&mut self, per_sequence: u32) {
        self.rows = 0;
        self.per_sequence = per_sequence;
        self.runs.clear();
        self.oldest.clear();
    }

    /// The next sequence, of which no row is touched.
    fn push_empty(&mut self, length: u32) {
        self.push(length, length, std::iter::empty());
    }

    /// The runs of the next sequence: those that touch rows, and empty ones up to the number that each has.
    fn push(&mut self, length: u32, position: u32, runs: impl Iterator<Item = Run>) {
        let end = self.runs.len().saturating_add(self.per_sequence as usize);
        self.runs.extend(runs);
        debug_assert!(self.runs.len() <= end, "positions lie in no more pieces than a ring has");
        self.runs.resize(end, Run { length, position, ..Run::default() });
    }

    /// Drops the runs after each sequence's first, where all are empty: so a step of decoding is the same in a ring.
    fn compact(&mut self) {
        let per_sequence = self.per_sequence as usize;
        let single = |runs: &[Run]| runs[1..].iter().all(|run| run.first == run.end);
        if per_sequence > 1 && self.runs.chunks_exact(per_sequence).all(single) {
            let mut firsts =
                std::iter::once(true).chain(std::iter::repeat_n(false, per_sequence.saturating_sub(1))).cycle();
            self.runs.retain(|_| firsts.next().unwrap_or(true));
            self.per_sequence = 1;
        }
    }

    /// The runs of each sequence.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = &[Run]> {
        self.runs.chunks_exact(self.per_sequence.max(1) as usize)
    }

    /// The lengths of the sequences afterwards.
    pub fn lengths(&self) -> impl Iterator<Item = u32> {
        self.sequences().map(|runs| runs[0].length)
    }

    /// The positions of the first rows that are written.
    pub fn starts(&self) -> impl Iterator<Item = u32> {
        self.sequences().map(|runs| runs[0].position)
    }

    /// How many sequences there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.sequences().len()).expect("a batch size is 32 bits wide")
    }

    /// Makes the sequences what they are afterwards.
    pub fn commit(&self, sequences: &mut Sequences) {
        let Sequences { lengths, oldest, starts } = sequences;
        lengths.clear();
        lengths.extend(self.lengths());
        oldest.clear();
        oldest.extend_from_slice(&self.oldest);
        starts.clear();
        starts.extend(self.starts());
    }

    /// The step as immediates, if it does the same to every sequence.
    pub fn immediate(&self) -> Option<Immediate> {
        let (&run, rest) = self.runs.split_first()?;
        let same = self.per_sequence == 1 && rest.iter().all(|other| *other == run);
        same.then(|| Immediate { sequences: self.count(), run })
    }

    /// Makes the rows no queries: nothing counts as just written.
    pub fn forget_starts(&mut self) {
        self.runs.iter_mut().for_each(|run| run.position = run.length);
    }

    /// The most rows of any gap, for a kernel that writes gaps only; at least one, so that lengths are set.
    pub fn gap_rows(&self) -> u32 {
        self.runs.iter().map(Run::gap).max().unwrap_or(0).max(1)
    }

    /// Rows written, gaps included; of a gather, rows that are valid.
    pub fn touched_rows(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.touched())).sum()
    }

    /// Plans what survives of a write of `count` tokens at `position`, after the rows before it that become zero.
    fn push_write(&mut self, placement: Placement, length: u32, position: u32, end: u32) {
        let first = position.min(length);
        let sinks = first..placement.sinks().min(end);
        let others = first.max(placement.first_stored(end))..end;
        let mut rows = self.rows;
        let runs = [sinks, others].into_iter().flat_map(|positions| placement.pieces(positions)).map(|(at, slots)| {
            rows = rows.max(count(&slots));
            // Rows of the piece that lie before the position.
            let skipped = position.saturating_sub(at).min(count(&slots));
            let token = at.saturating_sub(position);
            let start = slots.start.saturating_add(skipped);
            Run { first: slots.start, start, end: slots.end, token, length: end, position }
        });
        self.push(end, position, runs);
        self.rows = rows;
    }

    /// Plans the copy of positions, all stored, to rows from 0 on.
    fn push_read(&mut self, placement: Placement, length: u32, ranges: [Range<u32>; 2]) {
        let mut token = 0;
        let pieces = ranges.into_iter().flat_map(|positions| placement.pieces(positions));
        let runs = pieces.map(|(_, slots)| {
            let (first, end) = (slots.start, slots.end);
            let run = Run { first, start: first, end, token, length, position: length };
            token = token.saturating_add(count(&slots));
            run
        });
        self.push(length, length, runs);
    }
}

/// Checks a list with one entry per sequence.
fn check_entries(name: &'static str, sequences: &Sequences, actual: usize) -> Result<()> {
    if actual == sequences.lengths.len() {
        Ok(())
    } else {
        Err(Error::PerSequenceLength { name, batch_size: sequences.count(), actual })
    }
}

/// Checks a write against the sequences and plans its runs.
pub(crate) fn plan_write(
    config: &CacheConfig,
    sequences: &Sequences,
    write: &Write<'_>,
    step: &mut Step,
) -> Result<()> {
    let (tokens, placement) = (write.tokens, config.placement);
    if tokens == 0 {
        return Err(Error::NoTokens);
    }
    if let Positions::Each(positions) = write.positions {
        check_entries("positions", sequences, positions.len())?;
    }
    if let Some(counts) = write.counts {
        check_entries("counts", sequences, counts.len())?;
    }
    step.clear(runs(placement));
    let known = sequences.lengths.iter().zip(&sequences.oldest);
    for ((sequence, (&length, &oldest)), index) in (0..).zip(known).zip(0..) {
        let index: usize = index;
        let count = write.counts.map_or(tokens, |counts| counts[index]);
        if count > tokens {
            return Err(Error::CountAboveTokens { sequence, count, tokens });
        }
        if count == 0 {
            step.push_empty(length);
            step.oldest.push(oldest);
            continue;
        }
        let position = match write.positions {
            Positions::Append => length,
            Positions::At(position) => position,
            Positions::Each(positions) => positions[index],
        };
        let end = position.checked_add(count);
        if placement == Placement::Linear {
            // What `push_write` would plan, without its pieces: this is the path of every decoding step.
            let max_seq_len = config.max_seq_len;
            let end = end.filter(|end| *end <= max_seq_len).ok_or(Error::WriteBeyondCapacity {
                sequence,
                position,
                count,
                max_seq_len,
            })?;
            let first = position.min(length);
            let run = Run { first, start: position, end, token: 0, length: end, position };
            step.rows = step.rows.max(run.touched());
            step.runs.push(run);
            step.oldest.push(0);
            continue;
        }
        let end = end.filter(|end| *end < KEEP_LENGTH).ok_or(Error::PositionOverflow { sequence, position, count })?;
        let (first, rows) = (placement.first_stored(end), config.slots().saturating_sub(placement.sinks()));
        if write.whole && first > position.max(placement.sinks()) {
            return Err(Error::WriteBeyondRing { sequence, position, count, rows, oldest: first });
        }
        let oldest =
            if position < length { Sequences::rollback(placement, sequence, oldest, position)? } else { oldest };
        let oldest = oldest.max(first);
        if let Some(seen) = placement.first_seen(position, end).filter(|&seen| write.attended && seen < oldest) {
            return Err(Error::Evicted { sequence, position: seen, oldest });
        }
        step.push_write(placement, length, position, end);
        step.oldest.push(oldest);
    }
    // Also where no row is touched, lengths and starts are set.
    step.rows = step.rows.max(1);
    step.compact();
    Ok(())
}

/// Checks a range against the sequences and plans the rows that each has of it.
pub(crate) fn plan_read(
    placement: Placement,
    sequences: &Sequences,
    range: &Range<u32>,
    step: &mut Step,
) -> Result<()> {
    let write_pos = sequences.longest();
    if range.start > range.end {
        return Err(Error::RangeReversed { start: range.start, end: range.end });
    }
    if range.end > write_pos {
        return Err(Error::RangeBeyondWritten { end: range.end, write_pos });
    }
    plan_rows(placement, sequences, step, |sequence, length, _| {
        range_of(placement, sequence, length, range).map(Some)
    })?;
    // Also where every sequence ends before.
    step.rows = count(range);
    Ok(())
}

/// The same for one sequence; the others have no rows.
pub(crate) fn plan_read_one(
    placement: Placement,
    sequences: &Sequences,
    wanted: u32,
    range: &Range<u32>,
    step: &mut Step,
) -> Result<()> {
    plan_rows(placement, sequences, step, |sequence, length, _| {
        (sequence == wanted).then(|| range_of(placement, sequence, length, range)).transpose()
    })
}

/// Plans the copy of some stored positions of each sequence, in order from row 0 on: what `of` says of the sequence, its
/// length, and the first position beyond the sinks that it stores.
fn plan_rows(
    placement: Placement,
    sequences: &Sequences,
    step: &mut Step,
    of: impl Fn(u32, u32, u32) -> Result<Option<[Range<u32>; 2]>>,
) -> Result<()> {
    step.clear(runs(placement));
    for (sequence, (&length, &oldest)) in (0..).zip(sequences.lengths.iter().zip(&sequences.oldest)) {
        match of(sequence, length, oldest)? {
            Some(ranges) => {
                step.rows = ranges.iter().map(count).fold(0, u32::saturating_add).max(step.rows);
                step.push_read(placement, length, ranges);
            }
            None => step.push_empty(length),
        }
    }
    step.compact();
    Ok(())
}

/// The positions of a range that a sequence has, all of which must be valid.
fn range_of(placement: Placement, sequence: u32, length: u32, range: &Range<u32>) -> Result<[Range<u32>; 2]> {
    let end = length.clamp(range.start, range.end);
    let sinks = placement.sinks().clamp(range.start, end);
    let oldest = placement.first_valid(length);
    if sinks < end && sinks < oldest {
        return Err(Error::Evicted { sequence, position: sinks, oldest });
    }
    Ok([range.start..sinks, sinks..end])
}

/// Checks lengths to cut sequences to, and plans the lengths afterwards: runs that touch no row.
pub(crate) fn plan_truncate(
    placement: Placement,
    sequences: &Sequences,
    lengths: PerSequence<'_>,
    step: &mut Step,
) -> Result<()> {
    if let PerSequence::Each(lengths) = lengths {
        check_entries("lengths", sequences, lengths.len())?;
    }
    step.clear(1);
    for (sequence, index) in (0..sequences.count()).zip(0..) {
        let index: usize = index;
        let (current, oldest) = (sequences.lengths[index], sequences.oldest[index]);
        let length = match lengths {
            PerSequence::All(length) => length,
            PerSequence::Each(lengths) => lengths[index],
        };
        if length > current {
            return Err(Error::TruncateBeyondLength { sequence, length, current });
        }
        let oldest = if length < current { Sequences::rollback(placement, sequence, oldest, length)? } else { oldest };
        step.push_empty(length);
        step.oldest.push(oldest);
    }
    step.rows = 1;
    Ok(())
}

/// Plans the rows that a sequence of some length has, from row 0 of a source on, as all of one sequence, and nothing of
/// the others.
pub(crate) fn plan_insert(placement: Placement, sequences: &Sequences, sequence: u32, length: u32, step: &mut Step) {
    step.clear(runs(placement));
    for (other, index) in (0..sequences.count()).zip(0..) {
        let index: usize = index;
        if other == sequence {
            step.push_read(placement, length, placement.valid(length));
            step.oldest.push(placement.first_valid(length));
        } else {
            step.push_empty(sequences.lengths[index]);
            step.oldest.push(sequences.oldest[index]);
        }
    }
    step.rows = step.runs.iter().map(Run::touched).max().unwrap_or(0);
    step.compact();
}

/// Plans all stored rows of one sequence, valid or there for a rollback, from row 0 of an output on.
pub(crate) fn plan_read_stored(placement: Placement, sequences: &Sequences, wanted: u32, step: &mut Step) {
    let of = |sequence, length, oldest| Ok((sequence == wanted).then(|| stored(placement, length, oldest)));
    plan_rows(placement, sequences, step, of).expect("what is stored can be read");
}

/// The same rows, from a source to the same slots of other sequences, `count` in all. Lengths stay.
pub(crate) fn plan_place_stored(read: &[Run], count: u32, wanted: impl Fn(u32) -> bool, step: &mut Step) {
    step.clear(u32::try_from(read.len()).expect("a sequence has three runs at most"));
    for sequence in 0..count {
        if wanted(sequence) {
            step.push(KEEP_LENGTH, KEEP_LENGTH, read.iter().map(|&run| Run { length: KEEP_LENGTH, ..run }));
        } else {
            step.push_empty(KEEP_LENGTH);
        }
    }
    step.rows = step.runs.iter().map(Run::touched).max().unwrap_or(0);
}

/// Positions of a sequence that are stored, the sinks among them.
fn stored(placement: Placement, length: u32, oldest: u32) -> [Range<u32>; 2] {
    let sinks = placement.sinks().min(length);
    [0..sinks, oldest.clamp(sinks, length)..length]
}

/// The slots in which they lie, three pieces at most.
pub(crate) fn stored_slots(placement: Placement, length: u32, oldest: u32) -> [Range<u32>; PIECES as usize] {
    let mut pieces = stored(placement, length, oldest).into_iter().flat_map(|positions| placement.pieces(positions));
    std::array::from_fn(|_| pieces.next().map_or(0..0, |(_, slots)| slots))
}

/// Plans all valid rows of the sequences for which `wanted` holds, each in order from row 0 on.
pub(crate) fn plan_read_valid(
    placement: Placement,
    sequences: &Sequences,
    wanted: impl Fn(u32) -> bool,
    step: &mut Step,
) {
    let of = |sequence, length, _| Ok(wanted(sequence).then(|| placement.valid(length)));
    plan_rows(placement, sequences, step, of).expect("what is valid can be read");
}

/// Checks that host rows hold exactly the elements of `tokens` tokens.
pub(crate) fn check_rows(config: &CacheConfig, side: Side, rows: HostRows<'_>, tokens: u32) -> Result<()> {
    check_source_format(side, rows.format(), config.format(side))?;
    let units = rows.format().units(config.dim(side));
    let expected = [config.batch_size, config.num_heads, tokens, units]
        .into_iter()
        .try_fold(1u64, |product, factor| product.checked_mul(factor.into()))
        .unwrap_or(u64::MAX);
    let actual = rows.len() as u64;
    let whole = (rows.bytes().len() as u64).is_multiple_of(rows.format().unit_bytes().into());
    if expected == actual && whole { Ok(()) } else { Err(Error::SliceLength { side, expected, actual }) }
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
        count(&self.planes)
    }

    /// How many tokens of each.
    pub fn token_count(&self) -> u32 {
        count(&self.tokens)
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

/// Workgroups that hold `units` threads, spread over x and y of a grid.
///
/// # Errors
/// [`Error::DeviceLimit`].
pub(crate) fn grid(units: u64, limits: &wgpu::Limits) -> Result<[u32; 3]> {
    let [x, y] = spread(workgroups(units), limits)?;
    Ok([x, y, 1])
}

/// Workgroups of `grid_planes`: `units` threads spread over x and z, for each of `planes` in y. No chunk has more planes
/// than a grid is high.
///
/// # Errors
/// [`Error::DeviceLimit`].
pub(crate) fn grid_of_planes(units: u64, planes: u32, limits: &wgpu::Limits) -> Result<[u32; 3]> {
    let [x, z] = spread(workgroups(units), limits)?;
    Ok([x, planes, z])
}

/// Workgroups that hold `units` threads.
fn workgroups(units: u64) -> u64 {
    units.div_ceil(crate::layout::WORKGROUP_SIZE.into()).max(1)
}

/// Workgroups as a product of two dimensions of a grid; some more, where they are no such product.
///
/// # Errors
/// [`Error::DeviceLimit`].
pub(crate) fn spread(groups: u64, limits: &wgpu::Limits) -> Result<[u32; 2]> {
    let most = u64::from(limits.max_compute_workgroups_per_dimension);
    let second = groups.div_ceil(most);
    if second > most {
        let limit = "max_compute_workgroups_per_dimension";
        return Err(Error::DeviceLimit { limit, needed: second, available: most });
    }
    let first = groups.div_ceil(second);
    Ok([first, second].map(|groups| u32::try_from(groups).expect("a limit is 32 bits wide")))
}

#[cfg(test)]
#[path = "../tests/unit/plan.rs"]
mod tests;
