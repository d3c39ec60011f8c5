//! Plans: runs, ranges, blocks and grids. No device.

use super::*;

fn config(batch_size: u32, max_seq_len: u32) -> CacheConfig {
    CacheConfig::new(batch_size, 2, 4, max_seq_len)
}

fn runs(lengths: &[u32], write: Write<'_>) -> Result<(u32, Vec<[u32; 5]>)> {
    let config = config(lengths.len() as u32, 10);
    let mut step = Step::default();
    plan_write(&config, lengths, &write, &mut step)?;
    let runs = step.runs.iter().map(|run| [run.first, run.start, run.end, run.token, run.length]).collect();
    Ok((step.rows, runs))
}

#[test]
fn appends_start_at_each_sequences_length() {
    let (rows, planned) = runs(&[0, 3, 7], Write::append(2)).unwrap();
    assert_eq!(rows, 2);
    assert_eq!(planned, [[0, 0, 2, 0, 2], [3, 3, 5, 0, 5], [7, 7, 9, 0, 9]]);
}

#[test]
fn a_gap_is_part_of_the_run() {
    let (rows, planned) = runs(&[2, 9], Write::at(6, 1)).unwrap();
    assert_eq!(rows, 5, "four rows of gap and one token");
    assert_eq!(planned, [[2, 6, 7, 0, 7], [6, 6, 7, 0, 7]]);
}

#[test]
fn a_count_of_zero_is_an_empty_run_that_keeps_the_length() {
    let (rows, planned) = runs(&[2, 9], Write::at(99, 4).counts(&[0, 0])).unwrap();
    assert_eq!((rows, planned), (0, vec![[0, 0, 0, 0, 2], [0, 0, 0, 0, 9]]));
    let mut step = Step::default();
    plan_write(&config(2, 10), &[2, 9], &Write::append(4).counts(&[0, 1]), &mut step).unwrap();
    assert!(!step.is_empty());
}

#[test]
fn the_last_slot_can_be_written_and_none_after_it() {
    assert_eq!(runs(&[9], Write::append(1)).unwrap().1, [[9, 9, 10, 0, 10]]);
    assert!(matches!(runs(&[9], Write::append(2)), Err(Error::WriteBeyondCapacity { position: 9, count: 2, .. })));
    assert!(matches!(runs(&[0], Write::at(u32::MAX, u32::MAX)), Err(Error::WriteBeyondCapacity { .. })));
    assert!(matches!(runs(&[0], Write::at(10, 1)), Err(Error::WriteBeyondCapacity { .. })));
}

#[test]
fn an_advance_covers_its_gaps_only() {
    let mut step = Step::default();
    plan_write(&config(2, 10), &[2, 5], &Write::at(6, 3), &mut step).unwrap();
    step.gaps_only();
    assert_eq!(step.rows, 4);
    plan_write(&config(2, 10), &[6, 7], &Write::at(6, 3), &mut step).unwrap();
    step.gaps_only();
    assert_eq!(step.rows, 1, "without a gap there is still a length to set");
}

#[test]
fn reads_end_where_each_sequence_ends() {
    let mut step = Step::default();
    plan_read(&[0, 3, 7], &(2..6), &mut step).unwrap();
    let spans: Vec<_> = step.runs.iter().map(|run| (run.token, run.start..run.end)).collect();
    assert_eq!((step.rows, spans), (4, vec![(0, 2..2), (0, 2..3), (0, 2..6)]));
    assert!(matches!(plan_read(&[0, 3], &(0..4), &mut step), Err(Error::RangeBeyondWritten { end: 4, write_pos: 3 })));
    plan_read(&[], &(0..0), &mut step).unwrap();
}

#[test]
fn blocks_are_cut_until_they_fit_and_cover_everything_once() {
    for (planes, tokens, most) in [(0..7u32, 0..5u32, 8u32), (3..4, 0..100, 9), (2..60, 4..5, 1), (0..5, 0..5, 1)] {
        for by_tokens in [false, true] {
            let fits = |block: &Block| (block.planes.len() * block.tokens.len()) as u32 <= most;
            let mut parts = Vec::new();
            split(Block { planes: planes.clone(), tokens: tokens.clone() }, &fits, &|_| by_tokens, &mut parts).unwrap();
            assert!(parts.iter().all(fits));
            let mut cells: Vec<_> = parts
                .iter()
                .flat_map(|part| {
                    part.planes.clone().flat_map(|plane| part.tokens.clone().map(move |token| (plane, token)))
                })
                .collect();
            cells.sort_unstable();
            let all: Vec<_> =
                planes.clone().flat_map(|plane| tokens.clone().map(move |token| (plane, token))).collect();
            assert_eq!(cells, all);
        }
    }
    assert_eq!(split(Block { planes: 0..4, tokens: 0..4 }, &|_| false, &|_| true, &mut Vec::new()), None);
}

#[test]
fn tokens_are_cut_only_where_asked_or_in_a_single_plane() {
    let fits = |block: &Block| block.planes.len() * block.tokens.len() <= 6;
    let mut parts = Vec::new();
    split(Block { planes: 0..2, tokens: 0..12 }, &fits, &|_| false, &mut parts).unwrap();
    let expected = |planes: Range<u32>, tokens: Range<u32>| Block { planes, tokens };
    assert_eq!(parts, [expected(0..1, 0..6), expected(0..1, 6..12), expected(1..2, 0..6), expected(1..2, 6..12)]);
    let mut parts = Vec::new();
    split(Block { planes: 0..2, tokens: 0..6 }, &fits, &|_| true, &mut parts).unwrap();
    assert_eq!(parts, [expected(0..2, 0..3), expected(0..2, 3..6)]);
}

#[test]
fn grids_hold_every_unit_within_the_limit() {
    let limits = |most| wgpu::Limits { max_compute_workgroups_per_dimension: most, ..Default::default() };
    for (units, most) in [(0, 65_535), (1, 65_535), (256, 65_535), (257, 65_535), (1 << 31, 65_535), (10_000, 7)] {
        let [x, y, z] = grid(units, &limits(most));
        assert_eq!(grid_of_planes(units, 3, &limits(most)), [x, 3, y]);
        assert!(u64::from(x) * u64::from(y) * 256 >= units, "{units}");
        assert!((1..=most).contains(&x) && (1..=most).contains(&y) && z == 1, "{units}");
    }
    assert_eq!(grid(257, &limits(65_535)), [2, 1, 1]);
    assert_eq!(grid(65_535 * 256 + 1, &limits(65_535)), [32_768, 2, 1]);
}
