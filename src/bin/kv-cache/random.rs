//! Random programs, for `kv-cache verify --random` and for the tests.

use fastrand::Rng;
use wgpu_kv_cache::{
    CacheConfig, Format, Placement,
    program::{Change, Fault, Layout, Lengths, Operation, Path, Positions, Program, Rows, Span},
};

/// Number of consecutive programs that share a shape, and so share kernels.
pub const PROGRAMS_OF_A_SHAPE: u64 = 75;

/// Head sizes: common, small and odd ones.
const DIMS: [u32; 14] = [1, 2, 3, 4, 5, 8, 16, 46, 64, 72, 80, 96, 128, 256];

/// Generates the program of a seed. Seeds with the same `seed / PROGRAMS_OF_A_SHAPE` share everything that determines
/// kernels.
pub fn program(seed: u64) -> Program {
    let shape = &mut Rng::with_seed(seed / PROGRAMS_OF_A_SHAPE);
    let head_dim = dim(shape);
    let value_dim = if shape.bool() { head_dim } else { dim(shape) };
    let batch_size = shape.u32(1..=3);
    let config = CacheConfig::new(batch_size, shape.u32(1..=3), head_dim, shape.u32(1..=24))
        .max_batch_size(batch_size + shape.u32(0..=2))
        .value_dim(value_dim)
        .formats(format(shape), format(shape))
        .scales(scale(shape), scale(shape))
        .placement(placement(shape));
    let mut program = Program::new(config, shape.usize(1..=2));
    if shape.u32(..3) == 0 {
        program.placements.push(placement(shape));
    }
    let formats = [(); 2].map(|()| (float(shape), float(shape)));

    let rng = &mut Rng::with_seed(seed);
    program.poison = rng.bool();
    let layers = program.layers();
    let (steps, lengths) = (rng.bool(), vec![vec![0; batch_size as usize]; layers.len()]);
    let mut drawing = Drawing { rng, steps, formats, lengths, layers };
    let operations = drawing.rng.usize(2..=14);
    program.operations = (0..operations).map(|_| drawing.any_operation()).collect();
    program
}

fn dim(rng: &mut Rng) -> u32 {
    DIMS[rng.usize(..DIMS.len())]
}

fn format(rng: &mut Rng) -> Format {
    Format::ALL[rng.usize(..Format::ALL.len())]
}

/// Draws a scale for fp8: 1, a power of two, or any other.
fn scale(rng: &mut Rng) -> f32 {
    match rng.u32(..3) {
        0 => 1.0,
        1 => 0.25,
        _ => 0.01 + rng.f32(),
    }
}

fn float(rng: &mut Rng) -> Format {
    Format::FLOATS[rng.usize(..Format::FLOATS.len())]
}

fn placement(rng: &mut Rng) -> Placement {
    if rng.bool() {
        Placement::Linear
    } else {
        Placement::Ring { window: rng.u32(1..=6), sinks: rng.u32(0..=3), slack: rng.u32(0..=3) }
    }
}

/// The state while a program is drawn. It tracks roughly where each sequence ends, so that most operations are valid.
struct Drawing<'a> {
    rng: &'a mut Rng,
    /// Whether layers advance together, in steps, instead of each by itself.
    steps: bool,
    formats: [(Format, Format); 2],
    layers: Vec<CacheConfig>,
    /// `[layer][sequence]`.
    lengths: Vec<Vec<u32>>,
}

