//! The bookkeeping of pages.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::*;
use crate::{
    Error,
    pages::{
        Added, RETURNED,
        step::{Append, PageCopy},
    },
};

#[path = "random_pages.rs"]
mod random;
#[path = "room_of_pages.rs"]
mod room;
#[path = "windows_of_pages.rs"]
mod windows;

const SIZE: u32 = 4;

fn pool(count: u32) -> PagedSequences {
    PagedSequences::new(PagesConfig::new(SIZE, count, 8)).unwrap()
}

/// Appends tokens in a step of their own.
fn append(pool: &mut PagedSequences, id: SequenceId, tokens: &[u32]) -> PlannedStep {
    let step = pool.begin_step(&[Append::new(id, tokens)]).unwrap().clone();
    pool.submitted();
    step
}

/// A sequence with all of its tokens, and how many were cached.
fn added(pool: &mut PagedSequences, tokens: &[u32]) -> (SequenceId, u32) {
    let Added { sequence, cached } = pool.add(tokens, None).unwrap();
    append(pool, sequence, &tokens[cached as usize..]);
    check(pool);
    (sequence, cached)
}

/// Checks that each page is free, or referred to as often as sequences and the step under way have it, and that what
/// pages hold is used as often as pages and sequences have it.
fn check(pool: &PagedSequences) {
    let mut references = vec![0; pool.config.count as usize];
    let mut uses = HashMap::new();
    for sequence in pool.slots.iter().filter_map(|slot| slot.sequence.as_ref()) {
        sequence.held.iter().flat_map(Held::there).for_each(|page| references[page as usize] += 1);
        sequence.prefixes.iter().for_each(|&prefix| *uses.entry(prefix).or_default() += 1);
        assert!(sequence.held.iter().all(|held| held.pages.len() as u32 == sequence.pages()));
    }
    for undo in pool.undo_groups.iter().filter(|undo| pool.under_way && undo.copied) {
        references[undo.tail.unwrap().0 as usize] += 1;
    }
    if let Some(kept) = &pool.kept {
        let sequence = pool.slots[kept.slot as usize].sequence.as_ref().unwrap();
        for (held, (pages, _)) in sequence.held.iter().zip(&kept.pages) {
            let own = &held.pages[kept.first_page..];
            let left = pages.iter().enumerate().filter(|&(index, page)| own.get(index) != Some(page));
            left.filter(|&(_, &page)| page != RETURNED).for_each(|(_, &page)| references[page as usize] += 1);
        }
        kept.prefixes.iter().for_each(|&prefix| *uses.entry(prefix).or_default() += 1);
    }
    pool.pool.check(&references, uses);
    let sequences = pool.slots.iter().filter_map(|slot| slot.sequence.as_ref());
    assert_eq!(pool.returnable, sequences.map(|sequence| sequence.returnable).sum::<usize>());
    let live = pool.slots.iter().filter(|slot| slot.sequence.is_some()).count();
    assert_eq!(live + pool.vacant.len(), pool.slots.len());
    let PageCounts { referenced, cached, empty, .. } = pool.counts();
    assert_eq!(referenced + cached + empty, pool.config.count);
}

fn refused<T: std::fmt::Debug>(outcome: Result<T>, expected: PageError) {
    assert_eq!(outcome.map(drop).unwrap_err(), Error::Page(expected));
}

