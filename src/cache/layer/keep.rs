//! Keeps some of the last rows of a sequence, as a tree of drafts needs it.

use super::moves::{CopyOut, Planned, Transfer, record_each};
use crate::{
    Error, KvCache, PerSequence, RangeError, Recorder, Result, SequenceError, Write,
    plan::{
        operations::{kept_prefix, plan_write},
        step::{Run, Step},
    },
};

impl KvCache {
    /// Keeps, of the last `last` rows of a sequence, those at increasing `indices`, in order, and submits. They then
    /// lie one after the other at the end of the sequence; the others are dropped. After a step that wrote a tree of
    /// drafts, these are the drafts on the path that was accepted.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no such sequence; [`SequenceError::KeptBeyondLength`] if it
    /// has fewer than `last` positions; [`SequenceError::KeptIndex`] if an index is not below `last`, or not above the
    /// one before it; [`RangeError::Evicted`] if a ring has overwritten a row that is kept;
    /// [`SequenceError::RollbackEvicted`] if a ring cannot go back so far; the errors of
    /// [`copy_range`](Self::copy_range) for scratch memory.
    ///
    /// # Performance
    /// Rows whose position stays are not touched. The others are read once into scratch memory and written once, as by
    /// [`copy_range`](Self::copy_range). Indices that are a prefix cost a [`truncate`](Self::truncate).
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, KvCache, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 1, 16))?;
    /// cache.update(&[0.5f32; 10][..], &[0.5f32; 10][..], Write::append(10))?;
    /// cache.keep(0, 5, &[0, 2, 3])?; // of positions 5 to 9, the rows of 5, 7 and 8
    /// assert_eq!(cache.lengths(), [8]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn keep(&mut self, sequence: u32, last: u32, indices: &[u32]) -> Result<()> {
        self.submit("keeping rows", |cache, encoder| cache.record_keep(encoder, sequence, last, indices))
    }

    /// Records [`keep`](Self::keep) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`keep`](Self::keep).
    pub fn record_keep(
        &mut self,
        recorder: &mut impl Recorder,
        sequence: u32,
        last: u32,
        indices: &[u32],
    ) -> Result<()> {
        let layers = std::slice::from_mut(self);
        record_each(layers, recorder, |_, layer| layer.plan_keep(sequence, last, indices))
    }

    /// Checks and plans [`keep`](Self::keep).
    pub(crate) fn plan_keep(&mut self, sequence: u32, last: u32, indices: &[u32]) -> Result<Planned> {
        let (length, oldest) = self.sequences.get(sequence)?;
        let prefix = kept_prefix(last, indices)?;
        let first = length.checked_sub(last).ok_or(Error::Sequence(SequenceError::KeptBeyondLength {
            sequence,
            last,
            length,
        }))?;
        let (position, placement) = (first.saturating_add(prefix), self.config.placement);
        let moved = &indices[prefix as usize..];
        if moved.is_empty() {
            let mut lengths = self.sequences.lengths.clone();
            lengths[sequence as usize] = position;
            self.plan_truncate(PerSequence::Each(&lengths))?;
            return Ok(Planned::lengths(self.config.batch_size));
        }
        let mut step = Step::default();
        for position in moved.iter().map(|index| first.saturating_add(*index)) {
            if position < oldest && position >= placement.sinks() {
                return Err(Error::Range(RangeError::Evicted { sequence, position, oldest }));
            }
            let slot = placement.slot(position);
            let (end, token) = (slot.saturating_add(1), step.rows);
            step.push(Run { group: sequence, sequence, first: slot, start: slot, end, token });
            step.rows = step.rows.saturating_add(1);
        }
        let mut counts = vec![0; self.sequences.lengths.len()];
        counts[sequence as usize] = step.rows;
        let write = Write::at(position, step.rows).counts(&counts);
        plan_write(&self.config, &self.sequences, &write, &mut self.step)?;
        self.step.forget_starts();
        let sequences = sequence..sequence.saturating_add(1);
        let tensors = self.tensors(&step, &sequences, None)?;
        let source = self.bind_one(&tensors.source())?;
        let transfer = Transfer { out: Some(CopyOut { sequences, tensors, step }), source, place: self.step.clone() };
        Ok(Planned::transfer(self.config.batch_size, transfer))
    }
}
