//! [`KvCache`]: the keys and values of one layer.

mod moves;
mod ranges;
mod sequence;
mod transfer;

use std::sync::Arc;

pub(crate) use self::moves::{record_each, record_lengths, record_select};
use crate::{
    BoundSource, CacheConfig, CacheView, Context, Error, Form, HostRows, HostTensor, Pair, Recorder, Result, RowsIn,
    Side, Source, Strides, Visible, Write,
    bound::{Prepared, Writes},
    copies::CopySource,
    layout::{Layout, runs},
    placement::count,
    plan::{KEEP_LENGTH, Run, Step, check_rows, plan_write},
    record::StepData,
    ring::{StepRing, StepSlot},
    sequences::Sequences,
    storage::{Lengths, Storage},
    tensor::{read_buffer, read_buffer_async},
    wait::block_on,
};

/// The cache of one layer: keys `[max_batch_size, kv_head, slots, head_dim]` and values
/// `[max_batch_size, kv_head, slots, value_dim]`, allocated once, reading as zero.
///
/// There are two ways in and out. The *host* way ([`update`](Self::update), [`get`](Self::get)) takes slices,
/// submits, and can be read back. The *engine* way ([`bind_source`](Self::bind_source),
/// [`record_update`](Self::record_update), [`record_get`](Self::record_get), [`view`](Self::view)) records into
/// the caller's command stream and never submits. Both can be mixed: what is recorded takes effect in the order of
/// submission, and the lengths on the host advance when it is recorded. Submit what was recorded, in that order.
///
/// Every call is all or nothing: an error leaves lengths and bytes as they were. Calls that submit return
/// [`Error::Refused`] where a buffer of the [`view`](Self::view) was destroyed.
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, Context, KvCache, Write};
///
/// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// let context = Context::new(&device, &queue);
/// let mut cache = KvCache::new(&context, CacheConfig::new(2, 1, 4, 16))?;
/// let (keys, values) = ([1.0f32; 2 * 3 * 4], [2.0f32; 2 * 3 * 4]);
/// cache.update(&keys[..], &values[..], Write::append(3).counts(&[3, 1]))?;
/// assert_eq!(cache.lengths(), [3, 1]);
/// assert_eq!(cache.write_pos(), 3);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Debug)]
pub struct KvCache {
    pub(crate) context: Context,
    config: CacheConfig,
    pub(crate) layout: Layout,
    pub(crate) storage: Storage,
    ring: StepRing,
    pub(crate) sequences: Sequences,
    /// Scratch for the step being planned.
    step: Step,
    /// What sets lengths alone, made when they are first set by a kernel.
    advance: Option<Writes>,
    /// What its bound sources know it by.
    pub(crate) identity: Arc<()>,
    /// Grows with every change of `sequences`.
    generation: u64,
    /// A step of all layers was begun, and not recorded for this one.
    awaits_step: bool,
}

