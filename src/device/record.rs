//! [`Recorder`]: the caller's command encoder or compute pass, into which the cache records. Also records dispatches
//! and passes their step to them.

use crate::{
    Context, Result,
    device::ring::{StepRing, StepSlot},
    kernels::StepPath,
    plan::step::{Immediate, Step},
};

/// The caller's command encoder or compute pass.
///
/// The cache records commands and never submits them. Recording into a pass changes its pipeline, bind groups 0 and 1,
/// and immediates; set your own again before your next dispatch. In an encoder the cache begins a pass of its own, or
/// records copies where the context's [`CostModel`](crate::CostModel) prefers them.
///
/// The recorder must belong to the context's device. wgpu reports a recorder of another device when it is finished.
///
/// The trait is sealed: it is implemented for `wgpu::CommandEncoder` and `wgpu::ComputePass`.
pub trait Recorder: sealed::Record {}

impl Recorder for wgpu::CommandEncoder {}
impl Recorder for wgpu::ComputePass<'_> {}

mod sealed {
    /// Provides a compute pass to record into, and the encoder if there is one.
    pub trait Record {
        fn in_pass(&mut self, label: &'static str, record: impl FnOnce(&mut wgpu::ComputePass<'_>));

        /// Returns the encoder, or `None` for a pass, which cannot record copies.
        fn encoder(&mut self) -> Option<&mut wgpu::CommandEncoder>;
    }

    impl Record for wgpu::CommandEncoder {
        fn in_pass(&mut self, label: &'static str, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
            let descriptor = wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None };
            record(&mut self.begin_compute_pass(&descriptor));
        }

        fn encoder(&mut self) -> Option<&mut wgpu::CommandEncoder> {
            Some(self)
        }
    }

    impl Record for wgpu::ComputePass<'_> {
        fn in_pass(&mut self, _label: &'static str, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
            record(self);
        }

        fn encoder(&mut self) -> Option<&mut wgpu::CommandEncoder> {
            None
        }
    }
}

/// One dispatch of a kernel.
#[derive(Debug)]
pub(crate) struct Dispatch<'a> {
    pub pipeline: &'a wgpu::ComputePipeline,
    pub bindings: &'a wgpu::BindGroup,
    pub grid: [u32; 3],
}

/// How a step is passed to the kernels.
#[derive(Clone, Debug)]
pub(crate) enum StepData {
    Slot(StepSlot),
    Immediate(Immediate),
}

impl StepData {
    /// Passes the step as immediates if the step and the device allow it, and otherwise in a slot of the ring.
    pub fn new(context: &Context, ring: &StepRing, step: &Step) -> Result<Self> {
        Self::with_slot(context, step, || ring.write(context, step))
    }

    /// Like [`new`](Self::new), with a slot that may exist already.
    pub fn with_slot(context: &Context, step: &Step, slot: impl FnOnce() -> Result<StepSlot>) -> Result<Self> {
        Ok(match step.immediate() {
            Some(step) if context.immediates() => StepData::Immediate(step),
            _ => StepData::Slot(slot()?),
        })
    }

    pub fn path(&self) -> StepPath {
        match self {
            StepData::Slot(_) => StepPath::Ring,
            StepData::Immediate(_) => StepPath::Immediate,
        }
    }
}

/// Records dispatches that read the same step. If the step is in a slot, the slot is held until they are done.
pub(crate) fn dispatch<'a>(
    recorder: &mut impl Recorder,
    label: &'static str,
    step: StepData,
    dispatches: impl Iterator<Item = Dispatch<'a>>,
) {
    recorder.in_pass(label, |pass| {
        for Dispatch { pipeline, bindings, grid: [x, y, z] } in dispatches {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bindings, &[]);
            match &step {
                StepData::Slot(slot) => pass.set_bind_group(1, &slot.bind_group, &[slot.offset]),
                StepData::Immediate(step) => pass.set_immediates(0, bytemuck::bytes_of(step)),
            }
            pass.dispatch_workgroups(x, y, z);
        }
        if let StepData::Slot(StepSlot { mark, .. }) = step {
            pass.on_submitted_work_done(move || drop(mark));
        }
    });
}
