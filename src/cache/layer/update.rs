//! Updates of a layer: from host rows, from the caller's buffers, and in place.

use std::sync::Arc;

use crate::{
    BoundSource, Error, Form, HostRows, KvCache, Recorder, Result, RowsIn, Side, Source, StepError, Strides, Write,
    cache::{
        bound::{Prepared, Writes},
        copies::CopySource,
    },
    device::{record::StepData, ring::StepSlot},
    plan::{
        operations::{check_rows, plan_write},
        step::{Run, Step},
    },
};

/// An update that can be recorded without failing.
#[derive(Debug)]
enum PreparedUpdate<'a> {
    Copies { cache: &'a KvCache, copies: &'a CopySource, step: &'a Step, slot: StepSlot },
    Kernel(Prepared<'a>),
}

impl PreparedUpdate<'_> {
    fn record(self, recorder: &mut impl Recorder) {
        match self {
            PreparedUpdate::Kernel(prepared) => prepared.record(recorder, "kv-cache update"),
            PreparedUpdate::Copies { cache, copies, step, slot } => {
                let encoder = recorder.encoder().expect("copies are prepared for an encoder");
                copies.record(encoder, step, &cache.layout, &cache.storage);
                slot.copy_lengths(encoder, &cache.storage.lengths);
            }
        }
    }
}

