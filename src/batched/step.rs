//! A step of all layers: planned once, and recorded layer by layer.

use std::sync::{Arc, OnceLock};

use crate::{
    BatchedKvCache, BoundSource, Context, Error, KvCache, PerSequenceView, Recorder, Result, Write,
    binding::bind,
    grid::grid,
    kernels::{Entry, Kernel, StepPath},
    record::{Dispatch, StepData, dispatch},
    ring::{StepRing, StepSlot},
    step::Step,
};

/// What one forward pass writes to every layer.
#[derive(Debug, Default)]
pub(super) struct ModelStep {
    tokens: u32,
    /// Plans that layers share, of which `planned` are this step's; the others are kept for their memory.
    plans: Vec<Plan>,
    planned: usize,
    /// Of each layer, its plan and the generation that it was planned in.
    layers: Vec<(usize, u64)>,
}

/// What layers do that place alike and whose sequences are alike.
#[derive(Debug, Default)]
struct Plan {
    /// The first of them.
    layer: usize,
    step: Step,
    /// Where it lies on the device; `None` where it goes as immediates.
    slot: Option<StepSlot>,
}

/// Where the rows of a step begin, on the device.
#[derive(Debug)]
pub(super) struct Positions {
    buffer: wgpu::Buffer,
    bindings: OnceLock<wgpu::BindGroup>,
    /// By how a step reaches it; made when the first step takes them.
    pipelines: [OnceLock<wgpu::ComputePipeline>; 2],
}

impl Positions {
    pub fn new(context: &Context, max_batch_size: u32) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = context.create_buffer("positions", u64::from(max_batch_size).saturating_mul(4), usage, false)?;
        Ok(Positions { buffer, bindings: OnceLock::new(), pipelines: Default::default() })
    }

    pub fn bytes(&self) -> u64 {
        self.buffer.size()
    }

    fn bindings(&self, context: &Context) -> Result<&wgpu::BindGroup> {
        if let Some(bindings) = self.bindings.get() {
            return Ok(bindings);
        }
        let made = bind(context, Entry::Positions, &[self.buffer.as_entire_binding()])?;
        Ok(self.bindings.get_or_init(|| made))
    }

    fn pipeline(&self, context: &Context, step: StepPath) -> Result<&wgpu::ComputePipeline> {
        let pipeline = &self.pipelines[step as usize];
        if let Some(pipeline) = pipeline.get() {
            return Ok(pipeline);
        }
        let made = context.pipeline(Kernel::Positions { step })?;
        Ok(pipeline.get_or_init(|| made))
    }

    /// Records them, as far as the step goes. All that can fail comes first.
    fn record(
        &self,
        (context, ring): (&Context, &StepRing),
        recorder: &mut impl Recorder,
        (step, slot): (&Step, Option<&StepSlot>),
    ) -> Result<()> {
        let slot = || slot.map_or_else(|| ring.write(context, step), |slot| Ok(slot.clone()));
        if let Some(encoder) = recorder.encoder() {
            slot()?.copy_starts(encoder, &self.buffer);
            return Ok(());
        }
        let data = StepData::with_slot(context, step, slot)?;
        let (pipeline, bindings) = (self.pipeline(context, data.path())?, self.bindings(context)?);
        let grid = grid(step.count().into(), context.limits())?;
        dispatch(recorder, "kv-cache positions", data, std::iter::once(Dispatch { pipeline, bindings, grid }));
        Ok(())
    }
}

