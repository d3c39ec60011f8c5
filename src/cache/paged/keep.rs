//! Keeps some of the last rows of a sequence, as a tree of drafts needs it.

use super::{PagedKvCache, runs::PagedStep};
use crate::{
    Error, PageError, Recorder, Result, SequenceError,
    pages::{SequenceId, StepKind},
    plan::{
        operations::kept_prefix,
        step::{Run, Step},
    },
};

impl PagedKvCache {
    /// Keeps, of the last `last` rows of a sequence, those at increasing `indices`, in order, and submits; see
    /// [`KvCache::keep`](crate::KvCache::keep). Undecided drafts are decided: what is kept stays.
    ///
    /// # Errors
    /// Those of [`record_keep`](Self::record_keep); [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    pub fn keep(&mut self, sequence: SequenceId, last: u32, indices: &[u32]) -> Result<()> {
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.record_keep(&mut encoder, sequence, last, indices)?;
        if let Err(error) = self.context.submit("keeping rows", encoder) {
            self.dropped();
            return Err(error);
        }
        self.submitted()
    }

    /// Records [`keep`](Self::keep), as a step of its own: submit and call [`submitted`](Self::submitted), or drop the
    /// encoder and call [`dropped`](Self::dropped). The sequence is then the only one of the last step.
    ///
    /// # Errors
    /// [`SequenceError::KeptBeyondLength`], [`SequenceError::KeptIndex`]; [`PageError::OutOfPages`], because full pages
    /// that others have or may find are not written to, but replaced; [`SequenceError::RollbackEvicted`] and
    /// [`RangeError::Evicted`](crate::RangeError::Evicted) where a window has passed rows that are needed;
    /// [`PageError::StepUnderWay`]; those of [`PagedSequences::tokens`](crate::pages::PagedSequences::tokens);
    /// [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) if not even one row of all heads can be bound;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost). Nothing is changed then.
    ///
    /// # Performance
    /// Rows that move are read once into scratch memory and written once: three dispatches a layer.
    pub fn record_keep(
        &mut self,
        recorder: &mut impl Recorder,
        sequence: SequenceId,
        last: u32,
        indices: &[u32],
    ) -> Result<()> {
        let length = self.books.length(sequence)?;
        let prefix = kept_prefix(last, indices)?;
        let beyond = SequenceError::KeptBeyondLength { sequence: sequence.row(), last, length };
        let first = length.checked_sub(last).ok_or(Error::Sequence(beyond))?;
        if self.books.step().is_some() {
            return Err(PageError::StepUnderWay.into());
        }
        let (start, moved) = (first.saturating_add(prefix), &indices[prefix as usize..]);
        let from: Vec<u32> = moved.iter().map(|index| first.saturating_add(*index)).collect();
        // Which pages are read is known before they are replaced.
        let mut before = Vec::new();
        for group in 0..self.steps.len() {
            before.push(self.books.pages(sequence, group)?.to_vec());
        }
        self.books.begin_move(sequence, start, &from)?;
        #[cfg(feature = "store")]
        self.lower_evicted();
        if let Err(error) = self.record_moved(recorder, sequence, start, (&from, &before)) {
            self.books.dropped();
            self.table.undo();
            return Err(error);
        }
        Ok(())
    }

    /// Runs that copy single rows out of a list of pages.
    fn rows_at(&self, pages: &[u32], positions: &[u32]) -> Step {
        let (size, mut step) = (self.config.page_size, Step::default());
        for position in positions {
            let page = position.checked_div(size).expect("a page has tokens");
            let slot = position.checked_rem(size).expect("a page has tokens");
            let (group, end, token) = (pages[page as usize], slot.saturating_add(1), step.rows);
            step.push(Run { group, sequence: 0, first: slot, start: slot, end, token });
            step.rows = step.rows.saturating_add(1);
        }
        step.runs.sort_unstable_by_key(|run| run.group);
        step
    }

    fn record_moved(
        &mut self,
        recorder: &mut impl Recorder,
        sequence: SequenceId,
        start: u32,
        (from, before): (&[u32], &[Vec<u32>]),
    ) -> Result<()> {
        let rows = u32::try_from(from.len()).unwrap_or(u32::MAX);
        self.plan_batch([(sequence, rows)].into_iter(), StepKind::Append)?;
        let mut parts = self.prepare_tails()?;
        for (group, before) in before.iter().enumerate() {
            let mut start = start;
            // Rows move towards the beginning, so a part overwrites nothing that a later one reads.
            for from in from.chunks(self.rows_at_once() as usize) {
                let out = self.rows_at(before, from);
                let mut place = PagedStep::default();
                let end = start.saturating_add(out.rows);
                place.push(0, self.books.pages(sequence, group)?, self.config.page_size, start..end);
                place.sort();
                start = end;
                let [(step, _), _] = place.forms;
                let own = self.layers.iter().filter(|layer| layer.place.group == group);
                let planes = own.map(|layer| layer.place.planes).collect();
                parts.push(self.part(planes, out, step)?);
            }
        }
        self.reserve_scratch(&parts)?;
        let table = self.table.prepare(&self.context, &self.ring)?;
        self.record_parts(recorder, &parts)?;
        table.record(recorder);
        std::mem::swap(&mut self.batch, &mut self.next_batch);
        Ok(())
    }
}
