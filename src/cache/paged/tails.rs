//! Copies the rows of pages that two sequences would write to, before a step writes.

use std::sync::Arc;

use super::{PagedKvCache, planes::Planes};
use crate::{
    BoundSource, CacheConfig, Context, GpuTensor, Pair, Recorder, Result, Side,
    cache::reads::Reads,
    device::{
        record::{StepData, dispatch},
        ring::StepSlot,
    },
    pages::PageCopy,
    plan::step::{Run, Step},
    shape::layout::{RUN_BYTES, binding_limit},
};

/// Copies that can be recorded without failing.
pub(super) struct Tails {
    pub parts: Vec<Part>,
    context: Context,
}

/// Copies of several layers that fit a binding and a grid.
pub(super) struct Part {
    pub layers: Vec<Tail>,
    /// Holds the rows that are copied out, and those that are written.
    pub out: StepSlot,
    pub back: StepSlot,
    pub step: Step,
}

/// The copies of one layer, through scratch memory: a buffer cannot be read and written in one dispatch.
pub(super) struct Tail {
    reads: Pair<Reads>,
    source: BoundSource,
}

impl Tails {
    pub fn record(self, recorder: &mut impl Recorder) -> Result<()> {
        // Everything that can fail comes first.
        let prepare = |part: &'_ Part, tail: &'_ Tail| {
            let (data, rows) = (StepData::Slot(part.back.clone()), (part.step.longest, tail.source.tokens));
            tail.source.writes().prepare(&self.context, data, &part.step, rows).map(drop)
        };
        self.parts.iter().try_for_each(|part| part.layers.iter().try_for_each(|tail| prepare(part, tail)))?;
        for Part { layers, out, back, step } in &self.parts {
            for Tail { reads: Pair { keys, values }, source } in layers {
                let data = StepData::Slot(out.clone());
                dispatch(recorder, "kv-cache copy on write", data, keys.dispatches().chain(values.dispatches()));
                let (data, rows) = (StepData::Slot(back.clone()), (step.longest, source.tokens));
                let prepared = source.writes().prepare(&self.context, data, step, rows);
                prepared.expect("it was prepared before").record(recorder, "kv-cache copy on write");
            }
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
        let mut tails = Tails { parts: Vec::new(), context: self.context.clone() };
        for copies in self.planned().copies.chunks(self.copies_at_once()) {
            let (out, step) = (step_of(copies, |copy| copy.from), step_of(copies, |copy| copy.to));
            let slot = self.ring.write(&self.context, &out)?;
            let layers =
                self.planes.iter().map(|planes| planes.tail(&self.context, &out, &slot)).collect::<Result<_>>()?;
            let back = self.ring.write(&self.context, &step)?;
            tails.parts.push(Part { layers, out: slot, back, step });
        }
        Ok(tails)
    }

    /// Copies whose rows fit a binding, and whose runs a grid is high enough for, in every layer.
    fn copies_at_once(&self) -> usize {
        self.runs_at_once(self.config.page_size)
    }

    /// Likewise, of single rows.
    pub(super) fn rows_at_once(&self) -> usize {
        self.runs_at_once(1)
    }

    fn runs_at_once(&self, rows: u32) -> usize {
        let limits = self.context.limits();
        let of_planes = |planes: &Planes| {
            let heads = planes.layout.heads;
            let bytes = Side::BOTH.map(|side| planes.layout.side(side).row_bytes).into_iter().fold(1, u64::max);
            let run = bytes.saturating_mul(heads.into()).saturating_mul(rows.into()).max(2 * RUN_BYTES);
            let high = limits.max_compute_workgroups_per_dimension.checked_div(heads).unwrap_or(1);
            binding_limit(limits).checked_div(run).unwrap_or(1).min(high.into())
        };
        let most = self.planes.iter().map(of_planes).min().unwrap_or(1).max(1);
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}

impl Planes {
    pub(super) fn tail(&self, context: &Context, out: &Step, slot: &StepSlot) -> Result<Tail> {
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
        let owner = Arc::default();
        let source = BoundSource::new(context, &config, &self.layout, &self.storage, &owner, &tensors.source())?;
        Ok(Tail { reads, source })
    }
}
