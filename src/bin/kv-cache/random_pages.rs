//! Random programs of paged caches, for `kv-cache verify --random` and for the tests.

use fastrand::Rng;
use wgpu_kv_cache::{
    CacheConfig, Format, PagedConfig, Placement,
    program::paged::{PagedOperation, PagedProgram, TokenRows},
};

/// Number of consecutive programs that share a shape, and so share kernels.
pub const PROGRAMS_OF_A_SHAPE: u64 = 500;

/// What the program knows of its sequences.
struct Drawing<'a> {
    rng: &'a mut Rng,
    sequences: Vec<(String, Vec<u32>, Option<String>)>,
    /// Sequences that were ever added, for new names.
    names: u32,
    /// Tokens of former sequences, whose beginnings are used again.
    known: Vec<Vec<u32>>,
    page_size: u32,
    most: u32,
}

/// Generates the program of a seed. Seeds with the same `seed / PROGRAMS_OF_A_SHAPE` share everything that determines
/// kernels.
pub fn program(seed: u64) -> PagedProgram {
    let shape = &mut Rng::with_seed(seed / PROGRAMS_OF_A_SHAPE);
    let dims = [1, 3, 4, 8, 32, 46, 64];
    let head_dim = dims[shape.usize(..dims.len())];
    let value_dim = if shape.bool() { head_dim } else { dims[shape.usize(..dims.len())] };
    let format = |rng: &mut Rng| Format::ALL[rng.usize(..Format::ALL.len())];
    let page_size = 1 << shape.u32(..4);
    let layer = CacheConfig::new(shape.u32(1..=6), shape.u32(1..=3), head_dim, shape.u32(20..=60))
        .value_dim(value_dim)
        .formats(format(shape), format(shape))
        .scales(if shape.bool() { 1.0 } else { 0.5 }, 2.0);
    let mut config = PagedConfig::new(layer, shape.usize(1..=2), page_size, shape.u32(3..=40));
    if config.layers.len() > 1 && shape.bool() {
        config.layers[1] = config.layers[1].formats(format(shape), format(shape));
    }
    config.share_prefixes = shape.u32(..5) > 0;
    if shape.bool() {
        // Some layers have a window, and there is one more or not.
        config.layers.extend(shape.bool().then_some(layer));
        for layer in &mut config.layers {
            if shape.u32(..3) > 0 {
                let (window, sinks, slack) = (shape.u32(1..=12), shape.u32(..4) * shape.u32(..2), shape.u32(..3));
                layer.placement = Placement::Ring { window, sinks, slack };
            }
        }
    }

    let rng = &mut Rng::with_seed(seed);
    let number = rng.usize(3..=24);
    let most = layer.max_seq_len;
    let mut drawing = Drawing { rng, sequences: Vec::new(), names: 0, known: Vec::new(), page_size, most };
    let operations = (0..number).map(|_| drawing.operation()).collect();
    PagedProgram { config, rows: TokenRows::Prefix, operations }
}

