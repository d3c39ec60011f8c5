//! [`PagedSequences`]: handles of sequences, and the pages and tokens of each.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

#[cfg(feature = "store")]
use super::pool::Evicted;
use super::{
    config::PagesConfig,
    group::Group,
    held::{Held, length_of},
    id::SequenceId,
    key::PageKey,
    pool::{PageEvent, Pool},
    prefixes::Prefix,
    step::{Kept, PlannedStep, Returned, StepKind, Undo, UndoGroup},
};
use crate::{PageError, RangeError, Result, SequenceError};

/// What the pages are doing, and how often prefixes were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Pages that sequences refer to.
    pub referenced: u32,
    /// Free pages with a key, which others may find.
    pub cached: u32,
    /// Free pages without a key.
    pub empty: u32,
    /// Full pages that [`PagedSequences::add`] looked for.
    pub queried: u64,
    /// Those of them that it found.
    pub hits: u64,
    /// Pages that lost their key to another use.
    pub evictions: u64,
}

#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub(super) tokens: Vec<u32>,
    /// Of each group. All have as many pages.
    pub(super) held: Vec<Held>,
    /// What its first pages hold, as far as others may know.
    pub(super) prefixes: Vec<Prefix>,
    pub(super) namespace: Option<Arc<str>>,
    /// Drafts among the last tokens, of which it is not decided which stay.
    pub(super) drafts: u32,
    /// The last step that it is part of.
    pub(super) step: u64,
    /// It was freed while a step was under way.
    pub(super) freed: bool,
    /// Its rows are of weights that are no longer those of the model, so its pages are not offered.
    pub(super) unshared: bool,
    /// The most pages that it returns when its next step begins.
    pub(super) returnable: usize,
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    generation: u32,
    pub(super) sequence: Option<Sequence>,
}

/// The bookkeeping of a pool of pages: see the [module](super).
///
/// # Memory
/// Nothing is allocated for `max_sequences × max_seq_len`.
///
/// | call | allocates |
/// |---|---|
/// | [`new`](Self::new) | some 50 bytes for each page of the pool |
/// | [`add`](Self::add), [`fork`](Self::fork) | for the sequence, 4 bytes for each token that it is given, and for each of its pages in each group; room for 64 tokens more |
/// | [`begin_step`](Self::begin_step) | nothing where sequences have room for what they append: at most 64 tokens, as many as in their last step, or those that they were added with |
/// | [`reserve`](Self::reserve) | more room |
/// | [`submitted`](Self::submitted), [`dropped`](Self::dropped) | room for the next step, where lists double; for each page that others may find from then on, 4 bytes for each token, its key, and an entry of a hash map |
///
/// A sequence keeps its room until it is [freed](Self::free).
#[derive(Debug)]
pub struct PagedSequences {
    pub(super) config: PagesConfig,
    pub(super) groups: Vec<Group>,
    identity: u64,
    pub(super) root: PageKey,
    pub(super) key_of: fn(&PageKey, &[u32], Option<&str>) -> PageKey,
    pub(super) pool: Pool,
    /// Those that were ever used.
    pub(super) slots: Vec<Slot>,
    vacant: Vec<u32>,
    /// The step under way, if there is one, and how to go back. Reused, so that planning does not allocate.
    pub(super) under_way: bool,
    pub(super) planned: PlannedStep,
    pub(super) undo: Vec<Undo>,
    pub(super) undo_groups: Vec<UndoGroup>,
    pub(super) returned: Vec<Returned>,
    /// The most pages that all sequences return when the next step begins.
    pub(super) returnable: usize,
    /// Likewise, of a step that moves rows.
    pub(super) kept: Option<Kept>,
    pub(super) steps: u64,
    pub(super) queried: u64,
    pub(super) hits: u64,
}

impl Sequence {
    /// Number of its pages in each group.
    pub(super) fn pages(&self) -> u32 {
        self.held.first().map_or(0, |held| length_of(&held.pages))
    }
}

