//! [`Step`]: the effect of an operation, as a flat list of [`Run`]s and the lengths afterwards. Uses no wgpu object.

use std::ops::Range;

use crate::{
    Placement,
    plan::sequences::Sequences,
    shape::{
        layout::{HEAD_BYTES, IMMEDIATE_BYTES, RUN_BYTES},
        placement::count,
    },
};

/// Maximum length of a sequence.
pub(crate) const MAX_LENGTH: u32 = u32::MAX - 1;

/// Contiguous slots in one group of planes, and the rows outside the cache that belong to them: rows of the source of
/// an update, or of the output of a range. Mirrors `Run` in `shaders/step/run.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Run {
    /// The group of planes (one plane per head) that holds the slots: a sequence of the cache.
    pub group: u32,
    /// The sequence in the source or in the output.
    pub sequence: u32,
    /// Slot of the first row touched. The rows of `first..start` become zero: in the cache by an update, in the output
    /// by a range.
    pub first: u32,
    /// Slot of the first row copied.
    pub start: u32,
    /// Slot after the last row copied.
    pub end: u32,
    /// Row of the source or of the output that belongs to `start`.
    pub token: u32,
}

impl Run {
    /// Number of rows touched.
    pub fn touched(&self) -> u32 {
        count(&(self.first..self.end))
    }

    /// Number of rows that become zero.
    pub fn gap(&self) -> u32 {
        count(&(self.first..self.start))
    }

    /// Number of rows copied.
    pub fn rows(&self) -> u32 {
        count(&(self.start..self.end))
    }
}

/// Mirrors the head of `Step` in `shaders/step/ring.wgsl`. `room` lengths, `room` starts and the runs follow it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Head {
    pub sequences: u32,
    pub runs: u32,
    pub room: u32,
}

/// Mirrors `Step` in `shaders/step/immediate.wgsl`: a step that does the same to every sequence.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Immediate {
    pub sequences: u32,
    pub runs: u32,
    pub first: u32,
    pub start: u32,
    pub end: u32,
    pub token: u32,
    pub length: u32,
    pub position: u32,
}

const _: () = assert!(size_of::<Run>() as u64 == RUN_BYTES && size_of::<Head>() as u64 == HEAD_BYTES);
const _: () = assert!(size_of::<Immediate>() == IMMEDIATE_BYTES as usize);

/// The effect of one operation. The cache reuses one between operations, so that planning does not allocate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Runs, any number per group, sorted by group.
    pub runs: Vec<Run>,
    /// The largest number of rows that a run touches.
    pub longest: u32,
    /// Number of rows in each plane of the output, if there is an output.
    pub rows: u32,
    /// Length of each sequence afterwards. Empty if the step sets no lengths.
    pub lengths: Vec<u32>,
    /// Position of the first row written to each sequence. Equals the length if no row is written.
    pub starts: Vec<u32>,
    /// First stored position beyond the sinks of each sequence afterwards.
    pub oldest: Vec<u32>,
}

impl Step {
    /// Creates an empty step with capacity for `batch_size` sequences of `runs` runs each.
    pub fn with_capacity(batch_size: u32, runs: u32) -> Self {
        let batch = batch_size as usize;
        let numbers = || Vec::with_capacity(batch);
        Step {
            runs: Vec::with_capacity(batch.saturating_mul(runs as usize)),
            lengths: numbers(),
            starts: numbers(),
            oldest: numbers(),
            ..Step::default()
        }
    }

    /// Returns the head of the step on the device, where there is room for the lengths of `room` sequences.
    pub fn head(&self, room: usize) -> Head {
        let number = |count: usize| u32::try_from(count).expect("runs and sequences are counted in 32 bits");
        Head { sequences: self.count(), runs: number(self.runs.len()), room: number(room) }
    }

    /// Clears the step, to plan another operation in it.
    pub fn clear(&mut self) {
        let Step { runs, longest, rows, lengths, starts, oldest } = self;
        (*longest, *rows) = (0, 0);
        runs.clear();
        [lengths, starts, oldest].into_iter().for_each(Vec::clear);
    }

    /// Appends a run. Runs must be added in the order of their groups.
    pub fn push(&mut self, run: Run) {
        self.longest = self.longest.max(run.touched());
        self.runs.push(run);
    }

