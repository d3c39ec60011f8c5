//! Steps of [`PagedSequences`]: planned as a whole, then submitted or dropped.

use super::{
    pool::Content,
    sequences::{PagedSequences, length_of},
    step::{Append, PageCopy, PlannedAppend, PlannedStep, Undo},
};
use crate::{PageError, Result};

impl PagedSequences {
    /// Plans a step: takes the pages of all rows that the sequences append. The caller records the copies and the rows,
    /// submits, and says so by [`submitted`](Self::submitted), or drops its encoder and calls
    /// [`dropped`](Self::dropped).
    ///
    /// # Errors
    /// [`PageError::OutOfPages`]; [`PageError::StepUnderWay`]; [`PageError::SequenceTwice`];
    /// [`PageError::DraftsUndecided`]; [`PageError::MoreDraftsThanTokens`]; [`PageError::TooManyTokens`]; those of
    /// [`tokens`](Self::tokens). Nothing is changed then.
    pub fn begin_step(&mut self, appends: &[Append<'_>]) -> Result<&PlannedStep> {
        if self.under_way {
            return Err(PageError::StepUnderWay.into());
        }
        self.steps = self.steps.saturating_add(1);
        let (step, size) = (self.steps, self.config.page_size);
        let mut needed = 0u64;
        for append in appends {
            let sequence = self.get(append.sequence)?;
            if sequence.step == step {
                return Err(PageError::SequenceTwice { row: append.sequence.slot }.into());
            }
            if sequence.drafts > 0 {
                return Err(PageError::DraftsUndecided { drafts: sequence.drafts }.into());
            }
            let tokens = length_of(append.tokens);
            if append.drafts > tokens {
                return Err(PageError::MoreDraftsThanTokens { drafts: append.drafts, tokens }.into());
            }
            let length = sequence.tokens.len().saturating_add(append.tokens.len());
            self.check_length(length)?;
            let pages = (length as u64).div_ceil(size.into()).saturating_sub(sequence.pages.len() as u64);
            let copies = self.copied_tail(append, step).is_some();
            needed = needed.saturating_add(pages).saturating_add(copies.into());
            if let Some((page, _)) = self.tail(append).filter(|_| !copies) {
                self.pool.claim(page, step);
            }
            self.sequence(append.sequence.slot).step = step;
        }
        let (free, evictable) = (self.pool.free(), self.pool.evictable());
        if needed > free.into() {
            return Err(PageError::OutOfPages { needed, free: free.saturating_sub(evictable), evictable }.into());
        }
        // Pages are claimed again, in the same order.
        self.steps = self.steps.saturating_add(1);
        self.planned.clear();
        self.undo.clear();
        appends.iter().for_each(|append| self.append(append));
        self.under_way = true;
        Ok(&self.planned)
    }

    /// The step under way.
    pub fn step(&self) -> Option<&PlannedStep> {
        self.under_way.then_some(&self.planned)
    }

    /// The last page of a sequence, and the row at which it goes on, if tokens are appended there.
    fn tail(&self, append: &Append<'_>) -> Option<(u32, u32)> {
        let sequence = self.slots[append.sequence.slot as usize].sequence.as_ref()?;
        let at = length_of(&sequence.tokens) & self.config.page_size.saturating_sub(1);
        sequence.pages.last().copied().filter(|_| at > 0 && !append.tokens.is_empty()).map(|page| (page, at))
    }

    /// The tail, if it must be copied.
    fn copied_tail(&self, append: &Append<'_>, step: u64) -> Option<(u32, u32)> {
        self.tail(append).filter(|&(page, at)| !self.pool.writes_in_place(page, at, step))
    }

    fn append(&mut self, append: &Append<'_>) {
        let (step, slot, size) = (self.steps, append.sequence.slot, self.config.page_size);
        let (tail, copied) = (self.tail(append), self.copied_tail(append, step));
        let before = tail.map(|(page, _)| (page, self.pool.filled(page)));
        if let Some((from, rows)) = copied {
            // The page that is copied keeps its reference until the step is submitted.
            let to = self.pool.take();
            self.planned.copies.push(PageCopy { from, to, rows });
            if let Some(last) = self.sequence(slot).pages.last_mut() {
                *last = to;
            }
        } else if let Some((page, _)) = tail {
            self.pool.claim(page, step);
        }
        let sequence = self.slots[slot as usize].sequence.as_mut().expect("the handle was checked");
        sequence.step = step;
        let (start, pages) = (length_of(&sequence.tokens), length_of(&sequence.pages));
        let (drafts, told) = (sequence.drafts, sequence.told);
        if copied.is_some() {
            sequence.told = told.min(pages.saturating_sub(1));
        }
        self.undo.push(Undo { slot, length: start, pages, tail: before, copied: copied.is_some(), drafts, told });
        sequence.tokens.extend_from_slice(append.tokens);
        sequence.drafts = append.drafts;
        let end = length_of(&sequence.tokens);
        while length_of(&sequence.pages) < end.div_ceil(size) {
            sequence.pages.push(self.pool.take());
        }
        let first = start.checked_div(size).unwrap_or(0);
        let written = if append.tokens.is_empty() { &[][..] } else { &sequence.pages[first as usize..] };
        for (&page, index) in written.iter().zip(first..) {
            self.pool.set_filled(page, end.saturating_sub(index.saturating_mul(size)).min(size));
        }
        let tokens = end.saturating_sub(start);
        self.planned.appends.push(PlannedAppend { sequence: append.sequence, start, tokens });
    }

    /// The commands of the step are in the queue: others may find its full pages from now on, drafts apart. Does nothing
    /// without a step under way.
    pub fn submitted(&mut self) {
        if !std::mem::take(&mut self.under_way) {
            return;
        }
        if let Some(kept) = self.kept.take() {
            self.end_move(&kept);
            return;
        }
        for index in 0..self.undo.len() {
            let undo = self.undo[index];
            if let (true, Some((page, _))) = (undo.copied, undo.tail) {
                self.pool.release(page);
            }
            self.settle(undo.slot);
        }
    }

    /// The commands of the step will never run: its sequences go back, and its pages are free. Does nothing without a step
    /// under way.
    pub fn dropped(&mut self) {
        if !std::mem::take(&mut self.under_way) {
            return;
        }
        if let Some(kept) = self.kept.take() {
            self.undo_move(kept);
            return;
        }
        for index in (0..self.undo.len()).rev() {
            let undo = self.undo[index];
            let sequence = self.slots[undo.slot as usize].sequence.as_mut().expect("it stays until the step ends");
            sequence.tokens.truncate(undo.length as usize);
            (sequence.drafts, sequence.told) = (undo.drafts, undo.told);
            while sequence.pages.len() > undo.pages as usize {
                sequence.pages.pop().into_iter().for_each(|page| self.pool.release(page));
            }
            if let Some((page, filled)) = undo.tail {
                if undo.copied {
                    if let Some(copy) = sequence.pages.last_mut() {
                        self.pool.release(std::mem::replace(copy, page));
                    }
                } else {
                    self.pool.set_filled(page, filled);
                }
            }
            self.settle(undo.slot);
        }
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
        for index in sequence.keys.len()..full {
            let start = index.saturating_mul(size);
            let tokens = &sequence.tokens[start..][..size];
            let (parent, before) = sequence.keys.last().copied().unwrap_or((self.root, 0));
            let namespace = sequence.namespace.as_deref().filter(|_| index == 0);
            let key = (self.key_of)(&parent, tokens, namespace);
            let prefix = u32::try_from(start.saturating_add(size)).unwrap_or(u32::MAX);
            let content = Content { key, parent, before, tokens, namespace, prefix };
            let number = self.pool.offer(sequence.pages[index], &content);
            sequence.keys.push((key, number));
        }
    }
}
