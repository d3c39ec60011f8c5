//! [`ModelStep`]: the write of one forward pass, planned for all layers at once. Layers with equal placements and
//! lengths share one plan.

use std::sync::OnceLock;

use crate::{
    Context, Error, KvCache, Recorder, Result, StepError, Write,
    device::{
        binding::bind,
        record::{Dispatch, StepData, dispatch},
        ring::{StepRing, StepSlot},
    },
    kernels::{Entry, Kernel, StepPath},
    plan::{grid::grid, step::Step},
};

/// The write of one forward pass to every layer.
#[derive(Debug, Default)]
pub(super) struct ModelStep {
    pub tokens: u32,
    /// Plans that layers share. The first `planned` belong to this step; the others keep their memory for later steps.
    plans: Vec<Plan>,
    planned: usize,
    /// For each layer, the index of its plan and the generation of its lengths at that time.
    layers: Vec<(usize, u64)>,
}

/// The step of layers with equal placements and lengths.
#[derive(Debug, Default)]
struct Plan {
    /// Index of the first of these layers.
    layer: usize,
    step: Step,
    /// The slot that holds the step; `None` if the step is passed as immediates.
    slot: Option<StepSlot>,
}

/// The position of the first row of a step in each sequence, on the device.
#[derive(Debug)]
pub(super) struct Positions {
    pub buffer: wgpu::Buffer,
    bindings: OnceLock<wgpu::BindGroup>,
    /// Pipelines by [`StepPath`], created on first use.
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

    /// Records the positions of a step. Everything that can fail comes first.
    pub fn record(
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
    /// Plans a write for all layers, and writes it to a slot unless a pass takes it as immediates.
    pub fn plan(
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

    /// The plan of a layer, if the layer has not been recorded or changed since the step began.
    pub fn of(&self, index: usize, layer: &KvCache) -> Result<(&Step, Option<&StepSlot>)> {
        let &(plan, _) = self
            .layers
            .get(index)
            .filter(|(_, generation)| *generation == layer.generation())
            .ok_or(Error::Step(StepError::NoStep { layer: index }))?;
        let Plan { step, slot, .. } = &self.plans[plan];
        Ok((step, slot.as_ref()))
    }
}
