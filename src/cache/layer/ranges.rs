//! Copies ranges of a layer out of the cache, as dense tensors or into the caller's buffers: [`KvCache::get`] and its
//! relatives.

use std::ops::Range;

use crate::{
    BufferError, Destination, Error, Form, Format, GpuTensor, KvCache, Pair, RangeError, Recorder, Result, Scale, Side,
    cache::{
        copies::{count_range, range_is_copyable, record_range},
        reads::Reads,
    },
    device::record::{StepData, dispatch},
    plan::{
        operations::{plan_read, plan_read_valid},
        step::Step,
    },
    shape::{placement::count, tensor::dense_bytes},
};

/// A copy of rows out of the cache that can be recorded without failing.
#[derive(Debug)]
pub(super) enum PreparedRead<'a> {
    Copies { cache: &'a KvCache, step: &'a Step, sequences: &'a Range<u32>, destinations: Pair<Destination<'a>> },
    Kernels { keys: Reads, values: Reads, data: StepData },
}

impl PreparedRead<'_> {
    pub fn record(self, recorder: &mut impl Recorder) {
        match self {
            PreparedRead::Kernels { keys, values, data } => {
                dispatch(recorder, "kv-cache get", data, keys.dispatches().chain(values.dispatches()));
            }
            PreparedRead::Copies { cache, step, sequences, destinations } => {
                let encoder = recorder.encoder().expect("copies are prepared for an encoder");
                for side in Side::BOTH {
                    let &Destination { buffer, offset, .. } = destinations.side(side);
                    record_range(encoder, step, sequences.start, &cache.layout, &cache.storage, side, (buffer, offset));
                }
            }
        }
    }
}

impl KvCache {
    /// Copies positions `range` of every sequence into new dense tensors `[batch, kv_head, range, dim]`, and
    /// submits. Rows past a sequence's own length are zero, whatever the storage holds there.
    ///
    /// # Errors
    /// [`RangeError::RangeReversed`] if the range starts after its end; [`RangeError::RangeBeyondWritten`] if it ends
    /// after [`write_pos`](Self::write_pos); [`RangeError::Evicted`] if a ring has evicted a position of it;
    /// [`DeviceError::BufferTooLarge`](crate::DeviceError::BufferTooLarge) if a tensor does not fit one buffer;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// One dispatch per side and segment, or copies where [`range_form`](Self::range_form) says so.
    pub fn get(&self, range: Range<u32>) -> Result<Pair<GpuTensor>> {
        self.copy_out(&self.plan_range(&range)?, &(0..self.config.batch_size), None)
    }

