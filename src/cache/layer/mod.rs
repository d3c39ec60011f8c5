//! [`KvCache`]: the keys and values of one layer. This file holds its state and its queries; the submodules hold
//! updates, ranges, and operations on sequences.

mod keep;
mod moves;
mod ranges;
mod sequence;
mod transfer;
mod update;

use std::sync::Arc;

pub(crate) use self::moves::{record_each, record_lengths, record_select};
use crate::{
    CacheConfig, CacheView, Context, DeviceError, Error, HostTensor, Pair, RangeError, Result, SequenceError, Visible,
    cache::bound::Writes,
    device::{
        ring::StepRing,
        storage::{Lengths, Storage},
        tensor::{read_buffer, read_buffer_async},
        wait::block_on,
    },
    plan::{sequences::Sequences, step::Step},
    shape::{
        layout::{Layout, runs},
        placement::count,
    },
};

/// The cache of one layer: keys `[max_batch_size, kv_head, slots, head_dim]` and values
/// `[max_batch_size, kv_head, slots, value_dim]`. The storage is allocated once and reads as zero.
///
/// Rows move in and out on two paths. The *host* path ([`update`](Self::update), [`get`](Self::get)) takes slices,
/// submits, and can be read back. The *engine* path ([`bind_source`](Self::bind_source),
/// [`record_update`](Self::record_update), [`record_get`](Self::record_get), [`view`](Self::view)) records into the
/// caller's command stream and never submits. You can mix them: recorded commands take effect in the order of
/// submission, while the lengths on the host advance as commands are recorded. Submit what was recorded, in the same
/// order.
///
/// Every call is all or nothing: an error leaves lengths and bytes as they were. Calls that submit return
/// [`DeviceError::Refused`] if a buffer of the [`view`](Self::view) was destroyed.
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
    /// Dispatches that set lengths and write no rows, created when a kernel first does so.
    advance: Option<Writes>,
    /// The identity by which bound sources recognise their layer.
    pub(crate) identity: Arc<()>,
    /// Incremented with every change of `sequences`.
    generation: u64,
    /// Whether a step of all layers was begun that is not yet recorded for this one.
    awaits_step: bool,
}

/// What the host tracks of a layer.
#[derive(Debug)]
pub(crate) struct Known {
    sequences: Sequences,
    generation: u64,
    awaits_step: bool,
}

impl KvCache {
    /// Allocates an empty cache.
    ///
    /// # Errors
    /// The errors of [`CacheConfig::validate`]; [`DeviceError::DeviceLimit`] and
    /// [`ConfigError::PlaneTooLarge`](crate::ConfigError::PlaneTooLarge) if the device was created with limits that are
    /// too small; [`DeviceError::OutOfMemory`] if the device has no memory left; [`DeviceError::DeviceLost`] if the
    /// device is lost.
    ///
    /// # Performance
    /// wgpu clears a segment when it is first bound.
    pub fn new(context: &Context, config: CacheConfig) -> Result<Self> {
        Layout::for_limits(&config, context.limits())?;
        let ring = StepRing::new(context, config.max_batch_size, runs(config.placement))?;
        Self::with_ring(context, config, &ring)
    }

    /// Allocates a layer that shares its step slots with other layers.
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

    /// Shape and formats. `batch_size` is the current number of sequences in the batch.
    pub const fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// The context that the cache was created with.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// The length of each sequence, `[batch]`: the position of its next token. With linear placement all positions
    /// below it are valid. In a ring only some are; see [`valid_positions`](Self::valid_positions).
    pub fn lengths(&self) -> &[u32] {
        &self.sequences.lengths
    }

    /// Returns the valid positions of a sequence, in order: all of them, or in a ring the sinks and the last `window`.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no such sequence.
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