#[test]
fn keys_are_those_of_vllm() {
    // Of `cbor2.dumps([parent, [4, 5, 6, 300], None], canonical=True)` and so on, by hashlib.
    let first = PageKey::root().child(&[0, 1, 2, 3], None);
    assert_eq!(first.to_string(), "c49ab11fb576db6f376aef58c24f728a0ba1807e8cac5f940f1a5c4c20741898");
    let in_namespace = PageKey::root().child(&[0, 1, 2, 3], Some("x"));
    assert_eq!(in_namespace.to_string(), "143b2f2505bc5063f640241c092b49032ad625dde8236733d7c54ce7bac80b94");
    let pool = pool(1);
    let tokens = [0, 1, 2, 3, 4, 5, 6, 300, 70_000];
    let keys: Vec<_> = pool.keys(&tokens, None).collect();
    assert_eq!(keys, [first, first.child(&[4, 5, 6, 300], None)]);
    let salted: Vec<_> = pool.keys(&tokens, Some("x")).collect();
    assert_eq!(salted, [PageKey::root().child(&tokens[..4], Some("x")), salted[0].child(&tokens[4..8], None)]);
    assert!(keys.iter().all(|key| !salted.contains(key)));
    // Every token counts, the last too, and its place.
    let other = |tokens| PageKey::root().child(tokens, None);
    assert_ne!(other(&[0, 1, 2, 3]), other(&[0, 1, 2, 4]));
    assert_ne!(other(&[0, 1, 2, 3]), other(&[1, 0, 2, 3]));
}

#[test]
fn a_hit_is_whole_pages_and_leaves_a_token() {
    let mut pool = pool(16);
    let tokens: Vec<u32> = (0..12).collect();
    let (first, cached) = added(&mut pool, &tokens);
    assert_eq!(cached, 0);
    for (length, expected) in [(0, 0), (1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (12, 8)] {
        assert_eq!(pool.matched(&tokens[..length], None), expected, "{length} tokens");
    }
    let longer: Vec<u32> = (0..14).collect();
    assert_eq!(pool.matched(&longer, None), 12);
    assert_eq!(pool.matched(&longer, Some("x")), 0, "another namespace");
    let (second, cached) = added(&mut pool, &longer);
    assert_eq!((cached, &pool.pages(second, 0).unwrap()[..3]), (12, pool.pages(first, 0).unwrap()));
    assert_eq!((pool.counts().queried, pool.counts().hits), (2 + 3, 3));
    // Off, nothing is found or offered.
    let mut alone = PagedSequences::new(PagesConfig { share_prefixes: false, ..pool.config().clone() }).unwrap();
    added(&mut alone, &tokens);
    assert_eq!((alone.matched(&longer, None), alone.cached_pages()), (0, 0));
}

#[test]
fn pages_without_a_key_are_taken_first_and_a_prefix_loses_its_end_first() {
    let mut pool = pool(6);
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    pool.listen(move |event| told.lock().unwrap().push(event.clone()));
    let tokens: Vec<u32> = (0..14).collect();
    let (id, _) = added(&mut pool, &tokens); // pages 0, 1, 2 are full, and 3 is not
    assert_eq!(pool.pages(id, 0).unwrap(), [0, 1, 2, 3]);
    pool.free(id).unwrap();
    check(&pool);
    let PageCounts { referenced, cached, empty, .. } = pool.counts();
    assert_eq!((referenced, cached, empty), (0, 3, 3));
    // First those without a key, the last freed in front; then the end of the prefix.
    let other: Vec<u32> = (100..120).collect();
    let (other, _) = added(&mut pool, &other);
    assert_eq!(pool.pages(other, 0).unwrap(), [3, 4, 5, 2, 1]);
    let removed: Vec<u32> = events
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| if let PageEvent::Removed { prefix, .. } = event { Some(*prefix) } else { None })
        .collect();
    assert_eq!((removed, pool.counts().evictions), (vec![12, 8], 2));
    assert_eq!(pool.matched(&tokens, None), 4);
    // A hit takes its page out of the queue.
    assert_eq!(pool.free_pages(), 1);
    let Added { sequence, cached } = pool.add(&tokens[..5], None).unwrap();
    assert_eq!((cached, pool.pages(sequence, 0).unwrap(), pool.free_pages()), (4, &[0][..], 0));
    check(&pool);
}

