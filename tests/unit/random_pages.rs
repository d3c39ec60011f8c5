//! Random programs of the bookkeeping of pages, against a model that knows no pages: a sequence is a list of rows.

use std::collections::HashMap;

use super::{check, room::counted, *};
use crate::{
    Error, Placement,
    pages::{
        Added, RETURNED,
        step::{Append, PlannedStep},
    },
};

const SIZE: u32 = 4;

/// A model without pages: each sequence is a list of rows. A row is all that it depends on.
struct Model {
    rows: HashMap<SequenceId, Vec<u64>>,
    tokens: HashMap<SequenceId, (Vec<u32>, Option<&'static str>, u64)>,
    /// What each row of each page holds on the device.
    device: Vec<u64>,
    /// Of the weights.
    epoch: u64,
}

/// A row depends on the namespace, the weights, and the tokens up to its own.
fn row(namespace: Option<&str>, epoch: u64, tokens: &[u32]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (namespace, epoch, tokens).hash(&mut hasher);
    hasher.finish()
}

/// Whether a query at a position reads another.
fn reads(placement: Placement, query: u32, position: u32) -> bool {
    match placement {
        Placement::Linear => true,
        Placement::Ring { window, sinks, .. } => position < sinks || position + window > query,
    }
}

impl Model {
    /// Rows are where the pages say, and each that the next query reads is there.
    fn compare(&self, pool: &PagedSequences) {
        for (&id, rows) in &self.rows {
            assert_eq!(pool.tokens(id).unwrap(), &self.tokens[&id].0[..rows.len()]);
            for (group, &placement) in pool.config.groups.iter().enumerate() {
                let pages = pool.pages(id, group).unwrap();
                for (position, expected) in (0..).zip(rows) {
                    let page = pages[(position / SIZE) as usize];
                    if page == RETURNED {
                        assert!(!reads(placement, rows.len() as u32, position), "row {position} is read");
                        assert!(position < pool.oldest(id, group).unwrap());
                    } else {
                        let row = (page * SIZE + position % SIZE) as usize;
                        assert_eq!(self.device[row], of_group(*expected, group), "row {position} of group {group}");
                    }
                }
            }
        }
    }

    /// Whether a sequence has all rows that a query reads once it is cut to a length, in pages up to there.
    fn can_be_cut(pool: &PagedSequences, id: SequenceId, length: u32) -> bool {
        pool.config.groups.iter().enumerate().all(|(group, &placement)| {
            let pages = pool.pages(id, group).unwrap();
            let there = |position: u32| pages[(position / SIZE) as usize] != RETURNED;
            // The page that the next row would be appended to has to be there as well.
            let tail = length.is_multiple_of(SIZE) || there(length);
            tail && (0..length).all(|position| there(position) || !reads(placement, length, position))
        })
    }

