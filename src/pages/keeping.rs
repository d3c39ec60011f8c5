//! Steps of [`PagedSequences`] that move the last rows of a sequence: some of them are kept, the others are not.

use super::{
    id::SequenceId,
    sequences::{PagedSequences, length_of},
    step::{Kept, PageCopy, PlannedAppend, PlannedStep},
};
use crate::{PageError, Result};

impl PagedSequences {
    /// Begins a step after which the rows of a sequence from `start` on are those that lie at the positions `from`. Pages
    /// that nobody else may see are written in place.
    ///
    /// # Errors
    /// [`PageError::OutOfPages`]; [`PageError::StepUnderWay`]; those of [`tokens`](Self::tokens). Nothing is changed then.
    pub(crate) fn begin_move(&mut self, id: SequenceId, start: u32, from: &[u32]) -> Result<&PlannedStep> {
        if self.under_way {
            return Err(PageError::StepUnderWay.into());
        }
        let size = self.config.page_size;
        let sequence = self.get(id)?;
        let (first_page, at) = (start.checked_div(size).unwrap_or(0) as usize, start & size.saturating_sub(1));
        let end = start.saturating_add(length_of(from));
        let kept = if from.is_empty() { start.div_ceil(size) } else { end.div_ceil(size) } as usize;
        // Rows are written to these pages. The others after them are left.
        let written = if from.is_empty() { kept..kept } else { first_page..kept };
        let replaced: Vec<bool> =
            (sequence.pages[written.clone()].iter()).map(|&page| !self.pool.is_exclusive(page)).collect();
        let needed = replaced.iter().filter(|replaced| **replaced).count() as u64;
        let (free, evictable) = (self.pool.free(), self.pool.evictable());
        if needed > free.into() {
            return Err(PageError::OutOfPages { needed, free: free.saturating_sub(evictable), evictable }.into());
        }
        self.steps = self.steps.saturating_add(1);
        self.planned.clear();
        self.undo.clear();
        let sequence = self.slots[id.slot as usize].sequence.as_mut().expect("the handle was checked");
        let moved: Vec<u32> = from.iter().map(|&position| sequence.tokens[position as usize]).collect();
        let mut undo = Kept {
            slot: id.slot,
            first_page,
            start,
            tokens: sequence.tokens.split_off(start as usize),
            pages: sequence.pages[first_page.min(sequence.pages.len())..].to_vec(),
            keys: sequence.keys.split_off(first_page.min(sequence.keys.len())),
            filled: Vec::new(),
            drafts: sequence.drafts,
            told: sequence.told,
        };
        sequence.tokens.extend(moved);
        sequence.pages.truncate(kept);
        (sequence.drafts, sequence.step) = (0, self.steps);
        sequence.told = sequence.told.min(length_of(&sequence.pages));
        for (index, replaced) in written.zip(replaced) {
            let page = sequence.pages[index];
            let first_row = index.saturating_mul(size as usize);
            let rows = u32::try_from((end as usize).saturating_sub(first_row)).unwrap_or(size).min(size);
            if replaced {
                let to = self.pool.take();
                if index == first_page && at > 0 {
                    self.planned.copies.push(PageCopy { from: page, to, rows: at });
                }
                sequence.pages[index] = to;
                sequence.told = sequence.told.min(u32::try_from(index).unwrap_or(u32::MAX));
                self.pool.set_filled(to, rows);
            } else {
                undo.filled.push((page, self.pool.filled(page)));
                self.pool.set_filled(page, rows);
            }
        }
        self.planned.appends.push(PlannedAppend { sequence: id, start, tokens: length_of(from) });
        self.kept = Some(undo);
        self.under_way = true;
        Ok(&self.planned)
    }

    /// Ends such a step: pages that the sequence no longer has are free.
    pub(super) fn end_move(&mut self, kept: &Kept) {
        let Some(sequence) = &self.slots[kept.slot as usize].sequence else { return };
        let own = sequence.pages.get(kept.first_page..).unwrap_or_default().to_vec();
        for (index, &page) in kept.pages.iter().enumerate().rev() {
            if own.get(index) != Some(&page) {
                self.pool.release(page);
            }
        }
        self.settle(kept.slot);
    }

    /// Goes back from such a step.
    pub(super) fn undo_move(&mut self, kept: Kept) {
        let Some(sequence) = &mut self.slots[kept.slot as usize].sequence else { return };
        let own = sequence.pages.split_off(kept.first_page.min(sequence.pages.len()));
        sequence.tokens.truncate(kept.start as usize);
        sequence.tokens.extend(kept.tokens);
        sequence.keys.truncate(kept.first_page);
        sequence.keys.extend(kept.keys);
        sequence.pages.extend(&kept.pages);
        (sequence.drafts, sequence.told) = (kept.drafts, kept.told);
        for (index, &page) in own.iter().enumerate().rev() {
            if kept.pages.get(index) != Some(&page) {
                self.pool.release(page);
            }
        }
        kept.filled.into_iter().for_each(|(page, rows)| self.pool.set_filled(page, rows));
        self.settle(kept.slot);
    }
}
