//! Steps of [`PagedSequences`] that move the last rows of a sequence: some of them are kept, the others are not.

use super::{
    held::{RETURNED, length_of},
    id::SequenceId,
    sequences::PagedSequences,
    step::{Kept, PageCopy, PlannedAppend, PlannedStep},
};
use crate::{PageError, Result};

impl PagedSequences {
    /// Checks that rows of a sequence from `start` on can be replaced by those at the positions `from`, and tells where
    /// it ends then.
    fn check_move(&self, id: SequenceId, start: u32, from: &[u32]) -> Result<u32> {
        let end = start.saturating_add(length_of(from));
        self.check_cut(id, end)?;
        let length = self.length(id)?;
        for group in (0..self.groups.len()).filter(|_| !from.is_empty()) {
            self.check_range(id, group, &(start..length))?;
        }
        Ok(end)
    }

    /// Begins a step after which the rows of a sequence from `start` on are those that lie at the positions `from`.
    /// Pages that nobody else may see are written in place.
    ///
    /// # Errors
    /// [`PageError::OutOfPages`]; [`PageError::StepUnderWay`];
    /// [`SequenceError::RollbackEvicted`](crate::SequenceError::RollbackEvicted) and
    /// [`RangeError::Evicted`](crate::RangeError::Evicted) where a group has returned pages that are needed; those of
    /// [`tokens`](Self::tokens). Nothing is changed then.
    pub(crate) fn begin_move(&mut self, id: SequenceId, start: u32, from: &[u32]) -> Result<&PlannedStep> {
        if self.under_way {
            return Err(PageError::StepUnderWay.into());
        }
        let size = self.config.page_size;
        let end = self.check_move(id, start, from)?;
        let (first_page, at) = (start.checked_div(size).unwrap_or(0) as usize, start & size.saturating_sub(1));
        let kept = end.div_ceil(size) as usize;
        // Rows are written to these pages. The others after them are left.
        let written = if from.is_empty() { kept..kept } else { first_page..kept };
        let sequence = self.get(id)?;
        let of_groups = sequence.held.iter().flat_map(|held| &held.pages[written.clone()]);
        let needed = of_groups.filter(|&&page| !self.pool.is_exclusive(page)).count() as u64;
        let (free, evictable) = (self.pool.free(), self.pool.evictable());
        if needed > free.into() {
            return Err(PageError::OutOfPages { needed, free: free.saturating_sub(evictable), evictable }.into());
        }
        self.steps = self.steps.saturating_add(1);
        self.planned.clear();
        self.undo.clear();
        let sequence = self.slots[id.slot as usize].sequence.as_mut().expect("the handle was checked");
        let moved: Vec<u32> = from.iter().map(|&position| sequence.tokens[position as usize]).collect();
        let of_group = |pages: &[u32]| pages[first_page.min(pages.len())..].to_vec();
        let mut undo = Kept {
            slot: id.slot,
            first_page,
            start,
            tokens: sequence.tokens.split_off(start as usize),
            pages: sequence.held.iter().map(|held| (of_group(&held.pages), held.told)).collect(),
            prefixes: sequence.prefixes.split_off(first_page.min(sequence.prefixes.len())),
            filled: Vec::new(),
            drafts: sequence.drafts,
        };
        sequence.tokens.extend(moved);
        (sequence.drafts, sequence.step) = (0, self.steps);
        for held in &mut sequence.held {
            held.pages.truncate(kept);
            held.told = held.told.min(length_of(&held.pages));
            for index in written.clone() {
                let page = held.pages[index];
                let first_row = index.saturating_mul(size as usize);
                let rows = u32::try_from((end as usize).saturating_sub(first_row)).unwrap_or(size).min(size);
                if self.pool.is_exclusive(page) {
                    undo.filled.push((page, self.pool.filled(page)));
                    self.pool.set_filled(page, rows);
                    continue;
                }
                let to = self.pool.take();
                if index == first_page && at > 0 {
                    self.planned.copies.push(PageCopy { from: page, to, rows: at });
                }
                held.pages[index] = to;
                held.told = held.told.min(u32::try_from(index).unwrap_or(u32::MAX));
                self.pool.set_filled(to, rows);
            }
        }
        self.planned.appends.push(PlannedAppend { sequence: id, start, tokens: length_of(from) });
        self.kept = Some(undo);
        self.under_way = true;
        Ok(&self.planned)
    }

    /// Ends such a step: pages that the sequence no longer has are free.
    pub(super) fn end_move(&mut self, kept: &Kept) {
        let Some(sequence) = &mut self.slots[kept.slot as usize].sequence else { return };
        for (held, (pages, _)) in sequence.held.iter().zip(&kept.pages) {
            let own = held.pages.get(kept.first_page..).unwrap_or_default();
            for (index, &page) in pages.iter().enumerate().rev() {
                if own.get(index) != Some(&page) && page != RETURNED {
                    self.pool.release(page);
                }
            }
        }
        let length = length_of(&sequence.tokens);
        self.groups.iter().zip(&mut sequence.held).for_each(|(own, held)| held.cut(length, own));
        kept.prefixes.iter().for_each(|&prefix| self.pool.prefixes.release(prefix));
        self.settle(kept.slot);
        self.make_room(kept.slot, 0);
    }

    /// Goes back from such a step.
    pub(super) fn undo_move(&mut self, kept: Kept) {
        let Some(sequence) = &mut self.slots[kept.slot as usize].sequence else { return };
        sequence.tokens.truncate(kept.start as usize);
        sequence.tokens.extend(kept.tokens);
        sequence.prefixes.extend(kept.prefixes);
        sequence.drafts = kept.drafts;
        for (held, (pages, told)) in sequence.held.iter_mut().zip(kept.pages) {
            let own = held.pages.split_off(kept.first_page.min(held.pages.len()));
            held.pages.extend(&pages);
            held.told = told;
            for (index, &page) in own.iter().enumerate().rev() {
                if pages.get(index) != Some(&page) {
                    self.pool.release(page);
                }
            }
        }
        kept.filled.into_iter().for_each(|(page, rows)| self.pool.set_filled(page, rows));
        self.settle(kept.slot);
        self.make_room(kept.slot, 0);
    }
}