impl PagedSequences {
    /// A pool without sequences.
    ///
    /// # Errors
    /// Those of [`PagesConfig::validate`]; [`PageError::BooksTooLarge`] if the host has no memory for so many pages.
    pub fn new(config: PagesConfig) -> Result<Self> {
        static POOLS: AtomicU64 = AtomicU64::new(0);
        config.validate()?;
        let PagesConfig { page_size, count, .. } = config;
        Ok(PagedSequences {
            identity: POOLS.fetch_add(1, Ordering::Relaxed),
            root: PageKey::root(),
            key_of: PageKey::child,
            pool: Pool::new(page_size, count, config.groups.len())?,
            groups: config.groups.iter().map(|&placement| Group::new(placement, page_size)).collect(),
            config,
            slots: Vec::new(),
            vacant: Vec::new(),
            under_way: false,
            planned: PlannedStep::default(),
            undo: Vec::new(),
            undo_groups: Vec::new(),
            returned: Vec::new(),
            returnable: 0,
            kept: None,
            steps: 0,
            queried: 0,
            hits: 0,
        })
    }

    /// The configuration.
    pub const fn config(&self) -> &PagesConfig {
        &self.config
    }

    /// Calls a function whenever a page gets a key or loses it.
    pub fn listen(&mut self, listener: impl FnMut(&PageEvent) + Send + Sync + 'static) {
        self.pool.listen(Box::new(listener));
    }

    pub(super) fn get(&self, id: SequenceId) -> Result<&Sequence> {
        let slot = self.slots.get(id.slot as usize).filter(|_| id.pool == self.identity);
        let Some(slot) = slot else { return Err(PageError::ForeignSequence.into()) };
        let live = slot.sequence.as_ref().filter(|sequence| slot.generation == id.generation && !sequence.freed);
        live.ok_or_else(|| PageError::FreedSequence { row: id.slot, generation: id.generation }.into())
    }

    pub(super) fn sequence(&mut self, slot: u32) -> &mut Sequence {
        self.slots[slot as usize].sequence.as_mut().expect("the handle was checked")
    }

    /// The tokens of a sequence, those of the step under way included.
    ///
    /// # Errors
    /// [`PageError::FreedSequence`], [`PageError::ForeignSequence`].
    pub fn tokens(&self, id: SequenceId) -> Result<&[u32]> {
        self.get(id).map(|sequence| &sequence.tokens[..])
    }

