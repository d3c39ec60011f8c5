//! Sliding windows over pages: groups of layers whose pages before the window go back to the pool.

use super::{super::*, SIZE, append, check, refused};
use crate::{
    Error, Placement, RangeError, SequenceError,
    pages::{
        Added, RETURNED,
        prefixes::Content,
        step::{Append, StepKind},
    },
};

fn ring(window: u32, sinks: u32) -> Placement {
    Placement::Ring { window, sinks, slack: 0 }
}

fn pool(count: u32, groups: &[Placement]) -> PagedSequences {
    PagedSequences::new(PagesConfig::new(SIZE, count, 8).groups(groups.to_vec())).unwrap()
}

/// A sequence with all of its tokens, appended one by one, and how many were cached.
fn grown(pool: &mut PagedSequences, tokens: &[u32]) -> (SequenceId, u32) {
    let Added { sequence, cached } = pool.add(tokens, None).unwrap();
    for token in &tokens[cached as usize..] {
        append(pool, sequence, &[*token]);
        check(pool);
    }
    (sequence, cached)
}

const R: u32 = RETURNED;

#[test]
fn pages_before_the_window_go_back_while_a_sequence_grows() {
    let mut pool = pool(8, &[ring(5, 0)]);
    let tokens: Vec<u32> = (0..100).collect();
    // Of 100 tokens in 8 pages of 4, the last 5 are seen, and those of the last step.
    let (id, _) = grown(&mut pool, &tokens);
    let there: Vec<usize> = (0..25).filter(|&index| pool.pages(id, 0).unwrap()[index] != R).collect();
    assert_eq!(there, [23, 24]);
    // The last query was at 99, and saw from 95 on.
    assert_eq!((pool.oldest(id, 0).unwrap(), pool.free_pages()), (92, 6));
    // The whole prompt at once needs all of its pages, because its queries read them.
    let mut other = self::pool(8, &[ring(5, 0)]);
    let Added { sequence, .. } = other.add(&[], None).unwrap();
    let error = PageError::OutOfPages { needed: 25, free: 8, evictable: 0 };
    refused(other.begin_step(&[Append::new(sequence, &tokens)]), error);
    tokens.chunks(8).for_each(|chunk| drop(append(&mut other, sequence, chunk)));
    check(&other);
    assert_eq!(other.length(sequence).unwrap(), 100);
}

#[test]
fn sinks_stay() {
    let mut pool = pool(8, &[ring(4, 5)]);
    let tokens: Vec<u32> = (0..40).collect();
    let (id, _) = grown(&mut pool, &tokens);
    let pages = pool.pages(id, 0).unwrap();
    let there: Vec<usize> = (0..10).filter(|&index| pages[index] != R).collect();
    assert_eq!((there, pool.oldest(id, 0).unwrap()), (vec![0, 1, 9], 36));
}

