//! [`PagedSequences`]: handles of sequences, and the pages and tokens of each.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    id::SequenceId,
    key::PageKey,
    pool::{Content, PageEvent, Pool},
    step::{Kept, Numbered, PlannedStep, Undo},
};
use crate::{PageError, Result};

/// A pool of pages, and how its sequences use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagesConfig {
    /// Tokens of a page, a power of two.
    pub page_size: u32,
    /// Number of pages.
    pub count: u32,
    /// The most sequences at a time.
    pub max_sequences: u32,
    /// The most tokens of a sequence. The default is 4 294 967 294.
    pub max_seq_len: u32,
    /// Whether sequences with the same beginning share pages. The default is true.
    pub share_prefixes: bool,
}

impl PagesConfig {
    /// For example `PagesConfig::new(16, 1024, 64)`: pages of 16 tokens, 1024 of them, for up to 64 sequences, which share
    /// prefixes.
    #[must_use]
    pub const fn new(page_size: u32, count: u32, max_sequences: u32) -> Self {
        PagesConfig { page_size, count, max_sequences, max_seq_len: u32::MAX - 1, share_prefixes: true }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`PageError::PageSize`] if it is no power of two; [`PageError::NoPages`] if a number is zero.
    pub fn validate(&self) -> Result<()> {
        let &PagesConfig { page_size, count, max_sequences, max_seq_len, .. } = self;
        if !page_size.is_power_of_two() {
            return Err(PageError::PageSize { page_size }.into());
        }
        for (name, number) in [("pages", count), ("sequences", max_sequences), ("positions", max_seq_len)] {
            if number == 0 || number == u32::MAX {
                return Err(PageError::NoPages { name, number }.into());
            }
        }
        Ok(())
    }
}

/// A new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its handle.
    pub sequence: SequenceId,
    /// How many of the tokens have rows already. The sequence begins with these; the others are to be appended.
    pub cached: u32,
}

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
    pub(super) pages: Vec<u32>,
    /// Of its first pages, as far as they have one.
    pub(super) keys: Vec<Numbered>,
    pub(super) namespace: Option<Arc<str>>,
    /// Drafts among the last tokens, of which it is not decided which stay.
    pub(super) drafts: u32,
    /// How many of its pages, from the first, a table was told of.
    pub(super) told: u32,
    /// The last step that it is part of.
    pub(super) step: u64,
    /// It was freed while a step was under way.
    pub(super) freed: bool,
    /// Its rows are of weights that are no longer those of the model, so its pages are not offered.
    pub(super) unshared: bool,
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    generation: u32,
    pub(super) sequence: Option<Sequence>,
}

/// The bookkeeping of a pool of pages: see the [module](super).
#[derive(Debug)]
pub struct PagedSequences {
    pub(super) config: PagesConfig,
    identity: u64,
    pub(super) root: PageKey,
    pub(super) key_of: fn(&PageKey, &[u32], Option<&str>) -> PageKey,
    pub(super) pool: Pool,
    pub(super) slots: Vec<Slot>,
    vacant: Vec<u32>,
    /// The step under way, if there is one, and how to go back. Reused, so that planning does not allocate.
    pub(super) under_way: bool,
    pub(super) planned: PlannedStep,
    pub(super) undo: Vec<Undo>,
    /// Likewise, of a step that moves rows.
    pub(super) kept: Option<Kept>,
    pub(super) steps: u64,
    queried: u64,
    hits: u64,
}

pub(super) fn length_of<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

impl PagedSequences {
    /// A pool without sequences.
    ///
    /// # Errors
    /// Those of [`PagesConfig::validate`].
    pub fn new(config: PagesConfig) -> Result<Self> {
        static POOLS: AtomicU64 = AtomicU64::new(0);
        let PagesConfig { page_size, count, max_sequences, .. } = config;
        config.validate()?;
        Ok(PagedSequences {
            config,
            identity: POOLS.fetch_add(1, Ordering::Relaxed),
            root: PageKey::root(),
            key_of: PageKey::child,
            pool: Pool::new(page_size, count),
            slots: (0..max_sequences).map(|_| Slot::default()).collect(),
            vacant: (0..max_sequences).rev().collect(),
            under_way: false,
            planned: PlannedStep::default(),
            undo: Vec::new(),
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

    /// The length of a sequence, those of the step under way included.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn length(&self, id: SequenceId) -> Result<u32> {
        self.get(id).map(|sequence| length_of(&sequence.tokens))
    }

    /// The pages of a sequence: position `p` is in page `p ÷ page_size` of them.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    pub fn pages(&self, id: SequenceId) -> Result<&[u32]> {
        self.get(id).map(|sequence| &sequence.pages[..])
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

    /// The keys of every full page of some tokens.
    pub fn keys<'a>(&'a self, tokens: &'a [u32], namespace: Option<&'a str>) -> impl Iterator<Item = PageKey> + 'a {
        self.contents(tokens, namespace).map(|content| content.key)
    }

