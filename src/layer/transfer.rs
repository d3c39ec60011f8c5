//! Rows of single sequences: copied within the cache, out of it and into it, and through scratch memory.

use std::ops::Range;

use crate::{
    BoundSource, CacheConfig, Error, GpuTensor, HostRows, KvCache, Pair, Placement, Recorder, Result, RowsIn, Side,
    Source, Strides, Write,
    bound::Prepared,
    plan::{
        KEEP_LENGTH, Step, check_rows, plan_insert, plan_place_stored, plan_read_one, plan_read_stored,
        plan_read_valid, plan_write,
    },
};

/// Rows of a sequence on their way through scratch memory.
pub(super) struct Aside {
    /// The sequence that they are read from.
    pub sequences: Range<u32>,
    pub tensors: Pair<GpuTensor>,
    pub read: Step,
    /// The scratch memory, from which they are placed.
    pub source: BoundSource,
    pub place: Step,
}

impl KvCache {
    /// Writes positions `range` of sequence `from` to sequence `to`, from `position` on, and submits: an update whose rows
    /// come from the cache. Afterwards `to` ends where they end. Both may be the same sequence, and overlap.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`], [`Error::RangeReversed`], [`Error::RangeBeyondWritten`] past the end of `from`,
    /// [`Error::Evicted`], [`Error::NoTokens`] for an empty range, and as [`update`](Self::update) for the write.
    ///
    /// # Performance
    /// The rows go through scratch memory of their own size: a copy out, and one dispatch for each segment.
    pub fn copy_range(&mut self, from: u32, range: Range<u32>, to: u32, position: u32) -> Result<()> {
        self.submit(|cache, encoder| cache.record_copy_range(encoder, from, range, to, position))
    }

    /// Records a [`copy_range`](Self::copy_range).
    ///
    /// # Errors
    /// As there.
    pub fn record_copy_range(
        &mut self,
        recorder: &mut impl Recorder,
        from: u32,
        range: Range<u32>,
        to: u32,
        position: u32,
    ) -> Result<()> {
        let read = self.plan_copy_range(from, &range, to, position)?;
        let tensors = self.tensors(&read, &(from..from + 1), None)?;
        let source = self.bind_placed(&tensors, self.config.batch_size)?;
        let sequences = from..from + 1;
        let destinations = tensors.destinations();
        let read = self.prepare_read(recorder, &read, &sequences, &destinations)?;
        let placed = self.prepare_placed(&source, &self.step)?;
        read.record(recorder);
        placed.record(recorder, "kv-cache place");
        self.commit();
        Ok(())
    }

    /// Checks a copy and plans its reading; its writing is the step.
    pub(crate) fn plan_copy_range(&mut self, from: u32, range: &Range<u32>, to: u32, position: u32) -> Result<Step> {
        let (length, _) = self.sequences.get(from)?;
        self.sequences.get(to)?;
        if range.start > range.end {
            return Err(Error::RangeReversed { start: range.start, end: range.end });
        }
        if range.end > length {
            return Err(Error::RangeBeyondWritten { end: range.end, write_pos: length });
        }
        let mut read = Step::default();
        plan_read_one(self.config.placement, &self.sequences, from, range, &mut read)?;
        let count = range.end - range.start;
        if count == 0 {
            return Err(Error::NoTokens);
        }
        let mut counts = vec![0; self.sequences.lengths.len()];
        counts[to as usize] = count;
        let write = Write::at(position, count).counts(&counts);
        plan_write(&self.config, &self.sequences, &write, &mut self.step)?;
        Ok(read)
    }

    /// Copies the valid rows of one sequence into new dense tensors `[1, kv_head, rows, dim]`, and submits, so that it can
    /// leave the batch: row `r` is the `r`th of its [`valid_positions`](Self::valid_positions). With its length,
    /// [`insert`](Self::insert) takes it back.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`], and as [`get_all`](Self::get_all).
    ///
    /// # Performance
    /// As [`get`](Self::get) of that sequence.
    pub fn extract(&self, sequence: u32) -> Result<Pair<GpuTensor>> {
        self.sequences.get(sequence)?;
        let mut step = Step::default();
        plan_read_valid(self.config.placement, &self.sequences, |other| other == sequence, &mut step);
        self.copy_out(&step, &(sequence..sequence + 1), None)
    }

