//! [`Step`]: what an operation does to each sequence, as [`Run`]s. Pure: no wgpu object in sight.

use std::ops::Range;

use crate::{Placement, placement::count, sequences::Sequences};

/// In place of a length: it stays as it is.
pub(crate) const KEEP_LENGTH: u32 = u32::MAX;

/// Mirror of `Run` in `shaders/step.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Run {
    /// Slot of the first row touched; rows `first..start` become zero.
    pub first: u32,
    /// Slot of the first row that holds a token.
    pub start: u32,
    /// Slot after the last row that holds a token.
    pub end: u32,
    /// Row of the source (of a gather: of the output) that belongs to `start`.
    pub token: u32,
    /// The sequence's length afterwards.
    pub length: u32,
    /// Position of the first token that is written; the length where none is.
    pub position: u32,
}

impl Run {
    /// Rows touched.
    pub fn touched(&self) -> u32 {
        count(&(self.first..self.end))
    }

    /// Rows that become zero.
    pub fn gap(&self) -> u32 {
        count(&(self.first..self.start))
    }

    /// Rows that hold a token.
    pub fn rows(&self) -> u32 {
        count(&(self.start..self.end))
    }
}

/// Mirror of `Step` in `shaders/step_immediate.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Immediate {
    pub sequences: u32,
    pub run: Run,
}

/// Runs of one operation, as many for each sequence. Kept between operations, so that planning allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Of an update, the most rows of any run, `end - first`; of a range, the rows of the output.
    pub rows: u32,
    /// How many runs each sequence has: 1, or all that a ring may need.
    pub per_sequence: u32,
    /// `[sequence, run]`; those that touch rows come first.
    pub runs: Vec<Run>,
    /// Of an update, the first position beyond the sinks that each sequence stores afterwards.
    pub oldest: Vec<u32>,
}

impl Step {
    /// Room for a batch of `batch_size` sequences with `runs` runs each.
    pub fn with_capacity(batch_size: u32, runs: u32) -> Self {
        let batch = batch_size as usize;
        Step {
            rows: 0,
            per_sequence: 1,
            runs: Vec::with_capacity(batch.saturating_mul(runs as usize)),
            oldest: Vec::with_capacity(batch),
        }
    }

    /// Bytes of a step of `batch_size` sequences: their number, their runs, and their lengths and starts afterwards.
    pub const fn bytes(batch_size: u32, runs: u32) -> u64 {
        let sequence = (size_of::<Run>() as u64).saturating_mul(runs as u64).saturating_add(8);
        sequence.saturating_mul(batch_size as u64).saturating_add(4)
    }

    /// Starts a new step.
    pub fn clear(&mut self, per_sequence: u32) {
        self.rows = 0;
        self.per_sequence = per_sequence;
        self.runs.clear();
        self.oldest.clear();
    }

    /// The next sequence, of which no row is touched.
    pub fn push_empty(&mut self, length: u32) {
        self.push(length, length, std::iter::empty());
    }

    /// The runs of the next sequence: those that touch rows, and empty ones up to the number that each has.
    pub fn push(&mut self, length: u32, position: u32, runs: impl Iterator<Item = Run>) {
        let end = self.runs.len().saturating_add(self.per_sequence as usize);
        self.runs.extend(runs);
        debug_assert!(self.runs.len() <= end, "positions lie in no more pieces than a ring has");
        self.runs.resize(end, Run { length, position, ..Run::default() });
    }

    /// Drops the runs after each sequence's first, where all are empty: so a step of decoding is the same in a ring.
    pub fn compact(&mut self) {
        let per_sequence = self.per_sequence as usize;
        let single = |runs: &[Run]| runs[1..].iter().all(|run| run.first == run.end);
        if per_sequence > 1 && self.runs.chunks_exact(per_sequence).all(single) {
            let mut firsts =
                std::iter::once(true).chain(std::iter::repeat_n(false, per_sequence.saturating_sub(1))).cycle();
            self.runs.retain(|_| firsts.next().unwrap_or(true));
            self.per_sequence = 1;
        }
    }

    /// The runs of each sequence.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = &[Run]> {
        self.runs.chunks_exact(self.per_sequence.max(1) as usize)
    }

    /// The lengths of the sequences afterwards.
    pub fn lengths(&self) -> impl Iterator<Item = u32> {
        self.sequences().map(|runs| runs[0].length)
    }

    /// The positions of the first rows that are written.
    pub fn starts(&self) -> impl Iterator<Item = u32> {
        self.sequences().map(|runs| runs[0].position)
    }

    /// How many sequences there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.sequences().len()).expect("a batch size is 32 bits wide")
    }

    /// Makes the sequences what they are afterwards.
    pub fn commit(&self, sequences: &mut Sequences) {
        let Sequences { lengths, oldest, starts } = sequences;
        lengths.clear();
        lengths.extend(self.lengths());
        oldest.clear();
        oldest.extend_from_slice(&self.oldest);
        starts.clear();
        starts.extend(self.starts());
    }

    /// The step as immediates, if it does the same to every sequence.
    pub fn immediate(&self) -> Option<Immediate> {
        let (&run, rest) = self.runs.split_first()?;
        let same = self.per_sequence == 1 && rest.iter().all(|other| *other == run);
        same.then(|| Immediate { sequences: self.count(), run })
    }

    /// Makes the rows no queries: nothing counts as just written.
    pub fn forget_starts(&mut self) {
        self.runs.iter_mut().for_each(|run| run.position = run.length);
    }

    /// The most rows of any gap, for a kernel that writes gaps only; at least one, so that lengths are set.
    pub fn gap_rows(&self) -> u32 {
        self.runs.iter().map(Run::gap).max().unwrap_or(0).max(1)
    }

    /// Rows written, gaps included; of a gather, rows that are valid.
    pub fn touched_rows(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.touched())).sum()
    }

    /// Plans what survives of a write of `count` tokens at `position`, after the rows before it that become zero.
    pub fn push_write(&mut self, placement: Placement, length: u32, position: u32, end: u32) {
        let first = position.min(length);
        let sinks = first..placement.sinks().min(end);
        let others = first.max(placement.first_stored(end))..end;
        let mut rows = self.rows;
        let runs = [sinks, others].into_iter().flat_map(|positions| placement.pieces(positions)).map(|(at, slots)| {
            rows = rows.max(count(&slots));
            // Rows of the piece that lie before the position.
            let skipped = position.saturating_sub(at).min(count(&slots));
            let token = at.saturating_sub(position);
            let start = slots.start.saturating_add(skipped);
            Run { first: slots.start, start, end: slots.end, token, length: end, position }
        });
        self.push(end, position, runs);
        self.rows = rows;
    }

    /// Plans the copy of positions, all stored, to rows from 0 on.
    pub fn push_read(&mut self, placement: Placement, length: u32, ranges: [Range<u32>; 2]) {
        let mut token = 0;
        let pieces = ranges.into_iter().flat_map(|positions| placement.pieces(positions));
        let runs = pieces.map(|(_, slots)| {
            let (first, end) = (slots.start, slots.end);
            let run = Run { first, start: first, end, token, length, position: length };
            token = token.saturating_add(count(&slots));
            run
        });
        self.push(length, length, runs);
    }
}