    /// Appends the state of the next sequence after the step: its length, the position of the first row written, and
    /// the first stored position beyond the sinks.
    pub fn push_sequence(&mut self, length: u32, start: u32, oldest: u32) {
        self.lengths.push(length);
        self.starts.push(start);
        self.oldest.push(oldest);
    }

    /// Appends runs that write the rows of positions `position..end` that are still stored after the write, and that
    /// zero the rows of the gap from `length` to `position`.
    pub fn push_write(&mut self, placement: Placement, sequence: u32, length: u32, position: u32, end: u32) {
        let first = position.min(length);
        let sinks = first..placement.sinks().min(end);
        let others = first.max(placement.first_stored(end))..end;
        for positions in [sinks, others] {
            for (at, slots) in placement.pieces(positions) {
                // Rows of the piece before `position` are part of the gap.
                let skipped = position.saturating_sub(at).min(count(&slots));
                let (group, token) = (sequence, at.saturating_sub(position));
                let start = slots.start.saturating_add(skipped);
                self.push(Run { group, sequence, first: slots.start, start, end: slots.end, token });
            }
        }
    }

    /// Appends runs that copy stored positions to or from rows `0..`, and returns the number of rows.
    pub fn push_rows(&mut self, placement: Placement, sequence: u32, ranges: [Range<u32>; 2]) -> u32 {
        let mut token = 0u32;
        for positions in ranges {
            for (_, slots) in placement.pieces(positions) {
                let (group, first, end) = (sequence, slots.start, slots.end);
                self.push(Run { group, sequence, first, start: first, end, token });
                token = token.saturating_add(count(&slots));
            }
        }
        token
    }

    /// Appends a run that zeroes rows of the output that a sequence does not have.
    pub fn push_absent(&mut self, sequence: u32, rows: Range<u32>) {
        let (group, absent) = (sequence, count(&rows));
        if absent > 0 {
            self.push(Run { group, sequence, first: 0, start: absent, end: absent, token: rows.end });
        }
    }

    /// Number of sequences whose lengths the step sets.
    pub fn count(&self) -> u32 {
        u32::try_from(self.lengths.len()).expect("a batch size is 32 bits wide")
    }

    /// Number of runs in some groups.
    pub fn runs_in(&self, groups: &Range<u32>) -> u32 {
        let before = |group: u32| self.runs.partition_point(|run| run.group < group);
        u32::try_from(before(groups.end).saturating_sub(before(groups.start))).expect("runs are counted in 32 bits")
    }

    /// Sets `sequences` to their state after the step.
    pub fn commit(&self, sequences: &mut Sequences) {
        sequences.lengths.clone_from(&self.lengths);
        sequences.oldest.clone_from(&self.oldest);
        sequences.starts.clone_from(&self.starts);
    }

    /// Returns the step as immediates if it does the same to every sequence: the same single run or none, and the same
    /// length and start.
    pub fn immediate(&self) -> Option<Immediate> {
        let Run { first, start, end, token, .. } = self.runs.first().copied().unwrap_or_default();
        let alike = |numbers: &[u32]| numbers.windows(2).all(|pair| pair[0] == pair[1]);
        let sequences = self.count();
        let runs = u32::try_from(self.runs.len()).ok()?;
        let same = (sequences == 0 || runs == 0 || runs == sequences)
            && (0..)
                .zip(&self.runs)
                .all(|(index, run)| *run == Run { group: index, sequence: index, first, start, end, token })
            && alike(&self.lengths)
            && alike(&self.starts);
        let of = |numbers: &[u32]| numbers.first().copied().unwrap_or(0);
        let (length, position) = (of(&self.lengths), of(&self.starts));
        same.then_some(Immediate { sequences, runs, first, start, end, token, length, position })
    }

    /// Marks no row as just written, so that attention does not take the rows for queries.
    pub fn forget_starts(&mut self) {
        self.starts.clone_from(&self.lengths);
    }

    /// The largest number of rows in a gap.
    pub fn longest_gap(&self) -> u32 {
        self.runs.iter().map(Run::gap).max().unwrap_or(0)
    }

    /// Number of rows touched, including gaps.
    pub fn touched_rows(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.touched())).fold(0, u64::saturating_add)
    }
}