    /// The namespace of a sequence.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn namespace(&self, id: SequenceId) -> Result<Option<&str>> {
        self.get(id).map(|sequence| sequence.namespace.as_deref())
    }

    /// The tokens of a sequence that are decided and submitted.
    #[cfg(feature = "store")]
    pub(crate) fn settled(&self, id: SequenceId) -> Result<&[u32]> {
        let sequence = self.check_settled(id)?;
        Ok(&sequence.tokens[..sequence.tokens.len().saturating_sub(sequence.drafts as usize)])
    }

    /// The pages of a sequence in a group that are there with all of their rows, by their index.
    #[cfg(feature = "store")]
    pub(crate) fn whole_pages(&self, id: SequenceId, group: usize) -> Result<impl Iterator<Item = usize> + '_> {
        let (held, own) = (self.held(id, group)?, &self.groups[group]);
        // Rows of other weights are nobody else's.
        let shared = !self.get(id)?.unshared;
        let whole = move |&index: &u32| shared && held.page(index).is_some() && !held.is_partial(index, own);
        Ok((0..length_of(&held.pages)).filter(whole).map(|index| index as usize))
    }

    /// The groups of layers.
    #[cfg(feature = "store")]
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Notes which pages with a key are taken, from now on.
    #[cfg(feature = "store")]
    pub(crate) fn watch_evictions(&mut self) {
        self.pool.evicted.get_or_insert_default();
    }

    /// The pages with a key that were taken since the last call.
    #[cfg(feature = "store")]
    pub(crate) fn take_evicted(&mut self) -> Vec<Evicted> {
        self.pool.evicted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What others find in the pages of the pool, what is least worth keeping first.
    #[cfg(feature = "store")]
    pub(crate) fn offered(&self) -> Vec<Evicted> {
        self.pool.offered()
    }

    /// The length of a sequence, those of the step under way included.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn length(&self, id: SequenceId) -> Result<u32> {
        self.get(id).map(|sequence| length_of(&sequence.tokens))
    }

    /// The pages of a sequence in a group of layers: position `p` is in page `p ÷ page_size` of them. Those before the
    /// window of the group are [`RETURNED`](super::RETURNED).
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens); [`PageError::NoGroup`].
    pub fn pages(&self, id: SequenceId, group: usize) -> Result<&[u32]> {
        self.held(id, group).map(|held| &held.pages[..])
    }

    pub(super) fn held(&self, id: SequenceId, group: usize) -> Result<&Held> {
        let groups = self.config.groups.len();
        self.get(id)?.held.get(group).ok_or_else(|| PageError::NoGroup { group, groups }.into())
    }

    /// The first position beyond the sinks of which a group has the row.
    ///
    /// # Errors
    /// As [`pages`](Self::pages).
    pub fn oldest(&self, id: SequenceId, group: usize) -> Result<u32> {
        Ok(self.held(id, group)?.oldest(&self.groups[group]))
    }

    /// The positions of a sequence whose rows a step of a kind brings in a group.
    pub(crate) fn brought(&self, group: usize, length: u32, kind: StepKind) -> [Range<u32>; 2] {
        self.groups[group].brought(length, kind)
    }

    /// Whether a group has all rows of some positions.
    pub(crate) fn check_range(&self, id: SequenceId, group: usize, positions: &Range<u32>) -> Result<()> {
        let (held, own) = (self.held(id, group)?, &self.groups[group]);
        if held.lacks(positions, own) {
            let (sequence, position, oldest) = (id.slot, positions.start, held.oldest(own));
            return Err(RangeError::Evicted { sequence, position, oldest }.into());
        }
        Ok(())
    }

    /// Pages that could be taken now, those that others may still find included.
    pub const fn free_pages(&self) -> u32 {
        self.pool.free()
    }

    /// Pages with a key, free or referred to.
    pub const fn cached_pages(&self) -> u32 {
        self.pool.keyed()
    }

    /// Pages by what they do, and how often prefixes were found.
    pub fn counts(&self) -> PageCounts {
        let (free, cached) = (self.pool.free(), self.pool.evictable());
        PageCounts {
            referenced: self.config.count.saturating_sub(free),
            cached,
            empty: free.saturating_sub(cached),
            queried: self.queried,
            hits: self.hits,
            evictions: self.pool.evictions,
        }
    }

    pub(crate) fn check_length(&self, tokens: usize) -> Result<()> {
        let (tokens, most) = (tokens as u64, self.config.max_seq_len);
        if tokens > most.into() { Err(PageError::TooManyTokens { tokens, most }.into()) } else { Ok(()) }
    }

    pub(super) fn vacant_slot(&self) -> Result<u32> {
        let most = self.config.max_sequences;
        let unused = Some(length_of(&self.slots)).filter(|slot| *slot < most);
        self.vacant.last().copied().or(unused).ok_or_else(|| PageError::TooManySequences { most }.into())
    }

    /// Gives a sequence a handle, and room for its next tokens.
    pub(super) fn occupy(&mut self, slot: u32, sequence: Sequence, room: u32) -> SequenceId {
        if self.vacant.pop().is_none() {
            self.slots.push(Slot::default());
            self.make_room_for_sequences();
        }
        let place = &mut self.slots[slot as usize];
        place.sequence = Some(sequence);
        let generation = place.generation;
        self.make_room(slot, room);
        SequenceId { pool: self.identity, slot, generation }
    }

    fn check_settled(&self, id: SequenceId) -> Result<&Sequence> {
        let sequence = self.get(id)?;
        if self.under_way && sequence.step == self.steps {
            return Err(PageError::StepUnderWay.into());
        }
        Ok(sequence)
    }

    /// Keeps the first `accepted` of the drafts that a sequence appended, and drops the others.
    ///
    /// # Errors
    /// [`PageError::MoreAccepted`]; [`PageError::StepUnderWay`] before its step is submitted; those of
    /// [`tokens`](Self::tokens).
    pub fn accept(&mut self, id: SequenceId, accepted: u32) -> Result<()> {
        let sequence = self.check_settled(id)?;
        let drafts = sequence.drafts;
        let rejected =
            drafts.checked_sub(accepted).ok_or(crate::Error::Page(PageError::MoreAccepted { accepted, drafts }))?;
        let length = length_of(&sequence.tokens).saturating_sub(rejected);
        self.sequence(id.slot).drafts = 0;
        self.cut(id.slot, length);
        self.settle(id.slot);
        Ok(())
    }

    /// Checks that a sequence cut to a length has the pages that its queries would read.
    pub(super) fn check_cut(&self, id: SequenceId, length: u32) -> Result<()> {
        let sequence = self.get(id)?;
        let end = length_of(&sequence.tokens);
        if length > end {
            return Err(PageError::BeyondEnd { position: length, length: end }.into());
        }
        for (own, held) in self.groups.iter().zip(&sequence.held) {
            // What is read, and the page that the next row goes to.
            let tail = length.checked_div(own.page_size()).unwrap_or(0);
            let there = own.pages(length) == tail || held.page(tail).is_some();
            if !there || held.lacks(&own.window(length), own) {
                let (oldest, sinks) = (held.oldest(own), own.sinks());
                let shortest = own.shortest(oldest);
                return Err(
                    SequenceError::RollbackEvicted { sequence: id.slot, length, shortest, sinks, oldest }.into()
                );
            }
        }
        Ok(())
    }

    /// Cuts a sequence to its first tokens. Undecided drafts among those that are left stay undecided.
    ///
    /// # Errors
    /// [`PageError::BeyondEnd`]; [`SequenceError::RollbackEvicted`] where a group has returned pages that queries after
    /// the cut would read; [`PageError::StepUnderWay`] while a step appends to it; those of [`tokens`](Self::tokens).
    pub fn truncate(&mut self, id: SequenceId, length: u32) -> Result<()> {
        self.check_settled(id)?;
        self.check_cut(id, length)?;
        self.cut(id.slot, length);
        Ok(())
    }

    fn cut(&mut self, slot: u32, length: u32) {
        let size = self.config.page_size;
        let sequence = self.slots[slot as usize].sequence.as_mut().expect("the handle was checked");
        let dropped = length_of(&sequence.tokens).saturating_sub(length);
        sequence.drafts = sequence.drafts.saturating_sub(dropped);
        sequence.tokens.truncate(length as usize);
        let full = length.checked_div(size).unwrap_or(0) as usize;
        while sequence.prefixes.len() > full {
            sequence.prefixes.pop().into_iter().for_each(|prefix| self.pool.prefixes.release(prefix));
        }
        let pages = length.div_ceil(size);
        for index in (pages..sequence.pages()).rev() {
            for held in &mut sequence.held {
                held.page(index).into_iter().for_each(|page| self.pool.release(page));
            }
        }
        for (own, held) in self.groups.iter().zip(&mut sequence.held) {
            held.cut(length, own);
        }
    }

    /// Adds a sequence with the first `length` tokens of another, whose pages it shares. Rows are copied when both have
    /// written to the same page.
    ///
    /// # Errors
    /// [`PageError::BeyondEnd`]; [`SequenceError::RollbackEvicted`] as of [`truncate`](Self::truncate);
    /// [`PageError::TooManySequences`]; [`PageError::StepUnderWay`] while a step appends to the other;
    /// [`PageError::DraftsUndecided`]; those of [`tokens`](Self::tokens).
    pub fn fork(&mut self, from: SequenceId, length: u32) -> Result<SequenceId> {
        let (size, slot) = (self.config.page_size, self.vacant_slot());
        self.check_settled(from)?;
        self.check_cut(from, length)?;
        let sequence = self.get(from)?;
        if sequence.drafts > 0 {
            return Err(PageError::DraftsUndecided { drafts: sequence.drafts }.into());
        }
        let slot = slot?;
        let full = length.checked_div(size).unwrap_or(0) as usize;
        let of_group = |(own, held): (&Group, &Held)| held.forked(length, own);
        let forked = Sequence {
            tokens: sequence.tokens[..length as usize].to_vec(),
            held: self.groups.iter().zip(&sequence.held).map(of_group).collect(),
            prefixes: sequence.prefixes[..full.min(sequence.prefixes.len())].to_vec(),
            namespace: sequence.namespace.clone(),
            unshared: sequence.unshared,
            ..Sequence::default()
        };
        forked.held.iter().flat_map(Held::there).for_each(|page| self.pool.refer(page));
        forked.prefixes.iter().for_each(|&prefix| self.pool.prefixes.refer(prefix));
        Ok(self.occupy(slot, forked, 0))
    }

    /// Ends a sequence. Its pages are free once nobody else refers to them, and once the step that it is part of is
    /// submitted or dropped; its handle is invalid at once.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn free(&mut self, id: SequenceId) -> Result<()> {
        let in_step = self.check_settled(id).map(drop);
        self.get(id)?;
        match in_step {
            Ok(()) => self.vacate(id.slot),
            Err(_) => self.sequence(id.slot).freed = true,
        }
        Ok(())
    }

    pub(super) fn vacate(&mut self, slot: u32) {
        let place = &mut self.slots[slot as usize];
        let Some(sequence) = place.sequence.take() else { return };
        place.generation = place.generation.wrapping_add(1);
        self.returnable = self.returnable.saturating_sub(sequence.returnable);
        // The last pages first: a prefix without its end is worth more than an end without its prefix. A hit needs
        // pages of all groups, so those of one index go together, where vLLM frees one group after the other.
        for index in (0..sequence.pages()).rev() {
            sequence.held.iter().filter_map(|held| held.page(index)).for_each(|page| self.pool.release(page));
        }
        sequence.prefixes.into_iter().for_each(|prefix| self.pool.prefixes.release(prefix));
        self.vacant.push(slot);
    }

    /// Ends all sequences and forgets all keys. The step under way, if there is one, is [dropped](Self::dropped).
    pub fn reset(&mut self) {
        self.dropped();
        (0..length_of(&self.slots)).rev().for_each(|slot| self.vacate(slot));
        self.pool.forget_all();
    }

    /// The entries of a sequence's row in the table of a group that the table was not told of: the index of the first,
    /// and the pages. It counts as told of them.
    pub(crate) fn tell(&mut self, id: SequenceId, group: usize) -> (u32, &[u32]) {
        let held = &mut self.sequence(id.slot).held[group];
        let first = held.told;
        held.told = length_of(&held.pages);
        (first, &held.pages[first as usize..])
    }

    /// Forgets all keys, as after an update of the model's weights. Pages in use stay with their sequences and are
    /// never offered again.
    pub fn clear_prefixes(&mut self) {
        self.pool.forget_all();
        for sequence in self.slots.iter_mut().filter_map(|slot| slot.sequence.as_mut()) {
            sequence.unshared = true;
            sequence.prefixes.drain(..).for_each(|prefix| self.pool.prefixes.release(prefix));
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/pages.rs"]
mod tests;
