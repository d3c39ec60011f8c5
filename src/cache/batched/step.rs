//! A step of all layers: begun once, and recorded layer by layer.

use std::sync::Arc;

use crate::{BatchedKvCache, BoundSource, Error, KvCache, PerSequenceView, Recorder, Result, StepError, Write};

/// The step of a whole model, for an engine: begin it, then record each layer.
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
    /// Checks and plans what this forward pass writes to every layer, once for all, and records where its rows begin:
    /// [`positions`](Self::positions). Each layer is then recorded by [`record_update`](Self::record_update) or
    /// [`record_advance`](Self::record_advance), in any order, and until then has the lengths that it had.
    ///
    /// Afterwards nothing of the step is refused but what is wrong with a source, such as one bound for fewer tokens,
    /// and nothing fails but the device. Where layers are rings that you attend over, say so by [`Write::attended`], or
    /// the attention is what refuses a step of too many tokens.
    ///
    /// A step that was begun may be left, by beginning another. Where layers of it were recorded and are not submitted,
    /// take the host back by [`restore`](Self::restore), and begin again.
    ///
    /// # Errors
    /// [`StepError::LayersOutOfStep`] and [`ConfigError::LayersDiffer`](crate::ConfigError::LayersDiffer) where a layer
    /// has other lengths than the first, or another batch; [`StepError::ForeignLayer`] where it was put in place of
    /// one; as [`KvCache::update`] for the write, of any layer;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost). An error leaves the step before as it was.
    ///
    /// # Performance
    /// One write to the queue for each placement (in a pass none, where the step goes as immediates), and a copy of 4
    /// bytes a sequence, or in a pass a dispatch of one thread a sequence. Layers of one placement share the plan.
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

    /// Where the rows of the step begin: for each sequence the position of its first row, `[max_batch_size]` of u32.
    /// Row `t` of the step stands at this position plus `t`, in every layer. The buffer is the same in every step, and
    /// right from [`begin_step`](Self::begin_step) to the next one in the command stream.
    pub fn positions(&self) -> PerSequenceView<'_> {
        PerSequenceView { buffer: &self.positions.buffer, offset: 0, bytes: self.positions.bytes() }
    }

    /// Does now what the first steps would do otherwise, for a source of each layer, and submits: see
    /// [`KvCache::warm_up`]. An attention has a [`warm_up`](crate::attention::Attention::warm_up) of its own.
    ///
    /// # Errors
    /// [`StepError::LayerCount`]; [`StepError::ForeignSource`]; [`DeviceError::Refused`](crate::DeviceError::Refused)
    /// where a buffer is destroyed or mapped; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory);
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost).
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

    /// Records what the step writes to one layer.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); [`StepError::NoStep`] where the layer
    /// was recorded or changed since the step began; [`StepError::ForeignSource`], [`StepError::BatchBeyondBound`],
    /// [`StepError::MoreTokensThanBound`]; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost), where a pipeline is the first of its kind.
    ///
    /// # Performance
    /// As [`KvCache::record_update`], without its planning.
    pub fn record_update(&mut self, layer: usize, recorder: &mut impl Recorder, source: &BoundSource) -> Result<()> {
        let planned = self.step.of(layer, self.layer(layer)?)?;
        self.layers[layer].record_planned(recorder, source, planned, self.step.tokens)
    }

    /// Records that the caller's own kernels write the rows of the step straight into one layer, as
    /// [`KvCache::record_advance`] does.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); [`StepError::NoStep`];
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) and
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) on the first call.
    pub fn record_advance(&mut self, layer: usize, recorder: &mut impl Recorder) -> Result<()> {
        let planned = self.step.of(layer, self.layer(layer)?)?;
        self.layers[layer].record_planned_advance(recorder, planned)
    }
}