impl Drawing<'_> {
    fn batch(&self) -> u32 {
        self.lengths[0].len() as u32
    }

    /// Draws 1 once in `times` times, and 0 otherwise.
    fn one_of(&mut self, times: u32) -> u32 {
        u32::from(self.rng.u32(..times) == 0)
    }

    fn sequence(&mut self) -> u32 {
        // Sometimes out of range.
        let beyond = self.one_of(20);
        self.rng.u32(..self.batch() + beyond)
    }

    /// Draws an operation, sometimes with a fault injected.
    fn any_operation(&mut self) -> Operation {
        let before = self.lengths.clone();
        let operation = self.operation();
        let can_fail = match &operation {
            Operation::Step { .. } | Operation::Sequences { .. } | Operation::Insert { .. } => true,
            Operation::Update { path, .. } => *path != Path::Host,
            _ => false,
        };
        if !can_fail || self.rng.u32(..8) > 0 {
            return operation;
        }
        self.lengths = before;
        let fault = if self.rng.bool() { Fault::Dropped } else { Fault::OutOfMemory(self.rng.u32(..24)) };
        Operation::Faulty { fault, operation: Box::new(operation) }
    }

    fn operation(&mut self) -> Operation {
        // Sometimes a layer that is out of range.
        let layers = self.layers.len();
        let layer = if self.rng.u32(..20) == 0 { layers } else { self.rng.usize(..layers) };
        match self.rng.u32(..40) {
            0..17 if self.steps && self.rng.u32(..20) > 0 => {
                let (rows, path, room) = (self.rows(), self.path(), self.rng.u32(..=2));
                let span = self.span(0);
                let lengths = self.lengths[0].clone();
                self.lengths.fill(lengths);
                Operation::Step { span, rows, room, path }
            }
            0..14 => {
                let rows = self.rows();
                let path = self.path();
                Operation::Update { layer, span: self.span(layer), rows, path }
            }
            14..17 => Operation::Advance { layer, span: self.span(layer), seed: self.rng.u64(..) },
            17..21 => {
                let longest = self.lengths.get(layer).and_then(|lengths| lengths.iter().max()).copied().unwrap_or(3);
                let beyond = self.one_of(10);
                let end = self.rng.u32(..=longest + beyond);
                // Near the end, where a ring has rows too.
                let back = self.rng.u32(..=8);
                let start = if self.rng.u32(..10) == 0 { end + 1 } else { end.saturating_sub(back) };
                Operation::Get { layer, start, end, guarded: self.rng.bool() }
            }
            21..24 => Operation::GetAll { layer },
            24..27 => Operation::Extract { sequence: self.sequence() },
            27..29 => self.insert(),
            29..39 => {
                let change = self.change();
                Operation::Sequences { change, in_pass: self.rng.bool() }
            }
            _ => {
                self.lengths.iter_mut().flatten().for_each(|length| *length = 0);
                Operation::Reset
            }
        }
    }

    fn rows(&mut self) -> Rows {
        let (key_format, value_format) = self.formats[self.rng.usize(..2)];
        Rows { key_format, value_format, seed: self.rng.u64(..) }
    }

    fn path(&mut self) -> Path {
        let layout = Layout::ALL[self.rng.usize(..Layout::ALL.len())];
        match self.rng.u32(..3) {
            0 => Path::Host,
            1 => Path::Encoder(layout),
            _ => Path::Pass(layout),
        }
    }

    /// Draws a span. Most are valid; some are past the end, too far back, or have too many tokens.
    fn span(&mut self, layer: usize) -> Span {
        let config = self.layers[layer.min(self.layers.len() - 1)];
        let slots = config.slots();
        let ring = config.placement != Placement::Linear;
        let tokens = match self.rng.u32(..12) {
            0 => self.rng.u32(0..=slots + 1),
            1 => slots,
            2 if ring => self.rng.u32(slots..=2 * slots + 1),
            _ => self.rng.u32(1..=slots.min(5)),
        };
        let lengths = self.lengths.get(layer).unwrap_or(&self.lengths[0]).clone();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let room = if ring { longest + 4 } else { slots.saturating_sub(tokens) };
        let room = if self.rng.u32(..12) == 0 { slots } else { room };
        let near = |rng: &mut Rng, length: u32| (length + rng.u32(..=4)).saturating_sub(2).min(room);
        let positions = match self.rng.u32(..6) {
            0..3 => Positions::Append,
            3 if ring => Positions::At(near(self.rng, longest)),
            3 => Positions::At(self.rng.u32(..=room)),
            4 if ring => Positions::Each(lengths.iter().map(|&length| near(self.rng, length)).collect()),
            _ => Positions::Each(lengths.iter().map(|_| self.rng.u32(..=room)).collect()),
        };
        let counts = self.rng.bool().then(|| {
            let extra = u32::from(self.rng.u32(..20) == 0);
            lengths.iter().map(|_| self.rng.u32(..=tokens + extra)).collect::<Vec<_>>()
        });
        let (whole, attended) = (self.one_of(8) == 1, self.one_of(8) == 1);
        if let Some(known) = self.lengths.get_mut(layer) {
            for (index, length) in known.iter_mut().enumerate() {
                let count = counts.as_ref().map_or(tokens, |counts| counts[index]);
                let position = match &positions {
                    Positions::Append => *length,
                    Positions::At(position) => *position,
                    Positions::Each(positions) => positions[index],
                };
                if count > 0 && (ring && !whole || position + count <= slots) {
                    *length = position + count;
                }
            }
        }
        Span { tokens, positions, counts, whole, attended }
    }

    fn insert(&mut self) -> Operation {
        let sequence = self.rng.u32(..=self.batch());
        let slots = self.layers.iter().map(CacheConfig::slots).min().unwrap_or(1);
        let length = self.rng.u32(..=slots + 2);
        if sequence < self.layers[0].max_batch_size {
            for lengths in &mut self.lengths {
                lengths.resize(lengths.len().max(sequence as usize + 1), 0);
                lengths[sequence as usize] = length;
            }
        }
        Operation::Insert { sequence, length, rows: self.rows() }
    }

    fn change(&mut self) -> Change {
        let (batch, max) = (self.batch(), self.layers[0].max_batch_size);
        match self.rng.u32(..10) {
            0..3 => {
                // Truncate by a few tokens, which a ring's slack may allow, or to any length; all layers to the same.
                let least = |sequence: usize| self.lengths.iter().map(|lengths| lengths[sequence]).min().unwrap_or(0);
                let known: Vec<u32> = (0..batch as usize).map(least).collect();
                let some = self.rng.bool();
                let cut = |rng: &mut Rng, length: u32| {
                    if some { length.saturating_sub(rng.u32(..=3)) } else { rng.u32(..=length) }
                };
                let lengths = if self.rng.u32(..4) == 0 {
                    Lengths::All(cut(self.rng, known.iter().copied().min().unwrap_or(0)))
                } else {
                    Lengths::Each(known.iter().map(|&length| cut(self.rng, length)).collect())
                };
                for lengths_of in &mut self.lengths {
                    for (index, length) in lengths_of.iter_mut().enumerate() {
                        *length = match &lengths {
                            Lengths::All(all) => *all,
                            Lengths::Each(each) => each[index],
                        };
                    }
                }
                Change::Truncate(lengths)
            }
            3 => {
                let sequence = self.sequence();
                for lengths in &mut self.lengths {
                    lengths.get_mut(sequence as usize).into_iter().for_each(|length| *length = 0);
                }
                Change::Clear(sequence)
            }
            4 | 5 => {
                let beyond = self.one_of(10);
                let count = self.rng.u32(1..=max + beyond);
                let sources: Vec<u32> = (0..count).map(|_| self.sequence()).collect();
                self.select(&sources);
                Change::Select(sources)
            }
            6 => {
                let sources: Vec<u32> = (0..batch).map(|_| self.sequence()).collect();
                self.select(&sources);
                Change::Reorder(sources)
            }
            7 if self.rng.bool() => {
                let times = self.rng.u32(..=2);
                let sources: Vec<u32> = (0..batch * times).map(|sequence| sequence / times).collect();
                self.select(&sources);
                Change::Repeat(times)
            }
            7 => {
                let (from, to) = (self.sequence(), self.sequence());
                let sources: Vec<u32> = (0..batch).map(|other| if other == to { from } else { other }).collect();
                if to < batch {
                    self.select(&sources);
                }
                Change::CopySequence { from, to }
            }
            8 => {
                let sequence = self.sequence();
                let shortest = self.lengths.iter().filter_map(|lengths| lengths.get(sequence as usize)).min();
                let shortest = shortest.copied().unwrap_or(3);
                let beyond = self.one_of(10);
                let last = self.rng.u32(..=(shortest + beyond).min(6));
                let mut indices: Vec<u32> = (0..last + beyond).filter(|_| self.rng.u32(..3) > 0).collect();
                if self.one_of(20) == 1 {
                    indices.reverse();
                }
                let dropped = last - (indices.len() as u32).min(last);
                for lengths in &mut self.lengths {
                    let kept = lengths.get_mut(sequence as usize);
                    kept.into_iter().for_each(|length| *length = length.saturating_sub(dropped));
                }
                Change::Keep { sequence, last, indices }
            }
            _ => {
                let (from, to) = (self.sequence(), self.sequence());
                let length = |sequence: u32| self.lengths[0].get(sequence as usize).copied().unwrap_or(0);
                let (end, target) = (length(from), length(to));
                let start = end.saturating_sub(self.rng.u32(1..=4));
                let position = (target + self.rng.u32(..=2)).saturating_sub(self.rng.u32(..=2));
                if from < batch && to < batch && end > start {
                    for lengths in &mut self.lengths {
                        lengths[to as usize] = position + end - start;
                    }
                }
                Change::CopyRange { from, start, end, to, position }
            }
        }
    }

    fn select(&mut self, sources: &[u32]) {
        let legal = !sources.is_empty() && sources.len() <= self.layers[0].max_batch_size as usize;
        if legal && sources.iter().all(|&source| source < self.batch()) {
            for lengths in &mut self.lengths {
                *lengths = sources.iter().map(|&source| lengths[source as usize]).collect();
            }
        }
    }
}
