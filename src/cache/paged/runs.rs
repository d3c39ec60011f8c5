//! [`PagedStep`]: the rows of a step, by page.

use crate::{
    device::ring::StepSlot,
    plan::step::{Run, Step},
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

impl PagedStep {
    pub fn clear(&mut self) {
        (self.total, self.longest) = (0, 0);
        for (step, slot) in &mut self.forms {
            step.clear();
            *slot = None;
        }
    }

    /// Adds the runs of one sequence: `index` of the step, rows `start..start + tokens` of a list of pages.
    pub fn push(&mut self, index: u32, pages: &[u32], page_size: u32, start: u32, tokens: u32) {
        let mut done = 0u32;
        while done < tokens {
            let position = start.saturating_add(done);
            let page = position.checked_div(page_size).expect("a page has tokens");
            let first = position.checked_rem(page_size).expect("a page has tokens");
            let rows = page_size.saturating_sub(first).min(tokens.saturating_sub(done));
            let run = Run {
                group: pages[page as usize],
                sequence: 0,
                first,
                start: first,
                end: first.saturating_add(rows),
                token: 0,
            };
            let [packed, strided] = &mut self.forms;
            packed.0.push(Run { token: self.total.saturating_add(done), ..run });
            strided.0.push(Run { sequence: index, token: done, ..run });
            done = done.saturating_add(rows);
        }
        self.total = self.total.saturating_add(tokens);
        self.longest = self.longest.max(tokens);
    }

    /// Orders the runs by page, as dispatches over several segments need them.
    pub fn sort(&mut self) {
        for (step, _) in &mut self.forms {
            step.runs.sort_unstable_by_key(|run| run.group);
        }
    }
}
