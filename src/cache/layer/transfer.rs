//! Moves the rows of single sequences: copies within the cache, [`KvCache::extract`] and [`KvCache::insert`], and
//! selections that go through scratch memory.

use std::ops::Range;

use super::moves::{CopyOut, Planned, Transfer, record_each};
use crate::{
    BoundSource, CacheConfig, Error, GpuTensor, HostRows, KvCache, Pair, Placement, RangeError, Recorder, Result,
    RowsIn, SequenceError, Side, Source, Strides, Write, WriteError,
    plan::{
        operations::{
            check_rows, plan_insert, plan_place_stored, plan_read_one, plan_read_stored, plan_read_valid, plan_write,
        },
        step::{MAX_LENGTH, Step},
    },
    shape::placement::count,
};

/// The range that holds one sequence.
fn one(sequence: u32) -> Range<u32> {
    sequence..sequence.saturating_add(1)
}

impl KvCache {
    /// Copies positions `range` of sequence `from` to sequence `to`, starting at `position`, and submits.
    ///
    /// This is an update whose rows come from the cache: afterwards `to` ends with the last copied row. Both may be the
    /// same sequence, and the ranges may overlap.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no sequence `from` or `to`; [`RangeError::RangeReversed`] if
    /// the range starts after its end; [`RangeError::RangeBeyondWritten`] if it ends after the length of `from`;
    /// [`RangeError::Evicted`] if a ring has evicted a position of it; [`WriteError::NoTokens`] if it is empty; the
    /// errors of [`update`](Self::update) for the write.
    ///
    /// # Performance
    /// The rows go through scratch memory of their own size: a copy out, and one dispatch per segment.
    pub fn copy_range(&mut self, from: u32, range: Range<u32>, to: u32, position: u32) -> Result<()> {
        self.submit("a copy", |cache, encoder| cache.record_copy_range(encoder, from, range, to, position))
    }

    /// Records [`copy_range`](Self::copy_range) into an encoder or a compute pass, without submitting.
    ///
    /// # Errors
    /// The errors of [`copy_range`](Self::copy_range).
    pub fn record_copy_range(
        &mut self,
        recorder: &mut impl Recorder,
        from: u32,
        range: Range<u32>,
        to: u32,
        position: u32,
    ) -> Result<()> {
        let layers = std::slice::from_mut(self);
        record_each(layers, recorder, |_, layer| layer.plan_copy_range(from, &range, to, position))
    }

    /// Checks and plans a copy within the layer.
    pub(crate) fn plan_copy_range(&mut self, from: u32, range: &Range<u32>, to: u32, position: u32) -> Result<Planned> {
        let (length, _) = self.sequences.get(from)?;
        self.sequences.get(to)?;
        if range.start > range.end {
            return Err(Error::Range(RangeError::RangeReversed { start: range.start, end: range.end }));
        }
        if range.end > length {
            return Err(Error::Range(RangeError::RangeBeyondWritten { end: range.end, write_pos: length }));
        }
        let mut step = Step::default();
        plan_read_one(self.config.placement, &self.sequences, from, range, &mut step)?;
        let tokens = count(range);
        if tokens == 0 {
            return Err(Error::Write(WriteError::NoTokens));
        }
        let mut counts = vec![0; self.sequences.lengths.len()];
        counts[to as usize] = tokens;
        let write = Write::at(position, tokens).counts(&counts);
        plan_write(&self.config, &self.sequences, &write, &mut self.step)?;
        self.step.forget_starts();
        let sequences = one(from);
        let tensors = self.tensors(&step, &sequences, None)?;
        let source = self.bind_one(&tensors.source())?;
        let transfer = Transfer { out: Some(CopyOut { sequences, tensors, step }), source, place: self.step.clone() };
        Ok(Planned::transfer(self.config.batch_size, transfer))
    }

    /// Copies the valid rows of one sequence into new dense tensors `[1, kv_head, rows, dim]`, and submits.
    ///
    /// Row `r` is the `r`th of its [`valid_positions`](Self::valid_positions). Use this to save a sequence that leaves
    /// the batch; [`insert`](Self::insert) restores it from these rows and its length.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if the batch has no such sequence; the errors of [`get_all`](Self::get_all).
    ///
    /// # Performance
    /// The cost of [`get`](Self::get) for that sequence.
    pub fn extract(&self, sequence: u32) -> Result<Pair<GpuTensor>> {
        self.sequences.get(sequence)?;
        let mut step = Step::default();
        plan_read_valid(self.config.placement, &self.sequences, |other| other == sequence, &mut step);
        self.copy_out(&step, &one(sequence), None)
    }

