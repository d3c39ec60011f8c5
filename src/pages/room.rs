//! Room for steps: lists grow when a sequence is added and when a step ends, so that planning a step does not allocate.

use super::{
    held::length_of,
    id::SequenceId,
    sequences::{PagedSequences, Sequence},
};
use crate::{PageError, Result};

/// Tokens that every sequence has room for.
const LEAST: u32 = 64;

impl PagedSequences {
    /// Makes room for the next tokens of a sequence, so that planning a step that appends so many to it does not
    /// allocate. Steps are planned without allocations in any case where a sequence appends at most 64 tokens, as many
    /// as in its last step, or those that it was added with.
    ///
    /// # Errors
    /// [`PageError::BooksTooLarge`] if the host has no memory for so many; those of [`tokens`](Self::tokens). There is
    /// no room for more than `max_seq_len` tokens, or more than the pool has pages for.
    pub fn reserve(&mut self, id: SequenceId, tokens: u32) -> Result<()> {
        let (length, size) = (self.length(id)?, self.config.page_size);
        // A step that appends more takes more pages than there are.
        let most = u64::from(size).saturating_mul(u64::from(self.config.count).saturating_add(1));
        let end = u64::from(length).saturating_add(most.min(tokens.into())).min(self.config.max_seq_len.into());
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        let Sequence { tokens, held, .. } = self.sequence(id.slot);
        let reserved = tokens.try_reserve(end.saturating_sub(length) as usize).and_then(|()| {
            held.iter_mut().try_for_each(|held| {
                held.pages.try_reserve(end.div_ceil(size).saturating_sub(length_of(&held.pages)) as usize)
            })
        });
        reserved.map_err(|_| PageError::BooksTooLarge { pages: self.config.count }.into())
    }

    /// Makes room for the next step of a sequence: for so many tokens, and for at least some.
    pub(super) fn make_room(&mut self, slot: u32, tokens: u32) {
        let size = self.config.page_size;
        let Some(sequence) = &mut self.slots[slot as usize].sequence else { return };
        let length = length_of(&sequence.tokens);
        let room = tokens.max(LEAST).min(self.config.max_seq_len.saturating_sub(length));
        sequence.tokens.reserve(room as usize);
        let end = length.saturating_add(room);
        let mut returnable = 0usize;
        for (own, held) in self.groups.iter().zip(&mut sequence.held) {
            if held.pages.capacity().saturating_mul(size as usize) < end as usize {
                held.pages.reserve(end.div_ceil(size).saturating_sub(length_of(&held.pages)) as usize);
            }
            let returned = own.first_kept(length).min(length_of(&held.pages)).saturating_sub(held.first);
            returnable = returnable.saturating_add(returned as usize);
        }
        self.returnable = self.returnable.saturating_sub(sequence.returnable).saturating_add(returnable);
        sequence.returnable = returnable;
        extend(&mut self.returned, self.returnable);
    }

    /// Makes room in the lists of a step, which has each sequence once.
    pub(super) fn make_room_for_sequences(&mut self) {
        let (sequences, groups) = (self.slots.len(), self.slots.len().saturating_mul(self.groups.len()));
        extend(&mut self.planned.appends, sequences);
        extend(&mut self.planned.copies, groups);
        extend(&mut self.undo, sequences);
        extend(&mut self.undo_groups, groups);
    }
}

/// Makes room for so many entries in all.
fn extend<T>(list: &mut Vec<T>, entries: usize) {
    list.reserve(entries.saturating_sub(list.len()));
}