    /// What the commands of a step do, in their order: copies, then rows.
    fn run(&mut self, pool: &PagedSequences, step: &PlannedStep) {
        let size = SIZE as usize;
        for copy in &step.copies {
            for row in 0..copy.rows as usize {
                self.device[copy.to as usize * size + row] = self.device[copy.from as usize * size + row];
            }
        }
        for append in &step.appends {
            let (tokens, namespace, epoch) = &self.tokens[&append.sequence];
            for group in 0..pool.config.groups.len() {
                let pages = pool.pages(append.sequence, group).unwrap();
                for at in append.start as usize..(append.start + append.tokens) as usize {
                    let row = of_group(row(*namespace, *epoch, &tokens[..=at]), group);
                    self.device[pages[at / size] as usize * size + at % size] = row;
                }
            }
        }
    }
}

/// Layers of another group have other rows.
fn of_group(row: u64, group: usize) -> u64 {
    row.wrapping_add(group as u64)
}

/// One byte of the key is left, so that keys collide all the time.
fn colliding(parent: &PageKey, tokens: &[u32], namespace: Option<&str>) -> PageKey {
    let PageKey(bytes) = parent.child(tokens, namespace);
    let mut few = [0; 32];
    few[0] = bytes[0] % 5;
    PageKey(few)
}

fn random_program(seed: u64, collide: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.u32(4..40);
    let groups = match random.u32(..4) {
        0 | 1 => vec![Placement::Linear],
        some => {
            let mut ring =
                || Placement::Ring { window: random.u32(1..10), sinks: random.u32(..6), slack: random.u32(..3) };
            if some == 2 { vec![ring(), ring()] } else { vec![ring(), Placement::Linear, ring()] }
        }
    };
    let config = PagesConfig::new(SIZE, count, random.u32(1..6)).groups(groups);
    let mut pool = PagedSequences::new(config).unwrap();
    if collide {
        pool.key_of = colliding;
    }
    let mut model =
        Model { rows: HashMap::new(), tokens: HashMap::new(), device: vec![0; (count * SIZE) as usize], epoch: 0 };
    for _ in 0..random.usize(10..40) {
        // In a fixed order, which a hash map does not have.
        let mut live: Vec<SequenceId> = model.rows.keys().copied().collect();
        live.sort_by_key(|id| (id.slot, id.generation));
        let any = |random: &mut fastrand::Rng| live[random.usize(..live.len())];
        match random.u32(..if live.is_empty() { 1 } else { 12 }) {
            0 | 1 => {
                let namespace = [None, None, Some("x")][random.usize(..3)];
                let tokens: Vec<u32> = (0..random.u32(0..14)).map(|_| random.u32(..2)).collect();
                let matched = pool.matched(&tokens, namespace);
                let Ok(Added { sequence, cached }) = pool.add(&tokens, namespace) else {
                    assert_eq!(live.len() as u32, pool.config.max_sequences);
                    continue;
                };
                assert_eq!(cached, matched);
                let of = |at: usize| row(namespace, model.epoch, &tokens[..=at]);
                model.rows.insert(sequence, (0..cached as usize).map(of).collect());
                model.tokens.insert(sequence, (tokens[..cached as usize].to_vec(), namespace, model.epoch));
            }
            2..=6 => {
                let mut appended: Vec<(SequenceId, Vec<u32>, u32)> = Vec::new();
                for &id in &live {
                    if random.bool() {
                        continue;
                    }
                    let tokens: Vec<u32> = (0..random.u32(0..10)).map(|_| random.u32(..2)).collect();
                    let drafts = if random.u32(..3) == 0 { random.u32(0..=tokens.len() as u32) } else { 0 };
                    appended.push((id, tokens, drafts));
                }
                let appends: Vec<_> =
                    appended.iter().map(|(id, tokens, drafts)| Append::new(*id, tokens).drafts(*drafts)).collect();
                let free = pool.free_pages();
                let (begun, allocations) = counted(&mut pool, &appends);
                assert_eq!(allocations, 0, "while {begun:?} was planned");
                let step = match begun {
                    Ok(step) => step,
                    Err(Error::Page(PageError::OutOfPages { needed, free: empty, evictable })) => {
                        // Pages that the step would return count as free.
                        let whole = pool.config.groups == [Placement::Linear];
                        assert!(needed > u64::from(empty + evictable) && empty + evictable >= free);
                        assert!(pool.free_pages() == free && (!whole || empty + evictable == free));
                        model.compare(&pool);
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                };
                check(&pool);
                if random.u32(..4) == 0 {
                    pool.dropped();
                    check(&pool);
                    model.compare(&pool);
                    continue;
                }
                for (id, tokens, _) in &appended {
                    let (all, ..) = model.tokens.get_mut(id).unwrap();
                    all.truncate(model.rows[id].len());
                    all.extend(tokens);
                }
                model.run(&pool, &step);
                let freed: Option<SequenceId> = (random.u32(..8) == 0).then(|| any(&mut random));
                freed.into_iter().for_each(|id| pool.free(id).unwrap());
                pool.submitted();
                for (id, _, drafts) in appended {
                    let (all, namespace, epoch) = &model.tokens[&id];
                    let mut rows: Vec<u64> = (0..all.len()).map(|at| row(*namespace, *epoch, &all[..=at])).collect();
                    if drafts > 0 && freed != Some(id) {
                        let accepted = random.u32(0..=drafts);
                        pool.accept(id, accepted).unwrap();
                        rows.truncate(rows.len() - (drafts - accepted) as usize);
                    }
                    model.rows.insert(id, rows);
                }
                freed.iter().for_each(|id| drop(model.rows.remove(id)));
            }
            7 => {
                let id = any(&mut random);
                pool.free(id).unwrap();
                model.rows.remove(&id);
            }
            8 | 9 => {
                let from = any(&mut random);
                let length = random.usize(0..=model.rows[&from].len());
                let can = Model::can_be_cut(&pool, from, length as u32);
                let Ok(to) = pool.fork(from, length as u32) else {
                    assert!(live.len() as u32 == pool.config.max_sequences || !can);
                    continue;
                };
                assert!(can);
                let rows = model.rows[&from][..length].to_vec();
                let (tokens, namespace, epoch) = model.tokens[&from].clone();
                model.rows.insert(to, rows);
                model.tokens.insert(to, (tokens[..length].to_vec(), namespace, epoch));
            }
            10 => {
                let id = any(&mut random);
                let length = random.usize(0..=model.rows[&id].len());
                let can = Model::can_be_cut(&pool, id, length as u32);
                assert_eq!(pool.truncate(id, length as u32).is_ok(), can, "{length}");
                if !can {
                    continue;
                }
                model.rows.get_mut(&id).unwrap().truncate(length);
            }
            _ => {
                pool.clear_prefixes();
                model.epoch += 1;
            }
        }
        check(&pool);
        model.compare(&pool);
    }
}

#[test]
fn random_programs_agree_with_lists_of_rows() {
    for seed in 0..20_000 {
        random_program(seed, seed % 2 == 1);
    }
}
