//! Planning a step of pages allocates nothing, as long as sequences append no more than they have room for.

use super::{check, *};
use crate::{Placement, pages::step::Append};

/// Begins a step and returns the number of heap allocations of that.
pub fn counted(pool: &mut PagedSequences, appends: &[Append<'_>]) -> (Result<PlannedStep>, u64) {
    let mut begun = Ok(());
    let counted = allocation_counter::measure(|| begun = pool.begin_step(appends).map(drop));
    (begun.map(|()| pool.step().unwrap().clone()), counted.count_total)
}

/// A server's life: `SEQUENCES` sequences decode, some of them drafts, and begin anew when they are long. Their prompts
/// come in chunks. Prefixes are found, forked and evicted.
fn serve(groups: &[Placement], count: u32) {
    const SEQUENCES: usize = 64;
    let config = PagesConfig::new(16, count, SEQUENCES as u32 + 1).groups(groups.to_vec());
    let mut pool = PagedSequences::new(config).unwrap();
    let mut random = fastrand::Rng::with_seed(21);
    // Of each sequence, what is left of its prompt.
    let mut live: Vec<(SequenceId, Vec<u32>)> = Vec::new();
    let (mut planned, mut refused) = (0, 0);
    for step in 0..2000 {
        while live.len() < SEQUENCES {
            let prompt: Vec<u32> = (0..random.u32(1..500)).map(|at| at / 40 * random.u32(1..3)).collect();
            let Added { sequence, cached } = pool.add(&prompt, None).unwrap();
            live.push((sequence, prompt[cached as usize..].to_vec()));
        }
        let one: Vec<u32> = (0..5).map(|_| random.u32(..)).collect();
        let appends: Vec<_> = live
            .iter()
            .map(|(id, prompt)| match prompt.len() {
                0 => {
                    let drafts = random.u32(..4);
                    Append::new(*id, &one[..1 + drafts as usize]).drafts(drafts)
                }
                // A whole prompt, or a part of it.
                left => Append::new(*id, &prompt[..if step % 2 == 0 { left } else { left.div_ceil(2) }]),
            })
            .collect();
        let (begun, allocations) = counted(&mut pool, &appends);
        assert_eq!(allocations, 0, "step {step}, {begun:?}");
        match begun {
            Ok(_) if step % 16 == 5 => pool.dropped(),
            Ok(_) => {
                planned += 1;
                pool.submitted();
                for (append, (id, prompt)) in appends.iter().zip(&live) {
                    pool.accept(*id, if prompt.is_empty() { random.u32(0..=append.drafts) } else { 0 }).unwrap();
                }
                let appended: Vec<usize> = appends.iter().map(|append| append.tokens.len()).collect();
                for ((_, prompt), appended) in live.iter_mut().zip(appended) {
                    prompt.drain(..appended.min(prompt.len()));
                }
            }
            Err(Error::Page(PageError::OutOfPages { .. })) => {
                refused += 1;
                pool.free(live.swap_remove(random.usize(..live.len())).0).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        live.retain(|&(id, _)| {
            let long = pool.length(id).unwrap() > 600;
            if long {
                pool.free(id).unwrap();
            }
            !long
        });
        if step % 8 == 3 {
            let (from, _) = live.swap_remove(random.usize(..live.len()));
            let fork = pool.fork(from, pool.length(from).unwrap());
            pool.free(from).unwrap();
            live.extend(fork.map(|fork| (fork, Vec::new())));
        }
    }
    check(&pool);
    let PageCounts { hits, evictions, .. } = pool.counts();
    assert!(planned > 1000 && refused > 0 && hits > 100 && evictions > 1000, "{planned} {refused} {hits} {evictions}");
}

#[test]
fn steps_are_planned_without_allocations() {
    serve(&[Placement::Linear], 1500);
    let ring = |window| Placement::Ring { window, sinks: 4, slack: 5 };
    serve(&[ring(128), Placement::Linear, ring(32)], 3000);
}

#[test]
fn memory_is_that_of_the_pool_and_of_what_sequences_have() {
    let config = |count| PagesConfig { max_seq_len: 1 << 20, ..PagesConfig::new(16, count, 1 << 16) };
    let bytes_of = |count| {
        let counted = allocation_counter::measure(|| drop(PagedSequences::new(config(count)).unwrap()));
        counted.bytes_total
    };
    let of_page = (bytes_of(2000) - bytes_of(1000)) / 1000;
    assert!((40..60).contains(&of_page), "{of_page} bytes");
    let mut pool = PagedSequences::new(config(10_000)).unwrap();
    let tokens: Vec<u32> = (0..10_000).collect();
    for prompt in [&[][..], &tokens] {
        let counted = allocation_counter::measure(|| assert_eq!(pool.add(prompt, None).unwrap().cached, 0));
        let own = 4 * (prompt.len() + 64) as u64;
        assert!((own..own + own / 8 + 1500).contains(&counted.bytes_max), "{} tokens: {counted:?}", prompt.len());
    }
}

#[test]
fn room_is_reserved_for_longer_steps() {
    let mut pool = PagedSequences::new(PagesConfig::new(16, 1000, 4)).unwrap();
    let tokens: Vec<u32> = (0..5000).collect();
    let ids = [(); 3].map(|()| pool.add(&[], None).unwrap().sequence);
    let (begun, allocations) = counted(&mut pool, &[Append::new(ids[0], &tokens)]);
    assert!(begun.is_ok() && allocations > 0, "there is room for fewer tokens");
    pool.submitted();
    // As many as before, and as many as were reserved.
    pool.reserve(ids[1], 5000).unwrap();
    let (begun, allocations) = counted(&mut pool, &[Append::new(ids[0], &tokens), Append::new(ids[1], &tokens)]);
    assert_eq!((begun.is_ok(), allocations), (true, 0));
    pool.submitted();
    // No more than the pool could hold.
    let counted = allocation_counter::measure(|| pool.reserve(ids[2], u32::MAX).unwrap());
    assert!(counted.bytes_max <= (1001 * 16 + 1001) * 4, "{counted:?}");
    pool.free(ids[2]).unwrap();
    refused(pool.reserve(ids[2], 1), PageError::FreedSequence { row: 2, generation: 0 });
    let mut short = PagedSequences::new(PagesConfig { max_seq_len: 100, ..PagesConfig::new(16, 1000, 4) }).unwrap();
    let counted = allocation_counter::measure(|| {
        let id = short.add(&[], None).unwrap().sequence;
        short.reserve(id, u32::MAX).unwrap();
    });
    assert!(counted.bytes_max < 2000, "{counted:?}");
    check(&pool);
}