#[test]
fn out_of_pages_changes_nothing() {
    let mut pool = pool(4);
    let (first, _) = added(&mut pool, &[1, 2, 3, 4, 5]);
    let (second, _) = added(&mut pool, &[9, 9, 9, 9, 9]);
    pool.free(second).unwrap();
    let before = format!("{pool:?}");
    let many = [0; 12];
    refused(pool.begin_step(&[Append::new(first, &many)]), PageError::OutOfPages { needed: 3, free: 1, evictable: 1 });
    let steps = |text: &str| text.replace(|letter: char| letter.is_ascii_digit(), "");
    assert_eq!(steps(&format!("{pool:?}")), steps(&before));
    check(&pool);
    assert_eq!((pool.tokens(first).unwrap(), pool.cached_pages()), (&[1, 2, 3, 4, 5][..], 2));
    append(&mut pool, first, &many[..11]);
    assert_eq!((pool.free_pages(), pool.counts().evictions), (0, 1));
}

#[test]
fn a_page_is_offered_when_its_step_is_submitted() {
    let mut pool = pool(8);
    let tokens: Vec<u32> = (0..9).collect();
    let id = pool.add(&tokens, None).unwrap().sequence;
    pool.begin_step(&[Append::new(id, &tokens)]).unwrap();
    assert_eq!((pool.matched(&tokens, None), pool.cached_pages()), (0, 0), "its rows never ran");
    refused(pool.begin_step(&[]), PageError::StepUnderWay);
    refused(pool.truncate(id, 0), PageError::StepUnderWay);
    refused(pool.fork(id, 0), PageError::StepUnderWay);
    pool.dropped();
    check(&pool);
    assert_eq!((pool.tokens(id).unwrap().len(), pool.pages(id, 0).unwrap().len(), pool.free_pages()), (0, 0, 8));
    assert_eq!(pool.matched(&tokens, None), 0);
    append(&mut pool, id, &tokens);
    assert_eq!(pool.matched(&tokens, None), 8);
}

#[test]
fn drafts_are_offered_once_accepted() {
    let mut pool = pool(8);
    let id = pool.add(&[], None).unwrap().sequence;
    let tokens: Vec<u32> = (0..14).collect();
    // A step over several page boundaries takes all of its pages.
    pool.begin_step(&[Append::new(id, &tokens).drafts(11)]).unwrap();
    assert_eq!(pool.pages(id, 0).unwrap().len(), 4);
    refused(pool.accept(id, 3), PageError::StepUnderWay);
    pool.submitted();
    assert_eq!(pool.matched(&tokens, None), 0);
    refused(pool.begin_step(&[Append::new(id, &[1])]), PageError::DraftsUndecided { drafts: 11 });
    refused(pool.fork(id, 2), PageError::DraftsUndecided { drafts: 11 });
    refused(pool.accept(id, 12), PageError::MoreAccepted { accepted: 12, drafts: 11 });
    pool.accept(id, 2).unwrap();
    check(&pool);
    assert_eq!((pool.tokens(id).unwrap(), pool.pages(id, 0).unwrap().len()), (&tokens[..5], 2));
    assert_eq!(pool.matched(&tokens, None), 4);
    refused(pool.accept(id, 1), PageError::MoreAccepted { accepted: 1, drafts: 0 });
    refused(
        pool.begin_step(&[Append::new(id, &[1]).drafts(2)]),
        PageError::MoreDraftsThanTokens { drafts: 2, tokens: 1 },
    );
}