    /// Returns which positions each of the last `queries` tokens of a sequence may attend to, in order, for an
    /// attention mask. A ring still stores all of these positions for the last `slack + 1` tokens.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no such sequence; [`SequenceError::QueriesBeyondLength`] if
    /// it has fewer than `queries` tokens; [`RangeError::Evicted`] if a key that a query may attend to is no longer
    /// stored; [`DeviceError::OutOfMemory`] if the host has no memory for so many queries.
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
        let first = length.checked_sub(queries).ok_or(Error::Sequence(SequenceError::QueriesBeyondLength {
            sequence,
            queries,
            length,
        }))?;
        // What a query sees beyond the sinks moves on with its position, so the earliest query decides.
        let placement = self.config.placement;
        let earliest = first.max(placement.sinks());
        if earliest < length {
            let position = placement.first_valid(earliest.saturating_add(1));
            if position < oldest {
                return Err(Error::Range(RangeError::Evicted { sequence, position, oldest }));
            }
        }
        let mut visible = Vec::new();
        let bytes = u64::from(queries).saturating_mul(size_of::<Visible>() as u64);
        let out = |_| Error::Device(DeviceError::OutOfMemory { what: "what queries see", bytes });
        visible.try_reserve_exact(queries as usize).map_err(out)?;
        visible.extend((first..length).map(|position| Visible::new(placement, position)));
        Ok(visible)
    }

    /// The largest length: the position of the next append of a lock-step batch.
    pub fn write_pos(&self) -> u32 {
        self.sequences.longest()
    }

    /// Bytes occupied by valid rows.
    pub fn memory_used_bytes(&self) -> u64 {
        let valid = |&length: &u32| {
            self.config.placement.valid(length).iter().map(|range| u64::from(count(range))).fold(0, u64::saturating_add)
        };
        let rows = self.sequences.lengths.iter().map(valid).fold(0, u64::saturating_add);
        rows.saturating_mul(self.config.num_heads.into()).saturating_mul(self.layout.row_bytes())
    }

    /// Bytes that keys and values occupy on the device, which is [`CacheConfig::bytes_per_layer`]. The cache also holds
    /// [`overhead_bytes`](Self::overhead_bytes).
    pub fn memory_allocated_bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Bytes that the cache occupies on the device beside keys and values: lengths, and the parameter slots of steps.
    /// All layers of a [`BatchedKvCache`](crate::BatchedKvCache) share the slots.
    pub fn overhead_bytes(&self) -> u64 {
        self.length_bytes().saturating_add(self.slot_bytes())
    }

    /// Size of lengths, starts and scales in bytes.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.storage.lengths.buffer.size()
    }

    /// Size of the slots in which steps are passed to the device, in bytes.
    pub(crate) fn slot_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Returns a view of the storage itself, without a copy.
    pub fn view(&self) -> CacheView<'_> {
        CacheView::new(&self.storage, &self.layout, &self.sequences.lengths)
    }

    /// Resets all lengths to zero, clears the storage, and submits.
    ///
    /// # Errors
    /// [`DeviceError::DeviceLost`] if the device is lost; [`DeviceError::OutOfMemory`] if the submission exhausts
    /// memory.
    pub fn reset(&mut self) -> Result<()> {
        self.submit("a reset", |cache, encoder| {
            cache.record_reset(encoder);
            Ok(())
        })
    }

    /// Records [`reset`](Self::reset) into an encoder, without submitting: one clear per buffer.
    pub fn record_reset(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let lengths = &self.storage.lengths;
        encoder.clear_buffer(&lengths.buffer, lengths.offset, Some(lengths.with_starts()));
        for buffer in self.storage.planes() {
            encoder.clear_buffer(buffer, 0, None);
        }
        self.sequences.clear(self.config.placement);
        self.changed();
    }

    /// Waits for the device and reads the whole storage, `[max_batch_size, kv_head, slots, dim]`, including rows that
    /// are not valid. [`ReferenceCache`](crate::ReferenceCache) compares with it.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the device has no memory left; [`DeviceError::DeviceLost`] if the device is
    /// lost.
    pub fn read_storage(&self) -> Result<Pair<HostTensor>> {
        block_on(Some(self.context.device()), "reading the storage", self.read_storage_async())
    }

    /// Reads the storage like [`read_storage`](Self::read_storage), without blocking; see
    /// [`GpuTensor::read_async`](crate::GpuTensor::read_async).
    ///
    /// # Errors
    /// The errors of [`read_storage`](Self::read_storage).
    pub async fn read_storage_async(&self) -> Result<Pair<HostTensor>> {
        self.storage.read_async(&self.context, &self.config, &self.layout).await
    }

    /// Waits for the device and reads the lengths that its kernels see, `[batch]`. They equal
    /// [`lengths`](Self::lengths) once everything recorded is submitted.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the device has no memory left; [`DeviceError::DeviceLost`] if the device is
    /// lost.
    pub fn read_lengths(&self) -> Result<Vec<u32>> {
        block_on(Some(self.context.device()), "reading the lengths", self.read_lengths_async())
    }

    /// Reads the lengths like [`read_lengths`](Self::read_lengths), without blocking; see
    /// [`GpuTensor::read_async`](crate::GpuTensor::read_async).
    ///
    /// # Errors
    /// The errors of [`read_lengths`](Self::read_lengths).
    pub async fn read_lengths_async(&self) -> Result<Vec<u32>> {
        let lengths = &self.storage.lengths;
        let bytes = u64::from(self.config.batch_size).saturating_mul(4);
        let bytes = read_buffer_async(&self.context, &lengths.buffer, lengths.offset, bytes).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// Reads lengths and starts as kernels see them, `[batch]` each.
    pub(crate) fn read_lengths_and_starts(&self) -> Result<[Vec<u32>; 2]> {
        let Lengths { buffer, offset, bytes } = &self.storage.lengths;
        let both: Vec<u32> =
            bytemuck::pod_collect_to_vec(&read_buffer(&self.context, buffer, *offset, bytes.saturating_mul(2))?);
        let (lengths, starts) = both.split_at(both.len() / 2);
        Ok([lengths, starts].map(|numbers| numbers[..self.config.batch_size as usize].to_vec()))
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("kv-cache") })
    }

    /// Records into a new encoder and submits it. If either fails, lengths and batch are what they were before.
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

    /// Commits the lengths of the layer's own step, which was recorded.
    pub(crate) fn commit(&mut self) {
        self.step.commit(&mut self.sequences);
        self.changed();
    }

    /// Commits the lengths of a step that was recorded.
    fn adopt(&mut self, step: &Step) {
        step.commit(&mut self.sequences);
        self.changed();
    }

    /// Notes that a step of all layers was begun.
    pub(crate) fn await_step(&mut self) {
        self.awaits_step = true;
    }

    /// Whether a step was begun that is not yet recorded for this layer.
    pub(crate) const fn awaits_step(&self) -> bool {
        self.awaits_step
    }

    /// Notes that `sequences` changed, which invalidates any step planned for this layer before.
    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.awaits_step = false;
    }

    /// Saves what the host tracks now.
    pub(crate) fn known(&self) -> Known {
        Known { sequences: self.sequences.clone(), generation: self.generation, awaits_step: self.awaits_step }
    }

    /// Restores what the host tracked before an operation that failed, including a step that was begun.
    pub(crate) fn take_back(&mut self, before: Known) {
        self.config.batch_size = before.sequences.count();
        Known { sequences: self.sequences, generation: self.generation, awaits_step: self.awaits_step } = before;
    }

    /// Replaces the sequences that the host tracks.
    pub(crate) fn set_sequences(&mut self, sequences: &Sequences) {
        self.sequences.clone_from(sequences);
        self.config.batch_size = self.sequences.count();
        self.changed();
    }
}
