//! Writes new rows to a layer: from host slices ([`KvCache::update`]), from the caller's buffers
//! ([`KvCache::record_update`]), or directly by the caller's kernels ([`KvCache::record_advance`]).

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
    /// Writes host rows `[batch, kv_head, tokens, dim]` and submits. Rows in another format than the cache's are
    /// converted.
    ///
    /// # Errors
    /// [`WriteError::NoTokens`](crate::WriteError::NoTokens) if the write has no tokens;
    /// [`SequenceError::PerSequenceLength`](crate::SequenceError::PerSequenceLength) if positions or counts are not one
    /// per sequence; [`WriteError::CountAboveTokens`](crate::WriteError::CountAboveTokens) if a count is larger than
    /// the number of tokens; [`WriteError::WriteBeyondCapacity`](crate::WriteError::WriteBeyondCapacity) if a sequence
    /// would exceed `max_seq_len`; [`WriteError::PositionOverflow`](crate::WriteError::PositionOverflow) if a length in
    /// a ring would exceed `u32::MAX - 1`; [`WriteError::WriteBeyondRing`](crate::WriteError::WriteBeyondRing) if a
    /// [`whole`](Write::whole) write is longer than a ring keeps;
    /// [`SequenceError::RollbackEvicted`](crate::SequenceError::RollbackEvicted) if a write before the end of a ring
    /// goes back too far; [`RangeError::Evicted`](crate::RangeError::Evicted) if a ring could not serve the queries of
    /// an [`attended`](Write::attended) write; [`WriteError::SliceLength`](crate::WriteError::SliceLength) if a slice
    /// has another number of elements; [`WriteError::PackedSource`](crate::WriteError::PackedSource) if rows are in a
    /// packed format that is not the cache's own; [`DeviceError::BufferTooLarge`](crate::DeviceError::BufferTooLarge)
    /// if the rows do not fit one buffer; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device
    /// has no memory left; [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// Uploads the rows into two new buffers, binds them, and records like [`record_update`](Self::record_update). To
    /// write every step from the same buffers, use that method.
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

    /// Binds the caller's buffers once, for [`record_update`](Self::record_update) in every step.
    ///
    /// The rows are read when the commands run, so the caller may write new rows to the same buffers for every step.
    /// The buffers must hold the rows of the current batch, and serve any batch whose rows they hold: size them for
    /// [`max_batch_size`](crate::CacheConfig::max_batch_size). Offsets and strides are arbitrary; multiples of 16 bytes
    /// and head sizes that are multiples of 8 are fastest.
    ///
    /// # Errors
    /// [`WriteError::NoTokens`](crate::WriteError::NoTokens) if the source has no tokens;
    /// [`WriteError::PackedSource`](crate::WriteError::PackedSource) if rows are in a packed format that is not the
    /// cache's own; [`BufferError::OwnStorage`](crate::BufferError::OwnStorage) if a buffer is the cache's own;
    /// [`BufferError::BufferUsage`](crate::BufferError::BufferUsage) if a buffer lacks the usage `STORAGE`;
    /// [`BufferError::Misaligned`](crate::BufferError::Misaligned) if an offset is not a multiple of the element's
    /// size; [`BufferError::BufferRange`](crate::BufferError::BufferRange) if a buffer ends before the last row;
    /// [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) if not even one row can be bound;
    /// [`DeviceError::Refused`](crate::DeviceError::Refused) if a buffer belongs to another device (one of another wgpu
    /// instance cannot be detected, see [`Context::new`](crate::Context::new));
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// Creates one bind group per segment (more if a source is larger than a binding), and one small uniform buffer.
    pub fn bind_source(&self, source: &Source<'_>) -> Result<BoundSource> {
        BoundSource::new(&self.context, &self.config, &self.layout, &self.storage, &self.identity, source)
    }

    /// Does the one-time work of the first update, and submits. wgpu clears storage when it is first bound, and drivers
    /// finish a pipeline when it first runs. Changes no row and no length.
    ///
    /// # Errors
    /// [`StepError::ForeignSource`] if the source is bound to another layer;
    /// [`DeviceError::Refused`](crate::DeviceError::Refused) if a buffer of the source was destroyed or is mapped;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    pub fn warm_up(&mut self, source: &BoundSource) -> Result<()> {
        let mut encoder = self.encoder();
        self.record_warm_up(&mut encoder, source)?;
        self.context.submit("a warm-up", encoder)
    }

    /// Records [`warm_up`](Self::warm_up), without submitting.
    pub(crate) fn record_warm_up(&mut self, encoder: &mut wgpu::CommandEncoder, source: &BoundSource) -> Result<()> {
        self.check_owner(source)?;
        // Steps that can be immediates, because all runs are alike, and others.
        for alike in [true, false] {
            self.step.clear();
            for sequence in 0..self.config.batch_size {
                let token = if alike { 0 } else { sequence.saturating_add(1) };
                self.step.push(Run { group: sequence, sequence, token, ..Run::default() });
            }
            let data = StepData::new(&self.context, &self.ring, &self.step)?;
            source.writes().record_warm_up(&self.context, &data, &self.step, source.tokens, encoder)?;
        }
        Ok(())
    }

    /// Returns the form that [`record_update`](Self::record_update) chooses for a write in an encoder, by the context's
    /// cost model. A pass always gets the kernel. One pass for many layers costs less than one pass per layer.
    ///
    /// # Errors
    /// The errors of [`record_update`](Self::record_update).
    pub fn form(&self, source: &BoundSource, write: Write<'_>) -> Result<Form> {
        self.check_source(source, write.tokens())?;
        let mut step = Step::with_capacity(self.config.batch_size, self.layout.runs());
        plan_write(&self.config, &self.sequences, &write, &mut step)?;
        let copies = source.copies().filter(|copies| self.prefers_copies(copies, source, &step, write.tokens()));
        Ok(if copies.is_some() { Form::Copies } else { Form::Kernel })
    }

    /// Records the scatter of new rows, and the new lengths, into an encoder or a compute pass.
    ///
    /// # Errors
    /// [`StepError::ForeignSource`] if the source is bound to another layer; [`StepError::BatchBeyondBound`] if it
    /// holds rows for fewer sequences; [`StepError::MoreTokensThanBound`] if it was bound for fewer tokens; the errors
    /// of [`update`](Self::update) for the write.
    ///
    /// # Performance
    /// One dispatch per segment, or in an encoder copies where [`form`](Self::form) says so. The first update of a kind
    /// creates its pipeline. In the steady state nothing is allocated on the device.
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

    /// Returns the slot that holds a step, or writes the step to a new one.
    fn slot_of(&self, step: &Step, slot: Option<&StepSlot>) -> Result<StepSlot> {
        slot.map_or_else(|| self.ring.write(&self.context, step), |slot| Ok(slot.clone()))
    }

    /// Whether a write makes the same step in both layers.
    pub(crate) fn steps_like(&self, other: &KvCache) -> bool {
        let (a, b) = (&self.config, &other.config);
        a.placement == b.placement && a.max_seq_len == b.max_seq_len && self.sequences == other.sequences
    }

    /// Checks and plans a write into `step`.
    pub(crate) fn plan_write_to(&self, write: &Write<'_>, step: &mut Step) -> Result<()> {
        plan_write(&self.config, &self.sequences, write, step)
    }

    /// Number that changes whenever the lengths on the host change.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Prepares an update by a step, which may be in a slot already. Everything that can fail happens here.
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

    /// Makes rows valid that the caller's own kernels write directly to the storage, at the offsets that
    /// [`view`](Self::view) gives. Advances the lengths on the host and on the device, and zeroes the gap before the
    /// new rows, if there is one. Does not touch the rows themselves.
    ///
    /// # Errors
    /// The errors of [`update`](Self::update) for the write;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) on the first call.
    ///
    /// # Performance
    /// One dispatch per segment, with as many threads as the gap has words.
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

    /// Prepares the kernel that sets lengths and writes no rows, once.
    pub(super) fn make_advance(&mut self) -> Result<()> {
        if self.advance.is_none() {
            self.advance = Some(Writes::advance(&self.context, &self.layout, &self.storage)?);
        }
        Ok(())
    }

    /// Prepares setting lengths by a kernel. The caller has called [`make_advance`](Self::make_advance). Everything
    /// that can fail happens here.
    pub(super) fn prepare_advance<'a>(&'a self, data: StepData, step: &'a Step) -> Result<Prepared<'a>> {
        let advance = self.advance.as_ref().expect("it was made before");
        advance.prepare(&self.context, data, step, (step.longest_gap(), 1))
    }
}