    fn contents<'a>(&'a self, tokens: &'a [u32], namespace: Option<&'a str>) -> impl Iterator<Item = Content<'a>> + 'a {
        let (mut parent, mut prefix) = (self.root, 0u32);
        tokens.chunks_exact(self.config.page_size as usize).map(move |tokens| {
            let namespace = namespace.filter(|_| prefix == 0);
            prefix = prefix.saturating_add(length_of(tokens));
            let key = (self.key_of)(&parent, tokens, namespace);
            let content = Content { key, parent, before: 0, tokens, namespace, prefix };
            parent = key;
            content
        })
    }

    /// Pages that hold the longest prefix of some tokens, with their keys, and the number of pages that were looked for.
    fn found(&self, tokens: &[u32], namespace: Option<&str>) -> (Vec<(u32, Numbered)>, u32) {
        if !self.config.share_prefixes {
            return (Vec::new(), 0);
        }
        // One token at least is left to compute.
        let tokens = &tokens[..tokens.len().saturating_sub(1)];
        let looked = length_of(tokens).checked_div(self.config.page_size).unwrap_or(0);
        let mut before = 0;
        let found = self.contents(tokens, namespace).map_while(|content| {
            let (page, number) = self.pool.find(&Content { before, ..content })?;
            before = number;
            Some((page, (content.key, number)))
        });
        (found.collect(), looked)
    }

    /// How many of these tokens [`add`](Self::add) would find: whole pages, and one token less than all at most.
    pub fn matched(&self, tokens: &[u32], namespace: Option<&str>) -> u32 {
        length_of(&self.found(tokens, namespace).0).saturating_mul(self.config.page_size)
    }

    /// Checks that a sequence of these tokens could be [added](Self::add) now, and that there would be pages to append
    /// those that are not found.
    ///
    /// # Errors
    /// [`PageError::TooManyTokens`], [`PageError::TooManySequences`], [`PageError::OutOfPages`].
    pub fn check_room(&self, tokens: &[u32], namespace: Option<&str>) -> Result<()> {
        self.check_length(tokens.len())?;
        self.vacant_slot()?;
        let (found, _) = self.found(tokens, namespace);
        let needed = (tokens.len() as u64).div_ceil(self.config.page_size.into()).saturating_sub(found.len() as u64);
        // Pages that are found could not be taken.
        let taken = length_of(&found).saturating_sub(self.pool.referenced(found.iter().map(|&(page, _)| page)));
        let (free, evictable) = (self.pool.free().saturating_sub(taken), self.pool.evictable().saturating_sub(taken));
        if needed > free.into() {
            return Err(PageError::OutOfPages { needed, free: free.saturating_sub(evictable), evictable }.into());
        }
        Ok(())
    }

    /// Adds a sequence that begins with those of the tokens whose pages the pool has already. The others are to be
    /// appended. Prefixes are found in the same namespace only.
    ///
    /// # Errors
    /// [`PageError::TooManySequences`], [`PageError::TooManyTokens`].
    pub fn add(&mut self, tokens: &[u32], namespace: Option<&str>) -> Result<Added> {
        self.check_length(tokens.len())?;
        let slot = self.vacant_slot()?;
        let (found, looked) = self.found(tokens, namespace);
        self.queried = self.queried.saturating_add(looked.into());
        self.hits = self.hits.saturating_add(found.len() as u64);
        let cached = found.len().saturating_mul(self.config.page_size as usize);
        found.iter().for_each(|&(page, _)| self.pool.refer(page));
        let (pages, keys) = found.into_iter().unzip();
        let tokens = tokens[..cached].to_vec();
        let sequence = Sequence { tokens, pages, keys, namespace: namespace.map(Arc::from), ..Sequence::default() };
        Ok(Added { sequence: self.occupy(slot, sequence), cached: u32::try_from(cached).unwrap_or(u32::MAX) })
    }

    pub(super) fn check_length(&self, tokens: usize) -> Result<()> {
        let (tokens, most) = (tokens as u64, self.config.max_seq_len);
        if tokens > most.into() { Err(PageError::TooManyTokens { tokens, most }.into()) } else { Ok(()) }
    }

    fn vacant_slot(&self) -> Result<u32> {
        let most = self.config.max_sequences;
        self.vacant.last().copied().ok_or_else(|| PageError::TooManySequences { most }.into())
    }

    fn occupy(&mut self, slot: u32, sequence: Sequence) -> SequenceId {
        self.vacant.pop();
        let place = &mut self.slots[slot as usize];
        place.sequence = Some(sequence);
        SequenceId { pool: self.identity, slot, generation: place.generation }
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

    /// Cuts a sequence to its first tokens. Undecided drafts among those that are left stay undecided.
    ///
    /// # Errors
    /// [`PageError::BeyondEnd`]; [`PageError::StepUnderWay`] while a step appends to it; those of
    /// [`tokens`](Self::tokens).
    pub fn truncate(&mut self, id: SequenceId, length: u32) -> Result<()> {
        let sequence = self.check_settled(id)?;
        let end = length_of(&sequence.tokens);
        if length > end {
            return Err(PageError::BeyondEnd { position: length, length: end }.into());
        }
        self.cut(id.slot, length);
        Ok(())
    }

    fn cut(&mut self, slot: u32, length: u32) {
        let size = self.config.page_size;
        let sequence = self.slots[slot as usize].sequence.as_mut().expect("the handle was checked");
        let dropped = length_of(&sequence.tokens).saturating_sub(length);
        sequence.drafts = sequence.drafts.saturating_sub(dropped);
        sequence.tokens.truncate(length as usize);
        sequence.keys.truncate(length.checked_div(size).unwrap_or(0) as usize);
        while length_of(&sequence.pages) > length.div_ceil(size) {
            sequence.pages.pop().into_iter().for_each(|page| self.pool.release(page));
        }
        sequence.told = sequence.told.min(length_of(&sequence.pages));
    }

    /// Adds a sequence with the first `length` tokens of another, whose pages it shares. Rows are copied when both have
    /// written to the same page.
    ///
    /// # Errors
    /// [`PageError::BeyondEnd`]; [`PageError::TooManySequences`]; [`PageError::StepUnderWay`] while a step appends to the
    /// other; [`PageError::DraftsUndecided`]; those of [`tokens`](Self::tokens).
    pub fn fork(&mut self, from: SequenceId, length: u32) -> Result<SequenceId> {
        let (size, slot) = (self.config.page_size, self.vacant_slot());
        let sequence = self.check_settled(from)?;
        let end = length_of(&sequence.tokens);
        if length > end {
            return Err(PageError::BeyondEnd { position: length, length: end }.into());
        }
        if sequence.drafts > 0 {
            return Err(PageError::DraftsUndecided { drafts: sequence.drafts }.into());
        }
        let slot = slot?;
        let full = length.checked_div(size).unwrap_or(0) as usize;
        let forked = Sequence {
            tokens: sequence.tokens[..length as usize].to_vec(),
            pages: sequence.pages[..length.div_ceil(size) as usize].to_vec(),
            keys: sequence.keys[..full.min(sequence.keys.len())].to_vec(),
            namespace: sequence.namespace.clone(),
            unshared: sequence.unshared,
            ..Sequence::default()
        };
        forked.pages.iter().for_each(|&page| self.pool.refer(page));
        Ok(self.occupy(slot, forked))
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
        // The last page first: a prefix without its end is worth more than an end without its prefix.
        sequence.pages.iter().rev().for_each(|&page| self.pool.release(page));
        self.vacant.push(slot);
    }

    /// Ends all sequences and forgets all keys. The step under way, if there is one, is [dropped](Self::dropped).
    pub fn reset(&mut self) {
        self.dropped();
        (0..self.config.max_sequences).for_each(|slot| self.vacate(slot));
        self.pool.forget_all();
    }

    /// The entries of a sequence's row that a table was not told of: the index of the first, and the
    /// pages. It counts as told of them.
    pub(crate) fn tell(&mut self, id: SequenceId) -> (u32, &[u32]) {
        let sequence = self.sequence(id.slot);
        let first = sequence.told;
        sequence.told = length_of(&sequence.pages);
        (first, &sequence.pages[first as usize..])
    }

    /// Forgets all keys, as after an update of the model's weights. Pages in use stay with their sequences and are never
    /// offered again.
    pub fn clear_prefixes(&mut self) {
        self.pool.forget_all();
        for sequence in self.slots.iter_mut().filter_map(|slot| slot.sequence.as_mut()) {
            sequence.unshared = true;
            sequence.keys.clear();
        }
    }
}

#[cfg(test)]
#[path = "../../tests/unit/pages.rs"]
mod tests;