impl ModelStep {
    /// Plans a write for all layers and brings it to the device, where it is not to be immediates in a pass.
    fn plan(
        &mut self,
        layers: &[KvCache],
        (context, ring): (&Context, &StepRing),
        in_pass: bool,
        write: &Write<'_>,
    ) -> Result<()> {
        self.tokens = write.tokens();
        self.planned = 0;
        self.layers.clear();
        for (index, layer) in layers.iter().enumerate() {
            let alike = |plan: &Plan| layer.steps_like(&layers[plan.layer]);
            let shared = self.plans[..self.planned].iter().position(alike);
            let plan = shared.unwrap_or(self.planned);
            if shared.is_none() {
                if plan == self.plans.len() {
                    self.plans.push(Plan::default());
                }
                self.plans[plan].layer = index;
                layer.plan_write_to(write, &mut self.plans[plan].step)?;
                self.planned = self.planned.saturating_add(1);
            }
            self.layers.push((plan, layer.generation()));
        }
        for (index, plan) in self.plans.iter_mut().enumerate() {
            let immediate = in_pass && context.immediates() && plan.step.immediate().is_some();
            let written = index < self.planned && !immediate;
            plan.slot = if written { Some(ring.write(context, &plan.step)?) } else { None };
        }
        Ok(())
    }

    /// The plan of a layer that was not recorded since the step began.
    fn of(&self, index: usize, layer: &KvCache) -> Result<(&Step, Option<&StepSlot>)> {
        let &(plan, _) = self
            .layers
            .get(index)
            .filter(|(_, generation)| *generation == layer.generation())
            .ok_or(Error::NoStep { layer: index })?;
        let Plan { step, slot, .. } = &self.plans[plan];
        Ok((step, slot.as_ref()))
    }
}

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
/// let sources = (0..3).map(|layer| cache.bind_source(layer, &source)).collect::<Result<Vec<_>, _>>()?;
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
    /// [`Error::LayersOutOfStep`] and [`Error::LayersDiffer`] where a layer has other lengths than the first, or
    /// another batch; [`Error::ForeignLayer`] where it was put in place of one; as [`KvCache::update`] for the write,
    /// of any layer; [`Error::OutOfMemory`]; [`Error::DeviceLost`]. An error leaves the step before as it was.
    ///
    /// # Performance
    /// One write to the queue for each placement (in a pass none, where the step goes as immediates), and a copy of 4
    /// bytes a sequence, or in a pass a dispatch of one thread a sequence. Layers of one placement share the plan.
    pub fn begin_step(&mut self, recorder: &mut impl Recorder, write: Write<'_>) -> Result<()> {
        let context = self.context().clone();
        let foreign = |(layer, known): (&KvCache, &Arc<()>)| !Arc::ptr_eq(&layer.identity, known);
        if let Some(layer) = self.layers.iter().zip(&self.identities).position(foreign) {
            return Err(Error::ForeignLayer { layer });
        }
        self.check_batches()?;
        let first = self.lengths();
        for (layer, other) in self.layers.iter().enumerate().skip(1) {
            let differs = |(a, b): (&u32, &u32)| a != b;
            if let Some(sequence) = first.iter().zip(other.lengths()).position(differs) {
                let (first, actual) = (first[sequence], other.lengths()[sequence]);
                return Err(Error::LayersOutOfStep { layer, sequence, first, actual });
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
    /// [`Error::LayerCount`]; [`Error::ForeignSource`];
    /// [`Error::Refused`] where a buffer is destroyed or mapped; [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    pub fn warm_up<'s>(&mut self, sources: impl IntoIterator<Item = &'s BoundSource>) -> Result<()> {
        let (sources, num_layers) = (sources.into_iter().collect::<Vec<_>>(), self.layers.len());
        if sources.len() != num_layers {
            return Err(Error::LayerCount { name: "a source", num_layers, actual: sources.len() });
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
    /// [`Error::LayerOutOfRange`]; [`Error::NoStep`] where the layer was recorded or changed since the step began;
    /// [`Error::ForeignSource`], [`Error::BatchBeyondBound`], [`Error::MoreTokensThanBound`]; [`Error::OutOfMemory`]
    /// and [`Error::DeviceLost`], where a pipeline is the first of its kind.
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
    /// [`Error::LayerOutOfRange`]; [`Error::NoStep`]; [`Error::OutOfMemory`] and [`Error::DeviceLost`] on the first
    /// call.
    pub fn record_advance(&mut self, layer: usize, recorder: &mut impl Recorder) -> Result<()> {
        let planned = self.step.of(layer, self.layer(layer)?)?;
        self.layers[layer].record_planned_advance(recorder, planned)
    }
}