#[test]
fn a_shared_tail_is_copied_once_and_by_the_second_writer() {
    for both_in_one_step in [false, true] {
        let mut pool = pool(8);
        let (a, _) = added(&mut pool, &[1, 2, 3, 4, 5, 6]);
        let b = pool.fork(a, 6).unwrap();
        assert_eq!(pool.pages(a, 0).unwrap(), pool.pages(b, 0).unwrap());
        let copies = if both_in_one_step {
            let step = pool.begin_step(&[Append::new(a, &[7]), Append::new(b, &[8])]).unwrap().clone();
            check(&pool);
            pool.submitted();
            vec![step.copies]
        } else {
            vec![append(&mut pool, a, &[7]).copies, append(&mut pool, b, &[8]).copies]
        };
        check(&pool);
        let tail = pool.pages(a, 0).unwrap()[1];
        let copy = PageCopy { from: tail, to: pool.pages(b, 0).unwrap()[1], rows: 2 };
        assert_eq!(copies.concat(), [copy]);
        assert_ne!(copy.from, copy.to);
        // Each has a tail of its own now.
        assert!(append(&mut pool, a, &[9]).copies.is_empty() && append(&mut pool, b, &[9]).copies.is_empty());
    }
    // Where the step is dropped, the tail is shared as before.
    let mut pool = pool(8);
    let (a, _) = added(&mut pool, &[1, 2, 3, 4, 5, 6]);
    let b = pool.fork(a, 5).unwrap();
    let step = pool.begin_step(&[Append::new(b, &[8]), Append::new(a, &[7])]).unwrap();
    assert_eq!(step.copies.len(), 1, "another row lies behind the fork");
    pool.dropped();
    check(&pool);
    assert_eq!(pool.pages(a, 0).unwrap(), pool.pages(b, 0).unwrap());
    assert!(append(&mut pool, a, &[7]).copies.is_empty());
}

#[test]
fn a_sequence_alone_goes_on_in_place() {
    let mut pool = pool(4);
    let (id, _) = added(&mut pool, &[1, 2, 3, 4, 5, 6, 7]);
    pool.truncate(id, 5).unwrap();
    // Rows that nobody has any more are in the way.
    let step = append(&mut pool, id, &[8]);
    assert_eq!((step.copies.len(), pool.pages(id, 0).unwrap()), (0, &[0, 1][..]));
    check(&pool);
}

#[test]
fn rows_that_move_leave_pages_that_others_may_find() {
    let mut pool = pool(3);
    let tokens = [1, 2, 3, 4, 5, 6, 7];
    let (id, _) = added(&mut pool, &tokens);
    // Rows from position 2 on become those at 4 and 6. The first page has a key, so two rows of it are copied.
    let step = pool.begin_move(id, 2, &[4, 6]).unwrap().clone();
    assert_eq!(step.copies, [PageCopy { from: 0, to: 2, rows: 2 }]);
    check(&pool);
    pool.dropped();
    check(&pool);
    assert_eq!((pool.tokens(id).unwrap(), pool.pages(id, 0).unwrap()), (&tokens[..], &[0, 1][..]));
    pool.begin_move(id, 2, &[4, 6]).unwrap();
    pool.submitted();
    check(&pool);
    assert_eq!((pool.tokens(id).unwrap(), pool.pages(id, 0).unwrap()), (&[1, 2, 5, 7][..], &[2][..]));
    assert_eq!(pool.matched(&tokens, None), 4);
    // Without a page for the copy nothing changes.
    let other = append(&mut pool, id, &[8, 9, 9, 9, 9]).appends[0].sequence;
    let counts = pool.counts();
    refused(pool.begin_move(other, 2, &[4]).cloned(), PageError::OutOfPages { needed: 1, free: 0, evictable: 0 });
    assert_eq!((pool.counts(), pool.pages(id, 0).unwrap().len()), (counts, 3));
}

/// TVM 0.27 let the last sequence of a batch decide how all drafts are kept.
#[test]
fn a_chain_and_a_tree_of_one_step_are_decided_apart() {
    let mut pool = pool(16);
    let (chain, _) = added(&mut pool, &[1, 2, 3]);
    let (tree, _) = added(&mut pool, &[5, 6, 7]);
    let drafts = [10, 11, 12, 13, 14];
    pool.begin_step(&[Append::new(chain, &drafts).drafts(5), Append::new(tree, &drafts).drafts(5)]).unwrap();
    pool.submitted();
    // Of the tree the first, the third and the last draft stay: rows at 5 and 7 move to 4 and 5.
    pool.begin_move(tree, 4, &[5, 7]).unwrap();
    pool.submitted();
    check(&pool);
    assert_eq!(pool.tokens(tree).unwrap(), [5, 6, 7, 10, 12, 14]);
    assert_eq!(pool.tokens(chain).unwrap().len(), 8, "its drafts are undecided");
    refused(pool.begin_step(&[Append::new(chain, &[1])]), PageError::DraftsUndecided { drafts: 5 });
    pool.accept(chain, 2).unwrap();
    check(&pool);
    assert_eq!((pool.tokens(chain).unwrap(), pool.tokens(tree).unwrap().len()), (&[1, 2, 3, 10, 11][..], 6));
}