    /// Copies a range like [`get`](Self::get) and converts it to f32, f16 or bf16. Rows of a packed format are
    /// dequantised.
    ///
    /// # Errors
    /// The errors of [`get`](Self::get); [`RangeError::PackedDestination`] if `format` is packed and is not the cache's
    /// own.
    ///
    /// # Performance
    /// One dispatch per side and segment.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, Error, Format, KvCache, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let config = CacheConfig::new(1, 1, 64, 8).formats(Format::Q8_0, Format::Q4_0);
    /// let mut cache = KvCache::new(&context, config)?;
    /// cache.update(&[0.5f32; 64][..], &[0.25f32; 64][..], Write::append(1))?;
    /// assert_eq!(cache.get(0..1)?.keys.format(), Format::Q8_0);
    /// assert_eq!(cache.get_as(0..1, Format::F16)?.keys.format(), Format::F16);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn get_as(&self, range: Range<u32>, format: Format) -> Result<Pair<GpuTensor>> {
        self.copy_out(&self.plan_range(&range)?, &(0..self.config.batch_size), Some(format))
    }

    /// Copies all valid rows into new dense tensors `[batch, kv_head, rows, dim]`, and submits. Row `r` of a sequence
    /// is the `r`th of its [`valid_positions`](Self::valid_positions). Sequences with fewer valid rows than the longest
    /// are padded with zero rows.
    ///
    /// # Errors
    /// The errors of [`get`](Self::get), except those of the range.
    pub fn get_all(&self) -> Result<Pair<GpuTensor>> {
        self.copy_out(&self.plan_valid(), &(0..self.config.batch_size), None)
    }

    /// Records the copy of positions `range` into the caller's buffers, dense `[batch, kv_head, range, dim]` in the
    /// cache's formats or in those of the destinations. Neighbouring bytes are unchanged, even within a shared word.
    ///
    /// # Errors
    /// [`RangeError::RangeReversed`], [`RangeError::RangeBeyondWritten`] and [`RangeError::Evicted`] as for
    /// [`get`](Self::get); [`RangeError::PackedDestination`] if the format of a destination is packed and is not the
    /// cache's own; [`BufferError::BufferUsage`] if a buffer lacks the usage `STORAGE`; [`BufferError::Misaligned`] if
    /// an offset is not a multiple of 4; [`BufferError::BufferRange`] if a buffer ends before the last row;
    /// [`BufferError::OwnStorage`] if a buffer is the cache's own; [`BufferError::DestinationsOverlap`] if keys and
    /// values would overwrite each other; [`DeviceError::Refused`](crate::DeviceError::Refused) if a buffer belongs to
    /// another device (one of another wgpu instance cannot be detected, see [`Context::new`](crate::Context::new));
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// One dispatch per side and segment, and a new bind group for each; or in an encoder copies where
    /// [`range_form`](Self::range_form) says so.
    pub fn record_get(
        &self,
        recorder: &mut impl Recorder,
        range: Range<u32>,
        destinations: Pair<Destination<'_>>,
    ) -> Result<()> {
        self.record_read(recorder, &self.plan_range(&range)?, &destinations)
    }

    /// Records [`get_all`](Self::get_all) into the caller's buffers, like [`record_get`](Self::record_get).
    ///
    /// # Errors
    /// The errors of [`record_get`](Self::record_get), except those of the range.
    pub fn record_get_all(&self, recorder: &mut impl Recorder, destinations: Pair<Destination<'_>>) -> Result<()> {
        self.record_read(recorder, &self.plan_valid(), &destinations)
    }

    /// Records the copy of the rows of a step into the caller's buffers.
    fn record_read(
        &self,
        recorder: &mut impl Recorder,
        step: &Step,
        destinations: &Pair<Destination<'_>>,
    ) -> Result<()> {
        let sequences = 0..self.config.batch_size;
        let read = self.prepare_read(recorder, step, &sequences, destinations)?;
        if let PreparedRead::Copies { .. } = read {
            // For a kernel, creating the bind group checks this.
            self.context.check_destinations(destinations.keys.buffer, destinations.values.buffer)?;
        }
        read.record(recorder);
        Ok(())
    }

    fn plan_range(&self, range: &Range<u32>) -> Result<Step> {
        let mut step = Step::with_capacity(self.config.batch_size, self.layout.runs());
        plan_read(self.config.placement, &self.sequences, range, &mut step)?;
        Ok(step)
    }

    fn plan_valid(&self) -> Step {
        let mut step = Step::with_capacity(self.config.batch_size, self.layout.runs());
        plan_read_valid(self.config.placement, &self.sequences, |_| true, &mut step);
        step
    }

    /// Shape of the rows that a step reads of some sequences.
    fn shape(&self, side: Side, step: &Step, sequences: &Range<u32>) -> [u32; 4] {
        [count(sequences), self.config.num_heads, step.rows, self.config.dim(side)]
    }

    /// Allocates tensors for the rows of a step.
    pub(super) fn tensors(
        &self,
        step: &Step,
        sequences: &Range<u32>,
        format: Option<Format>,
    ) -> Result<Pair<GpuTensor>> {
        let tensor = |side: Side, what| {
            let stored = self.config.format(side);
            let format = format.unwrap_or(stored);
            let scale = if format == stored { self.config.scale(side) } else { Scale::ONE };
            self.check_output(side, format)?;
            GpuTensor::new(&self.context, what, self.shape(side, step, sequences), format, scale)
        };
        Ok(Pair { keys: tensor(Side::Keys, "copied keys")?, values: tensor(Side::Values, "copied values")? })
    }

    /// Checks that rows can be copied out in a format.
    fn check_output(&self, side: Side, wanted: Format) -> Result<()> {
        let stored = self.config.format(side);
        if wanted.is_packed() && wanted != stored {
            return Err(Error::Range(RangeError::PackedDestination { side, stored, wanted }));
        }
        Ok(())
    }

    /// Copies the rows of a step into new tensors and submits.
    pub(super) fn copy_out(
        &self,
        step: &Step,
        sequences: &Range<u32>,
        format: Option<Format>,
    ) -> Result<Pair<GpuTensor>> {
        let tensors = self.tensors(step, sequences, format)?;
        let mut encoder = self.encoder();
        self.prepare_read(&mut encoder, step, sequences, &tensors.destinations())?.record(&mut encoder);
        self.context.submit("a copy", encoder)?;
        Ok(tensors)
    }

    /// Prepares the copy of the rows of a step, for some sequences. Everything that can fail happens here.
    pub(super) fn prepare_read<'a>(
        &'a self,
        recorder: &mut impl Recorder,
        step: &'a Step,
        sequences: &'a Range<u32>,
        destinations: &Pair<Destination<'a>>,
    ) -> Result<PreparedRead<'a>> {
        let output = |side| destinations.side(side).format.unwrap_or(self.config.format(side));
        let bytes = |side| dense_bytes(self.shape(side, step, sequences), output(side));
        for side in Side::BOTH {
            let destination = destinations.side(side);
            if self.storage.contains(destination.buffer) {
                return Err(Error::Buffer(BufferError::OwnStorage { side }));
            }
            self.check_output(side, output(side))?;
            destination.check(side, bytes(side))?;
        }
        let Pair { keys, values } = &destinations;
        let byte = keys.offset.max(values.offset);
        let both_reach =
            Side::BOTH.iter().all(|&side| destinations.side(side).offset.saturating_add(bytes(side)) > byte);
        if keys.buffer == values.buffer && both_reach {
            return Err(Error::Buffer(BufferError::DestinationsOverlap { byte }));
        }
        let copyable = Side::BOTH
            .into_iter()
            .filter(|&side| output(side) == self.config.format(side))
            .filter(|&side| range_is_copyable(&self.layout, side, destinations.side(side).buffer.usage()))
            .count()
            == 2;
        let copies = copyable && self.prefers_copies_of(step, sequences);
        if copies && recorder.encoder().is_some() {
            return Ok(PreparedRead::Copies { cache: self, step, sequences, destinations: *destinations });
        }
        let data = StepData::new(&self.context, &self.ring, step)?;
        let reads = |side: Side| {
            let (layout, storage) = (&self.layout, &self.storage);
            Reads::new(&self.context, layout, storage, side, sequences, (step, &data), destinations.side(side))
        };
        let (keys, values) = (reads(Side::Keys)?, reads(Side::Values)?);
        Ok(PreparedRead::Kernels { keys, values, data })
    }

    /// Returns the form that [`record_get`](Self::record_get) chooses for a range in an encoder, by the context's cost
    /// model, if the destinations have the usage `COPY_DST` and the cache's formats.
    ///
    /// # Errors
    /// [`RangeError::RangeReversed`], [`RangeError::RangeBeyondWritten`] and [`RangeError::Evicted`] as for
    /// [`get`](Self::get).
    pub fn range_form(&self, range: Range<u32>) -> Result<Form> {
        let step = self.plan_range(&range)?;
        let usage = wgpu::BufferUsages::COPY_DST;
        let copyable = Side::BOTH.into_iter().all(|side| range_is_copyable(&self.layout, side, usage));
        let copies = copyable && self.prefers_copies_of(&step, &(0..self.config.batch_size));
        Ok(if copies { Form::Copies } else { Form::Kernel })
    }

    /// Whether the cost model prefers copies for a range.
    fn prefers_copies_of(&self, step: &Step, sequences: &Range<u32>) -> bool {
        let copies = count_range(step, &self.layout).saturating_mul(2);
        let dispatches = self.storage.planes().count() as u64;
        let rows = u64::from(step.rows).saturating_mul(self.layout.planes_of(count(sequences)).into());
        let bytes = rows.saturating_mul(self.layout.row_bytes());
        self.context.costs().prefers_copies(dispatches, copies, bytes)
    }
}
