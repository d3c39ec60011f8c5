//! Rows of a [`PagedKvCache`] in host memory: appended, read back.

use std::ops::Range;

use super::{PagedKvCache, PagedSource, runs::in_pages};
use crate::{
    CacheConfig, Error, Format, GpuTensor, HostRows, HostTensor, Pair, RangeError, Result, RowsIn, Scale, Side, Source,
    StepError, Strides,
    cache::reads::Reads,
    device::{
        record::{StepData, dispatch},
        wait::block_on,
    },
    pages::{Append, SequenceId, StepKind as Kind},
    plan::{
        operations::check_rows,
        step::{Run, Step},
    },
    shape::{
        layout::{RUN_BYTES, binding_limit},
        placement::count,
    },
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
        let tokens = appends.iter().map(|append| append.tokens.len() as u64).fold(0, u64::saturating_add);
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.check_rows(|_| tokens, rows)?;
        let sources = self.upload(|_| tokens, rows, Strides::bthd)?;
        self.submit_rows(appends, Kind::Append, &sources)
    }

    /// Uploads and binds rows, so many in each layer, that lie as `strides` says, given heads, tokens and the units of
    /// a row.
    pub(super) fn upload(
        &self,
        tokens: impl Fn(usize) -> u32,
        rows: &[Pair<HostRows<'_>>],
        strides: fn(u32, u32, u32) -> Strides,
    ) -> Result<Vec<Option<PagedSource>>> {
        let usage = wgpu::BufferUsages::STORAGE;
        let of_layer = |(layer, rows): (usize, &Pair<HostRows<'_>>)| {
            let tokens = tokens(layer);
            if tokens == 0 {
                return Ok(None);
            }
            let upload = |what, rows: HostRows<'_>| self.context.create_filled(what, rows.bytes(), usage);
            let (keys, values) = (upload("appended keys", rows.keys)?, upload("appended values", rows.values)?);
            let stored = &self.planes_of(layer)?.stored;
            let rows_in = |rows: HostRows<'_>, buffer, dim| {
                let strides = strides(stored.num_heads, tokens, rows.format().units(dim));
                RowsIn { buffer, offset: 0, format: rows.format(), strides }
            };
            let (keys, values) =
                (rows_in(rows.keys, &keys, stored.head_dim), rows_in(rows.values, &values, stored.value_dim));
            self.bind_source(layer, &Source { keys, values, tokens }).map(Some)
        };
        rows.iter().enumerate().map(of_layer).collect()
    }

    /// Does a step and submits. Layers without a source have no rows to record.
    pub(super) fn submit_rows(
        &mut self,
        appends: &[Append<'_>],
        kind: Kind,
        sources: &[Option<PagedSource>],
    ) -> Result<()> {
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.begin(&mut encoder, appends, kind)?;
        let mut record = |(layer, source): (usize, &Option<PagedSource>)| match source {
            Some(source) => self.record_update(layer, &mut encoder, source),
            None => self.record_advance(layer),
        };
        let recorded = sources.iter().enumerate().try_for_each(&mut record);
        if let Err(error) = recorded.and_then(|()| self.context.submit("an append", encoder)) {
            self.dropped();
            return Err(error);
        }
        self.submitted()
    }

    /// Checks that there are rows of so many tokens for each layer.
    pub(super) fn check_rows(&self, tokens: impl Fn(usize) -> u32, rows: &[Pair<HostRows<'_>>]) -> Result<()> {
        let num_layers = self.layers.len();
        if rows.len() != num_layers {
            return Err(Error::Step(StepError::LayerCount { name: "rows", num_layers, actual: rows.len() }));
        }
        for (index, (layer, rows)) in self.layers.iter().zip(rows).enumerate() {
            let config = CacheConfig { batch_size: 1, ..self.planes[layer.place.planes].stored };
            check_rows(&config, Side::Keys, rows.keys, tokens(index))?;
            check_rows(&config, Side::Values, rows.values, tokens(index))?;
        }
        Ok(())
    }

    /// Copies rows of a sequence into new dense tensors `[1, kv_head, range, dim]`, in the formats of the layer, and
    /// submits.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); those of
    /// [`PagedSequences::tokens`](crate::pages::PagedSequences::tokens); [`RangeError::RangeReversed`];
    /// [`RangeError::RangeBeyondWritten`] if it ends after the sequence; [`RangeError::Evicted`] if a window has passed
    /// some of it, and its pages went back; [`StepError::StepNotRecorded`] while a step is
    /// under way; [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) if the rows exceed a binding:
    /// read them in parts then; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    pub fn get(&self, layer: usize, sequence: SequenceId, range: Range<u32>) -> Result<Pair<GpuTensor>> {
        self.read_rows(layer, sequence, &[range], None)
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
        self.read_rows(layer, sequence, &[range], Some(format))
    }

    /// Checks that the rows of a range are there.
    fn check_range(&self, group: usize, sequence: SequenceId, range: &Range<u32>) -> Result<()> {
        let length = self.books.length(sequence)?;
        if range.start > range.end {
            return Err(Error::Range(RangeError::RangeReversed { start: range.start, end: range.end }));
        }
        if range.end > length {
            return Err(Error::Range(RangeError::RangeBeyondWritten { end: range.end, write_pos: length }));
        }
        self.books.check_range(sequence, group, range)
    }

    /// Copies the rows of ranges, one after the other, out of a layer.
    pub(super) fn read_rows(
        &self,
        layer: usize,
        sequence: SequenceId,
        ranges: &[Range<u32>],
        format: Option<Format>,
    ) -> Result<Pair<GpuTensor>> {
        let (planes, group) = (self.planes_of(layer)?, self.layers[layer].place.group);
        let pages = self.books.pages(sequence, group)?;
        ranges.iter().try_for_each(|range| self.check_range(group, sequence, range))?;
        if self.books.step().is_some() {
            return Err(Error::Step(StepError::StepNotRecorded));
        }
        let step = self.rows_of(pages, ranges);
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
        // A step fits a binding.
        let most = binding_limit(self.context.limits()).checked_div(2 * RUN_BYTES).unwrap_or(1).max(1);
        for runs in step.runs.chunks(usize::try_from(most).unwrap_or(usize::MAX)) {
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

    /// Runs that copy ranges out of a list of pages.
    fn rows_of(&self, pages: &[u32], ranges: &[Range<u32>]) -> Step {
        let (size, mut step) = (self.config.page_size, Step::default());
        for range in ranges {
            for (page, slots) in in_pages(range.clone(), size) {
                let (group, first, end) = (pages[page as usize], slots.start, slots.end);
                step.push(Run { group, sequence: 0, first, start: first, end, token: step.rows });
                step.rows = step.rows.saturating_add(count(&slots));
            }
        }
        step.runs.sort_unstable_by_key(|run| run.group);
        step
    }

    /// Waits for the device and reads the whole storage of a layer, `[page, kv_head, page_size, dim]`, including rows
    /// that belong to no sequence, and those of layers of other groups, which share it.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange);
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    pub fn read_storage(&self, layer: usize) -> Result<Pair<HostTensor>> {
        let planes = self.planes_of(layer)?;
        let read = planes.storage.read_async(&self.context, &planes.stored, &planes.layout);
        block_on(Some(self.context.device()), "reading the storage", read)
    }
}
