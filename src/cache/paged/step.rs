//! Steps of a [`PagedKvCache`]: begun for all sequences, recorded layer by layer, submitted or dropped.

use std::sync::Arc;

use super::{PagedKvCache, planes::Layer, runs::PagedStep};
use crate::{
    BoundSource, CacheConfig, ConfigError, Error, PageError, Recorder, Result, Source, StepError,
    device::record::StepData,
    pages::{Append, PagedSequences, PlannedStep, SequenceId, StepKind},
    plan::{
        sequences::Sequences,
        step::{Run, Step},
    },
    shape::{placement::count, table::TableLayout},
};

/// Rows in the caller's buffers, bound to one layer of a [`PagedKvCache`] for its steps.
#[derive(Debug)]
pub struct PagedSource {
    bound: BoundSource,
    form: SourceForm,
}

/// How the rows of a step lie in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceForm {
    /// Those of a sequence follow those of the sequence before it in the step.
    Packed,
    /// Each sequence of the step has a stride of its own.
    Strided,
}

impl PagedSource {
    /// Number of rows of each head that the source holds: of all sequences of a step together, or of each.
    pub fn tokens(&self) -> u32 {
        self.bound.tokens()
    }

    /// Bytes that the source occupies on the device; see [`BoundSource::device_bytes`].
    pub fn device_bytes(&self) -> u64 {
        self.bound.device_bytes()
    }
}

impl Layer {
    fn check_source(&self, source: &PagedSource) -> Result<()> {
        if Arc::ptr_eq(&source.bound.owner, &self.identity) {
            Ok(())
        } else {
            Err(Error::Step(StepError::ForeignSource))
        }
    }
}

impl PagedKvCache {
    /// Binds the caller's buffers once to one layer, for [`record_update`](Self::record_update) in every step. The rows
    /// of a step are packed, `[token, kv_head, dim]` by strides, where those of a sequence follow those of the sequence
    /// before it in the step: `source.tokens` is the most of all sequences together. Dense rows have the strides
    /// `Strides::bthd(heads, tokens, dim)`; that of sequences is not used.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); those of
    /// [`KvCache::bind_source`](crate::KvCache::bind_source).
    pub fn bind_source(&self, layer: usize, source: &Source<'_>) -> Result<PagedSource> {
        self.bind(layer, source, 1, SourceForm::Packed)
    }

    /// Binds buffers like [`bind_source`](Self::bind_source), where each of up to `sequences` sequences of a step has
    /// rows `[sequence, kv_head, token, dim]` by strides: row `i` of the first axis is sequence `i` of the step.
    /// `source.tokens` is the most of one sequence. Rows past what a sequence appends are not read. One token of all
    /// sequences must lie within one binding.
    ///
    /// # Errors
    /// Those of [`bind_source`](Self::bind_source); [`ConfigError::ZeroDimension`] without sequences.
    pub fn bind_strided_source(&self, layer: usize, sequences: u32, source: &Source<'_>) -> Result<PagedSource> {
        self.bind(layer, source, sequences, SourceForm::Strided)
    }

    fn bind(&self, layer: usize, source: &Source<'_>, sequences: u32, form: SourceForm) -> Result<PagedSource> {
        if sequences == 0 {
            return Err(Error::Config(ConfigError::ZeroDimension { name: "sequences" }));
        }
        let planes = self.planes_of(layer)?;
        let config = CacheConfig { batch_size: sequences, max_batch_size: sequences, ..planes.stored };
        let bound = BoundSource::new(
            &self.context,
            &config,
            &planes.layout,
            &planes.storage,
            &self.layers[layer].identity,
            source,
        )?;
        Ok(PagedSource { bound, form })
    }

