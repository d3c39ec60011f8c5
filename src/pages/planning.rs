//! Steps of [`PagedSequences`]: planned as a whole, then submitted or dropped.

use super::{
    held::{RETURNED, length_of},
    prefixes::Content,
    sequences::PagedSequences,
    step::{Append, PageCopy, PlannedAppend, PlannedStep, Returned, StepKind, Undo, UndoGroup},
};
use crate::{PageError, Result};

impl PagedSequences {
    /// Plans a step: takes the pages of all rows that the sequences append, after those before a window of a sequence
    /// that appends went back to the pool. The caller records the copies and the rows, submits, and says so by
    /// [`submitted`](Self::submitted), or drops its encoder and calls [`dropped`](Self::dropped).
    ///
    /// # Errors
    /// [`PageError::OutOfPages`]; [`PageError::StepUnderWay`]; [`PageError::SequenceTwice`];
    /// [`PageError::DraftsUndecided`]; [`PageError::MoreDraftsThanTokens`]; [`PageError::TooManyTokens`]; those of
    /// [`tokens`](Self::tokens). Nothing is changed then.
    pub fn begin_step(&mut self, appends: &[Append<'_>]) -> Result<&PlannedStep> {
        self.begin(appends, StepKind::Append)
    }

    pub(crate) fn begin(&mut self, appends: &[Append<'_>], kind: StepKind) -> Result<&PlannedStep> {
        if self.under_way {
            return Err(PageError::StepUnderWay.into());
        }
        self.steps = self.steps.saturating_add(1);
        for append in appends {
            self.check_append(append)?;
            self.sequence(append.sequence.slot).step = self.steps;
        }
        self.returned.clear();
        appends.iter().for_each(|append| self.return_pages(append, kind));
        let (needed, free, evictable) = (self.needed(appends, kind), self.pool.free(), self.pool.evictable());
        if needed > free.into() {
            self.take_back();
            return Err(PageError::OutOfPages { needed, free: free.saturating_sub(evictable), evictable }.into());
        }
        // Pages are claimed again, in the same order.
        self.steps = self.steps.saturating_add(1);
        self.planned.clear();
        self.undo.clear();
        self.undo_groups.clear();
        appends.iter().for_each(|append| self.append(append, kind));
        self.under_way = true;
        Ok(&self.planned)
    }

    fn check_append(&self, append: &Append<'_>) -> Result<()> {
        let sequence = self.get(append.sequence)?;
        if sequence.step == self.steps {
            return Err(PageError::SequenceTwice { row: append.sequence.slot }.into());
        }
        if sequence.drafts > 0 {
            return Err(PageError::DraftsUndecided { drafts: sequence.drafts }.into());
        }
        let tokens = length_of(append.tokens);
        if append.drafts > tokens {
            return Err(PageError::MoreDraftsThanTokens { drafts: append.drafts, tokens }.into());
        }
        self.check_length(sequence.tokens.len().saturating_add(append.tokens.len()))
    }

    /// Pages that a step takes. Pages that it writes to in place are claimed.
    fn needed(&mut self, appends: &[Append<'_>], kind: StepKind) -> u64 {
        let mut needed = 0u64;
        for append in appends {
            let Some(sequence) = self.slots[append.sequence.slot as usize].sequence.as_ref() else { continue };
            let length = length_of(&sequence.tokens).saturating_add(length_of(append.tokens));
            let (before, after) = (sequence.pages(), length.div_ceil(self.config.page_size));
            for (group, own) in self.groups.iter().enumerate() {
                needed = needed.saturating_add(own.taken(before..after, length, kind).into());
                let copies = self.copied_tail(append, group).is_some();
                needed = needed.saturating_add(copies.into());
                if let Some((page, _)) = self.tail(append, group).filter(|_| !copies) {
                    self.pool.claim(page, self.steps);
                }
            }
        }
        needed
    }

    /// Returns the pages that the queries of the step, and those after it, do not read. Where rows are brought, there
    /// are no queries of the step.
    fn return_pages(&mut self, append: &Append<'_>, kind: StepKind) {
        if append.tokens.is_empty() {
            return;
        }
        let slot = append.sequence.slot;
        let sequence = self.slots[slot as usize].sequence.as_mut().expect("the handle was checked");
        let start = length_of(&sequence.tokens);
        let end = start.saturating_add(length_of(append.tokens));
        for (group, (own, held)) in self.groups.iter().zip(&mut sequence.held).enumerate() {
            let kept = if kind == StepKind::Append { own.first_kept(start) } else { own.first_brought(end, kind).1 };
            let (first, kept) = (held.first, kept.min(length_of(&held.pages)));
            for index in (first..kept).rev() {
                let page = std::mem::replace(&mut held.pages[index as usize], RETURNED);
                let filled = self.pool.filled(page);
                self.returned.push(Returned { slot, group, index, page, filled, first });
                self.pool.release(page);
            }
            held.first = first.max(kept);
        }
    }

    /// Takes returned pages back, which nobody else has taken, or no longer has.
    fn take_back(&mut self) {
        while let Some(Returned { slot, group, index, page, filled, first }) = self.returned.pop() {
            self.pool.refer(page);
            self.pool.set_filled(page, filled);
            let held = &mut self.sequence(slot).held[group];
            held.pages[index as usize] = page;
            held.first = first;
        }
    }

    /// The step under way.
    pub fn step(&self) -> Option<&PlannedStep> {
        self.under_way.then_some(&self.planned)
    }

    /// The last page of a sequence in a group, and the row at which it goes on, if tokens are appended there.
    fn tail(&self, append: &Append<'_>, group: usize) -> Option<(u32, u32)> {
        let sequence = self.slots[append.sequence.slot as usize].sequence.as_ref()?;
        let at = length_of(&sequence.tokens) & self.config.page_size.saturating_sub(1);
        let last = sequence.held[group].pages.last().copied();
        last.filter(|_| at > 0 && !append.tokens.is_empty()).map(|page| (page, at))
    }

    /// The tail, if it must be copied.
    fn copied_tail(&self, append: &Append<'_>, group: usize) -> Option<(u32, u32)> {
        self.tail(append, group).filter(|&(page, at)| !self.pool.writes_in_place(page, at, self.steps))
    }

    fn append(&mut self, append: &Append<'_>, kind: StepKind) {
        let (step, slot) = (self.steps, append.sequence.slot);
        let sequence = self.sequence(slot);
        sequence.step = step;
        let (length, pages) = (length_of(&sequence.tokens), sequence.pages());
        let drafts = std::mem::replace(&mut sequence.drafts, append.drafts);
        let end = length.saturating_add(length_of(append.tokens));
        for group in 0..self.groups.len() {
            self.append_pages(append, group, end, kind);
        }
        self.undo.push(Undo { slot, length, pages, drafts });
        self.sequence(slot).tokens.extend_from_slice(append.tokens);
        let tokens = end.saturating_sub(length);
        self.planned.appends.push(PlannedAppend { sequence: append.sequence, start: length, tokens });
    }

    /// Takes the pages of one group, up to a length.
    fn append_pages(&mut self, append: &Append<'_>, group: usize, end: u32, kind: StepKind) {
        let (step, slot, size) = (self.steps, append.sequence.slot, self.config.page_size);
        let (tail, copied) = (self.tail(append, group), self.copied_tail(append, group));
        let before = tail.map(|(page, _)| (page, self.pool.filled(page)));
        let told = self.sequence(slot).held[group].told;
        self.undo_groups.push(UndoGroup { group, tail: before, copied: copied.is_some(), told });
        if let Some((from, rows)) = copied {
            // The page that is copied keeps its reference until the step is submitted.
            let to = self.pool.take();
            self.planned.copies.push(PageCopy { from, to, rows });
            let held = &mut self.sequence(slot).held[group];
            held.told = told.min(length_of(&held.pages).saturating_sub(1));
            if let Some(last) = held.pages.last_mut() {
                *last = to;
            }
        } else if let Some((page, _)) = tail {
            self.pool.claim(page, step);
        }
        let sequence = self.slots[slot as usize].sequence.as_mut().expect("the handle was checked");
        let (first, own) = (length_of(&sequence.tokens).checked_div(size).unwrap_or(0), self.groups[group]);
        let held = &mut sequence.held[group];
        if kind != StepKind::Append {
            let (from, first) = own.first_brought(end, kind);
            held.first = held.first.max(first);
            // Whole pages lack no row.
            held.from = if kind == StepKind::Insert { from } else { 0 };
        }
        for index in length_of(&held.pages)..end.div_ceil(size) {
            let taken = kind == StepKind::Append || index < own.sink_pages() || index >= held.first;
            held.pages.push(if taken { self.pool.take() } else { RETURNED });
        }
        let written = if append.tokens.is_empty() { &[][..] } else { &held.pages[first as usize..] };
        for (&page, index) in written.iter().zip(first..).filter(|(page, _)| **page != RETURNED) {
            self.pool.set_filled(page, end.saturating_sub(index.saturating_mul(size)).min(size));
        }
    }

    /// The commands of the step are in the queue: others may find its full pages from now on, drafts apart. Does
    /// nothing without a step under way.
    pub fn submitted(&mut self) {
        if !std::mem::take(&mut self.under_way) {
            return;
        }
        if let Some(kept) = self.kept.take() {
            self.end_move(&kept);
            return;
        }
        for undo in &self.undo_groups {
            if let (true, Some((page, _))) = (undo.copied, undo.tail) {
                self.pool.release(page);
            }
        }
        (0..self.undo.len()).for_each(|index| self.end(index));
    }

    /// The commands of the step will never run: its sequences go back, and its pages are free. Pages that it took have
    /// no key any more. Does nothing without a step under way.
    pub fn dropped(&mut self) {
        if !std::mem::take(&mut self.under_way) {
            return;
        }
        if let Some(kept) = self.kept.take() {
            self.undo_move(kept);
            return;
        }
        let mut groups = std::mem::take(&mut self.undo_groups);
        for index in (0..self.undo.len()).rev() {
            let Undo { slot, length, pages, drafts } = self.undo[index];
            let sequence = self.slots[slot as usize].sequence.as_mut().expect("it stays until the step ends");
            sequence.tokens.truncate(length as usize);
            sequence.drafts = drafts;
            let first = groups.len().saturating_sub(self.groups.len());
            for undo in groups.drain(first..).rev() {
                let held = &mut sequence.held[undo.group];
                held.told = undo.told;
                while length_of(&held.pages) > pages {
                    held.pages
                        .pop()
                        .into_iter()
                        .filter(|page| *page != RETURNED)
                        .for_each(|page| self.pool.release(page));
                }
                let Some((page, filled)) = undo.tail else { continue };
                if !undo.copied {
                    self.pool.set_filled(page, filled);
                } else if let Some(copy) = held.pages.last_mut() {
                    self.pool.release(std::mem::replace(copy, page));
                }
            }
        }
        self.undo_groups = groups;
        self.take_back();
        (0..self.undo.len()).rev().for_each(|index| self.end(index));
    }

    /// Ends the step for one of its sequences, which may append as many tokens in the next.
    fn end(&mut self, index: usize) {
        let (slot, tokens) = (self.undo[index].slot, self.planned.appends[index].tokens);
        self.settle(slot);
        self.make_room(slot, tokens);
    }

    /// Offers the full pages of a sequence, or frees it if that was asked for meanwhile.
    pub(super) fn settle(&mut self, slot: u32) {
        let Some(sequence) = &mut self.slots[slot as usize].sequence else { return };
        if sequence.freed {
            self.vacate(slot);
            return;
        }
        if !self.config.share_prefixes || sequence.unshared {
            return;
        }
        let size = self.config.page_size as usize;
        let settled = sequence.tokens.len().saturating_sub(sequence.drafts as usize);
        let full = settled.checked_div(size).unwrap_or(0);
        for index in sequence.prefixes.len()..full {
            let start = index.saturating_mul(size);
            let tokens = &sequence.tokens[start..][..size];
            let before = sequence.prefixes.last().copied();
            let parent = before.map_or(self.root, |before| self.pool.prefixes.key(before));
            let namespace = sequence.namespace.as_deref().filter(|_| index == 0);
            let key = (self.key_of)(&parent, tokens, namespace);
            let length = u32::try_from(start.saturating_add(size)).unwrap_or(u32::MAX);
            let prefix = self.pool.prefixes.intern(&Content { key, before, tokens, namespace, length });
            sequence.prefixes.push(prefix);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            for (group, held) in sequence.held.iter().enumerate() {
                if let Some(page) = held.page(index).filter(|_| !held.is_partial(index, &self.groups[group])) {
                    self.pool.offer(page, group, prefix);
                }
            }
        }
    }
}
