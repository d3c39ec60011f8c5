//! Plans of runs and ranges, without a GPU.

use super::*;
use crate::{RangeError, WriteError, plan::step::Immediate};

fn config(batch_size: u32, max_seq_len: u32) -> CacheConfig {
    CacheConfig::new(batch_size, 2, 4, max_seq_len)
}

fn sequences(lengths: &[u32]) -> Sequences {
    known(lengths, &vec![0; lengths.len()])
}

fn known(lengths: &[u32], oldest: &[u32]) -> Sequences {
    Sequences { lengths: lengths.to_vec(), oldest: oldest.to_vec(), starts: lengths.to_vec() }
}

/// The largest number of rows in a run, and for each run its sequence, slots and first token.
fn runs(lengths: &[u32], write: Write<'_>) -> Result<(u32, Vec<[u32; 5]>)> {
    let config = config(lengths.len() as u32, 10);
    let mut step = Step::default();
    plan_write(&config, &sequences(lengths), &write, &mut step)?;
    assert!(step.runs.iter().all(|run| run.group == run.sequence));
    let runs = step.runs.iter().map(|run| [run.group, run.first, run.start, run.end, run.token]).collect();
    Ok((step.longest, runs))
}

#[test]
fn appends_start_at_each_sequences_length() {
    let (rows, planned) = runs(&[0, 3, 7], Write::append(2)).unwrap();
    assert_eq!(rows, 2);
    assert_eq!(planned, [[0, 0, 0, 2, 0], [1, 3, 3, 5, 0], [2, 7, 7, 9, 0]]);
}

#[test]
fn a_gap_is_part_of_the_run() {
    let (rows, planned) = runs(&[2, 9], Write::at(6, 1)).unwrap();
    assert_eq!(rows, 5, "four rows of gap and one token");
    assert_eq!(planned, [[0, 2, 6, 7, 0], [1, 6, 6, 7, 0]]);
}

#[test]
fn a_count_of_zero_has_no_run_and_keeps_the_length() {
    assert_eq!(runs(&[2, 9], Write::at(99, 4).counts(&[0, 0])).unwrap(), (0, vec![]));
    let mut step = Step::default();
    plan_write(&config(2, 10), &sequences(&[2, 9]), &Write::append(4).counts(&[0, 1]), &mut step).unwrap();
    assert_eq!((step.runs.len(), step.runs[0].group), (1, 1));
    assert_eq!(step.starts, [2, 9], "nothing is written from the first sequence's end on");
    let mut afterwards = Sequences::default();
    step.commit(&mut afterwards);
    assert_eq!((afterwards.lengths, afterwards.starts), (vec![2, 10], vec![2, 9]));
}

#[test]
fn the_last_slot_can_be_written_and_none_after_it() {
    assert_eq!(runs(&[9], Write::append(1)).unwrap().1, [[0, 9, 9, 10, 0]]);
    assert!(matches!(
        runs(&[9], Write::append(2)),
        Err(Error::Write(WriteError::WriteBeyondCapacity { position: 9, count: 2, .. }))
    ));
    assert!(matches!(
        runs(&[0], Write::at(u32::MAX, u32::MAX)),
        Err(Error::Write(WriteError::WriteBeyondCapacity { .. }))
    ));
    assert!(matches!(runs(&[0], Write::at(10, 1)), Err(Error::Write(WriteError::WriteBeyondCapacity { .. }))));
}

#[test]
fn an_advance_covers_its_gaps_only() {
    let mut step = Step::default();
    plan_write(&config(2, 10), &sequences(&[2, 5]), &Write::at(6, 3), &mut step).unwrap();
    assert_eq!(step.longest_gap(), 4);
    plan_write(&config(2, 10), &sequences(&[6, 7]), &Write::at(6, 3), &mut step).unwrap();
    assert_eq!(step.longest_gap(), 0);
}