#[test]
fn pages_that_a_step_returned_come_back_when_it_is_dropped() {
    for groups in [vec![ring(4, 0)], vec![ring(4, 0), Placement::Linear]] {
        let mut pool = pool(8, &groups);
        let id = pool.add(&[], None).unwrap().sequence;
        append(&mut pool, id, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let before: Vec<_> = (0..groups.len()).map(|group| pool.pages(id, group).unwrap().to_vec()).collect();
        let free = pool.free_pages();
        // Needs the page that it returns.
        let many = vec![9; free as usize / groups.len() * SIZE as usize + 1];
        assert!(pool.begin_step(&[Append::new(id, &many)]).is_ok() == (groups.len() == 1));
        check(&pool);
        pool.dropped();
        check(&pool);
        let after: Vec<_> = (0..groups.len()).map(|group| pool.pages(id, group).unwrap().to_vec()).collect();
        assert_eq!((after, pool.free_pages(), pool.tokens(id).unwrap().len()), (before, free, 8));
        append(&mut pool, id, &[9, 10]);
        check(&pool);
        assert_eq!(pool.pages(id, 0).unwrap()[0], R);
    }
}

#[test]
fn a_hit_of_a_hybrid_model_needs_what_its_windows_need() {
    let mut pool = pool(32, &[Placement::Linear, ring(6, 0)]);
    let tokens: Vec<u32> = (0..24).collect();
    let (id, _) = grown(&mut pool, &tokens);
    pool.free(id).unwrap();
    check(&pool);
    // Nothing was evicted: pages that went back while the sequence grew still have their keys.
    assert_eq!(pool.matched(&tokens, None), 20);
    assert_eq!((pool.matched(&tokens[..9], None), pool.matched(&[7; 9], None)), (8, 0));
    // A hit of 20 takes 5 pages of the whole group, and of the window the last two: it sees positions 15 to 19.
    let Added { sequence, cached } = pool.add(&tokens, None).unwrap();
    check(&pool);
    assert_eq!((cached, pool.pages(sequence, 1).unwrap().len()), (20, 5));
    assert!(pool.pages(sequence, 1).unwrap()[..3].iter().all(|page| *page == R));
    assert!(
        pool.pages(sequence, 0).unwrap().iter().chain(&pool.pages(sequence, 1).unwrap()[3..]).all(|page| *page != R)
    );
    pool.free(sequence).unwrap();
    // Where pages of the window are gone, a hit is shorter; where only those before it are gone, it is not (vllm
    // #48435).
    let page_of = |pool: &PagedSequences, index: usize, group| {
        let mut before = None;
        for content in pool.contents(&tokens, None, &[]).take(index + 1) {
            before = Some(pool.pool.prefixes.find(&Content { before, ..content }).unwrap());
        }
        pool.pool.prefixes.page(before.unwrap(), group).unwrap()
    };
    let third = page_of(&pool, 2, 1);
    pool.pool.forget(third);
    check(&pool);
    assert_eq!((pool.matched(&tokens, None), pool.matched(&tokens[..17], None)), (20, 8));
    let fifth = page_of(&pool, 4, 0);
    pool.pool.forget(fifth);
    assert_eq!(pool.matched(&tokens, None), 8, "of the whole group");
}

#[test]
fn a_model_of_windows_alone_is_found_without_its_beginning() {
    let mut pool = pool(6, &[ring(5, 0)]);
    let tokens: Vec<u32> = (0..40).collect();
    let (id, _) = grown(&mut pool, &tokens);
    assert!(pool.counts().evictions > 0);
    pool.free(id).unwrap();
    assert_eq!(pool.matched(&tokens, None), 36);
    let (again, cached) = grown(&mut pool, &tokens);
    assert_eq!((cached, pool.pages(again, 0).unwrap()[..7].iter().all(|page| *page == R)), (36, true));
}

#[test]
fn a_windowed_sequence_is_forked_at_a_page_boundary() {
    let mut pool = pool(16, &[ring(4, 0), Placement::Linear]);
    let tokens: Vec<u32> = (0..16).collect();
    let (id, _) = grown(&mut pool, &tokens);
    for length in [16, 15] {
        let fork = pool.fork(id, length).unwrap();
        check(&pool);
        assert_eq!(pool.pages(fork, 0).unwrap(), pool.pages(id, 0).unwrap());
        append(&mut pool, fork, &[99]);
        append(&mut pool, id, &[100]);
        check(&pool);
        assert_ne!(pool.pages(fork, 0).unwrap().last(), pool.pages(id, 0).unwrap().last());
        pool.free(fork).unwrap();
        pool.truncate(id, 16).unwrap();
        check(&pool);
    }
}

#[test]
fn a_cut_that_needs_returned_pages_is_refused_and_changes_nothing() {
    let mut pool = pool(16, &[ring(4, 3)]);
    let tokens: Vec<u32> = (0..24).collect();
    let (id, _) = grown(&mut pool, &tokens); // the last query was at 23, and saw from 20 on
    let row = id.row();
    let error = |length| SequenceError::RollbackEvicted { sequence: row, length, shortest: 23, sinks: 3, oldest: 20 };
    for length in [5, 12, 22] {
        assert_eq!(pool.truncate(id, length), Err(Error::Sequence(error(length))));
        assert_eq!(pool.fork(id, length).map(drop), Err(Error::Sequence(error(length))));
        check(&pool);
        assert_eq!(pool.length(id).unwrap(), 24);
    }
    // The sinks alone, and what the window reaches, can be kept.
    let fork = pool.fork(id, 4).unwrap();
    check(&pool);
    append(&mut pool, fork, &[1, 2, 3, 4, 5]);
    check(&pool);
    pool.truncate(id, 23).unwrap();
    pool.truncate(id, 2).unwrap();
    check(&pool);
    append(&mut pool, id, &[7; 20]);
    append(&mut pool, id, &[7]);
    check(&pool);
    assert_eq!(pool.pages(id, 0).unwrap().iter().filter(|page| **page != R).count(), 3);
}

#[test]
fn slack_is_kept_for_cuts() {
    let tokens: Vec<u32> = (0..40).collect();
    for slack in 0..9 {
        let mut pool = pool(16, &[Placement::Ring { window: 4, sinks: 0, slack }]);
        let (id, _) = grown(&mut pool, &tokens);
        // The last step began at 39.
        for length in (39 - slack..40).rev() {
            pool.truncate(id, length).unwrap();
        }
        check(&pool);
    }
}

#[test]
fn rows_that_move_must_be_there() {
    let mut pool = pool(16, &[Placement::Linear, ring(4, 0)]);
    let tokens: Vec<u32> = (0..24).collect();
    let (id, _) = grown(&mut pool, &tokens);
    let row = id.row();
    let evicted = RangeError::Evicted { sequence: row, position: 12, oldest: 20 };
    assert_eq!(pool.begin_move(id, 12, &[13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]).cloned(), Err(evicted.into()));
    check(&pool);
    let step = pool.begin_move(id, 21, &[22, 23]).unwrap().clone();
    assert_eq!(step.copies.len(), 2, "of both groups");
    check(&pool);
    pool.dropped();
    check(&pool);
    assert_eq!(pool.tokens(id).unwrap(), tokens);
    pool.begin_move(id, 21, &[22, 23]).unwrap();
    pool.submitted();
    check(&pool);
    assert_eq!(pool.tokens(id).unwrap()[20..], [20, 22, 23]);
}

/// A query in a window of one position reads nothing before it, but only tokens that ran are a hit.
#[test]
fn a_hit_of_a_window_of_one_takes_the_last_page() {
    let mut pool = pool(16, &[ring(1, 0)]);
    let tokens: Vec<u32> = (0..13).collect();
    assert_eq!(pool.matched(&tokens, None), 0);
    let (id, _) = grown(&mut pool, &tokens);
    assert_eq!((pool.matched(&tokens, None), pool.matched(&tokens[..8], None)), (12, 4));
    pool.free(id).unwrap();
    let Added { sequence, cached } = pool.add(&tokens, None).unwrap();
    check(&pool);
    assert_eq!((cached, pool.pages(sequence, 0).unwrap()[..2].to_vec()), (12, vec![R, R]));
    append(&mut pool, sequence, &[1]);
    check(&pool);
    assert_eq!(pool.pages(sequence, 0).unwrap()[..3], [R, R, R]);
}

#[test]
fn the_last_of_returned_pages_is_taken_first() {
    let mut pool = pool(6, &[ring(4, 0)]);
    let id = pool.add(&[], None).unwrap().sequence;
    append(&mut pool, id, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    assert_eq!(pool.pages(id, 0).unwrap(), [0, 1, 2, 3]);
    append(&mut pool, id, &[15]); // returns 0 and 1, of which others may find rows
    let other = pool.add(&[], None).unwrap().sequence;
    append(&mut pool, other, &[50; 14]);
    check(&pool);
    assert_eq!(pool.pages(other, 0).unwrap(), [4, 5, 1, 0]);
}

/// Appends tokens of which a window has passed all but the last before they came.
fn inserted(pool: &mut PagedSequences, tokens: &[u32]) -> SequenceId {
    let Added { sequence, cached } = pool.add(tokens, None).unwrap();
    pool.begin(&[Append::new(sequence, &tokens[cached as usize..])], StepKind::Insert).unwrap();
    check(pool);
    pool.submitted();
    check(pool);
    sequence
}

#[test]
fn a_sequence_that_comes_with_its_window_has_no_more() {
    let mut pool = pool(16, &[ring(5, 2), Placement::Linear]);
    let tokens: Vec<u32> = (0..23).collect();
    let id = inserted(&mut pool, &tokens);
    // Positions 0, 1 and 18 to 22: the pages 0, 4 and 5.
    let there: Vec<usize> = (0..6).filter(|&index| pool.pages(id, 0).unwrap()[index] != R).collect();
    assert_eq!((there, pool.oldest(id, 0).unwrap(), pool.oldest(id, 1).unwrap()), (vec![0, 4, 5], 18, 0));
    let row = id.row();
    let evicted = |position| Err(RangeError::Evicted { sequence: row, position, oldest: 18 }.into());
    // Row 17 is in a page that is there, and was never written.
    assert_eq!(pool.check_range(id, 0, &(17..20)), evicted(17));
    assert_eq!(pool.check_range(id, 0, &(1..3)), evicted(1));
    assert_eq!((pool.check_range(id, 0, &(18..23)), pool.check_range(id, 0, &(0..2))), (Ok(()), Ok(())));
    assert_eq!(pool.check_range(id, 1, &(0..23)), Ok(()));
    // The next query sees 19 to 22; one token back, 18 to 21; two back is too far.
    pool.truncate(id, 22).unwrap();
    let error = SequenceError::RollbackEvicted { sequence: row, length: 21, shortest: 22, sinks: 2, oldest: 18 };
    assert_eq!(pool.truncate(id, 21), Err(error.into()));
    // Pages with rows that were never written are not offered.
    assert_eq!(pool.matched(&tokens, None), 0);
    append(&mut pool, id, &[90, 91, 92]);
    check(&pool);
    // Cut to its sinks, it goes on as any other.
    pool.truncate(id, 1).unwrap();
    append(&mut pool, id, &[7, 7, 7, 7, 7, 7, 7]);
    check(&pool);
    assert_eq!((pool.oldest(id, 0).unwrap(), pool.check_range(id, 0, &(0..8))), (2, Ok(())));
    assert_eq!(pool.matched(&[0, 7, 7, 7, 7, 7, 7, 7, 9], None), 8);
    // It needs no room for what a window has passed.
    let many: Vec<u32> = (100..132).collect();
    let needed = |kind| pool.check_room_of(&many, None, &[], kind).map_err(|error| error.to_string());
    assert!(needed(StepKind::Append).unwrap_err().contains("needs 16 more pages"));
    // 8 pages of all positions, and of the window the last two and that of the sinks.
    assert_eq!((pool.free_pages(), needed(StepKind::Insert)), (12, Ok(())));
    // A dropped insertion leaves nothing.
    let Added { sequence, .. } = pool.add(&tokens, None).unwrap();
    let free = pool.free_pages();
    pool.begin(&[Append::new(sequence, &tokens)], StepKind::Insert).unwrap();
    assert_eq!(pool.free_pages(), free - 6 - 3);
    pool.dropped();
    check(&pool);
    assert_eq!(pool.free_pages(), free);
}

#[test]
fn a_hit_that_is_extended_returns_what_the_window_has_passed() {
    let mut pool = pool(16, &[ring(9, 1), Placement::Linear]);
    let tokens: Vec<u32> = (0..25).collect();
    let (id, _) = grown(&mut pool, &tokens[..12]);
    pool.free(id).unwrap();
    let Added { sequence, cached } = pool.add(&tokens, None).unwrap();
    assert_eq!((cached, pool.counts().referenced), (12, 3 + 3));
    let there = |pool: &PagedSequences| -> Vec<usize> {
        let pages = pool.pages(sequence, 0).unwrap();
        (0..pages.len()).filter(|&index| pages[index] != R).collect()
    };
    // Of 25 positions, the window has 16 to 24: the pages 4 to 6, and that of the sink.
    pool.begin(&[Append::new(sequence, &tokens[12..])], StepKind::Insert).unwrap();
    assert_eq!((there(&pool), pool.counts().referenced), (vec![0, 4, 5, 6], 4 + 7));
    pool.dropped();
    check(&pool);
    assert_eq!((there(&pool), pool.counts().referenced), (vec![0, 1, 2], 3 + 3));
    pool.begin(&[Append::new(sequence, &tokens[12..])], StepKind::Insert).unwrap();
    pool.submitted();
    check(&pool);
    assert_eq!((there(&pool), pool.counts().referenced), (vec![0, 4, 5, 6], 4 + 7));
}
