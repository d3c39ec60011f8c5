//! [`Recorder`]: where commands are recorded, the caller's encoder or compute pass.

use crate::{
    Context, Result,
    device::ring::{StepRing, StepSlot},
    kernels::StepPath,
    plan::step::{Immediate, Step},
};

/// The caller's command encoder or compute pass.
///
/// Commands are recorded and never submitted. In a pass, the pipeline, the bind groups 0 and 1 and the immediates are
/// those of the cache afterwards; set your own again before your next dispatch. An encoder gets a pass of its own, or
/// copies where the context's [`CostModel`](crate::CostModel) prefers them.
///
/// It must be of the context's device; wgpu reports one of another device when it is finished.
///
/// The trait is sealed: it is implemented for `wgpu::CommandEncoder` and `wgpu::ComputePass`.
pub trait Recorder: sealed::Record {}

impl Recorder for wgpu::CommandEncoder {}
impl Recorder for wgpu::ComputePass<'_> {}

mod sealed {
    /// Gives a compute pass, and where there is one an encoder, to record into.
    pub trait Record {
        fn in_pass(&mut self, label: &'static str, record: impl FnOnce(&mut wgpu::ComputePass<'_>));

        /// `None` in a pass, which takes no copies.
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

/// A step on its way to the kernels.
#[derive(Debug)]
pub(crate) enum StepData {
    Slot(StepSlot),
    Immediate(Immediate),
}

impl StepData {
    /// Immediates where the step and the device allow it, else a slot of the ring.
    pub fn new(context: &Context, ring: &StepRing, step: &Step) -> Result<Self> {
        Self::with_slot(context, step, || ring.write(context, step))
    }

    /// The same with a slot that may be there already.
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

/// Records dispatches that read the same step, and keeps its slot, if it has one, until they are done.
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
