//! Rows of a [`PagedKvCache`] in host memory: appended, read back.

use std::ops::Range;

use super::PagedKvCache;
use crate::{
    CacheConfig, Error, Format, GpuTensor, HostRows, HostTensor, PageError, Pair, RangeError, Result, RowsIn, Scale,
    Side, Source, StepError, Strides,
    cache::reads::Reads,
    device::{
        record::{StepData, dispatch},
        wait::block_on,
    },
    pages::{Added, Append, SequenceId},
    plan::{
        operations::check_rows,
        step::{Run, Step},
    },
    shape::placement::count,
};

impl PagedKvCache {
    /// Appends tokens to sequences with rows from host memory, as one step, and submits. `rows` has keys and values of
    /// each layer, packed `[token, kv_head, dim]`, where those of a sequence follow those of the sequence before it.
    /// Rows in another format than the layer's are converted.
    ///
    /// # Errors
    /// [`StepError::LayerCount`] if there are not rows for each layer;
    /// [`WriteError::SliceLength`](crate::WriteError::SliceLength) if they are not those of as many tokens;
    /// [`WriteError::PackedSource`](crate::WriteError::PackedSource) if they are in a packed format that is not the
    /// layer's own; those of [`begin_step`](Self::begin_step);
    /// [`DeviceError::BufferTooLarge`](crate::DeviceError::BufferTooLarge).
    ///
    /// # Performance
    /// Uploads the rows into new buffers and binds them. An engine should record steps instead.
    pub fn append(&mut self, appends: &[Append<'_>], rows: &[Pair<HostRows<'_>>]) -> Result<()> {
        self.append_by(appends, rows, Strides::bthd)
    }