    /// Makes a sequence one of `length` positions, whose valid rows these are, `[1, kv_head, rows, dim]` in order of
    /// position, and submits. The sequence may be the next that is not there yet, which makes the batch larger by one.
    ///
    /// On linear placement there is a row for each position; of a ring, for each of the sinks and of the last `window`. A
    /// ring cannot be rolled back beyond the inserted rows.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`], [`Error::BatchTooLarge`], [`Error::NoTokens`] for a length of 0,
    /// [`Error::WriteBeyondCapacity`], [`Error::PositionOverflow`], [`Error::SliceLength`]; [`Error::BufferTooLarge`];
    /// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    ///
    /// # Performance
    /// As [`update`](Self::update) of that sequence.
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
        let (keys, values) = (keys.into(), values.into());
        let rows = self.check_insert(sequence, length)?;
        self.check_inserted(rows, keys, values)?;
        let upload =
            |what, rows: HostRows<'_>| self.context.create_filled(what, rows.bytes(), wgpu::BufferUsages::STORAGE);
        let (key_buffer, value_buffer) = (upload("inserted keys", keys)?, upload("inserted values", values)?);
        let rows_in = |rows_of: HostRows<'_>, buffer, dim| RowsIn {
            buffer,
            offset: 0,
            format: rows_of.format(),
            strides: Strides::bhtd(self.config.num_heads, rows, rows_of.format().units(dim)),
        };
        let source = Source {
            keys: rows_in(keys, &key_buffer, self.config.head_dim),
            values: rows_in(values, &value_buffer, self.config.value_dim),
            tokens: rows,
        };
        self.submit(|cache, encoder| cache.record_insert(encoder, sequence, length, &source))
    }

    /// Records an [`insert`](Self::insert) of rows in the caller's buffers; the source's stride of sequences is not read.
    ///
    /// # Errors
    /// As [`insert`](Self::insert) and [`bind_source`](Self::bind_source); [`Error::InsertedRows`] where the source has
    /// another number of rows.
    pub fn record_insert(
        &mut self,
        recorder: &mut impl Recorder,
        sequence: u32,
        length: u32,
        source: &Source<'_>,
    ) -> Result<()> {
        let expected = self.check_insert(sequence, length)?;
        if source.tokens != expected {
            return Err(Error::InsertedRows { length, expected, tokens: source.tokens });
        }
        let batch_size = self.config.batch_size.max(sequence + 1);
        let source = self.bind_one(source, batch_size)?;
        let mut sequences = self.sequences.clone();
        sequences.lengths.resize(batch_size as usize, 0);
        sequences.oldest.resize(batch_size as usize, self.config.placement.sinks());
        plan_insert(self.config.placement, &sequences, sequence, length, &mut self.step);
        self.prepare_placed(&source, &self.step)?.record(recorder, "kv-cache insert");
        self.set_batch_size(batch_size);
        self.commit();
        Ok(())
    }

    /// The rows that a sequence of this length has, where it can be inserted.
    pub(crate) fn check_insert(&self, sequence: u32, length: u32) -> Result<u32> {
        let (count, max_batch_size) = (self.config.batch_size, self.config.max_batch_size);
        if sequence > count {
            return Err(Error::IndexOutOfRange { name: "sequence", index: sequence, count });
        }
        if sequence == max_batch_size {
            return Err(Error::BatchTooLarge { batch_size: count + 1, max_batch_size });
        }
        if length == 0 {
            return Err(Error::NoTokens);
        }
        let max_seq_len = self.config.max_seq_len;
        match self.config.placement {
            Placement::Linear if length > max_seq_len => {
                Err(Error::WriteBeyondCapacity { sequence, position: 0, count: length, max_seq_len })
            }
            Placement::Ring { .. } if length == KEEP_LENGTH => {
                Err(Error::PositionOverflow { sequence, position: 0, count: length })
            }
            placement => Ok(placement.valid(length).into_iter().map(|range| range.end - range.start).sum()),
        }
    }

    /// Checks the rows of an inserted sequence.
    pub(crate) fn check_inserted(&self, rows: u32, keys: HostRows<'_>, values: HostRows<'_>) -> Result<()> {
        let one = CacheConfig { batch_size: 1, ..self.config };
        check_rows(&one, Side::Keys, keys, rows)?;
        check_rows(&one, Side::Values, values, rows)
    }

    /// Scratch memory for every sequence that moves, how it gets there, and where it goes from there.
    pub(super) fn plan_aside(&self, sources: &[u32], batch_size: u32) -> Result<Vec<Aside>> {
        let mut aside = Vec::new();
        for from in 0..self.config.batch_size {
            let wanted = |to: u32| sources[to as usize] == from && to != from;
            if !(0..batch_size).any(wanted) {
                continue;
            }
            let mut read = Step::default();
            plan_read_stored(self.config.placement, &self.sequences, from, &mut read);
            if read.rows == 0 {
                continue;
            }
            let sequences = from..from + 1;
            let tensors = self.tensors(&read, &sequences, None)?;
            let source = self.bind_placed(&tensors, batch_size)?;
            let mut place = Step::default();
            let runs = read.sequences().nth(from as usize).expect("every sequence has runs");
            plan_place_stored(runs, batch_size, wanted, &mut place);
            aside.push(Aside { sequences, tensors, read, source, place });
        }
        Ok(aside)
    }

    /// Binds scratch rows `[1, kv_head, rows, dim]`.
    fn bind_placed(&self, tensors: &Pair<GpuTensor>, batch_size: u32) -> Result<BoundSource> {
        let [_, heads, tokens, _] = tensors.keys.shape();
        let rows_in = |tensor: &GpuTensor| {
            let strides = Strides::bhtd(heads, tokens, tensor.format().units(tensor.shape()[3]));
            (tensor.format(), strides)
        };
        let side = |tensor, (format, strides)| RowsIn { buffer: GpuTensor::buffer(tensor), offset: 0, format, strides };
        let source = Source {
            keys: side(&tensors.keys, rows_in(&tensors.keys)),
            values: side(&tensors.values, rows_in(&tensors.values)),
            tokens,
        };
        self.bind_one(&source, batch_size)
    }

    /// Binds the rows of one sequence, which all of the batch read alike.
    fn bind_one(&self, source: &Source<'_>, batch_size: u32) -> Result<BoundSource> {
        let one = |rows: &RowsIn<'_>| Strides { sequence: 0, ..rows.strides };
        let source = Source {
            keys: RowsIn { strides: one(&source.keys), ..source.keys },
            values: RowsIn { strides: one(&source.values), ..source.values },
            tokens: source.tokens,
        };
        let config = CacheConfig { batch_size, ..self.config };
        BoundSource::new(&self.context, &config, &self.layout, &self.storage, &self.identity, &source)
    }

    /// Does all that can fail of the scatter of scratch rows by a step.
    pub(super) fn prepare_placed<'a>(&'a self, source: &'a BoundSource, step: &Step) -> Result<Prepared<'a>> {
        source.writes().prepare(&self.context, &self.ring, step, source.tokens)
    }
}