#[test]
fn reads_end_where_each_sequence_ends() {
    let mut step = Step::default();
    plan_read(Placement::Linear, &sequences(&[0, 3, 7]), &(2..6), &mut step).unwrap();
    // The sequence, the number of zero rows, the slots, and the output row of the first slot.
    let spans: Vec<_> = step.runs.iter().map(|run| (run.group, run.gap(), run.start..run.end, run.token)).collect();
    assert_eq!(step.rows, 4);
    assert_eq!(spans, [(0, 4, 4..4, 4), (1, 0, 2..3, 0), (1, 3, 3..3, 4), (2, 0, 2..6, 0)]);
    assert!(matches!(
        plan_read(Placement::Linear, &sequences(&[0, 3]), &(0..4), &mut step),
        Err(Error::Range(RangeError::RangeBeyondWritten { end: 4, write_pos: 3 }))
    ));
    plan_read(Placement::Linear, &sequences(&[]), &(0..0), &mut step).unwrap();
}

/// The runs of one sequence in a ring as [first slot, first slot of tokens, end, first token]. The slots before the
/// tokens are a gap.
fn ring_runs(ring: Placement, (length, oldest): (u32, u32), write: Write<'_>) -> Result<Vec<[u32; 4]>> {
    let config = config(1, 0).placement(ring);
    let mut step = Step::default();
    plan_write(&config, &known(&[length], &[oldest]), &write, &mut step)?;
    let run = |run: &Run| [run.first, run.start, run.end, run.token];
    Ok(step.runs.iter().filter(|run| run.first < run.end).map(run).collect())
}

#[test]
fn of_a_long_update_only_what_survives_is_written_once() {
    let ring = Placement::Ring { window: 4, sinks: 2, slack: 1 };
    // Positions 2 to 6 lie in slots 2 to 6, then the positions wrap.
    assert_eq!(ring_runs(ring, (0, 2), Write::append(3)).unwrap(), [[0, 0, 2, 0], [2, 2, 3, 2]]);
    assert_eq!(ring_runs(ring, (6, 2), Write::append(3)).unwrap(), [[6, 6, 7, 0], [2, 2, 4, 1]]);
    // Of positions 0 to 19, the sinks and 15 to 19 survive. The latter go to slots 5, 6, 2, 3, 4.
    assert_eq!(ring_runs(ring, (0, 2), Write::append(20)).unwrap(), [[0, 0, 2, 0], [5, 5, 7, 15], [2, 2, 5, 17]]);
    // The gap from 3 to 17 leaves zeros for 14 to 17 in slots 4, 5, 6, 2. The token at 18 goes to slot 3.
    assert_eq!(ring_runs(ring, (3, 2), Write::at(18, 1)).unwrap(), [[4, 7, 7, 0], [2, 3, 4, 0]]);
}

/// Compares the runs with a write of one position after another, for every window up to 5, with and without sinks and
/// slack, from every cursor, for every relevant length, after a rollback and over a gap.
#[test]
fn every_small_ring_writes_as_if_position_by_position() {
    for (window, sinks, slack) in (1..=5).flat_map(|w| (0..=2).flat_map(move |s| (0..=2).map(move |k| (w, s, k)))) {
        let ring = Placement::Ring { window, sinks, slack };
        let config = config(1, 0).placement(ring);
        let slots = config.slots() as usize;
        for cursor in 0..=2 * (window + slack) + sinks + 1 {
            let mut planes: Vec<Option<u32>> = vec![None; slots];
            (0..cursor).for_each(|position| planes[ring.slot(position) as usize] = Some(position));
            let known = known(&[cursor], &[ring.first_stored(cursor)]);
            for tokens in [1, window - 1, window, window + 1, 2 * window + 1] {
                for position in cursor.saturating_sub(slack)..=cursor + 3 {
                    let mut step = Step::default();
                    let planned = plan_write(&config, &known, &Write::at(position, tokens), &mut step);
                    if tokens == 0 {
                        assert_eq!(planned, Err(Error::Write(WriteError::NoTokens)));
                        continue;
                    }
                    planned.unwrap_or_else(|error| panic!("{ring:?} at {cursor}, {tokens} at {position}: {error}"));
                    // Rows of the gap are 0, others are 1000 plus the token.
                    let mut expected = planes.clone();
                    for at in cursor.min(position)..position + tokens {
                        let row = if at < position { 0 } else { 1000 + at - position };
                        expected[ring.slot(at) as usize] = Some(row);
                    }
                    let mut actual = planes.clone();
                    let mut touched = vec![false; slots];
                    for run in &step.runs {
                        for slot in run.first..run.end {
                            let row = if slot < run.start { 0 } else { 1000 + run.token + slot - run.start };
                            actual[slot as usize] = Some(row);
                            assert!(!std::mem::replace(&mut touched[slot as usize], true), "{slot} is written twice");
                        }
                    }
                    assert_eq!(actual, expected, "{ring:?} at {cursor}, {tokens} at {position}");
                    assert_eq!(step.lengths, [position + tokens]);
                    // A rollback relies on every position from `oldest` on being stored.
                    let (end, oldest) = (position + tokens, step.oldest[0]);
                    for at in oldest.max(sinks)..end {
                        let row = if at < cursor.min(position) {
                            Some(at)
                        } else {
                            Some(if at < position { 0 } else { 1000 + at - position })
                        };
                        assert_eq!(actual[ring.slot(at) as usize], row, "{ring:?} at {cursor}: position {at}");
                    }
                }
            }
        }
    }
}

