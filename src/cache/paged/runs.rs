//! [`PagedStep`]: the rows of a step, by page.

use std::ops::Range;

use crate::{
    device::ring::StepSlot,
    plan::step::{Run, Step},
    shape::placement::count,
};

/// The step under way.
#[derive(Debug, Default)]
pub(super) struct PagedStep {
    /// Tokens of all sequences together, and the most of one.
    pub total: u32,
    pub longest: u32,
    /// Runs for packed sources and for strided ones, and the slot that holds them once a layer was recorded.
    pub forms: [(Step, Option<StepSlot>); 2],
}

/// The pieces of positions that lie in one page each: its index, and its rows.
pub(super) fn in_pages(mut positions: Range<u32>, size: u32) -> impl Iterator<Item = (u32, Range<u32>)> {
    std::iter::from_fn(move || {
        let start = positions.start;
        let first = start.checked_rem(size).expect("a page has tokens");
        let rows = size.saturating_sub(first).min(count(&positions));
        positions.start = start.saturating_add(rows);
        (rows > 0).then(|| (start.checked_div(size).expect("a page has tokens"), first..first.saturating_add(rows)))
    })
}

impl PagedStep {
    pub fn clear(&mut self) {
        (self.total, self.longest) = (0, 0);
        for (step, slot) in &mut self.forms {
            step.clear();
            *slot = None;
        }
    }

    /// Adds the runs of one sequence: `index` of the step, rows at some positions of a list of pages.
    pub fn push(&mut self, index: u32, pages: &[u32], page_size: u32, positions: Range<u32>) {
        let (mut done, tokens) = (0u32, count(&positions));
        for (page, slots) in in_pages(positions, page_size) {
            let (group, first, end) = (pages[page as usize], slots.start, slots.end);
            let run = Run { group, sequence: 0, first, start: first, end, token: 0 };
            let [packed, strided] = &mut self.forms;
            packed.0.push(Run { token: self.total.saturating_add(done), ..run });
            strided.0.push(Run { sequence: index, token: done, ..run });
            done = done.saturating_add(count(&slots));
        }
        self.total = self.total.saturating_add(tokens);
        self.longest = self.longest.max(tokens);
    }

    /// Passes over rows of a packed source.
    pub fn skip(&mut self, tokens: u32) {
        self.total = self.total.saturating_add(tokens);
    }

    /// Orders the runs by page, as dispatches over several segments need them.
    pub fn sort(&mut self) {
        for (step, _) in &mut self.forms {
            step.runs.sort_unstable_by_key(|run| run.group);
        }
    }
}