    /// Replaces a sequence with one of `length` positions, and submits.
    ///
    /// `keys` and `values` hold its valid rows, `[1, kv_head, rows, dim]`, in order of position. With linear placement
    /// there is one row per position. In a ring there is one for each sink and for each of the last `window` positions.
    /// A ring cannot be rolled back beyond the inserted rows.
    ///
    /// `sequence` may equal the batch size, which appends a sequence to the batch.
    ///
    /// # Errors
    /// [`SequenceError::IndexOutOfRange`] if `sequence` is larger than the batch size; [`SequenceError::BatchTooLarge`]
    /// if it is `max_batch_size`; [`WriteError::NoTokens`] if `length` is 0; [`WriteError::WriteBeyondCapacity`] if
    /// `length` is larger than `max_seq_len`, with linear placement; [`WriteError::PositionOverflow`] if it is
    /// `u32::MAX`, in a ring; [`WriteError::SliceLength`] if a slice has another number of elements;
    /// [`WriteError::PackedSource`] if rows are in a packed format that is not the cache's own;
    /// [`DeviceError::BufferTooLarge`](crate::DeviceError::BufferTooLarge) if the rows do not fit one buffer;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    ///
    /// # Performance
    /// The cost of [`update`](Self::update) for that sequence.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, KvCache};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 2, 8).max_batch_size(2))?;
    /// cache.insert(1, 3, &[0.5f32; 6][..], &[0.25f32; 6][..])?;
    /// assert_eq!(cache.lengths(), [0, 3]);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    pub fn insert<'r>(
        &mut self,
        sequence: u32,
        length: u32,
        keys: impl Into<HostRows<'r>>,
        values: impl Into<HostRows<'r>>,
    ) -> Result<()> {
        let rows = Pair { keys: keys.into(), values: values.into() };
        self.check_inserted(sequence, length, rows)?;
        self.submit("an insertion", |cache, encoder| {
            let layers = std::slice::from_mut(cache);
            record_each(layers, encoder, |_, layer| layer.plan_insert_rows(sequence, length, rows))
        })
    }

    /// Records [`insert`](Self::insert) with rows from the caller's buffers. The sequence stride of the source is
    /// ignored.
    ///
    /// # Errors
    /// The errors of [`insert`](Self::insert) and [`bind_source`](Self::bind_source), with the same limits for buffers
    /// of another device or wgpu instance; [`WriteError::InsertedRows`] if the source has another number of rows than
    /// the sequence.
    pub fn record_insert(
        &mut self,
        recorder: &mut impl Recorder,
        sequence: u32,
        length: u32,
        source: &Source<'_>,
    ) -> Result<()> {
        let layers = std::slice::from_mut(self);
        record_each(layers, recorder, |_, layer| layer.plan_insert(sequence, length, source))
    }

    /// Replaces a sequence like [`insert`](Self::insert), with rows on the device.
    #[cfg(feature = "save")]
    pub(crate) fn insert_tensors(&mut self, sequence: u32, length: u32, rows: &[Pair<GpuTensor>]) -> Result<()> {
        self.submit("an insertion", |cache, encoder| {
            let layers = std::slice::from_mut(cache);
            record_each(layers, encoder, |index, layer| layer.plan_insert(sequence, length, &rows[index].source()))
        })
    }

    /// Uploads the rows of a sequence and plans its insertion.
    pub(crate) fn plan_insert_rows(&mut self, sequence: u32, length: u32, rows: Pair<HostRows<'_>>) -> Result<Planned> {
        let tokens = self.check_insert(sequence, length)?;
        let upload =
            |what, rows: HostRows<'_>| self.context.create_filled(what, rows.bytes(), wgpu::BufferUsages::STORAGE);
        let (keys, values) = (upload("inserted keys", rows.keys)?, upload("inserted values", rows.values)?);
        let rows_in = |rows: HostRows<'_>, buffer, dim| RowsIn {
            buffer,
            offset: 0,
            format: rows.format(),
            strides: Strides::bhtd(self.config.num_heads, tokens, rows.format().units(dim)),
        };
        let source = Source {
            keys: rows_in(rows.keys, &keys, self.config.head_dim),
            values: rows_in(rows.values, &values, self.config.value_dim),
            tokens,
        };
        self.plan_insert(sequence, length, &source)
    }

    /// Checks and plans an insertion.
    pub(crate) fn plan_insert(&mut self, sequence: u32, length: u32, source: &Source<'_>) -> Result<Planned> {
        let expected = self.check_insert(sequence, length)?;
        if source.tokens != expected {
            return Err(Error::Write(WriteError::InsertedRows { length, expected, tokens: source.tokens }));
        }
        let batch_size = self.config.batch_size.max(one(sequence).end);
        let source = self.bind_one(source)?;
        let mut sequences = self.sequences.clone();
        sequences.grow(batch_size, self.config.placement);
        plan_insert(self.config.placement, &sequences, sequence, length, &mut self.step);
        Ok(Planned::transfer(batch_size, Transfer { out: None, source, place: self.step.clone() }))
    }

    /// Returns the number of valid rows of a sequence of this length, or an error if it cannot be inserted.
    pub(crate) fn check_insert(&self, sequence: u32, length: u32) -> Result<u32> {
        let (batch_size, max_batch_size) = (self.config.batch_size, self.config.max_batch_size);
        if sequence > batch_size {
            return Err(Error::Sequence(SequenceError::IndexOutOfRange {
                name: "sequence",
                index: sequence,
                count: batch_size,
            }));
        }
        if sequence == max_batch_size {
            return Err(Error::Sequence(SequenceError::BatchTooLarge {
                batch_size: one(sequence).end,
                max_batch_size,
            }));
        }
        if length == 0 {
            return Err(Error::Write(WriteError::NoTokens));
        }
        let max_seq_len = self.config.max_seq_len;
        match self.config.placement {
            Placement::Linear if length > max_seq_len => {
                Err(Error::Write(WriteError::WriteBeyondCapacity { sequence, position: 0, count: length, max_seq_len }))
            }
            Placement::Ring { .. } if length > MAX_LENGTH => {
                Err(Error::Write(WriteError::PositionOverflow { sequence, position: 0, count: length }))
            }
            placement => Ok(placement.valid(length).iter().map(count).fold(0, u32::saturating_add)),
        }
    }

    /// Checks an insertion of host rows.
    pub(crate) fn check_inserted(&self, sequence: u32, length: u32, rows: Pair<HostRows<'_>>) -> Result<()> {
        let tokens = self.check_insert(sequence, length)?;
        let config = CacheConfig { batch_size: 1, ..self.config };
        check_rows(&config, Side::Keys, rows.keys, tokens)?;
        check_rows(&config, Side::Values, rows.values, tokens)
    }

    /// Plans a selection through scratch memory: for every sequence that moves, the copy to scratch memory and the
    /// places it goes to.
    pub(super) fn plan_aside(&self, sources: &[u32], batch_size: u32) -> Result<Vec<Transfer>> {
        let mut aside = Vec::new();
        for from in 0..self.config.batch_size {
            let wanted = |to: u32| sources[to as usize] == from && to != from;
            if !(0..batch_size).any(wanted) {
                continue;
            }
            let mut step = Step::default();
            plan_read_stored(self.config.placement, &self.sequences, from, &mut step);
            if step.rows == 0 {
                continue;
            }
            let sequences = one(from);
            let tensors = self.tensors(&step, &sequences, None)?;
            let source = self.bind_one(&tensors.source())?;
            let mut place = Step::default();
            plan_place_stored(&step, batch_size, wanted, &mut place);
            aside.push(Transfer { out: Some(CopyOut { sequences, tensors, step }), source, place });
        }
        Ok(aside)
    }

    /// Binds the rows of one sequence. All sequences of the batch read the same rows.
    pub(super) fn bind_one(&self, source: &Source<'_>) -> Result<BoundSource> {
        let alike = |rows: &RowsIn<'_>| Strides { sequence: 0, ..rows.strides };
        let source = Source {
            keys: RowsIn { strides: alike(&source.keys), ..source.keys },
            values: RowsIn { strides: alike(&source.values), ..source.values },
            tokens: source.tokens,
        };
        BoundSource::new(&self.context, &self.config, &self.layout, &self.storage, &self.identity, &source)
    }
}
