//! Plans operations: checks the arguments and turns them into a [`Step`]. Uses no wgpu object.
//!
//! A plan turns positions into a flat list of [`Run`]s. Kernels know only runs, so a ring is another way to make runs,
//! as pages would be.

use std::ops::Range;

use crate::{
    CacheConfig, Error, Format, HostRows, PerSequence, Placement, RangeError, Result, SequenceError, Side, Write,
    WriteError,
    plan::{
        sequences::Sequences,
        step::{MAX_LENGTH, Run, Step},
    },
    shape::{placement::count, write::Positions},
};

/// Checks a list with one entry per sequence.
fn check_entries(name: &'static str, sequences: &Sequences, actual: usize) -> Result<()> {
    if actual == sequences.lengths.len() {
        Ok(())
    } else {
        Err(Error::Sequence(SequenceError::PerSequenceLength { name, batch_size: sequences.count(), actual }))
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
        return Err(Error::Write(WriteError::NoTokens));
    }
    if let Positions::Each(positions) = write.positions {
        check_entries("positions", sequences, positions.len())?;
    }
    if let Some(counts) = write.counts {
        check_entries("counts", sequences, counts.len())?;
    }
    step.clear();
    let known = sequences.lengths.iter().zip(&sequences.oldest);
    for ((sequence, (&length, &oldest)), index) in (0..).zip(known).zip(0..) {
        let index: usize = index;
        let count = write.counts.map_or(tokens, |counts| counts[index]);
        if count > tokens {
            return Err(Error::Write(WriteError::CountAboveTokens { sequence, count, tokens }));
        }
        if count == 0 {
            step.push_sequence(length, length, oldest);
            continue;
        }
        let position = match write.positions {
            Positions::Append => length,
            Positions::At(position) => position,
            Positions::Each(positions) => positions[index],
        };
        let end = end_of(config, sequence, position, count)?;
        let first = placement.first_stored(end);
        if write.whole && first > position.max(placement.sinks()) {
            let rows = config.slots().saturating_sub(placement.sinks());
            return Err(Error::Write(WriteError::WriteBeyondRing { sequence, position, count, rows, oldest: first }));
        }
        let oldest =
            if position < length { Sequences::rollback(placement, sequence, oldest, position)? } else { oldest };
        let oldest = oldest.max(first);
        if let Some(seen) = placement.first_seen(position, end).filter(|&seen| write.attended && seen < oldest) {
            return Err(Error::Range(RangeError::Evicted { sequence, position: seen, oldest }));
        }
        step.push_write(placement, sequence, length, position, end);
        step.push_sequence(end, position, oldest);
    }
    Ok(())
}

/// Where a write of some tokens ends, if that is not beyond what the cache holds.
fn end_of(config: &CacheConfig, sequence: u32, position: u32, count: u32) -> Result<u32> {
    let end = position.checked_add(count);
    match config.placement {
        Placement::Linear => {
            let max_seq_len = config.max_seq_len;
            let refused = Error::Write(WriteError::WriteBeyondCapacity { sequence, position, count, max_seq_len });
            end.filter(|end| *end <= max_seq_len).ok_or(refused)
        }
        Placement::Ring { .. } => end
            .filter(|end| *end <= MAX_LENGTH)
            .ok_or(Error::Write(WriteError::PositionOverflow { sequence, position, count })),
    }
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
        return Err(Error::Range(RangeError::RangeReversed { start: range.start, end: range.end }));
    }
    if range.end > write_pos {
        return Err(Error::Range(RangeError::RangeBeyondWritten { end: range.end, write_pos }));
    }
    // Also where every sequence ends before.
    plan_rows(placement, sequences, count(range), step, |sequence, length, _| {
        range_of(placement, sequence, length, range).map(Some)
    })
}

/// The same for one sequence; the others have no rows.
pub(crate) fn plan_read_one(
    placement: Placement,
    sequences: &Sequences,
    wanted: u32,
    range: &Range<u32>,
    step: &mut Step,
) -> Result<()> {
    plan_rows(placement, sequences, 0, step, |sequence, length, _| {
        (sequence == wanted).then(|| range_of(placement, sequence, length, range)).transpose()
    })
}

/// Plans the copy of some stored positions of each sequence, in order from row 0 on: what `of` says of the sequence,
/// its length, and the first position beyond the sinks that it stores. A sequence that has fewer rows than another, or
/// than `least`, gets rows of zero.
fn plan_rows(
    placement: Placement,
    sequences: &Sequences,
    least: u32,
    step: &mut Step,
    of: impl Fn(u32, u32, u32) -> Result<Option<[Range<u32>; 2]>>,
) -> Result<()> {
    step.clear();
    let known = || (0..).zip(sequences.lengths.iter().zip(&sequences.oldest));
    let mut rows = least;
    for (sequence, (&length, &oldest)) in known() {
        if let Some(ranges) = of(sequence, length, oldest)? {
            rows = ranges.iter().map(count).fold(0, u32::saturating_add).max(rows);
        }
    }
    step.rows = rows;
    for (sequence, (&length, &oldest)) in known() {
        if let Some(ranges) = of(sequence, length, oldest)? {
            let present = step.push_rows(placement, sequence, ranges);
            step.push_absent(sequence, present..rows);
        }
    }
    Ok(())
}

