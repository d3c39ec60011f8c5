//! Plans operations: checks their arguments and turns them into a [`Step`]. Uses no wgpu object.
//!
//! A plan maps positions to a flat list of [`Run`]s. Kernels know only runs: a ring differs from linear placement in
//! the runs that it creates, and so would pages.

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

/// Checks indices of the last rows that are kept, and returns how many of them stay where they are.
pub(crate) fn kept_prefix(last: u32, indices: &[u32]) -> Result<u32> {
    let mut before = None;
    for (at, &index) in (0..).zip(indices) {
        if index >= last || before.is_some_and(|before| index <= before) {
            return Err(Error::Sequence(SequenceError::KeptIndex { at, index, last }));
        }
        before = Some(index);
    }
    let stays = |(at, index): &(u32, &u32)| at == *index;
    let prefix = (0..).zip(indices).take_while(stays).count();
    Ok(u32::try_from(prefix).expect("increasing indices below a 32-bit number"))
}

/// Checks a write against the sequences and plans it.
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

/// Returns the position after the last token of a write, or an error if it exceeds what the cache can hold.
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

/// Checks a range against the sequences, and plans the copy of the rows that each sequence has in it.
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
    // The output has a row for every position of the range, whatever the sequences hold.
    plan_rows(placement, sequences, count(range), step, |sequence, length, _| {
        range_of(placement, sequence, length, range).map(Some)
    })
}

/// Plans the copy of a range of one sequence. The other sequences have no rows in the output.
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

/// Plans the copy of stored positions of each sequence to the output, in order from row 0 on. `of` returns these
/// positions for a sequence, its length, and the first position beyond the sinks that it stores, or `None` for a
/// sequence without rows in the output. The output has as many rows as the longest sequence needs, and at least
/// `least`; missing rows become zero.
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

/// Returns the positions of a range that a sequence has, as sinks and others. All of them must be valid.
fn range_of(placement: Placement, sequence: u32, length: u32, range: &Range<u32>) -> Result<[Range<u32>; 2]> {
    let end = length.clamp(range.start, range.end);
    let sinks = placement.sinks().clamp(range.start, end);
    let oldest = placement.first_valid(length);
    if sinks < end && sinks < oldest {
        return Err(Error::Range(RangeError::Evicted { sequence, position: sinks, oldest }));
    }
    Ok([range.start..sinks, sinks..end])
}

/// Checks new lengths, and plans a step that sets them and has no runs.
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

/// Plans an insertion: copies the valid rows of a sequence of this length, from row 0 of the source on, to the
/// sequence. The other sequences stay unchanged.
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

/// Plans the copy of all stored rows of one sequence to the output, from row 0 on. This includes rows that are no
/// longer valid and only serve a rollback.
pub(crate) fn plan_read_stored(placement: Placement, sequences: &Sequences, wanted: u32, step: &mut Step) {
    let of = |sequence, length, oldest| Ok((sequence == wanted).then(|| stored(placement, length, oldest)));
    plan_rows(placement, sequences, 0, step, of).expect("what is stored can be read");
}

/// Plans the copy of rows that [`plan_read_stored`] copied out, from a source to the same slots of other sequences:
/// those of the first `count` for which `wanted` holds. Sets no lengths.
pub(crate) fn plan_place_stored(read: &Step, count: u32, wanted: impl Fn(u32) -> bool, step: &mut Step) {
    step.clear();
    for sequence in (0..count).filter(|&sequence| wanted(sequence)) {
        read.runs.iter().for_each(|&run| step.push(Run { group: sequence, sequence, ..run }));
    }
}

/// Returns the stored positions of a sequence, as sinks and others.
fn stored(placement: Placement, length: u32, oldest: u32) -> [Range<u32>; 2] {
    let sinks = placement.sinks().min(length);
    [0..sinks, oldest.clamp(sinks, length)..length]
}

/// Returns the slots that hold the stored positions of a sequence.
pub(crate) fn stored_slots(placement: Placement, length: u32, oldest: u32) -> impl Iterator<Item = Range<u32>> {
    stored(placement, length, oldest).into_iter().flat_map(move |positions| placement.pieces(positions)).map(|at| at.1)
}

/// Plans the copy of all valid rows of the sequences for which `wanted` holds, each in order from row 0 on.
pub(crate) fn plan_read_valid(
    placement: Placement,
    sequences: &Sequences,
    wanted: impl Fn(u32) -> bool,
    step: &mut Step,
) {
    let of = |sequence, length, _| Ok(wanted(sequence).then(|| placement.valid(length)));
    plan_rows(placement, sequences, 0, step, of).expect("what is valid can be read");
}

/// Checks that a source in a packed format has the format of the cache. Packed rows cannot be converted.
pub(crate) fn check_source_format(side: Side, source_format: Format, stored: Format) -> Result<()> {
    if source_format.is_packed() && source_format != stored {
        return Err(Error::Write(WriteError::PackedSource { side, source_format, stored }));
    }
    Ok(())
}

/// Checks that host rows hold exactly the elements of `tokens` tokens of the batch.
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