impl KvCache {
    /// Writes host rows `[batch, kv_head, tokens, dim]` and submits. Rows are converted if the cache's format differs.
    ///
    /// # Errors
    /// [`WriteError::NoTokens`](crate::WriteError::NoTokens),
    /// [`SequenceError::PerSequenceLength`](crate::SequenceError::PerSequenceLength),
    /// [`WriteError::CountAboveTokens`](crate::WriteError::CountAboveTokens),
    /// [`WriteError::WriteBeyondCapacity`](crate::WriteError::WriteBeyondCapacity),
    /// [`WriteError::SliceLength`](crate::WriteError::SliceLength);
    /// [`DeviceError::BufferTooLarge`](crate::DeviceError::BufferTooLarge) where the rows do not fit one buffer;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    ///
    /// # Performance
    /// Uploads the rows into two buffers of their own, then one dispatch. To write every step from the same buffers,
    /// use [`record_update`](Self::record_update).
    pub fn update<'r>(
        &mut self,
        keys: impl Into<HostRows<'r>>,
        values: impl Into<HostRows<'r>>,
        write: Write<'_>,
    ) -> Result<()> {
        let (keys, values) = (keys.into(), values.into());
        plan_write(&self.config, &self.sequences, &write, &mut self.step)?;
        let tokens = write.tokens();
        check_rows(&self.config, Side::Keys, keys, tokens)?;
        check_rows(&self.config, Side::Values, values, tokens)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let upload = |what, rows: HostRows<'_>| self.context.create_filled(what, rows.bytes(), usage);
        let (key_buffer, value_buffer) = (upload("uploaded keys", keys)?, upload("uploaded values", values)?);
        let rows_in = |rows: HostRows<'_>, buffer, dim| RowsIn {
            buffer,
            offset: 0,
            format: rows.format(),
            strides: Strides::bhtd(self.config.num_heads, tokens, rows.format().units(dim)),
        };
        let source = self.bind_source(&Source {
            keys: rows_in(keys, &key_buffer, self.config.head_dim),
            values: rows_in(values, &value_buffer, self.config.value_dim),
            tokens,
        })?;
        self.submit("an update", |cache, encoder| cache.record_update(encoder, &source, write))
    }

    /// Binds the caller's buffers, for [`record_update`](Self::record_update) in every step.
    ///
    /// The rows are read when the commands run, so the caller may write new ones into the same buffers for every step.
    /// The buffers must hold the rows of the present batch, and serve every batch whose rows they hold: size them for
    /// [`max_batch_size`](crate::CacheConfig::max_batch_size). Offsets and strides are arbitrary; multiples of 16 bytes
    /// and head sizes that are multiples of 8 are fastest.
    ///
    /// # Errors
    /// [`WriteError::NoTokens`](crate::WriteError::NoTokens);
    /// [`BufferError::OwnStorage`](crate::BufferError::OwnStorage);
    /// [`BufferError::BufferUsage`](crate::BufferError::BufferUsage),
    /// [`BufferError::Misaligned`](crate::BufferError::Misaligned) and
    /// [`BufferError::BufferRange`](crate::BufferError::BufferRange) where a buffer does not hold what the description
    /// says; [`DeviceError::Refused`](crate::DeviceError::Refused) where it belongs to another device (of another wgpu
    /// instance nothing can be told, see [`Context::new`](crate::Context::new));
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    ///
    /// # Performance
    /// Makes the pipeline if it is the first of its kind, one bind group for each segment (more where a source is
    /// larger than a binding), and one small uniform buffer.
    pub fn bind_source(&self, source: &Source<'_>) -> Result<BoundSource> {
        BoundSource::new(&self.context, &self.config, &self.layout, &self.storage, &self.identity, source)
    }

    /// Does the one-time work of the first update, and submits: wgpu clears storage when it is first bound, and drivers
    /// finish a pipeline when it first runs. Changes no row and no length.
    ///
    /// # Errors
    /// [`StepError::ForeignSource`]; [`DeviceError::Refused`](crate::DeviceError::Refused) where a buffer of the source
    /// was destroyed or is mapped; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    pub fn warm_up(&mut self, source: &BoundSource) -> Result<()> {
        let mut encoder = self.encoder();
        self.record_warm_up(&mut encoder, source)?;
        self.context.submit("a warm-up", encoder)
    }

    /// Records a [`warm_up`](Self::warm_up).
    pub(crate) fn record_warm_up(&mut self, encoder: &mut wgpu::CommandEncoder, source: &BoundSource) -> Result<()> {
        self.check_owner(source)?;
        // Empty runs, and no lengths: of one row and of more, all alike, which can be immediates, and not.
        for (rows, alike) in [(1, true), (1, false), (2, true), (2, false)] {
            self.step.clear();
            for sequence in 0..self.config.batch_size {
                let token = if alike { 0 } else { sequence.saturating_add(1) };
                self.step.push(Run { group: sequence, sequence, token, ..Run::default() });
            }
            for tokens in [1, source.tokens] {
                let data = StepData::new(&self.context, &self.ring, &self.step)?;
                let prepared = source.writes().prepare(&self.context, data, &self.step, (rows, tokens))?;
                prepared.record(encoder, "kv-cache warm-up");
            }
        }
        Ok(())
    }

    /// Returns the form that [`record_update`](Self::record_update) chooses for a write in an encoder, by the context's
    /// cost model. In a pass it always records the kernel. One pass for many layers is cheaper than a pass for each.
    ///
    /// # Errors
    /// As [`record_update`](Self::record_update).
    pub fn form(&self, source: &BoundSource, write: Write<'_>) -> Result<Form> {
        self.check_source(source, write.tokens())?;
        let mut step = Step::with_capacity(self.config.batch_size, self.layout.runs());
        plan_write(&self.config, &self.sequences, &write, &mut step)?;
        let copies = source.copies().filter(|copies| self.prefers_copies(copies, source, &step, write.tokens()));
        Ok(if copies.is_some() { Form::Copies } else { Form::Kernel })
    }

    /// Records the scatter of new rows, and of the new lengths, into an encoder or a compute pass.
    ///
    /// # Errors
    /// [`StepError::ForeignSource`], [`StepError::MoreTokensThanBound`], and as [`update`](Self::update) for the write.
    ///
    /// # Performance
    /// One dispatch for each segment, or in an encoder copies where [`form`](Self::form) says so. Nothing is allocated
    /// on the device in the steady state.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, Format, KvCache, RowsIn, Source, Strides, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// // One token of a fused projection `[batch, token, (8 query + 2 key + 2 value) heads × 64]` in f16.
    /// let projection = device.create_buffer(&wgpu::BufferDescriptor {
    ///     label: None,
    ///     size: 12 * 64 * 2,
    ///     usage: wgpu::BufferUsages::STORAGE,
    ///     mapped_at_creation: false,
    /// });
    /// let part = |head: u64| RowsIn {
    ///     buffer: &projection,
    ///     offset: head * 64 * 2,
    ///     format: Format::F16,
    ///     strides: Strides::fused(12 * 64, 1, 64),
    /// };
    /// let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(1, 2, 64, 128))?;
    /// let source = cache.bind_source(&Source { keys: part(8), values: part(10), tokens: 1 })?;
    ///
    /// let mut encoder = device.create_command_encoder(&Default::default());
    /// cache.record_update(&mut encoder, &source, Write::append(1))?;
    /// queue.submit([encoder.finish()]);
    /// assert_eq!(cache.write_pos(), 1);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn record_update(
        &mut self,
        recorder: &mut impl Recorder,
        source: &BoundSource,
        write: Write<'_>,
    ) -> Result<()> {
        self.check_source(source, write.tokens())?;
        plan_write(&self.config, &self.sequences, &write, &mut self.step)?;
        self.prepare_update(recorder, source, (&self.step, None), write.tokens())?.record(recorder);
        self.commit();
        Ok(())
    }

    /// Records an update of `tokens` tokens that was planned for this layer.
    pub(crate) fn record_planned(
        &mut self,
        recorder: &mut impl Recorder,
        source: &BoundSource,
        (step, slot): (&Step, Option<&StepSlot>),
        tokens: u32,
    ) -> Result<()> {
        self.check_source(source, tokens)?;
        self.prepare_update(recorder, source, (step, slot), tokens)?.record(recorder);
        self.adopt(step);
        Ok(())
    }

    /// Records the lengths and gaps of an update that was planned for this layer.
    pub(crate) fn record_planned_advance(
        &mut self,
        recorder: &mut impl Recorder,
        (step, slot): (&Step, Option<&StepSlot>),
    ) -> Result<()> {
        self.make_advance()?;
        let data = StepData::with_slot(&self.context, step, || self.slot_of(step, slot))?;
        self.prepare_advance(data, step)?.record(recorder, "kv-cache advance");
        self.adopt(step);
        Ok(())
    }

    /// The slot that a step has, or a new one.
    fn slot_of(&self, step: &Step, slot: Option<&StepSlot>) -> Result<StepSlot> {
        slot.map_or_else(|| self.ring.write(&self.context, step), |slot| Ok(slot.clone()))
    }

    /// Whether a write is the same step in both layers.
    pub(crate) fn steps_like(&self, other: &KvCache) -> bool {
        let (a, b) = (&self.config, &other.config);
        a.placement == b.placement && a.max_seq_len == b.max_seq_len && self.sequences == other.sequences
    }

    /// Plans a write.
    pub(crate) fn plan_write_to(&self, write: &Write<'_>, step: &mut Step) -> Result<()> {
        plan_write(&self.config, &self.sequences, write, step)
    }

    /// Grows with every change of lengths on the host.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Does all that can fail of an update by a step, which may have a slot already.
    fn prepare_update<'a>(
        &'a self,
        recorder: &mut impl Recorder,
        source: &'a BoundSource,
        (step, slot): (&'a Step, Option<&StepSlot>),
        tokens: u32,
    ) -> Result<PreparedUpdate<'a>> {
        let slot = || self.slot_of(step, slot);
        let copies = source.copies().filter(|copies| self.prefers_copies(copies, source, step, tokens));
        Ok(match copies {
            Some(copies) if recorder.encoder().is_some() => {
                PreparedUpdate::Copies { cache: self, copies, step, slot: slot()? }
            }
            _ => {
                let data = StepData::with_slot(&self.context, step, slot)?;
                PreparedUpdate::Kernel(source.writes().prepare(&self.context, data, step, (step.longest, tokens))?)
            }
        })
    }

    /// Makes rows valid that the caller's own kernels write straight into the storage, at the offsets that
    /// [`view`](Self::view) gives. Advances the lengths on the host and on the device, and zeroes the gap before the
    /// new rows, if there is one. Does not touch the rows themselves.
    ///
    /// # Errors
    /// As [`update`](Self::update) for the write; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) on the first call.
    ///
    /// # Performance
    /// One dispatch for each segment, of as many threads as the gap has words.
    pub fn record_advance(&mut self, recorder: &mut impl Recorder, write: Write<'_>) -> Result<()> {
        plan_write(&self.config, &self.sequences, &write, &mut self.step)?;
        self.make_advance()?;
        let data = StepData::new(&self.context, &self.ring, &self.step)?;
        self.prepare_advance(data, &self.step)?.record(recorder, "kv-cache advance");
        self.commit();
        Ok(())
    }

    fn check_owner(&self, source: &BoundSource) -> Result<()> {
        if Arc::ptr_eq(&source.owner, &self.identity) { Ok(()) } else { Err(Error::Step(StepError::ForeignSource)) }
    }

    fn check_source(&self, source: &BoundSource, tokens: u32) -> Result<()> {
        self.check_owner(source)?;
        let (bound, batch_size) = (source.sequences, self.config.batch_size);
        if batch_size > bound {
            return Err(Error::Step(StepError::BatchBeyondBound { name: "source", bound, batch_size }));
        }
        if tokens > source.tokens {
            return Err(Error::Step(StepError::MoreTokensThanBound { name: "source", tokens, bound: source.tokens }));
        }
        Ok(())
    }

    fn prefers_copies(&self, copies: &CopySource, source: &BoundSource, step: &Step, tokens: u32) -> bool {
        let rows = step.touched_rows().saturating_mul(self.config.num_heads.into());
        let bytes = rows.saturating_mul(self.layout.row_bytes());
        let dispatches = source.writes().count(step, tokens);
        self.context.costs().prefers_copies(dispatches, copies.count(step, &self.layout), bytes)
    }

    /// Makes the kernel that sets lengths alone.
    pub(super) fn make_advance(&mut self) -> Result<()> {
        if self.advance.is_none() {
            self.advance = Some(Writes::advance(&self.context, &self.layout, &self.storage)?);
        }
        Ok(())
    }

    /// Does all that can fail of setting lengths by a kernel, after [`make_advance`](Self::make_advance).
    pub(super) fn prepare_advance<'a>(&'a self, data: StepData, step: &'a Step) -> Result<Prepared<'a>> {
        let advance = self.advance.as_ref().expect("it was made before");
        advance.prepare(&self.context, data, step, (step.longest_gap(), 1))
    }
}