/// The positions of a range that a sequence has, all of which must be valid.
fn range_of(placement: Placement, sequence: u32, length: u32, range: &Range<u32>) -> Result<[Range<u32>; 2]> {
    let end = length.clamp(range.start, range.end);
    let sinks = placement.sinks().clamp(range.start, end);
    let oldest = placement.first_valid(length);
    if sinks < end && sinks < oldest {
        return Err(Error::Range(RangeError::Evicted { sequence, position: sinks, oldest }));
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
    step.clear();
    for (sequence, index) in (0..sequences.count()).zip(0..) {
        let index: usize = index;
        let (current, oldest) = (sequences.lengths[index], sequences.oldest[index]);
        let length = match lengths {
            PerSequence::All(length) => length,
            PerSequence::Each(lengths) => lengths[index],
        };
        if length > current {
            return Err(Error::Sequence(SequenceError::TruncateBeyondLength { sequence, length, current }));
        }
        let oldest = if length < current { Sequences::rollback(placement, sequence, oldest, length)? } else { oldest };
        step.push_sequence(length, length, oldest);
    }
    Ok(())
}

/// Plans the rows that a sequence of some length has, from row 0 of a source on, as all of one sequence, and nothing of
/// the others.
pub(crate) fn plan_insert(placement: Placement, sequences: &Sequences, sequence: u32, length: u32, step: &mut Step) {
    step.clear();
    step.push_rows(placement, sequence, placement.valid(length));
    for (other, index) in (0..sequences.count()).zip(0..) {
        let index: usize = index;
        if other == sequence {
            step.push_sequence(length, length, placement.first_valid(length));
        } else {
            let length = sequences.lengths[index];
            step.push_sequence(length, length, sequences.oldest[index]);
        }
    }
}

/// Plans all stored rows of one sequence, valid or there for a rollback, from row 0 of an output on.
pub(crate) fn plan_read_stored(placement: Placement, sequences: &Sequences, wanted: u32, step: &mut Step) {
    let of = |sequence, length, oldest| Ok((sequence == wanted).then(|| stored(placement, length, oldest)));
    plan_rows(placement, sequences, 0, step, of).expect("what is stored can be read");
}

/// The same rows, from a source to the same slots of other sequences, `count` in all. Lengths stay.
pub(crate) fn plan_place_stored(read: &Step, count: u32, wanted: impl Fn(u32) -> bool, step: &mut Step) {
    step.clear();
    for sequence in (0..count).filter(|&sequence| wanted(sequence)) {
        read.runs.iter().for_each(|&run| step.push(Run { group: sequence, sequence, ..run }));
    }
}

/// Positions of a sequence that are stored, the sinks among them.
fn stored(placement: Placement, length: u32, oldest: u32) -> [Range<u32>; 2] {
    let sinks = placement.sinks().min(length);
    [0..sinks, oldest.clamp(sinks, length)..length]
}

/// The slots in which they lie.
pub(crate) fn stored_slots(placement: Placement, length: u32, oldest: u32) -> impl Iterator<Item = Range<u32>> {
    stored(placement, length, oldest).into_iter().flat_map(move |positions| placement.pieces(positions)).map(|at| at.1)
}

/// Plans all valid rows of the sequences for which `wanted` holds, each in order from row 0 on.
pub(crate) fn plan_read_valid(
    placement: Placement,
    sequences: &Sequences,
    wanted: impl Fn(u32) -> bool,
    step: &mut Step,
) {
    let of = |sequence, length, _| Ok(wanted(sequence).then(|| placement.valid(length)));
    plan_rows(placement, sequences, 0, step, of).expect("what is valid can be read");
}

/// Packed rows go only where they need no conversion.
pub(crate) fn check_source_format(side: Side, source_format: Format, stored: Format) -> Result<()> {
    if source_format.is_packed() && source_format != stored {
        return Err(Error::Write(WriteError::PackedSource { side, source_format, stored }));
    }
    Ok(())
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
    if expected == actual && whole {
        Ok(())
    } else {
        Err(Error::Write(WriteError::SliceLength { side, expected, actual }))
    }
}

#[cfg(test)]
#[path = "../../tests/unit/operations.rs"]
mod tests;
