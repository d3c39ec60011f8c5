//! Ranges of a layer, copied out.

use std::ops::Range;

use crate::{
    Destination, Error, Form, GpuTensor, KvCache, Pair, Recorder, Result, Side,
    copies::{count_range, range_is_copyable, record_range},
    destination::Reads,
    plan::{Step, plan_read},
    record::{StepData, dispatch},
    tensor::elements,
};

impl KvCache {
    /// Copies positions `range` of every sequence into new dense tensors `[batch, kv_head, range, dim]`, and
    /// submits. Rows past a sequence's own length are zero, whatever the storage holds there.
    ///
    /// # Errors
    /// [`Error::RangeReversed`]; [`Error::RangeBeyondWritten`] past [`write_pos`](Self::write_pos);
    /// [`Error::BufferTooLarge`] where a tensor does not fit one buffer; [`Error::OutOfMemory`];
    /// [`Error::DeviceLost`].
    ///
    /// # Performance
    /// One dispatch a side for each segment, or copies where [`range_form`](Self::range_form) says so.
    pub fn get(&self, range: Range<u32>) -> Result<Pair<GpuTensor>> {
        let mut step = Step::default();
        plan_read(&self.lengths, &range, &mut step)?;
        let rows = range.end - range.start;
        let tensor = |side: Side, what| {
            let shape = [self.config.batch_size, self.config.num_heads, rows, self.config.dim(side)];
            GpuTensor::new(&self.context, what, shape, self.config.format(side))
        };
        let tensors = Pair { keys: tensor(Side::Keys, "copied keys")?, values: tensor(Side::Values, "copied values")? };
        let mut encoder = self.encoder();
        let destination = |side| Destination { buffer: tensors.side(side).buffer(), offset: 0 };
        let destinations = Pair { keys: destination(Side::Keys), values: destination(Side::Values) };
        self.record_get(&mut encoder, range, destinations)?;
        self.context.queue().submit([encoder.finish()]);
        Ok(tensors)
    }

    /// [`get`](Self::get) of everything that was written, `0..write_pos`.
    ///
    /// # Errors
    /// As [`get`](Self::get), less those of the range.
    pub fn get_all(&self) -> Result<Pair<GpuTensor>> {
        self.get(0..self.write_pos())
    }

    /// Records the copy of positions `range` into buffers of the caller's, dense `[batch, kv_head, range, dim]` in
    /// the cache's formats. Bytes beside them stay, also inside a word that they share.
    ///
    /// # Errors
    /// [`Error::RangeReversed`], [`Error::RangeBeyondWritten`]; [`Error::BufferUsage`], [`Error::Misaligned`],
    /// [`Error::BufferRange`], [`Error::OwnStorage`], [`Error::DestinationsOverlap`]; [`Error::OutOfMemory`];
    /// [`Error::DeviceLost`].
    ///
    /// # Performance
    /// One dispatch a side for each segment, with a bind group made for each; or in an encoder copies where
    /// [`range_form`](Self::range_form) says so.
    pub fn record_get(
        &self,
        recorder: &mut impl Recorder,
        range: Range<u32>,
        destinations: Pair<Destination<'_>>,
    ) -> Result<()> {
        let mut step = Step::with_capacity(self.config.batch_size);
        plan_read(&self.lengths, &range, &mut step)?;
        let rows = range.end - range.start;
        let shape = |side| [self.config.batch_size, self.config.num_heads, rows, self.config.dim(side)];
        let bytes = |side| elements(shape(side)) * u64::from(self.config.format(side).element_bytes());
        for side in Side::BOTH {
            let destination = destinations.side(side);
            if self.storage.contains(destination.buffer) {
                return Err(Error::OwnStorage { side });
            }
            destination.check(side, bytes(side))?;
        }
        let Pair { keys, values } = &destinations;
        let byte = keys.offset.max(values.offset);
        let both_reach = Side::BOTH.iter().all(|&side| destinations.side(side).offset + bytes(side) > byte);
        if keys.buffer == values.buffer && both_reach {
            return Err(Error::DestinationsOverlap { byte });
        }
        let copyable = Side::BOTH
            .into_iter()
            .all(|side| range_is_copyable(&self.layout, side, destinations.side(side).buffer.usage()));
        let copies = copyable && self.prefers_copies_of(&step);
        if let (true, Some(encoder)) = (copies, recorder.encoder()) {
            for side in Side::BOTH {
                let &Destination { buffer, offset } = destinations.side(side);
                record_range(encoder, &step, &self.layout, &self.storage, side, (buffer, offset));
            }
            return Ok(());
        }
        let data = StepData::new(&self.context, &self.ring, &step)?;
        let reads = |side: Side| {
            let destination = destinations.side(side);
            Reads::new(&self.context, &self.layout, &self.storage, side, rows, data.path(), destination)
        };
        let (keys, values) = (reads(Side::Keys)?, reads(Side::Values)?);
        dispatch(recorder, "kv-cache get", data, keys.dispatches().chain(values.dispatches()));
        Ok(())
    }

    /// The form that [`record_get`](Self::record_get) gives a range in an encoder, by the context's cost model, into
    /// destinations that have `COPY_DST`.
    ///
    /// # Errors
    /// [`Error::RangeReversed`], [`Error::RangeBeyondWritten`].
    pub fn range_form(&self, range: Range<u32>) -> Result<Form> {
        let mut step = Step::default();
        plan_read(&self.lengths, &range, &mut step)?;
        let usage = wgpu::BufferUsages::COPY_DST;
        let copyable = Side::BOTH.into_iter().all(|side| range_is_copyable(&self.layout, side, usage));
        Ok(if copyable && self.prefers_copies_of(&step) { Form::Copies } else { Form::Kernel })
    }

    /// Whether copies are the cheaper form of a range.
    fn prefers_copies_of(&self, step: &Step) -> bool {
        let copies = 2 * count_range(step, &self.layout);
        let dispatches = 2 * self.storage.segments.len() as u64;
        let bytes = u64::from(step.rows) * u64::from(self.layout.planes) * self.row_bytes();
        self.context.costs().prefers_copies(dispatches, copies, bytes)
    }
}