/// llama.cpp #23652: one request that grew too long ended all.
#[test]
fn one_overflow_refuses_the_step_and_ends_nobody() {
    let config = PagesConfig { max_seq_len: 6, ..PagesConfig::new(SIZE, 8, 8) };
    let mut pool = PagedSequences::new(config).unwrap();
    let (long, _) = added(&mut pool, &[1, 2, 3, 4, 5, 6]);
    let (short, _) = added(&mut pool, &[9]);
    let error = PageError::TooManyTokens { tokens: 7, most: 6 };
    refused(pool.begin_step(&[Append::new(short, &[8]), Append::new(long, &[7])]), error);
    check(&pool);
    assert_eq!((pool.tokens(long).unwrap().len(), pool.tokens(short).unwrap()), (6, &[9][..]));
    append(&mut pool, short, &[8]);
    pool.free(long).unwrap();
    append(&mut pool, short, &[7]);
    assert_eq!(pool.tokens(short).unwrap(), [9, 8, 7]);
}

#[test]
fn a_page_with_a_key_never_changes() {
    let mut pool = pool(8);
    let (a, _) = added(&mut pool, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    pool.truncate(a, 6).unwrap();
    check(&pool);
    let page = pool.pages(a, 0).unwrap()[1];
    let step = append(&mut pool, a, &[70, 80]);
    assert_eq!(step.copies, [PageCopy { from: page, to: pool.pages(a, 0).unwrap()[1], rows: 2 }]);
    check(&pool);
    assert_eq!(pool.matched(&[1, 2, 3, 4, 5, 6, 7, 8, 9], None), 8, "what was cut off is still found");
    assert_eq!(pool.matched(&[1, 2, 3, 4, 5, 6, 70, 80, 9], None), 8);
}

#[test]
fn a_freed_handle_is_never_anothers() {
    let mut pool = pool(8);
    let (a, _) = added(&mut pool, &[1, 2]);
    let (row, generation) = (a.slot, a.generation);
    pool.free(a).unwrap();
    let gone = PageError::FreedSequence { row, generation };
    let (b, _) = added(&mut pool, &[3, 4]);
    assert_eq!((b.row(), pool.tokens(b).unwrap()), (row, &[3, 4][..]));
    refused(pool.free(a), gone.clone());
    refused(pool.tokens(a).map(<[u32]>::len), gone.clone());
    refused(pool.truncate(a, 0), gone.clone());
    refused(pool.fork(a, 0), gone.clone());
    refused(pool.accept(a, 0), gone.clone());
    refused(pool.begin_step(&[Append::new(a, &[])]), gone);
    // Nor is a handle of a sequence in the same row of another pool, as many sequences later.
    let mut other = self::pool(8);
    refused(other.free(b), PageError::ForeignSequence);
    let (first, _) = added(&mut other, &[1, 2]);
    other.free(first).unwrap();
    let (there, _) = added(&mut other, &[3, 4]);
    assert_eq!((there.slot, there.generation), (b.slot, b.generation));
    refused(other.free(b), PageError::ForeignSequence);
    check(&pool);
}

#[test]
fn bad_input_is_refused() {
    for page_size in [0, 3, 12] {
        refused(PagedSequences::new(PagesConfig::new(page_size, 4, 4)), PageError::PageSize { page_size });
    }
    refused(PagedSequences::new(PagesConfig::new(4, 0, 4)), PageError::NoPages { name: "pages", number: 0 });
    refused(PagedSequences::new(PagesConfig::new(4, 4, 0)), PageError::NoPages { name: "sequences", number: 0 });
    // Room for sequences costs nothing until they come.
    let mut many = PagedSequences::new(PagesConfig::new(4, 4, u32::MAX - 1)).unwrap();
    added(&mut many, &[1, 2]);
    refused(
        PagedSequences::new(PagesConfig::new(4, 4, 4).groups(Vec::new())),
        PageError::NoPages { name: "groups", number: 0 },
    );
    let mut pool = PagedSequences::new(PagesConfig::new(4, 4, 1)).unwrap();
    let (a, _) = added(&mut pool, &[1, 2]);
    refused(pool.pages(a, 1).map(<[u32]>::len), PageError::NoGroup { group: 1, groups: 1 });
    refused(pool.add(&[1], None), PageError::TooManySequences { most: 1 });
    refused(pool.fork(a, 1), PageError::TooManySequences { most: 1 });
    refused(pool.fork(a, 3), PageError::BeyondEnd { position: 3, length: 2 });
    refused(pool.truncate(a, 3), PageError::BeyondEnd { position: 3, length: 2 });
    let twice = [Append::new(a, &[1][..]), Append::new(a, &[2])];
    refused(pool.begin_step(&twice), PageError::SequenceTwice { row: 0 });
    assert_eq!(pool.tokens(a).unwrap(), [1, 2]);
    append(&mut pool, a, &[3]);
}

#[test]
fn cleared_prefixes_are_never_offered_again() {
    let mut pool = pool(12);
    let tokens: Vec<u32> = (0..9).collect();
    let (a, _) = added(&mut pool, &tokens);
    let (b, _) = added(&mut pool, &[50, 51, 52, 53, 54]);
    pool.free(b).unwrap();
    pool.clear_prefixes();
    check(&pool);
    assert_eq!((pool.cached_pages(), pool.matched(&tokens, None)), (0, 0));
    append(&mut pool, a, &[9, 10, 11, 12]);
    let c = pool.fork(a, 13).unwrap();
    append(&mut pool, c, &[13, 14, 15, 16]);
    assert_eq!(pool.cached_pages(), 0, "rows of the old weights");
    let (_, cached) = added(&mut pool, &tokens);
    assert_eq!((cached, pool.matched(&tokens, None)), (0, 8));
}

#[test]
fn requests_that_end_in_every_state_leak_no_page() {
    let mut pool = pool(24);
    for request in 0..2000u32 {
        let prompt: Vec<u32> = (0..5 + request % 13).map(|token| token + request % 3).collect();
        let Added { sequence, cached } = pool.add(&prompt, None).unwrap();
        if request % 7 == 0 {
            pool.free(sequence).unwrap();
            continue;
        }
        pool.begin_step(&[Append::new(sequence, &prompt[cached as usize..]).drafts(1)]).unwrap();
        match request % 5 {
            // While its step is under way: the pages stay until that ends.
            0 => {
                let free = pool.free_pages();
                pool.free(sequence).unwrap();
                assert_eq!(pool.free_pages(), free);
                refused(pool.free(sequence), PageError::FreedSequence { row: 0, generation: sequence.generation });
                if request % 2 == 0 {
                    pool.submitted();
                } else {
                    pool.dropped();
                }
                check(&pool);
                continue;
            }
            1 => pool.dropped(),
            2 => pool.submitted(),
            _ => {
                pool.submitted();
                pool.accept(sequence, request % 2).unwrap();
                let fork = pool.fork(sequence, cached).unwrap();
                pool.free(fork).unwrap();
            }
        }
        pool.free(sequence).unwrap();
        check(&pool);
    }
    assert_eq!((pool.free_pages(), pool.counts().referenced), (24, 0));
}
