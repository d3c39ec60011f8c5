//! The shape and the weights of the model, and the same model on the CPU with its own keys and values.

use wgpu_kv_cache::{CacheConfig, Placement};

pub const LAYERS: usize = 3;
pub const QUERY_HEADS: u32 = 4;
pub const KV_HEADS: u32 = 2;
pub const DIM: u32 = 16;
pub const HIDDEN: u32 = 32;
pub const MOST_SEQUENCES: u32 = 4;
/// Tokens of a sequence in one step: a chunk of a prompt, or one token and several drafts.
pub const MOST_TOKENS: u32 = 8;
pub const MOST_POSITIONS: u32 = 512;
pub const VOCABULARY: u32 = 50;
/// The window of the last layer.
pub const WINDOW: u32 = 24;

pub const QUERIES: u32 = QUERY_HEADS * DIM;
pub const FEATURES: u32 = (QUERY_HEADS + 2 * KV_HEADS) * DIM;
pub const ROTATED: u32 = (QUERY_HEADS + KV_HEADS) * DIM;

/// One cache configuration per layer. The last layer has a sliding window, with as much slack as a step has tokens, so
/// that any of them can be rolled back. The others see all positions.
pub fn layers(batch_size: u32) -> [CacheConfig; LAYERS] {
    let full = CacheConfig::new(batch_size, KV_HEADS, DIM, MOST_POSITIONS).max_batch_size(MOST_SEQUENCES);
    let sliding = full.placement(Placement::Ring { window: WINDOW, sinks: 0, slack: MOST_TOKENS });
    [full, full, sliding]
}

/// A linear congruential generator.
pub struct Random(pub u32);

impl Random {
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) % bound
    }

    fn numbers(&mut self, count: u32, size: f32) -> Vec<f32> {
        (0..count).map(|_| (self.below(1 << 16) as f32 / f32::from(1u16 << 15) - 1.0) * size).collect()
    }
}

/// Random weights in place of learned ones.
pub struct Weights {
    /// `[VOCABULARY, HIDDEN]`.
    pub embeddings: Vec<f32>,
    /// For each layer `[HIDDEN, FEATURES]`, then `[QUERIES, HIDDEN]`.
    pub layers: Vec<Vec<f32>>,
    /// Cosines and sines, `[MOST_POSITIONS, DIM / 2]`.
    pub rotations: Vec<[f32; 2]>,
}

impl Weights {
    pub fn new() -> Self {
        let mut random = Random(1);
        let angle = |position: u32, i: u32| f64::from(position) / 10_000f64.powf(f64::from(2 * i) / f64::from(DIM));
        let turn = |(position, i)| [angle(position, i).cos() as f32, angle(position, i).sin() as f32];
        let pairs = (0..MOST_POSITIONS).flat_map(|position| (0..DIM / 2).map(move |i| (position, i)));
        Weights {
            embeddings: random.numbers(VOCABULARY * HIDDEN, 1.0),
            layers: (0..LAYERS).map(|_| random.numbers(HIDDEN * FEATURES + QUERIES * HIDDEN, 0.3)).collect(),
            rotations: pairs.map(turn).collect(),
        }
    }

    pub fn embedding(&self, token: u32) -> &[f32] {
        let at = (token * HIDDEN) as usize;
        &self.embeddings[at..at + HIDDEN as usize]
    }
}

/// A sequence on the CPU: keys and values per layer and position, each `[KV_HEADS, DIM]`.
#[derive(Clone, Default)]
pub struct Sequence {
    pub layers: [Vec<[Vec<f64>; 2]>; LAYERS],
}

impl Sequence {
    pub fn len(&self) -> usize {
        self.layers[0].len()
    }

    pub fn truncate(&mut self, length: usize) {
        self.layers.iter_mut().for_each(|rows| rows.truncate(length));
    }

    /// Appends the next token and returns its hidden state after all layers.
    pub fn next(&mut self, weights: &Weights, token: u32) -> Vec<f64> {
        let mut hidden: Vec<f64> = weights.embedding(token).iter().map(|x| f64::from(*x)).collect();
        let position = self.len();
        for (layer, weights_of_layer) in weights.layers.iter().enumerate() {
            let weight = |at: usize| f64::from(weights_of_layer[at]);
            let squares: f64 = hidden.iter().map(|x| x * x).sum();
            let scale = 1.0 / (squares / f64::from(HIDDEN) + 1e-5).sqrt();
            let project = |feature: usize| -> f64 {
                let products = hidden.iter().enumerate().map(|(i, x)| x * weight(i * FEATURES as usize + feature));
                products.sum::<f64>() * scale
            };
            let mut features: Vec<f64> = (0..FEATURES as usize).map(project).collect();
            for (pair, xy) in features[..ROTATED as usize].chunks_exact_mut(2).enumerate() {
                let half = DIM as usize / 2;
                let [cosine, sine] = weights.rotations[position * half + pair % half].map(f64::from);
                (xy[0], xy[1]) = (xy[0] * cosine - xy[1] * sine, xy[0] * sine + xy[1] * cosine);
            }
            let (queries, rows) = features.split_at(QUERIES as usize);
            let (keys, values) = rows.split_at((KV_HEADS * DIM) as usize);
            self.layers[layer].push([keys.to_vec(), values.to_vec()]);
            let window = if layer + 1 == LAYERS { WINDOW as usize } else { usize::MAX };
            let seen = &self.layers[layer][(position + 1).saturating_sub(window)..];
            let attended: Vec<f64> = queries
                .chunks_exact(DIM as usize)
                .enumerate()
                .flat_map(|(head, query)| attend(query, seen, head / (QUERY_HEADS / KV_HEADS) as usize))
                .collect();
            for (feature, x) in hidden.iter_mut().enumerate() {
                let at = |i: usize| (HIDDEN * FEATURES) as usize + i * HIDDEN as usize + feature;
                *x += attended.iter().enumerate().map(|(i, y)| y * weight(at(i))).sum::<f64>();
            }
        }
        hidden
    }
}

/// Scaled dot-product attention of one query over the rows of one KV head.
fn attend(query: &[f64], seen: &[[Vec<f64>; 2]], head: usize) -> Vec<f64> {
    let part = head * DIM as usize..(head + 1) * DIM as usize;
    let score = |[keys, _]: &[Vec<f64>; 2]| -> f64 {
        let dot: f64 = query.iter().zip(&keys[part.clone()]).map(|(q, k)| q * k).sum();
        dot / f64::from(DIM).sqrt()
    };
    let scores: Vec<f64> = seen.iter().map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f64 = weights.iter().sum();
    let element = |i: usize| -> f64 {
        let sum: f64 = weights.iter().zip(seen).map(|(weight, [_, values])| weight * values[part.start + i]).sum();
        sum / total
    };
    (0..DIM as usize).map(element).collect()
}
