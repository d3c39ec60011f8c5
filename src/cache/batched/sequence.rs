//! Operations on whole sequences in all layers at once: truncate, select, copy, extract, insert. Each has a twin on
//! [`KvCache`] for one layer, except [`BatchedKvCache::rollback`].

use std::ops::Range;

use crate::{
    BatchedKvCache, ConfigError, Error, GpuTensor, HostRows, KvCache, Pair, PerSequence, Recorder, Result, StepError,
    cache::layer::{record_each, record_lengths, record_select},
};

/// Each method acts on all layers, and checks every layer before it records anything. A selection moves several layers
/// of the same shape in one dispatch, as many as the device can bind at three buffers each. A method that changes only
/// lengths records one copy per layer in an encoder; in a pass one dispatch serves as many layers.
impl BatchedKvCache {
    /// Applies [`KvCache::truncate`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::truncate`], from any layer.
    pub fn truncate<'l>(&mut self, lengths: impl Into<PerSequence<'l>>) -> Result<()> {
        let lengths = lengths.into();
        self.submit("a truncation", |cache, encoder| cache.record_truncate(encoder, lengths))
    }

    /// Applies [`KvCache::record_truncate`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_truncate`], from any layer.
    pub fn record_truncate<'l>(
        &mut self,
        recorder: &mut impl Recorder,
        lengths: impl Into<PerSequence<'l>>,
    ) -> Result<()> {
        let lengths = lengths.into();
        record_lengths(&mut self.layers, recorder, |layer| layer.plan_truncate(lengths))
    }

    /// Removes the last tokens of each sequence from every layer and submits. Takes one number for all sequences or one
    /// for each. Speculative decoding calls it for drafted tokens that the model rejected.
    ///
    /// # Errors
    /// [`SequenceError::RollbackBeyondStart`](crate::SequenceError::RollbackBeyondStart) if a sequence has fewer tokens
    /// than would be removed; the errors of [`KvCache::truncate`], from any layer.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Context, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = BatchedKvCache::new(&context, CacheConfig::new(2, 1, 1, 8), 1)?;
    /// cache.update(0, &[0.5f32; 8][..], &[0.5f32; 8][..], Write::append(4))?;
    /// cache.rollback(&[3, 0])?;
    /// assert_eq!(cache.lengths(), [1, 4]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn rollback<'l>(&mut self, tokens: impl Into<PerSequence<'l>>) -> Result<()> {
        let tokens = tokens.into();
        self.submit("a rollback", |cache, encoder| cache.record_rollback(encoder, tokens))
    }

    /// Records [`rollback`](Self::rollback) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`rollback`](Self::rollback).
    pub fn record_rollback<'l>(
        &mut self,
        recorder: &mut impl Recorder,
        tokens: impl Into<PerSequence<'l>>,
    ) -> Result<()> {
        let tokens = tokens.into();
        record_lengths(&mut self.layers, recorder, |layer| layer.plan_rollback(tokens))
    }

    /// Applies [`KvCache::clear_sequence`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::clear_sequence`], from any layer.
    pub fn clear_sequence(&mut self, sequence: u32) -> Result<()> {
        self.submit("a clear", |cache, encoder| cache.record_clear_sequence(encoder, sequence))
    }

    /// Applies [`KvCache::record_clear_sequence`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_clear_sequence`], from any layer.
    pub fn record_clear_sequence(&mut self, recorder: &mut impl Recorder, sequence: u32) -> Result<()> {
        record_lengths(&mut self.layers, recorder, |layer| layer.plan_clear(sequence))
    }

    /// Applies [`KvCache::select`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::select`], from any layer.
    pub fn select(&mut self, sources: &[u32]) -> Result<()> {
        self.submit("a selection", |cache, encoder| cache.record_select(encoder, sources))
    }

    /// Applies [`KvCache::record_select`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_select`], from any layer.
    pub fn record_select(&mut self, recorder: &mut impl Recorder, sources: &[u32]) -> Result<()> {
        record_select(&mut self.layers, recorder, sources)
    }

    /// Applies [`KvCache::reorder`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::reorder`], from any layer.
    pub fn reorder(&mut self, sources: &[u32]) -> Result<()> {
        self.submit("a selection", |cache, encoder| cache.record_reorder(encoder, sources))
    }

    /// Applies [`KvCache::record_reorder`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_reorder`], from any layer.
    pub fn record_reorder(&mut self, recorder: &mut impl Recorder, sources: &[u32]) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.check_reorder(sources))?;
        self.record_select(recorder, sources)
    }

    /// Applies [`KvCache::repeat`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::repeat`], from any layer.
    pub fn repeat(&mut self, times: u32) -> Result<()> {
        self.submit("a selection", |cache, encoder| cache.record_repeat(encoder, times))
    }

    /// Applies [`KvCache::record_repeat`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_repeat`], from any layer.
    pub fn record_repeat(&mut self, recorder: &mut impl Recorder, times: u32) -> Result<()> {
        self.check_batches()?;
        let sources = self.first().repeated(times)?;
        self.record_select(recorder, &sources)
    }

    /// Applies [`KvCache::copy_sequence`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::copy_sequence`], from any layer.
    pub fn copy_sequence(&mut self, from: u32, to: u32) -> Result<()> {
        self.submit("a copy", |cache, encoder| cache.record_copy_sequence(encoder, from, to))
    }

    /// Applies [`KvCache::record_copy_sequence`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_copy_sequence`], from any layer.
    pub fn record_copy_sequence(&mut self, recorder: &mut impl Recorder, from: u32, to: u32) -> Result<()> {
        self.check_batches()?;
        let sources = self.first().forked(from, to)?;
        self.record_select(recorder, &sources)
    }

    /// Applies [`KvCache::copy_range`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::copy_range`], from any layer.
    pub fn copy_range(&mut self, from: u32, range: Range<u32>, to: u32, position: u32) -> Result<()> {
        self.submit("a copy", |cache, encoder| cache.record_copy_range(encoder, from, range, to, position))
    }

    /// Applies [`KvCache::record_copy_range`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_copy_range`], from any layer.
    pub fn record_copy_range(
        &mut self,
        recorder: &mut impl Recorder,
        from: u32,
        range: Range<u32>,
        to: u32,
        position: u32,
    ) -> Result<()> {
        record_each(&mut self.layers, recorder, |_, layer| layer.plan_copy_range(from, &range, to, position))
    }

    /// Applies [`KvCache::keep`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::keep`], from any layer.
    pub fn keep(&mut self, sequence: u32, last: u32, indices: &[u32]) -> Result<()> {
        self.submit("keeping rows", |cache, encoder| cache.record_keep(encoder, sequence, last, indices))
    }

    /// Applies [`KvCache::record_keep`] to every layer, or to none.
    ///
    /// # Errors
    /// The errors of [`KvCache::record_keep`], from any layer.
    pub fn record_keep(
        &mut self,
        recorder: &mut impl Recorder,
        sequence: u32,
        last: u32,
        indices: &[u32],
    ) -> Result<()> {
        record_each(&mut self.layers, recorder, |_, layer| layer.plan_keep(sequence, last, indices))
    }

    /// Calls [`KvCache::extract`] on every layer and returns the rows in the order of layers.
    ///
    /// # Errors
    /// The errors of [`KvCache::extract`], from any layer.
    pub fn extract(&self, sequence: u32) -> Result<Vec<Pair<GpuTensor>>> {
        self.layers.iter().map(|layer| layer.extract(sequence)).collect()
    }

    /// Applies [`KvCache::insert`] to every layer, or to none. `rows` has the rows of each layer, in order.
    ///
    /// # Errors
    /// [`StepError::LayerCount`] if `rows` has another number of entries than there are layers; the errors of
    /// [`KvCache::insert`], from any layer.
    pub fn insert(&mut self, sequence: u32, length: u32, rows: &[Pair<HostRows<'_>>]) -> Result<()> {
        if rows.len() != self.layers.len() {
            let num_layers = self.layers.len();
            return Err(Error::Step(StepError::LayerCount { name: "rows", num_layers, actual: rows.len() }));
        }
        for (layer, rows) in self.layers.iter().zip(rows) {
            layer.check_inserted(sequence, length, *rows)?;
        }
        self.submit("an insertion", |cache, encoder| {
            let insert = |index: usize, layer: &mut KvCache| layer.plan_insert_rows(sequence, length, rows[index]);
            record_each(&mut cache.layers, encoder, insert)
        })
    }

    /// Replaces a sequence like [`insert`](Self::insert), with rows on the device.
    #[cfg(feature = "save")]
    pub(crate) fn insert_tensors(&mut self, sequence: u32, length: u32, rows: &[Pair<GpuTensor>]) -> Result<()> {
        self.submit("an insertion", |cache, encoder| {
            let insert = |index: usize, layer: &mut KvCache| layer.plan_insert(sequence, length, &rows[index].source());
            record_each(&mut cache.layers, encoder, insert)
        })
    }

    fn first(&self) -> &KvCache {
        self.layers.first().expect("a cache has at least one layer")
    }

    /// Checks that all layers have the batch size of the first. A selection is built from the first layer and applied
    /// to all, and a caller may have changed one layer alone.
    pub(super) fn check_batches(&self) -> Result<()> {
        let first = self.config().batch_size;
        let batches = self.layers.iter().map(|layer| layer.config().batch_size).enumerate();
        match batches.into_iter().find(|(_, actual)| *actual != first) {
            Some((layer, actual)) => {
                Err(Error::Config(ConfigError::LayersDiffer { layer, name: "batch_size", first, actual }))
            }
            None => Ok(()),
        }
    }

    /// Records into a new encoder and submits it. If either fails, every layer is what it was before.
    pub(super) fn submit(
        &mut self,
        during: &'static str,
        record: impl FnOnce(&mut Self, &mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<()> {
        let before: Vec<_> = self.layers.iter().map(KvCache::known).collect();
        let context = self.context().clone();
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let done = record(self, &mut encoder).and_then(|()| context.submit(during, encoder));
        done.inspect_err(|_| {
            self.layers.iter_mut().zip(before).for_each(|(layer, before)| layer.take_back(before));
        })
    }
}
