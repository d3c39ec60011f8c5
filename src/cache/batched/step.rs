//! Steps of all layers: [`BatchedKvCache::begin_step`] checks and plans a step once, and each layer is then recorded on
//! its own.

use std::sync::Arc;

use crate::{BatchedKvCache, BoundSource, Error, KvCache, PerSequenceView, Recorder, Result, StepError, Write};

/// Steps of a whole model, for an engine: begin a step, then record each layer.
///
/// ```
/// use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Context, Format, RowsIn, Source, Strides, Write};
///
/// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// # let context = Context::new(&device, &queue);
/// # let buffer = device.create_buffer(&wgpu::BufferDescriptor {
/// #     label: None, size: 2 * 2 * 8 * 4 * 4, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false,
/// # });
/// // Two sequences, up to 8 tokens at once.
/// let mut cache = BatchedKvCache::new(&context, CacheConfig::new(2, 2, 4, 64), 3)?;
/// let rows = RowsIn { buffer: &buffer, offset: 0, format: Format::F32, strides: Strides::bhtd(2, 8, 4) };
/// let source = Source { keys: rows, values: rows, tokens: 8 };
/// let sources = (0..3).map(|layer| cache.layer(layer)?.bind_source(&source)).collect::<Result<Vec<_>, _>>()?;
///
/// for (tokens, counts) in [(8, [8, 5]), (1, [1, 1])] {
///     let mut encoder = device.create_command_encoder(&Default::default());
///     cache.begin_step(&mut encoder, Write::append(tokens).counts(&counts))?;
///     for layer in 0..3 {
///         // Project; rotate row `t` of a sequence by `cache.positions()[sequence] + t`; then:
///         cache.record_update(layer, &mut encoder, &sources[layer])?;
///         // Attend.
///     }
///     queue.submit([encoder.finish()]);
/// }
/// assert_eq!(cache.lengths(), [9, 6]);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
impl BatchedKvCache {
    /// Begins a step: checks and plans what one forward pass writes to all layers, and records the
    /// [`positions`](Self::positions) of its first rows.
    ///
    /// Record each layer with [`record_update`](Self::record_update) or [`record_advance`](Self::record_advance), in
    /// any order. A layer keeps its previous lengths until it is recorded.
    ///
    /// After this call a step can only fail because of a source, such as one bound for fewer tokens, or because of the
    /// device. If the layers are rings and attention follows, pass [`Write::attended`]; otherwise a step of too many
    /// tokens is refused only by the attention.
    ///
    /// To abandon a step, begin another. If some of its layers were recorded but not submitted, first take the host
    /// back with [`restore`](Self::restore).
    ///
    /// # Errors
    /// [`StepError::LayersOutOfStep`] if a layer has other lengths than the first;
    /// [`ConfigError::LayersDiffer`](crate::ConfigError::LayersDiffer) if a layer has another batch size than the
    /// first; [`StepError::ForeignLayer`] if a layer was replaced by another; the errors of [`KvCache::update`] for the
    /// write, from any layer; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory
    /// left; [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost. An error leaves the
    /// previous step as it was.
    ///
    /// # Performance
    /// One queue write per placement (none in a pass if the step is passed as immediates). Positions take a copy of 4
    /// bytes per sequence, or in a pass one dispatch with one thread per sequence. Layers with the same placement and
    /// lengths share the plan.
    pub fn begin_step(&mut self, recorder: &mut impl Recorder, write: Write<'_>) -> Result<()> {
        let context = self.context().clone();
        let foreign = |(layer, known): (&KvCache, &Arc<()>)| !Arc::ptr_eq(&layer.identity, known);
        if let Some(layer) = self.layers.iter().zip(&self.identities).position(foreign) {
            return Err(Error::Step(StepError::ForeignLayer { layer }));
        }
        self.check_batches()?;
        let first = self.lengths();
        for (layer, other) in self.layers.iter().enumerate().skip(1) {
            let differs = |(a, b): (&u32, &u32)| a != b;
            if let Some(sequence) = first.iter().zip(other.lengths()).position(differs) {
                let (first, actual) = (first[sequence], other.lengths()[sequence]);
                return Err(Error::Step(StepError::LayersOutOfStep { layer, sequence, first, actual }));
            }
        }
        let (device, in_pass) = ((&context, &self.ring), recorder.encoder().is_none());
        self.next_step.plan(&self.layers, device, in_pass, &write)?;
        let planned = self.next_step.of(0, &self.layers[0])?;
        self.positions.record(device, recorder, planned)?;
        std::mem::swap(&mut self.step, &mut self.next_step);
        self.layers.iter_mut().for_each(KvCache::await_step);
        Ok(())
    }

    /// Returns the buffer of each sequence's position of its first row in the step, `[max_batch_size]` of u32. Row `t`
    /// of the step is at this position plus `t`, in every layer. All steps use the same buffer, which is valid in the
    /// command stream from [`begin_step`](Self::begin_step) until the next one.
    pub fn positions(&self) -> PerSequenceView<'_> {
        PerSequenceView { buffer: &self.positions.buffer, offset: 0, bytes: self.positions.bytes() }
    }

    /// Does the one-time work of the first steps for one source per layer, and submits; see [`KvCache::warm_up`]. An
    /// attention has its own [`warm_up`](crate::attention::Attention::warm_up).
    ///
    /// # Errors
    /// [`StepError::LayerCount`] if there is not one source per layer; [`StepError::ForeignSource`] if a source is
    /// bound to another layer; [`DeviceError::Refused`](crate::DeviceError::Refused) if a buffer was destroyed or is
    /// mapped; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    pub fn warm_up<'s>(&mut self, sources: impl IntoIterator<Item = &'s BoundSource>) -> Result<()> {
        let (sources, num_layers) = (sources.into_iter().collect::<Vec<_>>(), self.layers.len());
        if sources.len() != num_layers {
            return Err(Error::Step(StepError::LayerCount { name: "a source", num_layers, actual: sources.len() }));
        }
        let context = self.context().clone();
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (layer, source) in self.layers.iter_mut().zip(sources) {
            layer.record_warm_up(&mut encoder, source)?;
        }
        context.submit("a warm-up", encoder)
    }

    /// Records the step's write to one layer, from a bound source.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange) if the cache has no such layer;
    /// [`StepError::NoStep`] if no step was begun, or the layer was recorded or changed since;
    /// [`StepError::ForeignSource`] if the source is bound to another layer; [`StepError::BatchBeyondBound`] if the
    /// source holds rows for fewer sequences; [`StepError::MoreTokensThanBound`] if it was bound for fewer tokens;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if a pipeline must be created first.
    ///
    /// # Performance
    /// The cost of [`KvCache::record_update`], without its planning.
    pub fn record_update(&mut self, layer: usize, recorder: &mut impl Recorder, source: &BoundSource) -> Result<()> {
        let planned = self.step.of(layer, self.layer(layer)?)?;
        self.layers[layer].record_planned(recorder, source, planned, self.step.tokens)
    }

    /// Makes the step's rows valid in one layer, if the caller's own kernels write them to the storage; see
    /// [`KvCache::record_advance`].
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange) if the cache has no such layer;
    /// [`StepError::NoStep`] if no step was begun, or the layer was recorded or changed since;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) on the first call.
    pub fn record_advance(&mut self, layer: usize, recorder: &mut impl Recorder) -> Result<()> {
        let planned = self.step.of(layer, self.layer(layer)?)?;
        self.layers[layer].record_planned_advance(recorder, planned)
    }
}
