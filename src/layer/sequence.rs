//! Operations on whole sequences: they are cut, reordered, forked, and join and leave the batch.

use std::ops::Range;

use crate::{
    BoundSource, CacheConfig, Error, GpuTensor, HostRows, KvCache, Pair, PerSequence, Placement, Recorder, Result,
    RowsIn, Side, Source, Strides, Write,
    permute::Permutation,
    plan::{
        KEEP_LENGTH, Step, plan_insert, plan_place_stored, plan_read_one, plan_read_stored, plan_read_valid,
        plan_truncate, plan_write,
    },
    sequences::Sequences,
};

/// Rows on their way from scratch memory into the cache.
struct Placed {
    source: BoundSource,
    step: Step,
}

impl KvCache {
    /// Takes sequences back to a length each, or one for all, and submits. What was cut reads as zero through
    /// [`get`](Self::get); its bytes stay until they are overwritten.
    ///
    /// A ring goes back by its slack after it has wrapped, or to its sinks and less; what it needs for a whole window must
    /// still be stored.
    ///
    /// # Errors
    /// [`Error::PerSequenceLength`], [`Error::TruncateBeyondLength`]; [`Error::RollbackEvicted`], which says how far one
    /// could go; [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    ///
    /// # Performance
    /// 4 bytes a sequence: one copy in an encoder, one dispatch of one thread a plane in a pass. No scratch memory.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, Error, KvCache, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(2, 1, 1, 8))?;
    /// cache.update(&[0.5f32; 10][..], &[0.5f32; 10][..], Write::append(5))?;
    /// cache.truncate(&[2, 5])?; // three drafted tokens of sequence 0 were refused
    /// assert_eq!(cache.lengths(), [2, 5]);
    /// let refused = cache.truncate(4);
    /// assert_eq!(refused, Err(Error::TruncateBeyondLength { sequence: 0, length: 4, current: 2 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn truncate<'l>(&mut self, lengths: impl Into<PerSequence<'l>>) -> Result<()> {
        let lengths = lengths.into();
        self.submit(|cache, encoder| cache.record_truncate(encoder, lengths))
    }

    /// Records a [`truncate`](Self::truncate).
    ///
    /// # Errors
    /// As there.
    pub fn record_truncate<'l>(
        &mut self,
        recorder: &mut impl Recorder,
        lengths: impl Into<PerSequence<'l>>,
    ) -> Result<()> {
        self.plan_truncate(lengths.into())?;
        self.record_lengths(recorder)
    }

    /// Checks a truncation and plans it.
    pub(crate) fn plan_truncate(&mut self, lengths: PerSequence<'_>) -> Result<()> {
        plan_truncate(self.config.placement, &self.sequences, lengths, &mut self.step)
    }

    /// Empties a sequence, which stays in the batch, and submits.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    ///
    /// # Performance
    /// As [`truncate`](Self::truncate).
    pub fn clear_sequence(&mut self, sequence: u32) -> Result<()> {
        self.submit(|cache, encoder| cache.record_clear_sequence(encoder, sequence))
    }

    /// Records a [`clear_sequence`](Self::clear_sequence).
    ///
    /// # Errors
    /// As there.
    pub fn record_clear_sequence(&mut self, recorder: &mut impl Recorder, sequence: u32) -> Result<()> {
        self.sequences.get(sequence)?;
        let mut lengths = self.sequences.lengths.clone();
        lengths[sequence as usize] = 0;
        self.record_truncate(recorder, &lengths)
    }

    /// Makes a new batch, whose sequence `i` is what `sources[i]` is now, and submits. Sequences may come more than once,
    /// in any order, or not at all; the batch may shrink, and grow up to
    /// [`max_batch_size`](crate::CacheConfig::max_batch_size). Of each sequence the rows move that are stored, those that
    /// a ring keeps for a rollback among them.
    ///
    /// Where the batch has another size then, sources that were bound before must be bound again.
    ///
    /// # Errors
    /// [`Error::EmptySelection`], [`Error::BatchTooLarge`], [`Error::IndexOutOfRange`]; [`Error::OutOfMemory`];
    /// [`Error::DeviceLost`].
    ///
    /// # Performance
    /// In one segment: one dispatch, in place, that moves each byte once (of a cycle of sequences, one goes through
    /// registers), without scratch memory beyond 32 bytes a sequence. A cache of more segments than one, or of more heads
    /// than a grid is high (65 535 by wgpu's default limits), goes through
    /// scratch memory as large as the rows that move: two dispatches a side and sequence, and one to put it back.
    ///
    /// # Examples
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Context, Error, KvCache, Write};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let mut cache = KvCache::new(&context, CacheConfig::new(3, 1, 1, 8).max_batch_size(4))?;
    /// cache.update(&[0.5f32; 9][..], &[0.5f32; 9][..], Write::append(3).counts(&[1, 2, 3]))?;
    /// cache.select(&[2, 0, 2, 2])?;
    /// assert_eq!(cache.lengths(), [3, 1, 3, 3]);
    /// assert_eq!(cache.select(&[]), Err(Error::EmptySelection));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn select(&mut self, sources: &[u32]) -> Result<()> {
        self.submit(|cache, encoder| cache.record_select(encoder, sources))
    }

    /// Records a [`select`](Self::select).
    ///
    /// # Errors
    /// As there.
    pub fn record_select(&mut self, recorder: &mut impl Recorder, sources: &[u32]) -> Result<()> {
        let batch_size = self.check_selection(sources)?;
        if self.moves_in_place(sources) {
            let layer = [(&self.storage, &self.sequences)];
            let permutation = Permutation::new(&self.context, &self.layout, layer.into_iter(), sources)?;
            permutation.record(recorder);
            self.adopt(sources, batch_size);
            return Ok(());
        }
        let placed = self.take_aside(recorder, sources, batch_size)?;
        self.adopt(sources, batch_size);
        for Placed { source, step } in placed {
            self.record_placed(recorder, &source, &step)?;
        }
        let lengths = PerSequence::Each(&self.sequences.lengths);
        plan_truncate(self.config.placement, &self.sequences, lengths, &mut self.step)?;
        self.record_lengths(recorder)
    }

    /// Whether a selection moves rows, and can do so in place: in one segment, with heads above each other in one grid.
    pub(crate) fn moves_in_place(&self, sources: &[u32]) -> bool {
        let fits = self.config.num_heads <= self.context.limits().max_compute_workgroups_per_dimension;
        fits && self.storage.segments.len() == 1 && (0..).zip(sources).any(|(to, from)| to != *from)
    }

    /// Whether one dispatch can move rows of both layers.
    pub(crate) fn moves_like(&self, other: &KvCache) -> bool {
        self.layout == other.layout
    }

    /// One dispatch that moves the rows of layers that move alike.
    pub(crate) fn permutation(layers: &[KvCache], sources: &[u32]) -> Result<Permutation> {
        let first = layers.first().expect("some layer moves");
        let parts = layers.iter().map(|layer| (&layer.storage, &layer.sequences));
        Permutation::new(&first.context, &first.layout, parts, sources)
    }

    /// Makes the batch on the host what was selected.
    pub(crate) fn adopt(&mut self, sources: &[u32], batch_size: u32) {
        let of = |known: &[u32]| sources.iter().map(|&source| known[source as usize]).collect::<Vec<_>>();
        let (lengths, oldest) = (of(&self.sequences.lengths), of(&self.sequences.oldest));
        self.sequences = Sequences { lengths, oldest };
        if batch_size != self.config.batch_size {
            self.config.batch_size = batch_size;
            self.advance = None;
        }
    }

    /// [`select`](Self::select) of as many sequences as there are: a permutation of the batch, or what a beam search keeps.
    ///
    /// # Errors
    /// [`Error::PerSequenceLength`], and as there.
    ///
    /// # Performance
    /// As there.
    pub fn reorder(&mut self, sources: &[u32]) -> Result<()> {
        self.submit(|cache, encoder| cache.record_reorder(encoder, sources))
    }

    /// Records a [`reorder`](Self::reorder).
    ///
    /// # Errors
    /// As there.
    pub fn record_reorder(&mut self, recorder: &mut impl Recorder, sources: &[u32]) -> Result<()> {
        self.check_reorder(sources)?;
        self.record_select(recorder, sources)
    }

    /// Gives each sequence `times` neighbours, itself one of them: `[a, b]` becomes `[a, a, b, b]`, as a beam search starts.
    ///
    /// # Errors
    /// As [`select`](Self::select).
    ///
    /// # Performance
    /// As there.
    pub fn repeat(&mut self, times: u32) -> Result<()> {
        self.submit(|cache, encoder| cache.record_repeat(encoder, times))
    }

    /// Records a [`repeat`](Self::repeat).
    ///
    /// # Errors
    /// As there.
    pub fn record_repeat(&mut self, recorder: &mut impl Recorder, times: u32) -> Result<()> {
        let sources = self.repeated(times)?;
        self.record_select(recorder, &sources)
    }

    /// Makes sequence `to` what `from` is now, and submits: a fork.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`]; [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    ///
    /// # Performance
    /// As [`select`](Self::select).
    pub fn copy_sequence(&mut self, from: u32, to: u32) -> Result<()> {
        self.submit(|cache, encoder| cache.record_copy_sequence(encoder, from, to))
    }

    /// Records a [`copy_sequence`](Self::copy_sequence).
    ///
    /// # Errors
    /// As there.
    pub fn record_copy_sequence(&mut self, recorder: &mut impl Recorder, from: u32, to: u32) -> Result<()> {
        let sources = self.forked(from, to)?;
        self.record_select(recorder, &sources)
    }

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
        let tensors = self.tensors(&read, &(from..from + 1))?;
        let source = self.bind_placed(&tensors, self.config.batch_size)?;
        self.record_read(recorder, &read, &(from..from + 1), &tensors.destinations())?;
        let step = std::mem::take(&mut self.step);
        let recorded = self.record_placed(recorder, &source, &step);
        self.step = step;
        recorded?;
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
        self.copy_out(&step, &(sequence..sequence + 1))
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
            strides: Strides::bhtd(self.config.num_heads, rows, dim),
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
        if batch_size != self.config.batch_size {
            self.config.batch_size = batch_size;
            self.advance = None;
            self.sequences.lengths.push(0);
            self.sequences.oldest.push(self.config.placement.sinks());
        }
        plan_insert(self.config.placement, &self.sequences, sequence, length, &mut self.step);
        let step = std::mem::take(&mut self.step);
        let recorded = self.record_placed(recorder, &source, &step);
        self.step = step;
        recorded?;
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
        for (side, given) in [(Side::Keys, keys), (Side::Values, values)] {
            let expected = u64::from(self.config.num_heads) * u64::from(rows) * u64::from(self.config.dim(side));
            let actual = given.len() as u64;
            if expected != actual {
                return Err(Error::SliceLength { side, expected, actual });
            }
        }
        Ok(())
    }

    /// Checks a selection and tells the size of its batch.
    pub(crate) fn check_selection(&self, sources: &[u32]) -> Result<u32> {
        let max_batch_size = self.config.max_batch_size;
        let batch_size = u32::try_from(sources.len()).unwrap_or(u32::MAX);
        if batch_size == 0 {
            return Err(Error::EmptySelection);
        }
        if batch_size > max_batch_size {
            return Err(Error::BatchTooLarge { batch_size, max_batch_size });
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
            Err(Error::PerSequenceLength { name: "sources", batch_size, actual })
        }
    }

    /// The selection that repeats each sequence.
    pub(crate) fn repeated(&self, times: u32) -> Result<Vec<u32>> {
        let max_batch_size = self.config.max_batch_size;
        let batch_size = self.config.batch_size.saturating_mul(times);
        if batch_size > max_batch_size {
            return Err(Error::BatchTooLarge { batch_size, max_batch_size });
        }
        Ok((0..batch_size).map(|sequence| sequence / times).collect())
    }

    /// The selection that leaves all sequences where they are but one.
    pub(crate) fn forked(&self, from: u32, to: u32) -> Result<Vec<u32>> {
        self.sequences.get(from)?;
        self.sequences.get(to)?;
        Ok((0..self.config.batch_size).map(|sequence| if sequence == to { from } else { sequence }).collect())
    }

    /// Records new lengths only, which are the step.
    pub(crate) fn record_lengths(&mut self, recorder: &mut impl Recorder) -> Result<()> {
        if let Some(encoder) = recorder.encoder() {
            let slot = self.ring.write(&self.context, &self.step)?;
            let lengths = &self.storage.lengths;
            encoder.copy_buffer_to_buffer(&slot.buffer, slot.lengths, &lengths.buffer, lengths.offset, lengths.bytes);
            encoder.on_submitted_work_done(move || drop(slot.mark));
        } else {
            self.make_advance()?;
            let writes = self.advance.as_ref().expect("it was made just now");
            writes.record(recorder, "kv-cache lengths", &self.context, &self.ring, &self.step, 1)?;
        }
        self.commit();
        Ok(())
    }

    /// Copies every sequence that moves into scratch memory, and plans where it goes.
    fn take_aside(&self, recorder: &mut impl Recorder, sources: &[u32], batch_size: u32) -> Result<Vec<Placed>> {
        let mut placed: Vec<Placed> = Vec::new();
        let mut reads = Vec::new();
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
            let tensors = self.tensors(&read, &(from..from + 1))?;
            let source = self.bind_placed(&tensors, batch_size)?;
            let mut step = Step::default();
            let runs = read.sequences().nth(from as usize).expect("every sequence has runs");
            plan_place_stored(runs, batch_size, wanted, &mut step);
            placed.push(Placed { source, step });
            reads.push((from, read, tensors));
        }
        for (from, read, tensors) in reads {
            self.record_read(recorder, &read, &(from..from + 1), &tensors.destinations())?;
        }
        Ok(placed)
    }

    /// Binds scratch rows `[1, kv_head, rows, dim]`.
    fn bind_placed(&self, tensors: &Pair<GpuTensor>, batch_size: u32) -> Result<BoundSource> {
        let [_, heads, tokens, _] = tensors.keys.shape();
        let rows_in = |tensor: &GpuTensor| {
            let strides = Strides::bhtd(heads, tokens, tensor.shape()[3]);
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

    /// Records the scatter of scratch rows by a step.
    fn record_placed(&self, recorder: &mut impl Recorder, source: &BoundSource, step: &Step) -> Result<()> {
        let (writes, tokens) = (source.writes(), source.tokens);
        writes.record(recorder, "kv-cache place", &self.context, &self.ring, step, tokens)
    }

    /// Records into an encoder of its own and submits.
    fn submit(&mut self, record: impl FnOnce(&mut Self, &mut wgpu::CommandEncoder) -> Result<()>) -> Result<()> {
        self.context.check_alive("recording")?;
        let mut encoder = self.encoder();
        record(self, &mut encoder)?;
        self.context.queue().submit([encoder.finish()]);
        Ok(())
    }
}
