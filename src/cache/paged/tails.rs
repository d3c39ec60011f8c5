//! Copies the rows of pages that two sequences would write to, before a step writes.

use super::{
    PagedKvCache,
    planes::Planes,
    scratch::{Part, Scratch},
};
use crate::{
    Error, Recorder, Result, Side,
    plan::step::{Run, Step},
    shape::layout::{RUN_BYTES, binding_limit},
};

/// Bytes of the rows of a side that go through scratch memory at a time, unless one row has more.
const BYTES_AT_ONCE: u64 = 16 << 20;

impl PagedKvCache {
    /// Prepares the copies of the step under way.
    pub(super) fn prepare_tails(&self) -> Result<Vec<Part>> {
        let (most, mut parts) = (self.rows_at_once(), Vec::new());
        let (mut out, mut back) = (Step::default(), Step::default());
        let mut end_part = |out: &mut Step, back: &mut Step| {
            let [mut out, mut back] = [out, back].map(std::mem::take);
            [&mut out, &mut back].into_iter().for_each(|step| step.runs.sort_unstable_by_key(|run| run.group));
            parts.push(self.part((0..self.planes.len()).collect(), out, back)?);
            Ok::<_, Error>(())
        };
        for copy in &self.planned().copies {
            let mut start = 0;
            while start < copy.rows {
                if out.rows == most {
                    end_part(&mut out, &mut back)?;
                }
                let end = copy.rows.min(start.saturating_add(most.saturating_sub(out.rows)));
                for (step, group) in [(&mut out, copy.from), (&mut back, copy.to)] {
                    step.push(Run { group, sequence: 0, first: start, start, end, token: step.rows });
                    step.rows = step.rows.saturating_add(end.saturating_sub(start));
                }
                start = end;
            }
        }
        if out.rows > 0 {
            end_part(&mut out, &mut back)?;
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
            let room = rows.checked_next_power_of_two().unwrap_or(rows).min(self.rows_at_once());
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

    /// Rows of all heads that fit a binding in every layer, and whose runs do, should each be a run of its own.
    pub(super) fn rows_at_once(&self) -> u32 {
        let limit = binding_limit(self.context.limits()).min(BYTES_AT_ONCE);
        let of_planes = |planes: &Planes| {
            let bytes = Side::BOTH.map(|side| planes.layout.side(side).row_bytes).into_iter().fold(1, u64::max);
            let row = bytes.saturating_mul(planes.layout.heads.into()).max(2 * RUN_BYTES);
            limit.checked_div(row).unwrap_or(1)
        };
        let most = self.planes.iter().map(of_planes).min().unwrap_or(1).max(1);
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}