    /// Does the one-time work of the first steps for one source per layer, and submits: wgpu clears storage when it is
    /// first bound, and drivers finish a pipeline when it first runs. Changes no row and no sequence. An attention has
    /// its own [`warm_up`](crate::attention::Attention::warm_up); the first copy on write and the first
    /// [`keep`](Self::keep) still wait for pipelines of their own.
    ///
    /// # Errors
    /// [`StepError::LayerCount`] if there is not one source per layer; [`StepError::ForeignSource`] if a source is
    /// bound to another layer; [`DeviceError::Refused`](crate::DeviceError::Refused) if a buffer was destroyed or is
    /// mapped; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    pub fn warm_up<'s>(&self, sources: impl IntoIterator<Item = &'s PagedSource>) -> Result<()> {
        let (sources, num_layers) = (sources.into_iter().collect::<Vec<_>>(), self.layers.len());
        if sources.len() != num_layers {
            return Err(Error::Step(StepError::LayerCount { name: "a source", num_layers, actual: sources.len() }));
        }
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.table.prepare_warm_up(&self.context, &self.ring)?.record(&mut encoder);
        for (layer, source) in self.layers.iter().zip(sources) {
            layer.check_source(source)?;
            let layout = &self.planes[layer.place.planes].layout;
            let mut step = Step::default();
            for segment in layout.segments() {
                step.push(Run { group: layout.groups_of(&segment).start, ..Run::default() });
            }
            let (bound, data) = (&source.bound, StepData::Slot(self.ring.write(&self.context, &step)?));
            bound.writes().record_warm_up(&self.context, &data, &step, bound.tokens, &mut encoder)?;
        }
        self.context.submit("a warm-up", encoder)
    }

    /// Begins a step: plans what its sequences append, takes their pages, and records the block table, with the lengths
    /// afterwards and the [`positions`](Self::positions) of the first rows, and copies of rows where a sequence writes
    /// to a page that another has written to. A sequence of the step may append no tokens, to be read only.
    ///
    /// Then record every layer with [`record_update`](Self::record_update), submit, and call
    /// [`submitted`](Self::submitted); or drop the encoder and call [`dropped`](Self::dropped).
    ///
    /// # Errors
    /// Those of [`PagedSequences::begin_step`]; [`PageError::TooManyTokens`] also if all sequences together have more
    /// than 32 bits count; [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) if rows are copied, but not
    /// even one row of all heads can be bound; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost). Nothing is changed then.
    ///
    /// # Performance
    /// One dispatch, and one queue write, for all layers.
    pub fn begin_step(&mut self, recorder: &mut impl Recorder, appends: &[Append<'_>]) -> Result<&PlannedStep> {
        self.begin(recorder, appends, StepKind::Append)
    }

    pub(super) fn begin(
        &mut self,
        recorder: &mut impl Recorder,
        appends: &[Append<'_>],
        kind: StepKind,
    ) -> Result<&PlannedStep> {
        let total = appends.iter().map(|append| append.tokens.len() as u64).fold(0, u64::saturating_add);
        if total > u64::from(u32::MAX - 1) {
            return Err(PageError::TooManyTokens { tokens: total, most: u32::MAX - 1 }.into());
        }
        self.books.begin(appends, kind)?;
        #[cfg(feature = "store")]
        self.lower_evicted();
        if let Err(error) = self.record_step(recorder, appends, kind) {
            self.books.dropped();
            self.table.undo();
            return Err(error);
        }
        self.layers.iter_mut().for_each(|layer| layer.recorded = false);
        Ok(self.planned())
    }

    /// The step under way.
    pub(super) fn planned(&self) -> &PlannedStep {
        self.books.step().expect("a step was begun")
    }

    fn record_step(&mut self, recorder: &mut impl Recorder, appends: &[Append<'_>], kind: StepKind) -> Result<()> {
        let tokens = |append: &Append<'_>| u32::try_from(append.tokens.len()).unwrap_or(u32::MAX);
        self.plan_batch(appends.iter().map(|append| (append.sequence, tokens(append))), kind)?;
        let tails = self.prepare_tails()?;
        self.reserve_scratch(&tails)?;
        let table = self.table.prepare(&self.context, &self.ring)?;
        self.record_parts(recorder, &tails)?;
        table.record(recorder);
        std::mem::swap(&mut self.batch, &mut self.next_batch);
        Ok(())
    }

    /// Plans runs, batch and table of the sequences of a step, each with the number of its new rows.
    pub(super) fn plan_batch(
        &mut self,
        sequences: impl Iterator<Item = (SequenceId, u32)>,
        kind: StepKind,
    ) -> Result<()> {
        self.steps.iter_mut().for_each(PagedStep::clear);
        self.table.begin();
        for batch in &mut self.next_batch {
            [&mut batch.lengths, &mut batch.starts, &mut batch.oldest].into_iter().for_each(Vec::clear);
        }
        for (index, (sequence, tokens)) in (0..).zip(sequences) {
            let end = self.books.length(sequence)?;
            let start = end.saturating_sub(tokens);
            self.table.add(sequence.row(), [start, end]);
            for (group, (step, batch)) in self.steps.iter_mut().zip(&mut self.next_batch).enumerate() {
                let (pages, size) = (self.books.pages(sequence, group)?, self.config.page_size);
                if kind == StepKind::Append {
                    step.push(index, pages, size, start..end);
                } else {
                    // Rows of a prefix that is cached are passed over.
                    for brought in self.books.brought(group, end, kind) {
                        let first = start.clamp(brought.start, brought.end);
                        step.skip(count(&(brought.start..first)));
                        step.push(index, pages, size, first..brought.end);
                    }
                }
                batch.lengths.push(end);
                batch.starts.push(start);
                batch.oldest.push(self.books.oldest(sequence, group)?);
                let (first, told) = self.books.tell(sequence, group);
                self.table.set_entries(u32::try_from(group).unwrap_or(u32::MAX), sequence.row(), first, told);
            }
        }
        self.table.end();
        if self.planes.iter().any(|planes| planes.storage.segments.len() > 1) {
            self.steps.iter_mut().for_each(PagedStep::sort);
        }
        Ok(())
    }

    /// Records the rows of the step for one layer, from a bound source.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); [`StepError::NoStep`] if no step was
    /// begun, or the layer was recorded; [`StepError::ForeignSource`] if the source is bound to another layer;
    /// [`StepError::MoreTokensThanBound`], [`StepError::BatchBeyondBound`] if the step is larger than the source;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
    ///
    /// # Performance
    /// One dispatch per segment. The first step of a kind creates its pipeline.
    pub fn record_update(&mut self, layer: usize, recorder: &mut impl Recorder, source: &PagedSource) -> Result<()> {
        self.check_layer(layer)?;
        let own = &self.layers[layer];
        if self.books.step().is_none() || own.recorded {
            return Err(Error::Step(StepError::NoStep { layer }));
        }
        own.check_source(source)?;
        let step = &mut self.steps[own.place.group];
        let (total, longest) = (step.total, step.longest);
        let (tokens, bound) = match source.form {
            SourceForm::Packed => (total, source.bound.tokens),
            SourceForm::Strided => (longest, source.bound.tokens),
        };
        if tokens > bound {
            return Err(Error::Step(StepError::MoreTokensThanBound { name: "source", tokens, bound }));
        }
        let (batch_size, bound) = (self.batch[0].count(), source.bound.sequences);
        if source.form == SourceForm::Strided && batch_size > bound {
            return Err(Error::Step(StepError::BatchBeyondBound { name: "source", bound, batch_size }));
        }
        let (step, slot) = &mut step.forms[source.form as usize];
        if !step.runs.is_empty() {
            let slot = match slot {
                Some(slot) => slot.clone(),
                None => slot.insert(self.ring.write(&self.context, step)?).clone(),
            };
            let (writes, data) = (source.bound.writes(), StepData::Slot(slot));
            writes.prepare(&self.context, data, step, (step.longest, tokens))?.record(recorder, "kv-cache update");
        }
        self.layers[layer].recorded = true;
        Ok(())
    }

    /// Says that the caller's own kernels write the rows of the step to one layer, by the pages of each sequence and
    /// the [view](crate::PagedLayer::view) of the layer. The block table, lengths and positions are there since
    /// [`begin_step`](Self::begin_step).
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); [`StepError::NoStep`] if no step was
    /// begun, or the layer was recorded.
    pub fn record_advance(&mut self, layer: usize) -> Result<()> {
        self.check_layer(layer)?;
        let own = &mut self.layers[layer];
        if self.books.step().is_none() || own.recorded {
            return Err(Error::Step(StepError::NoStep { layer }));
        }
        own.recorded = true;
        Ok(())
    }

    /// The commands of the step are in the queue: other sequences may find its full pages from now on, drafts apart.
    ///
    /// # Errors
    /// [`PageError::NoStepUnderWay`] if no step was begun; [`PageError::LayerNotRecorded`] if a layer was not recorded,
    /// whose rows others would then find.
    pub fn submitted(&mut self) -> Result<()> {
        if self.books.step().is_none() {
            return Err(PageError::NoStepUnderWay.into());
        }
        if let Some(layer) = self.layers.iter().position(|layer| !layer.recorded) {
            return Err(PageError::LayerNotRecorded { layer }.into());
        }
        self.end_step(PagedSequences::submitted);
        Ok(())
    }

    /// The commands of the step will never run: its sequences go back, and its pages are free. Does nothing without a
    /// step under way.
    pub fn dropped(&mut self) {
        if self.books.step().is_some() {
            self.table.undo();
            std::mem::swap(&mut self.batch, &mut self.next_batch);
            self.end_step(PagedSequences::dropped);
        }
    }

    fn end_step(&mut self, end: fn(&mut PagedSequences)) {
        end(&mut self.books);
        self.steps.iter_mut().for_each(PagedStep::clear);
        self.layers.iter_mut().for_each(|layer| layer.recorded = true);
    }

    /// Whether the rows of the step under way are not recorded for a layer.
    pub(crate) fn awaits(&self, layer: &Layer) -> bool {
        self.books.step().is_some() && !layer.recorded
    }

    /// What attention knows of the sequences of the last step, in a group.
    pub(crate) fn batch(&self, group: usize) -> &Sequences {
        &self.batch[group]
    }

    /// The block table of a group.
    pub(crate) fn table(&self, group: usize) -> (TableLayout, &wgpu::Buffer) {
        (self.table.layout.of(u32::try_from(group).unwrap_or(u32::MAX)), &self.table.buffer)
    }
}
