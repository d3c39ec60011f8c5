//! Copies the rows of pages that two sequences would write to, before a step writes.

use super::{PagedKvCache, planes::Planes};
use crate::{
    BoundSource, CacheConfig, Context, GpuTensor, Pair, Recorder, Result, Side,
    cache::{bound::Prepared, reads::Reads},
    device::{
        record::{StepData, dispatch},
        ring::StepSlot,
    },
    pages::PageCopy,
    plan::step::{Run, Step},
};

/// Copies that can be recorded without failing.
pub(super) struct Tails {
    layers: Vec<Tail>,
    out: Option<StepSlot>,
    back: Option<(StepSlot, Step)>,
    context: Context,
}

/// The copies of one layer, through scratch memory: a buffer cannot be read and written in one dispatch.
struct Tail {
    reads: Pair<Reads>,
    source: BoundSource,
}

impl Tails {
    pub fn record(self, recorder: &mut impl Recorder) -> Result<()> {
        let (Some(out), Some((back, step))) = (self.out, self.back) else { return Ok(()) };
        // Everything that can fail comes first.
        let prepared: Vec<Prepared<'_>> = (self.layers.iter())
            .map(|tail| {
                let data = StepData::Slot(back.clone());
                tail.source.writes().prepare(&self.context, data, &step, (step.longest, tail.source.tokens))
            })
            .collect::<Result<_>>()?;
        for (tail, prepared) in self.layers.iter().zip(prepared) {
            let Pair { keys, values } = &tail.reads;
            let data = StepData::Slot(out.clone());
            dispatch(recorder, "kv-cache copy on write", data, keys.dispatches().chain(values.dispatches()));
            prepared.record(recorder, "kv-cache copy on write");
        }
        Ok(())
    }
}

/// A step over the rows of copied pages, which lie one after the other outside of the cache.
fn step_of(copies: &[PageCopy], page: impl Fn(&PageCopy) -> u32) -> Step {
    let mut step = Step::default();
    for copy in copies {
        let (group, end) = (page(copy), copy.rows);
        step.push(Run { group, sequence: 0, first: 0, start: 0, end, token: step.rows });
        step.rows = step.rows.saturating_add(copy.rows);
    }
    step.runs.sort_unstable_by_key(|run| run.group);
    step
}

impl PagedKvCache {
    /// Prepares the copies of the step under way.
    pub(super) fn prepare_tails(&self) -> Result<Tails> {
        let copies = &self.planned().copies;
        let mut tails = Tails { layers: Vec::new(), out: None, back: None, context: self.context.clone() };
        if copies.is_empty() {
            return Ok(tails);
        }
        let (out, back) = (step_of(copies, |copy| copy.from), step_of(copies, |copy| copy.to));
        let slot = self.ring.write(&self.context, &out)?;
        for layer in &self.layers {
            tails.layers.push(layer.tail(&self.context, &out, &slot)?);
        }
        tails.out = Some(slot);
        tails.back = Some((self.ring.write(&self.context, &back)?, back));
        Ok(tails)
    }
}

impl Planes {
    fn tail(&self, context: &Context, out: &Step, slot: &StepSlot) -> Result<Tail> {
        let tensor = |side: Side| {
            let shape = [1, self.layout.heads, out.rows, self.stored.dim(side)];
            GpuTensor::new(context, "copied rows", shape, self.stored.format(side), self.stored.scale(side))
        };
        let tensors = Pair { keys: tensor(Side::Keys)?, values: tensor(Side::Values)? };
        let destinations = tensors.destinations();
        let data = StepData::Slot(slot.clone());
        let reads = |side: Side| {
            let (layout, storage) = (&self.layout, &self.storage);
            Reads::new(context, layout, storage, side, &(0..1), (out, &data), destinations.side(side))
        };
        let reads = Pair { keys: reads(Side::Keys)?, values: reads(Side::Values)? };
        let config = CacheConfig { batch_size: 1, max_batch_size: 1, ..self.stored };
        let source =
            BoundSource::new(context, &config, &self.layout, &self.storage, &self.identity, &tensors.source())?;
        Ok(Tail { reads, source })
    }
}
