//! Copies the rows of pages that two sequences would write to, before a step writes.

use super::{
    PagedKvCache,
    planes::Planes,
    scratch::{Part, Scratch},
};
use crate::{
    Recorder, Result, Side,
    pages::PageCopy,
    plan::step::{Run, Step},
    shape::layout::{RUN_BYTES, binding_limit},
};

/// Bytes of the rows of a side that go through scratch memory at a time, unless a page has more.
const BYTES_AT_ONCE: u64 = 16 << 20;

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
    pub(super) fn prepare_tails(&self) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        for copies in self.planned().copies.chunks(self.copies_at_once()) {
            let (out, back) = (step_of(copies, |copy| copy.from), step_of(copies, |copy| copy.to));
            parts.push(self.part((0..self.planes.len()).collect(), out, back)?);
        }
        Ok(parts)
    }

    /// Copies of the rows of one step to those of another, in some planes.
    pub(super) fn part(&self, planes: Vec<usize>, out: Step, back: Step) -> Result<Part> {
        let [out_slot, back_slot] = [self.ring.write(&self.context, &out)?, self.ring.write(&self.context, &back)?];
        Ok(Part { planes, out: (out, out_slot), back: (back, back_slot) })
    }

    /// Makes room for the rows of each part, if there is not.
    pub(super) fn reserve_scratch(&mut self, parts: &[Part]) -> Result<()> {
        let rows = parts.iter().map(|part| part.out.0.rows).max().unwrap_or(0);
        let room = self.scratch.as_ref().map_or(0, |scratch| scratch.rows);
        if room < rows {
            let room = rows.checked_next_power_of_two().unwrap_or(rows).min(self.rows_moved_at_once()).max(rows);
            self.scratch = Some(Scratch::new(&self.context, &self.planes, room)?);
        }
        Ok(())
    }

    /// Records copies, for which [`reserve_scratch`](Self::reserve_scratch) made room. Everything that can fail comes
    /// first.
    pub(super) fn record_parts(&self, recorder: &mut impl Recorder, parts: &[Part]) -> Result<()> {
        let Some(scratch) = &self.scratch else { return Ok(()) };
        for part in parts {
            part.planes.iter().try_for_each(|&planes| scratch.prepare(&self.context, planes, part).map(drop))?;
        }
        for part in parts {
            for &planes in &part.planes {
                scratch.prepare(&self.context, planes, part).expect("it was prepared before").record(recorder);
            }
        }
        Ok(())
    }

    /// Copies whose rows fit a binding, and whose runs a grid is high enough for, in every layer.
    fn copies_at_once(&self) -> usize {
        self.runs_at_once(self.config.page_size)
    }

    /// Likewise, of single rows.
    pub(super) fn rows_at_once(&self) -> usize {
        self.runs_at_once(1)
    }

    /// Rows that either of them moves at most.
    fn rows_moved_at_once(&self) -> u32 {
        let of_copies = self.copies_at_once().saturating_mul(self.config.page_size as usize);
        u32::try_from(of_copies.max(self.rows_at_once())).unwrap_or(u32::MAX)
    }

    fn runs_at_once(&self, rows: u32) -> usize {
        let limits = self.context.limits();
        let of_planes = |planes: &Planes| {
            let heads = planes.layout.heads;
            let bytes = Side::BOTH.map(|side| planes.layout.side(side).row_bytes).into_iter().fold(1, u64::max);
            let run = bytes.saturating_mul(heads.into()).saturating_mul(rows.into()).max(2 * RUN_BYTES);
            let high = limits.max_compute_workgroups_per_dimension.checked_div(heads).unwrap_or(1);
            binding_limit(limits).min(BYTES_AT_ONCE).checked_div(run).unwrap_or(1).min(high.into())
        };
        let most = self.planes.iter().map(of_planes).min().unwrap_or(1).max(1);
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}
