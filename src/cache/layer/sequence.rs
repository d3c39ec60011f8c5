//! Operations on whole sequences of a layer: truncate, clear, select, reorder, repeat and fork.

use super::moves::{Planned, record_lengths, record_select};
use crate::{
    Error, KvCache, PerSequence, Recorder, Result, SequenceError,
    cache::permutation::Permutation,
    plan::{operations::plan_truncate, sequences::Sequences},
};

impl KvCache {
    /// Truncates each sequence to the given length and submits. Takes one length for all sequences or one for each.
    /// [`get`](Self::get) reads truncated positions as zero; their bytes stay in the storage until they are
    /// overwritten.
    ///
    /// Once a ring has wrapped, it can go back by at most `slack` positions, because a whole window must still be
    /// stored. Truncating to the sinks or fewer positions is always possible.
    ///
    /// # Errors
    /// [`SequenceError::PerSequenceLength`] if there is not one length per sequence;
    /// [`SequenceError::TruncateBeyondLength`] if a length is larger than the sequence's own;
    /// [`SequenceError::RollbackEvicted`] if a ring has overwritten a row of the window at that length, with the
    /// smallest length that is still possible; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the
    /// device has no memory left; [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// Writes 8 bytes per sequence: one copy in an encoder, one dispatch of one thread per sequence in a pass. Needs no
    /// scratch memory.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, KvCache, SequenceError, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(2, 1, 1, 8))?;
    /// cache.update(&[0.5f32; 10][..], &[0.5f32; 10][..], Write::append(5))?;
    /// cache.truncate(&[2, 5])?; // three drafted tokens of sequence 0 were refused
    /// assert_eq!(cache.lengths(), [2, 5]);
    /// let refused = cache.truncate(4);
    /// assert_eq!(refused, Err(SequenceError::TruncateBeyondLength { sequence: 0, length: 4, current: 2 }.into()));
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn truncate<'l>(&mut self, lengths: impl Into<PerSequence<'l>>) -> Result<()> {
        let lengths = lengths.into();
        self.submit("a truncation", |cache, encoder| cache.record_truncate(encoder, lengths))
    }

    /// Records [`truncate`](Self::truncate) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`truncate`](Self::truncate).
    pub fn record_truncate<'l>(
        &mut self,
        recorder: &mut impl Recorder,
        lengths: impl Into<PerSequence<'l>>,
    ) -> Result<()> {
        let lengths = lengths.into();
        record_lengths(std::slice::from_mut(self), recorder, |layer| layer.plan_truncate(lengths))
    }

    /// Checks a truncation and plans it.
    pub(crate) fn plan_truncate(&mut self, lengths: PerSequence<'_>) -> Result<()> {
        plan_truncate(self.config.placement, &self.sequences, lengths, &mut self.step)
    }

    /// Checks and plans the removal of the last tokens of each sequence.
    pub(crate) fn plan_rollback(&mut self, tokens: PerSequence<'_>) -> Result<()> {
        let count = self.sequences.lengths.len();
        if let PerSequence::Each(tokens) = tokens
            && tokens.len() != count
        {
            let batch_size = self.config.batch_size;
            return Err(Error::Sequence(SequenceError::PerSequenceLength {
                name: "tokens",
                batch_size,
                actual: tokens.len(),
            }));
        }
        let shorter = |(sequence, &length): (u32, &u32)| {
            let tokens = match tokens {
                PerSequence::All(tokens) => tokens,
                PerSequence::Each(tokens) => tokens[sequence as usize],
            };
            length.checked_sub(tokens).ok_or(Error::Sequence(SequenceError::RollbackBeyondStart {
                sequence,
                tokens,
                length,
            }))
        };
        let lengths: Vec<u32> = (0..).zip(&self.sequences.lengths).map(shorter).collect::<Result<_>>()?;
        self.plan_truncate(PerSequence::Each(&lengths))
    }

    /// Empties a sequence and submits. The sequence stays in the batch.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no such sequence;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// The cost of [`truncate`](Self::truncate).
    pub fn clear_sequence(&mut self, sequence: u32) -> Result<()> {
        self.submit("a clear", |cache, encoder| cache.record_clear_sequence(encoder, sequence))
    }

    /// Records [`clear_sequence`](Self::clear_sequence) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`clear_sequence`](Self::clear_sequence).
    pub fn record_clear_sequence(&mut self, recorder: &mut impl Recorder, sequence: u32) -> Result<()> {
        record_lengths(std::slice::from_mut(self), recorder, |layer| layer.plan_clear(sequence))
    }

    /// Checks the index of a sequence and plans to empty it.
    pub(crate) fn plan_clear(&mut self, sequence: u32) -> Result<()> {
        self.sequences.get(sequence)?;
        let mut lengths = self.sequences.lengths.clone();
        lengths[sequence as usize] = 0;
        self.plan_truncate(PerSequence::Each(&lengths))
    }

    /// Replaces the batch and submits: sequence `i` of the new batch is a copy of sequence `sources[i]`.
    ///
    /// A source may occur several times, in any order, or not at all. The batch may shrink, or grow up to
    /// [`max_batch_size`](crate::CacheConfig::max_batch_size). All stored rows of a sequence move, including those that
    /// a ring keeps for a rollback.
    ///
    /// # Errors
    /// [`SequenceError::EmptySelection`] if `sources` is empty; [`SequenceError::BatchTooLarge`] if it has more than
    /// `max_batch_size` entries; [`SequenceError::IndexOutOfRange`] if the batch has no such source;
    /// [`DeviceError::BufferTooLarge`](crate::DeviceError::BufferTooLarge) if the rows of a sequence go through scratch
    /// memory and do not fit one buffer; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device
    /// has no memory left; [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// With one segment: one dispatch, in place, which moves each byte once (in a cycle of sequences, one goes through
    /// registers). It needs no scratch memory beyond up to 28 bytes per sequence, or 76 in a ring, and a few bytes of
    /// parameters.
    ///
    /// A cache with several segments, or with more heads than a grid is high (65 535 by wgpu's default limits), needs
    /// scratch memory as large as the rows that move. Each sequence that moves then takes up to one dispatch per side
    /// and segment to copy it out, and up to one per segment to put it back.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, KvCache, SequenceError, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(3, 1, 1, 8).max_batch_size(4))?;
    /// cache.update(&[0.5f32; 9][..], &[0.5f32; 9][..], Write::append(3).counts(&[1, 2, 3]))?;
    /// cache.select(&[2, 0, 2, 2])?;
    /// assert_eq!(cache.lengths(), [3, 1, 3, 3]);
    /// assert_eq!(cache.select(&[]), Err(SequenceError::EmptySelection.into()));
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn select(&mut self, sources: &[u32]) -> Result<()> {
        self.submit("a selection", |cache, encoder| cache.record_select(encoder, sources))
    }

    /// Records [`select`](Self::select) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`select`](Self::select).
    pub fn record_select(&mut self, recorder: &mut impl Recorder, sources: &[u32]) -> Result<()> {
        record_select(std::slice::from_mut(self), recorder, sources)
    }

    /// Plans a selection that was checked: the transfers of rows that do not move in place, and the lengths afterwards.
    pub(super) fn plan_select(&mut self, sources: &[u32]) -> Result<Planned> {
        let batch_size = u32::try_from(sources.len()).expect("a batch size is 32 bits wide");
        let in_place = self.moves_in_place(sources);
        let transfers = if in_place { Vec::new() } else { self.plan_aside(sources, batch_size)? };
        let selected = self.sequences.selected(sources);
        let lengths = PerSequence::Each(&selected.lengths);
        plan_truncate(self.config.placement, &selected, lengths, &mut self.step)?;
        Ok(Planned { transfers, sets_lengths: !in_place, batch_size })
    }

    /// Whether a selection moves rows and can do so in place. That takes one segment whose planes fit a grid, and moves
    /// that fit a binding.
    pub(crate) fn moves_in_place(&self, sources: &[u32]) -> bool {
        let fits = Permutation::fits_a_grid(&self.context, &self.layout)
            && Permutation::layers_at_once(&self.context, sources.len()) > 0;
        fits && self.storage.segments.len() == 1 && (0..).zip(sources).any(|(to, from)| to != *from)
    }

    /// Whether one dispatch can move rows of both layers.
    pub(crate) fn moves_like(&self, other: &KvCache) -> bool {
        self.layout == other.layout && self.config.batch_size == other.config.batch_size
    }

    /// Prepares one dispatch that moves the rows of layers for which [`moves_like`](Self::moves_like) holds.
    pub(crate) fn permutation(layers: &[KvCache], sources: &[u32]) -> Result<Permutation> {
        let first = layers.first().expect("some layer moves");
        let parts = layers.iter().map(|layer| (&layer.storage, &layer.sequences));
        Permutation::new(&first.context, &first.layout, parts, sources)
    }

    /// Prepares one dispatch that sets the planned lengths of layers for which [`moves_like`](Self::moves_like) holds.
    pub(crate) fn relength(layers: &[KvCache]) -> Result<Permutation> {
        let first = layers.first().expect("some layer is cut");
        let afterwards = |layer: &KvCache| {
            let mut sequences = Sequences::default();
            layer.step.commit(&mut sequences);
            sequences
        };
        let planned: Vec<Sequences> = layers.iter().map(afterwards).collect();
        let parts = layers.iter().zip(&planned).map(|(layer, planned)| (&layer.storage, planned));
        let same: Vec<u32> = (0..first.config.batch_size).collect();
        Permutation::new(&first.context, &first.layout, parts, &same)
    }

    /// Calls [`select`](Self::select) with exactly one source per sequence, for a permutation of the batch or the
    /// surviving beams of a beam search.
    ///
    /// # Errors
    /// [`SequenceError::PerSequenceLength`] if there is not one source per sequence; the errors of
    /// [`select`](Self::select).
    ///
    /// # Performance
    /// The cost of [`select`](Self::select).
    pub fn reorder(&mut self, sources: &[u32]) -> Result<()> {
        self.submit("a selection", |cache, encoder| cache.record_reorder(encoder, sources))
    }

    /// Records [`reorder`](Self::reorder) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`reorder`](Self::reorder).
    pub fn record_reorder(&mut self, recorder: &mut impl Recorder, sources: &[u32]) -> Result<()> {
        self.check_reorder(sources)?;
        self.record_select(recorder, sources)
    }

    /// Repeats each sequence `times` times and submits: `[a, b]` becomes `[a, a, b, b]` for `times` = 2. This starts a
    /// beam search.
    ///
    /// # Errors
    /// The errors of [`select`](Self::select).
    ///
    /// # Performance
    /// The cost of [`select`](Self::select).
    pub fn repeat(&mut self, times: u32) -> Result<()> {
        self.submit("a selection", |cache, encoder| cache.record_repeat(encoder, times))
    }

    /// Records [`repeat`](Self::repeat) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`repeat`](Self::repeat).
    pub fn record_repeat(&mut self, recorder: &mut impl Recorder, times: u32) -> Result<()> {
        let sources = self.repeated(times)?;
        self.record_select(recorder, &sources)
    }

    /// Forks a sequence: replaces sequence `to` with a copy of sequence `from`, and submits.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no sequence `from` or `to`; the device errors of
    /// [`select`](Self::select).
    ///
    /// # Performance
    /// The cost of [`select`](Self::select).
    pub fn copy_sequence(&mut self, from: u32, to: u32) -> Result<()> {
        self.submit("a copy", |cache, encoder| cache.record_copy_sequence(encoder, from, to))
    }

    /// Records [`copy_sequence`](Self::copy_sequence) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`copy_sequence`](Self::copy_sequence).
    pub fn record_copy_sequence(&mut self, recorder: &mut impl Recorder, from: u32, to: u32) -> Result<()> {
        let sources = self.forked(from, to)?;
        self.record_select(recorder, &sources)
    }

    /// Checks a selection and returns the size of its batch.
    pub(crate) fn check_selection(&self, sources: &[u32]) -> Result<u32> {
        let max_batch_size = self.config.max_batch_size;
        let batch_size = u32::try_from(sources.len()).unwrap_or(u32::MAX);
        if batch_size == 0 {
            return Err(Error::Sequence(SequenceError::EmptySelection));
        }
        if batch_size > max_batch_size {
            return Err(Error::Sequence(SequenceError::BatchTooLarge { batch_size, max_batch_size }));
        }
        for &source in sources {
            self.sequences.get(source)?;
        }
        Ok(batch_size)
    }

    pub(crate) fn check_reorder(&self, sources: &[u32]) -> Result<()> {
        let (batch_size, actual) = (self.config.batch_size, sources.len());
        if actual == batch_size as usize {
            Ok(())
        } else {
            Err(Error::Sequence(SequenceError::PerSequenceLength { name: "sources", batch_size, actual }))
        }
    }

    /// Returns the selection that repeats each sequence.
    pub(crate) fn repeated(&self, times: u32) -> Result<Vec<u32>> {
        let max_batch_size = self.config.max_batch_size;
        let batch_size = self.config.batch_size.saturating_mul(times);
        if batch_size > max_batch_size {
            return Err(Error::Sequence(SequenceError::BatchTooLarge { batch_size, max_batch_size }));
        }
        let times = times as usize;
        Ok((0..self.config.batch_size).flat_map(|sequence| std::iter::repeat_n(sequence, times)).collect())
    }

    /// Returns the selection that replaces one sequence and keeps the others.
    pub(crate) fn forked(&self, from: u32, to: u32) -> Result<Vec<u32>> {
        self.sequences.get(from)?;
        self.sequences.get(to)?;
        Ok((0..self.config.batch_size).map(|sequence| if sequence == to { from } else { sequence }).collect())
    }
}
