//! Random programs for `kv-cache verify --random`.

use fastrand::Rng;
use wgpu_kv_cache::{
    CacheConfig, Format,
    program::{Layout, Operation, Path, Positions, Program, Rows, Span},
};

/// Head sizes: the usual ones, small ones, and odd ones.
const DIMS: [u32; 14] = [1, 2, 3, 4, 5, 8, 16, 46, 64, 72, 80, 96, 128, 256];

/// The program of a seed.
pub fn program(seed: u64) -> Program {
    let rng = &mut Rng::with_seed(seed);
    let most = rng.u32(1..=24);
    let head_dim = dim(rng);
    let value_dim = if rng.bool() { head_dim } else { dim(rng) };
    let config = CacheConfig::new(rng.u32(1..=4), rng.u32(1..=4), head_dim, most)
        .value_dim(value_dim)
        .formats(format(rng), format(rng));
    let num_layers = rng.usize(1..=2);
    let mut program = Program::new(config, num_layers);
    program.poison = rng.bool();
    let operations = rng.usize(2..=10);
    program.operations = (0..operations).map(|_| operation(rng, &config, num_layers)).collect();
    program
}

fn dim(rng: &mut Rng) -> u32 {
    DIMS[rng.usize(..DIMS.len())]
}

fn format(rng: &mut Rng) -> Format {
    Format::ALL[rng.usize(..Format::ALL.len())]
}

fn operation(rng: &mut Rng, config: &CacheConfig, num_layers: usize) -> Operation {
    // Now and then a layer that is not there.
    let layer = if rng.u32(..20) == 0 { num_layers } else { rng.usize(..num_layers) };
    match rng.u32(..20) {
        0..10 => Operation::Update {
            layer,
            span: span(rng, config),
            rows: Rows { key_format: format(rng), value_format: format(rng), seed: rng.u64(..) },
            path: path(rng),
        },
        10..13 => Operation::Advance { layer, span: span(rng, config), seed: rng.u64(..) },
        13..17 => {
            let (start, end) = (rng.u32(..=config.max_seq_len), rng.u32(..=config.max_seq_len));
            let (start, end) = if rng.u32(..10) == 0 { (start, end) } else { (start.min(end), start.max(end)) };
            Operation::Get { layer, start, end, guarded: rng.bool() }
        }
        17..19 => Operation::GetAll { layer },
        _ => Operation::Reset,
    }
}

fn path(rng: &mut Rng) -> Path {
    let layout = Layout::ALL[rng.usize(..Layout::ALL.len())];
    match rng.u32(..3) {
        0 => Path::Host,
        1 => Path::Encoder(layout),
        _ => Path::Pass(layout),
    }
}

/// Mostly legal; now and then past the end, or with too many tokens.
fn span(rng: &mut Rng, config: &CacheConfig) -> Span {
    let most = config.max_seq_len;
    let tokens = match rng.u32(..12) {
        0 => rng.u32(0..=most + 1),
        1 => most,
        _ => rng.u32(1..=most.min(5)),
    };
    let room = if rng.u32(..12) == 0 { most } else { most.saturating_sub(tokens) };
    let positions = match rng.u32(..5) {
        0..3 => Positions::Append,
        3 => Positions::At(rng.u32(..=room)),
        _ => Positions::Each((0..config.batch_size).map(|_| rng.u32(..=room)).collect()),
    };
    let counts = rng.bool().then(|| {
        let extra = u32::from(rng.u32(..20) == 0);
        (0..config.batch_size).map(|_| rng.u32(..=tokens + extra)).collect()
    });
    Span { tokens, positions, counts }
}