/// After an update of up to slack + 1 tokens, every key that any of its queries may see is stored. One token more would
/// be too many.
#[test]
fn slack_keeps_what_the_queries_of_one_update_see() {
    for (window, sinks, slack) in (1..=5).flat_map(|w| (0..=2).flat_map(move |s| (0..=3).map(move |k| (w, s, k)))) {
        let ring = Placement::Ring { window, sinks, slack };
        let end = sinks + 5 * (window + slack);
        let stored = ring.first_stored(end);
        let seen = |queries: u32| crate::Visible::new(ring, end - queries).window.start;
        assert!(seen(slack + 1) >= stored && seen(slack + 2) < stored, "{ring:?}");
    }
}

#[test]
fn a_single_token_of_a_ring_is_planned_as_on_linear_placement() {
    let ring = Placement::Ring { window: 4, sinks: 2, slack: 1 };
    let config = config(2, 0).placement(ring);
    let mut step = Step::default();
    let known = known(&[9, 9], &[4, 4]);
    plan_write(&config, &known, &Write::append(1), &mut step).unwrap();
    assert_eq!((step.longest, step.runs.len()), (1, 2));
    let (first, start, end, token) = (4, 4, 5, 0);
    let immediate = Immediate { sequences: 2, runs: 2, first, start, end, token, length: 10, position: 9 };
    assert_eq!(step.immediate(), Some(immediate));
    assert_eq!(step.oldest, [5, 5]);
}

#[test]
fn reads_of_a_ring_are_in_order_of_position_and_refuse_what_is_evicted() {
    let ring = Placement::Ring { window: 4, sinks: 2, slack: 1 };
    let known = known(&[9], &[4]);
    let mut step = Step::default();
    plan_read_valid(ring, &known, |_| true, &mut step);
    let runs: Vec<_> = step.runs.iter().map(|run| (run.token, run.start..run.end)).collect();
    assert_eq!((step.rows, runs), (6, vec![(0, 0..2), (2, 5..7), (4, 2..4)]));
    plan_read(ring, &known, &(6..9), &mut step).unwrap();
    let runs: Vec<_> = step.runs.iter().map(|run| (run.token, run.start..run.end)).collect();
    assert_eq!((step.rows, runs), (3, vec![(0, 6..7), (1, 2..4)]));
    // The row of position 4 is stored as slack for a rollback, but it is not valid.
    let refused = Error::Range(RangeError::Evicted { sequence: 0, position: 4, oldest: 5 });
    assert_eq!(plan_read(ring, &known, &(4..9), &mut step), Err(refused));
    let refused = Error::Range(RangeError::Evicted { sequence: 0, position: 2, oldest: 5 });
    assert_eq!(plan_read(ring, &known, &(0..9), &mut step), Err(refused));
    plan_read(ring, &known, &(0..2), &mut step).unwrap();
}