    /// Appends rows that lie as `strides` says, given heads, tokens and the units of a row.
    fn append_by(
        &mut self,
        appends: &[Append<'_>],
        rows: &[Pair<HostRows<'_>>],
        strides: fn(u32, u32, u32) -> Strides,
    ) -> Result<()> {
        let tokens = appends.iter().map(|append| append.tokens.len() as u64).fold(0, u64::saturating_add);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.check_rows(tokens, rows)?;
        let usage = wgpu::BufferUsages::STORAGE;
        let mut sources = Vec::with_capacity(rows.len());
        for (layer, rows) in rows.iter().enumerate().filter(|_| tokens > 0) {
            let upload = |what, rows: HostRows<'_>| self.context.create_filled(what, rows.bytes(), usage);
            let (keys, values) = (upload("appended keys", rows.keys)?, upload("appended values", rows.values)?);
            let stored = &self.layers[layer].stored;
            let rows_in = |rows: HostRows<'_>, buffer, dim| {
                let strides = strides(stored.num_heads, tokens, rows.format().units(dim));
                RowsIn { buffer, offset: 0, format: rows.format(), strides }
            };
            let (keys, values) =
                (rows_in(rows.keys, &keys, stored.head_dim), rows_in(rows.values, &values, stored.value_dim));
            sources.push(self.bind_source(layer, &Source { keys, values, tokens })?);
        }
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.begin_step(&mut encoder, appends)?;
        let recorded = sources
            .iter()
            .enumerate()
            .try_for_each(|(layer, source)| self.record_update(layer, &mut encoder, source))
            .and_then(|()| self.context.submit("an append", encoder));
        if let Err(error) = recorded {
            self.dropped();
            return Err(error);
        }
        // A step without tokens has no rows to record.
        self.layers.iter_mut().for_each(|layer| layer.recorded = true);
        self.submitted()
    }

    /// Checks that there are rows of so many tokens for each layer.
    fn check_rows(&self, tokens: u32, rows: &[Pair<HostRows<'_>>]) -> Result<()> {
        let num_layers = self.layers.len();
        if rows.len() != num_layers {
            return Err(Error::Step(StepError::LayerCount { name: "rows", num_layers, actual: rows.len() }));
        }
        for (layer, rows) in self.layers.iter().zip(rows) {
            let config = CacheConfig { batch_size: 1, ..layer.stored };
            check_rows(&config, Side::Keys, rows.keys, tokens)?;
            check_rows(&config, Side::Values, rows.values, tokens)?;
        }
        Ok(())
    }

    /// Copies all rows of a sequence out of every layer, in the stored formats: `[1, kv_head, length, dim]` for each layer,
    /// as [`BatchedKvCache::extract`](crate::BatchedKvCache::extract) does for dense caches. Each can be inserted into the
    /// other.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    pub fn extract(&self, sequence: SequenceId) -> Result<Vec<Pair<GpuTensor>>> {
        let length = self.books.length(sequence)?;
        (0..self.layers.len()).map(|layer| self.get(layer, sequence, 0..length)).collect()
    }

    /// Adds a sequence with rows from elsewhere, and submits. `rows` has keys and values of each layer,
    /// `[1, kv_head, tokens, dim]`, as [`extract`](Self::extract) or a dense cache gives them. Those of a prefix that is
    /// cached already are not written.
    ///
    /// # Errors
    /// Those of [`PagedSequences::check_room`](crate::pages::PagedSequences::check_room), [`append`](Self::append).
    pub fn insert(
        &mut self,
        tokens: &[u32],
        namespace: Option<&str>,
        rows: &[Pair<HostRows<'_>>],
    ) -> Result<SequenceId> {
        let count = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        self.check_rows(count, rows)?;
        if self.books.step().is_some() {
            return Err(PageError::StepUnderWay.into());
        }
        self.books.check_room(tokens, namespace)?;
        let added = self.books.add(tokens, namespace)?;
        let rest = &tokens[added.cached as usize..];
        // All rows are uploaded, and those of the rest are read.
        let inserted = self.insert_rest(added, rest, count, rows);
        if inserted.is_err() {
            self.books.free(added.sequence)?;
        }
        inserted.map(|()| added.sequence)
    }

    fn insert_rest(&mut self, added: Added, rest: &[u32], tokens: u32, rows: &[Pair<HostRows<'_>>]) -> Result<()> {
        let heads: Vec<_> = self.layers.iter().map(|layer| layer.layout.heads).collect();
        let cut = |rows: HostRows<'_>, heads: u32| {
            let bytes = rows.bytes();
            let row = bytes.len().checked_div(tokens.max(1) as usize).and_then(|all| all.checked_div(heads as usize));
            let (row, skipped) = (row.unwrap_or(0), added.cached as usize);
            let plane = row.saturating_mul(tokens as usize);
            let of_head = |plane: &[u8]| plane[row.saturating_mul(skipped)..].to_vec();
            bytes.chunks_exact(plane.max(1)).flat_map(of_head).collect::<Vec<u8>>()
        };
        let kept: Vec<_> = (rows.iter().zip(heads))
            .map(|(rows, heads)| {
                (cut(rows.keys, heads), cut(rows.values, heads), rows.keys.format(), rows.values.format())
            })
            .collect();
        let stored = |format, bytes| HostRows::Stored { format, bytes };
        let rows: Vec<_> = (kept.iter())
            .map(|(keys, values, of_keys, of_values)| Pair {
                keys: stored(*of_keys, &keys[..]),
                values: stored(*of_values, &values[..]),
            })
            .collect();
        self.append_by(&[Append::new(added.sequence, rest)], &rows, Strides::bhtd)
    }

    /// Copies rows of a sequence into new dense tensors `[1, kv_head, range, dim]`, in the formats of the layer, and
    /// submits.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); those of
    /// [`PagedSequences::tokens`](crate::pages::PagedSequences::tokens); [`RangeError::RangeReversed`];
    /// [`RangeError::RangeBeyondWritten`] if it ends after the sequence; [`StepError::StepNotRecorded`] while a step is
    /// under way; [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) if the rows exceed a binding:
    /// read them in parts then; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    pub fn get(&self, layer: usize, sequence: SequenceId, range: Range<u32>) -> Result<Pair<GpuTensor>> {
        self.read_rows(layer, sequence, &range, None)
    }

    /// Copies rows like [`get`](Self::get) and converts them to f32, f16 or bf16.
    ///
    /// # Errors
    /// Those of [`get`](Self::get); [`RangeError::PackedDestination`] if `format` is packed and is not the layer's own.
    pub fn get_as(
        &self,
        layer: usize,
        sequence: SequenceId,
        range: Range<u32>,
        format: Format,
    ) -> Result<Pair<GpuTensor>> {
        self.read_rows(layer, sequence, &range, Some(format))
    }

    fn read_rows(
        &self,
        layer: usize,
        sequence: SequenceId,
        range: &Range<u32>,
        format: Option<Format>,
    ) -> Result<Pair<GpuTensor>> {
        self.check_layer(layer)?;
        let (length, pages) = (self.books.length(sequence)?, self.books.pages(sequence)?);
        if range.start > range.end {
            return Err(Error::Range(RangeError::RangeReversed { start: range.start, end: range.end }));
        }
        if range.end > length {
            return Err(Error::Range(RangeError::RangeBeyondWritten { end: range.end, write_pos: length }));
        }
        if self.books.step().is_some() {
            return Err(Error::Step(StepError::StepNotRecorded));
        }
        let planes = &self.layers[layer];
        let step = self.rows_of(pages, range);
        let tensor = |side: Side, what| {
            let (shape, stored) =
                ([1, planes.layout.heads, step.rows, planes.stored.dim(side)], planes.stored.format(side));
            let wanted = format.unwrap_or(stored);
            if wanted.is_packed() && wanted != stored {
                return Err(Error::Range(RangeError::PackedDestination { side, stored, wanted }));
            }
            let scale = if wanted == stored { planes.stored.scale(side) } else { Scale::ONE };
            GpuTensor::new(&self.context, what, shape, wanted, scale)
        };
        let tensors = Pair { keys: tensor(Side::Keys, "copied keys")?, values: tensor(Side::Values, "copied values")? };
        let destinations = tensors.destinations();
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        // A grid is as high as there are runs and heads.
        let high = self.context.limits().max_compute_workgroups_per_dimension;
        let most = high.checked_div(planes.layout.heads_at_once(self.context.limits())).unwrap_or(1).max(1);
        for runs in step.runs.chunks(most as usize) {
            let part = Step { runs: runs.to_vec(), ..step.clone() };
            let data = StepData::Slot(self.ring.write(&self.context, &part)?);
            let reads = |side: Side| {
                let (layout, storage) = (&planes.layout, &planes.storage);
                Reads::new(&self.context, layout, storage, side, &(0..1), (&part, &data), destinations.side(side))
            };
            let (keys, values) = (reads(Side::Keys)?, reads(Side::Values)?);
            dispatch(&mut encoder, "kv-cache get", data, keys.dispatches().chain(values.dispatches()));
        }
        self.context.submit("a copy", encoder)?;
        Ok(tensors)
    }

    /// Runs that copy a range out of a list of pages.
    fn rows_of(&self, pages: &[u32], range: &Range<u32>) -> Step {
        let (size, mut step) = (self.config.page_size, Step::default());
        let mut position = range.start;
        while position < range.end {
            let page = position.checked_div(size).expect("a page has tokens");
            let first = position.checked_rem(size).expect("a page has tokens");
            let rows = size.saturating_sub(first).min(count(&(position..range.end)));
            let (group, token, end) = (pages[page as usize], step.rows, first.saturating_add(rows));
            step.push(Run { group, sequence: 0, first, start: first, end, token });
            step.rows = step.rows.saturating_add(rows);
            position = position.saturating_add(rows);
        }
        step.runs.sort_unstable_by_key(|run| run.group);
        step
    }

    /// Waits for the device and reads the whole storage of a layer, `[page, kv_head, page_size, dim]`, including rows that
    /// belong to no sequence.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange);
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    pub fn read_storage(&self, layer: usize) -> Result<Pair<HostTensor>> {
        self.check_layer(layer)?;
        let planes = &self.layers[layer];
        let read = planes.storage.read_async(&self.context, &planes.stored, &planes.layout);
        block_on(Some(self.context.device()), "reading the storage", read)
    }
}