impl Drawing<'_> {
    /// Few tokens, so that beginnings are often the same.
    fn tokens(&mut self, count: u32) -> Vec<u32> {
        (0..count).map(|_| self.rng.u32(..3)).collect()
    }

    /// A prompt, often with a beginning that others had.
    fn prompt(&mut self) -> Vec<u32> {
        let mut tokens = match self.rng.usize(..=self.known.len()) {
            0 => Vec::new(),
            one => self.known[one - 1].clone(),
        };
        let cut = self.rng.usize(..=tokens.len());
        if self.rng.bool() {
            tokens.truncate(cut);
        }
        let more = self.rng.u32(..=3 * self.page_size);
        tokens.extend(self.tokens(more));
        if self.rng.u32(..20) > 0 {
            tokens.truncate(self.most as usize);
        }
        tokens
    }

    fn namespace(&mut self) -> Option<String> {
        (self.rng.u32(..6) == 0).then(|| "other".to_owned())
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("s{}", self.names)
    }

    /// A number up to another, or rarely one more.
    fn up_to(&mut self, most: u32) -> u32 {
        let beyond = u32::from(self.rng.u32(..10) == 0);
        self.rng.u32(..=most + beyond)
    }

    fn one(&mut self) -> usize {
        self.rng.usize(..self.sequences.len())
    }

    /// Sequences are noted as if nothing were refused; a sequence that is not there is dropped by the program.
    fn operation(&mut self) -> PagedOperation {
        let choice = if self.sequences.is_empty() { self.rng.u32(..8) } else { self.rng.u32(..44) };
        match choice {
            0 => PagedOperation::Match { tokens: self.prompt(), namespace: self.namespace() },
            1..8 => {
                let (sequence, tokens, namespace) = (self.name(), self.prompt(), self.namespace());
                self.known.push(tokens.clone());
                self.sequences.push((sequence.clone(), tokens.clone(), namespace.clone()));
                PagedOperation::Add { sequence, tokens, namespace, rows: None }
            }
            8..20 => {
                let dropped = self.rng.u32(..5) == 0;
                let mut appends = Vec::new();
                for index in 0..self.sequences.len() {
                    if self.rng.u32(..3) > 0 {
                        let count = if self.rng.bool() { 1 } else { self.rng.u32(..=2 * self.page_size + 1) };
                        let tokens = self.tokens(count);
                        if !dropped {
                            self.sequences[index].1.extend(&tokens);
                        }
                        appends.push((self.sequences[index].0.clone(), tokens));
                    }
                }
                self.rng.shuffle(&mut appends);
                PagedOperation::Step { appends, dropped, rows: None }
            }
            20..24 => {
                let (index, count) = (self.one(), self.rng.u32(1..=2 * self.page_size + 1));
                let tokens = self.tokens(count);
                let accepted = self.up_to(count);
                self.sequences[index].1.extend(tokens.iter().take(accepted as usize));
                PagedOperation::Draft { sequence: self.sequences[index].0.clone(), tokens, accepted, rows: None }
            }
            24..29 => {
                let (index, to) = (self.one(), self.name());
                let (from, tokens, namespace) = self.sequences[index].clone();
                let length = self.rng.bool().then(|| self.rng.u32(..=tokens.len() as u32 + 1));
                let mut tokens = tokens;
                tokens.truncate(length.unwrap_or(u32::MAX) as usize);
                self.sequences.push((to.clone(), tokens, namespace));
                PagedOperation::Fork { from, to, length }
            }
            29..32 => {
                let index = self.one();
                let length = self.up_to(self.sequences[index].1.len() as u32);
                self.sequences[index].1.truncate(length as usize);
                PagedOperation::Truncate { sequence: self.sequences[index].0.clone(), length }
            }
            32..37 => {
                let index = self.one();
                let (sequence, tokens, _) = self.sequences.swap_remove(index);
                self.known.push(tokens);
                PagedOperation::Free { sequence }
            }
            40..44 => {
                let index = self.one();
                let last = self.up_to((self.sequences[index].1.len() as u32).min(2 * self.page_size + 2));
                let beyond = u32::from(self.rng.u32(..10) == 0);
                let indices: Vec<u32> = (0..last + beyond).filter(|_| self.rng.u32(..3) > 0).collect();
                let own = &mut self.sequences[index].1;
                if let Some(first) =
                    own.len().checked_sub(last as usize).filter(|_| indices.iter().all(|&one| one < last))
                {
                    let kept: Vec<u32> = indices.iter().map(|&one| own[first + one as usize]).collect();
                    own.truncate(first);
                    own.extend(kept);
                }
                PagedOperation::Keep { sequence: self.sequences[index].0.clone(), last, indices }
            }
            37 => PagedOperation::ClearPrefixes,
            _ => PagedOperation::Rows {
                sequence: self.sequences[self.rng.usize(..self.sequences.len())].0.clone(),
                layer: 0,
            },
        }
    }
}