/// What the host knows of a layer.
#[derive(Debug)]
pub(crate) struct Known {
    sequences: Sequences,
    generation: u64,
    awaits_step: bool,
}

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
    /// Allocates an empty cache.
    ///
    /// # Errors
    /// As [`CacheConfig::validate`]; [`Error::DeviceLimit`] and [`Error::PlaneTooLarge`] where the device was made
    /// with limits too small; [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    ///
    /// # Performance
    /// The device clears a segment when it is first bound.
    pub fn new(context: &Context, config: CacheConfig) -> Result<Self> {
        Layout::for_limits(&config, context.limits())?;
        let ring = StepRing::new(context, config.max_batch_size, runs(config.placement))?;
        Self::with_ring(context, config, &ring)
    }

    /// A layer that shares the slots of its steps with other layers.
    pub(crate) fn with_ring(context: &Context, config: CacheConfig, ring: &StepRing) -> Result<Self> {
        let layout = Layout::for_limits(&config, context.limits())?;
        Ok(KvCache {
            storage: Storage::new(context, &layout, Lengths::allocate(context, &layout)?)?,
            context: context.clone(),
            ring: ring.clone(),
            sequences: Sequences::new(&config),
            step: Step::with_capacity(config.max_batch_size, layout.runs()),
            advance: None,
            identity: Arc::default(),
            generation: 0,
            awaits_step: false,
            layout,
            config,
        })
    }

    /// Shape and formats. `batch_size` is the number of sequences in the batch now.
    pub const fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// The device and what is shared on it.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Positions of each sequence, `[batch]`: where its next token goes. On linear placement all are valid; of a ring
    /// [`valid_positions`](Self::valid_positions) says which.
    pub fn lengths(&self) -> &[u32] {
        &self.sequences.lengths
    }

    /// The valid positions of a sequence, in order: all, or of a ring the sinks and the last `window`.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`].
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, KvCache, Placement, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let ring = Placement::Ring { window: 3, sinks: 1, slack: 0 };
    /// let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 1, 0).placement(ring))?;
    /// cache.update(&[0.5f32; 9][..], &[0.5f32; 9][..], Write::append(9))?;
    /// assert_eq!(cache.valid_positions(0)?.collect::<Vec<_>>(), [0, 6, 7, 8]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn valid_positions(&self, sequence: u32) -> Result<impl Iterator<Item = u32> + use<>> {
        let (length, _) = self.sequences.get(sequence)?;
        Ok(self.config.placement.valid(length).into_iter().flatten())
    }

    /// What the last `queries` tokens of a sequence may see, one after the other, for an attention mask. A ring has all of
    /// it for the last `slack + 1`.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; [`Error::QueriesBeyondLength`]; [`Error::Evicted`] where a key that a query may see is no
    /// longer stored; [`Error::OutOfMemory`] where the host has no room for so many queries.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, KvCache, Placement, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let ring = Placement::Ring { window: 3, sinks: 1, slack: 1 };
    /// let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 1, 0).placement(ring))?;
    /// cache.update(&[0.5f32; 9][..], &[0.5f32; 9][..], Write::append(9))?;
    /// let visible = cache.visible(0, 2)?;
    /// assert_eq!((visible[0].position, visible[0].sinks.clone(), visible[0].window.clone()), (7, 0..1, 5..8));
    /// assert_eq!((visible[1].position, visible[1].sinks.clone(), visible[1].window.clone()), (8, 0..1, 6..9));
    /// assert_eq!(visible[1].slots().collect::<Vec<_>>(), [(0, 0), (6, 2), (7, 3), (8, 4)]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn visible(&self, sequence: u32, queries: u32) -> Result<Vec<Visible>> {
        let (length, oldest) = self.sequences.get(sequence)?;
        let first = length.checked_sub(queries).ok_or(Error::QueriesBeyondLength { sequence, queries, length })?;
        // What queries see beyond the sinks moves on with them, so the earliest of them decides.
        let placement = self.config.placement;
        let earliest = first.max(placement.sinks());
        if earliest < length {
            let position = placement.first_valid(earliest.saturating_add(1));
            if position < oldest {
                return Err(Error::Evicted { sequence, position, oldest });
            }
        }
        let mut visible = Vec::new();
        let bytes = u64::from(queries).saturating_mul(size_of::<Visible>() as u64);
        let out = |_| Error::OutOfMemory { what: "what queries see", bytes };
        visible.try_reserve_exact(queries as usize).map_err(out)?;
        visible.extend((first..length).map(|position| Visible::new(placement, position)));
        Ok(visible)
    }

    /// The largest length: where the next append of a lock-step batch goes.
    pub fn write_pos(&self) -> u32 {
        self.sequences.longest()
    }

    /// Bytes of the rows that are valid.
    pub fn memory_used_bytes(&self) -> u64 {
        let valid = |&length: &u32| {
            self.config.placement.valid(length).iter().map(|range| u64::from(count(range))).fold(0, u64::saturating_add)
        };
        let rows = self.sequences.lengths.iter().map(valid).fold(0, u64::saturating_add);
        rows.saturating_mul(self.config.num_heads.into()).saturating_mul(self.layout.row_bytes())
    }

    /// Bytes that keys and values take on the device: [`CacheConfig::bytes_per_layer`]. What
    /// [`overhead_bytes`](Self::overhead_bytes) counts comes on top.
    pub fn memory_allocated_bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Bytes that the cache holds on the device beside keys and values: lengths, and the slots in which steps wait,
    /// which layers of one [`BatchedKvCache`](crate::BatchedKvCache) share.
    pub fn overhead_bytes(&self) -> u64 {
        self.length_bytes().saturating_add(self.slot_bytes())
    }

    /// Bytes of lengths, starts and scales.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.storage.lengths.buffer.size()
    }

    /// Bytes of the slots in which steps wait.
    pub(crate) fn slot_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Writes host rows `[batch, kv_head, tokens, dim]`, converted where the cache's format differs, and submits.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::PerSequenceLength`], [`Error::CountAboveTokens`],
    /// [`Error::WriteBeyondCapacity`], [`Error::SliceLength`]; [`Error::BufferTooLarge`] where the rows do not fit
    /// one buffer; [`Error::OutOfMemory`]; [`Error::DeviceLost`].
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

    /// Binds the caller's buffers, to be recorded with every step by [`record_update`](Self::record_update).
    ///
    /// The rows are read when the commands run, so the caller may write new ones into the same buffers for every
    /// step. The buffers must hold the rows of the present batch, and serve every batch whose rows they hold: size them for
    /// [`max_batch_size`](CacheConfig::max_batch_size). Offsets and strides are arbitrary; multiples of 16 bytes and head sizes that are multiples of 8 are
    /// fastest.
    ///
    /// # Errors
    /// [`Error::NoTokens`]; [`Error::OwnStorage`]; [`Error::BufferUsage`], [`Error::Misaligned`] and
    /// [`Error::BufferRange`] where a buffer does not hold what the description says; [`Error::Refused`] where it
    /// belongs to another device (of another wgpu instance nothing can be told, see [`Context::new`]);
    /// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    ///
    /// # Performance
    /// Makes the pipeline if it is the first of its kind, one bind group for each segment (more where a source is
    /// larger than a binding), and one small uniform buffer.
    pub fn bind_source(&self, source: &Source<'_>) -> Result<BoundSource> {
        BoundSource::new(&self.context, &self.config, &self.layout, &self.storage, &self.identity, source)
    }

    /// Does now what the first update would do otherwise, and submits: wgpu clears storage when it is first bound, and
    /// drivers finish a pipeline when it first runs. Changes no row and no length.
    ///
    /// # Errors
    /// [`Error::ForeignSource`]; [`Error::Refused`] where a buffer of the source was destroyed or is mapped;
    /// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    pub fn warm_up(&mut self, source: &BoundSource) -> Result<()> {
        let mut encoder = self.encoder();
        self.record_warm_up(&mut encoder, source)?;
        self.context.submit("a warm-up", encoder)
    }

    /// Records a [`warm_up`](Self::warm_up).
    pub(crate) fn record_warm_up(&mut self, encoder: &mut wgpu::CommandEncoder, source: &BoundSource) -> Result<()> {
        self.check_owner(source)?;
        // Empty runs that keep the lengths: of one row and of more, all alike, which can be immediates, and not, and as many as
        // a ring has.
        for (rows, unlike, runs) in
            [(1, false, 1), (1, true, 1), (2, false, 1), (2, true, 1), (2, true, self.layout.runs())]
        {
            self.step.clear(runs);
            self.step.rows = rows;
            let tokens = if unlike { 0..u32::MAX } else { 0..1 };
            let run = |token| Run { token, length: KEEP_LENGTH, ..Run::default() };
            let all = (self.config.batch_size as usize).saturating_mul(runs as usize);
            self.step.runs.extend(tokens.cycle().take(all).map(run));
            for tokens in [1, source.tokens] {
                let data = StepData::new(&self.context, &self.ring, &self.step)?;
                let prepared = source.writes().prepare(&self.context, data, &self.step, (self.step.rows, tokens))?;
                prepared.record(encoder, "kv-cache warm-up");
            }
        }
        Ok(())
    }

    /// The form that [`record_update`](Self::record_update) gives a write in an encoder, by the context's cost model. A
    /// pass always gets the kernel, and a pass that the caller keeps open for many layers is cheaper than one for each.
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
    /// [`Error::ForeignSource`], [`Error::MoreTokensThanBound`], and as [`update`](Self::update) for the write.
    ///
    /// # Performance
    /// One dispatch for each segment, or in an encoder copies where [`form`](Self::form) says so. Nothing is allocated on
    /// the device in the steady state.
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
                PreparedUpdate::Kernel(source.writes().prepare(&self.context, data, step, (step.rows, tokens))?)
            }
        })
    }

    /// Makes rows valid that the caller's own kernels write straight into the storage, at the places that
    /// [`view`](Self::view) tells: advances the lengths, on the host and on the device, and zeroes the gap in front
    /// of the new rows if there is one. The rows themselves are not touched.
    ///
    /// # Errors
    /// As [`update`](Self::update) for the write; [`Error::OutOfMemory`] and [`Error::DeviceLost`] on the first call.
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

    /// The storage itself, without any copy.
    pub fn view(&self) -> CacheView<'_> {
        CacheView::new(&self.storage, &self.layout, &self.sequences.lengths)
    }

    /// Makes everything as new, bytes included, and submits.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn reset(&mut self) -> Result<()> {
        self.submit("a reset", |cache, encoder| {
            cache.record_reset(encoder);
            Ok(())
        })
    }

    /// Records a [`reset`](Self::reset): a clear of every buffer.
    pub fn record_reset(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let lengths = &self.storage.lengths;
        encoder.clear_buffer(&lengths.buffer, lengths.offset, Some(lengths.with_starts()));
        for buffer in self.storage.planes() {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.sequences.clear(self.config.placement);
        self.changed();
    }

    /// Waits for the device and reads the whole storage, `[max_batch_size, kv_head, slots, dim]`, valid or not: what
    /// [`ReferenceCache`](crate::ReferenceCache) compares with.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn read_storage(&self) -> Result<Pair<HostTensor>> {
        block_on(Some(self.context.device()), "reading the storage", self.read_storage_async())
    }

    /// [`read_storage`](Self::read_storage) without blocking; see
    /// [`GpuTensor::read_async`](crate::GpuTensor::read_async).
    ///
    /// # Errors
    /// As [`read_storage`](Self::read_storage).
    pub async fn read_storage_async(&self) -> Result<Pair<HostTensor>> {
        self.storage.read_async(&self.context, &self.config, &self.layout).await
    }

    /// Waits for the device and reads the lengths that its kernels see, `[batch]`. They equal
    /// [`lengths`](Self::lengths) once everything recorded is submitted.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn read_lengths(&self) -> Result<Vec<u32>> {
        block_on(Some(self.context.device()), "reading the lengths", self.read_lengths_async())
    }

    /// [`read_lengths`](Self::read_lengths) without blocking; see
    /// [`GpuTensor::read_async`](crate::GpuTensor::read_async).
    ///
    /// # Errors
    /// As [`read_lengths`](Self::read_lengths).
    pub async fn read_lengths_async(&self) -> Result<Vec<u32>> {
        let lengths = &self.storage.lengths;
        let bytes = u64::from(self.config.batch_size).saturating_mul(4);
        let bytes = read_buffer_async(&self.context, &lengths.buffer, lengths.offset, bytes).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Lengths and starts as kernels see them, `[batch]`.
    pub(crate) fn read_lengths_and_starts(&self) -> Result<[Vec<u32>; 2]> {
        let Lengths { buffer, offset, bytes } = &self.storage.lengths;
        let both: Vec<u32> =
            bytemuck::pod_collect_to_vec(&read_buffer(&self.context, buffer, *offset, bytes.saturating_mul(2))?);
        let (lengths, starts) = both.split_at(both.len() / 2);
        Ok([lengths, starts].map(|numbers| numbers[..self.config.batch_size as usize].to_vec()))
    }

    fn check_owner(&self, source: &BoundSource) -> Result<()> {
        if Arc::ptr_eq(&source.owner, &self.identity) { Ok(()) } else { Err(Error::ForeignSource) }
    }

    fn check_source(&self, source: &BoundSource, tokens: u32) -> Result<()> {
        self.check_owner(source)?;
        let (bound, batch_size) = (source.sequences, self.config.batch_size);
        if batch_size > bound {
            return Err(Error::BatchBeyondBound { name: "source", bound, batch_size });
        }
        if tokens > source.tokens {
            return Err(Error::MoreTokensThanBound { name: "source", tokens, bound: source.tokens });
        }
        Ok(())
    }

    fn prefers_copies(&self, copies: &CopySource, source: &BoundSource, step: &Step, tokens: u32) -> bool {
        let rows = step.touched_rows().saturating_mul(self.config.num_heads.into());
        let bytes = rows.saturating_mul(self.layout.row_bytes());
        let dispatches = source.writes().count(self.layout.planes_of(step.count()), tokens);
        self.context.costs().prefers_copies(dispatches, copies.count(step, &self.layout), bytes)
    }

    /// Makes the kernel that sets lengths alone.
    fn make_advance(&mut self) -> Result<()> {
        if self.advance.is_none() {
            self.advance = Some(Writes::advance(&self.context, &self.layout, &self.storage)?);
        }
        Ok(())
    }

    /// Does all that can fail of setting lengths by a kernel, after [`make_advance`](Self::make_advance).
    fn prepare_advance(&self, data: StepData, step: &Step) -> Result<Prepared<'_>> {
        let advance = self.advance.as_ref().expect("it was made before");
        advance.prepare(&self.context, data, step, (step.gap_rows(), 1))
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("kv-cache") })
    }

    /// Records into an encoder of its own and submits. Where either fails, lengths and batch are what they were before.
    fn submit(
        &mut self,
        during: &'static str,
        record: impl FnOnce(&mut Self, &mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<()> {
        let before = self.known();
        let mut encoder = self.encoder();
        let done = record(self, &mut encoder).and_then(|()| self.context.submit(during, encoder));
        done.inspect_err(|_| self.take_back(before))
    }

    /// Takes over the lengths of the layer's own step, which was recorded.
    pub(crate) fn commit(&mut self) {
        self.step.commit(&mut self.sequences);
        self.changed();
    }

    /// Takes over the lengths of a step that was recorded.
    fn adopt(&mut self, step: &Step) {
        step.commit(&mut self.sequences);
        self.changed();
    }

    /// Notes that a step of all layers was begun.
    pub(crate) fn await_step(&mut self) {
        self.awaits_step = true;
    }

    /// Whether a step was begun that is not recorded for this layer.
    #[cfg(feature = "attention")]
    pub(crate) const fn awaits_step(&self) -> bool {
        self.awaits_step
    }

    /// Notes that `sequences` changed: a step that was planned before is not of this layer any more.
    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.awaits_step = false;
    }

    /// What the host knows now.
    pub(crate) fn known(&self) -> Known {
        Known { sequences: self.sequences.clone(), generation: self.generation, awaits_step: self.awaits_step }
    }

    /// Takes the host back to what it knew before something that did not happen: also a step that was begun goes on.
    pub(crate) fn take_back(&mut self, before: Known) {
        self.config.batch_size = before.sequences.count();
        Known { sequences: self.sequences, generation: self.generation, awaits_step: self.awaits_step } = before;
    }

    /// Makes the host know these sequences.
    pub(crate) fn set_sequences(&mut self, sequences: &Sequences) {
        self.sequences.clone_from(sequences);
        self.config.batch_size = self.sequences.count();
        self.changed();
    }
}
