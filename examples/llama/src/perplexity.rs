//! [`measure`]: what each format of keys and values costs a model on a text, beside keys and values in f32.

use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use wgpu_kv_cache::{CacheConfig, Format};

use crate::{
    Result,
    cache::{Cache, CacheOptions, Chunk, Place, Sequence},
    engine::Engine,
};

/// What a pair of formats costs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Row {
    pub keys: String,
    pub values: String,
    /// Of an element, on average over keys and values.
    pub bits: f64,
    /// Keys and values of a token, in all layers.
    pub bytes_per_token: u64,
    /// Tokens that were predicted.
    pub tokens: u64,
    pub perplexity: f64,
    /// The share of tokens whose best prediction is that of f32.
    pub same_best: f64,
    /// The Kullback-Leibler divergence from the predictions of f32, in nats, on average.
    pub divergence: f64,
}

impl Row {
    /// Whether another row is of the same formats.
    pub fn is_of(&self, other: &Row) -> bool {
        (&self.keys, &self.values) == (&other.keys, &other.values)
    }
}

/// Sums over tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    tokens: u64,
    nats: f64,
    same: u64,
    divergence: f64,
}

/// A prediction: the logarithm of each token's probability, and the most likely token.
struct Prediction {
    logarithms: Vec<f32>,
    best: usize,
}

impl Prediction {
    fn new(logits: &[f32]) -> Self {
        let mut best = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = token;
            }
        }
        let largest = logits[best];
        let sum: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
        let all = f64::from(largest) + sum.ln();
        Prediction { logarithms: logits.iter().map(|&logit| (f64::from(logit) - all) as f32).collect(), best }
    }

    /// The divergence of another prediction from this one.
    fn divergence(&self, other: &Prediction) -> f64 {
        let part = |(own, other): (&f32, &f32)| f64::from(own.exp() * (own - other));
        self.logarithms.iter().zip(&other.logarithms).map(part).sum()
    }
}

/// Predicts every token of a text but the first of each window, from those before it in the window. `each` is told how
/// many tokens are done.
pub fn measure(
    engine: &mut Engine,
    tokens: &[u32],
    window: usize,
    formats: &[(Format, Format)],
    mut each: impl FnMut(usize),
) -> Result<Vec<Row>> {
    let options = |(keys, values)| CacheOptions { keys, values, place: Place::Dense, ..*engine.cache.options() };
    let (context, model) = (engine.context().clone(), &engine.model);
    let shape = model.shape;
    // The first is what others are compared with.
    let compared = [(Format::F32, Format::F32)];
    let others = formats.iter().copied().filter(|formats| *formats != compared[0]);
    let formats: Vec<_> = compared.into_iter().chain(others).collect();
    let mut caches = Vec::new();
    for &formats in &formats {
        caches.push(Cache::new(&context, model, &options(formats))?);
    }
    let mut sums = vec![Sums::default(); formats.len()];
    let rows = (model.sizes.rows.min(model.sizes.wanted)) as usize;
    let vocabulary = shape.vocabulary as usize;
    for (index, part) in tokens.chunks(window).enumerate() {
        if part.len() < 2 {
            continue;
        }
        for cache in &mut caches {
            cache.add(part)?;
        }
        // The last token predicts one that is not in the window.
        for (at, inputs) in part[..part.len() - 1].chunks(rows).enumerate() {
            let targets = &part[at * rows + 1..][..inputs.len()];
            let mut exact: Vec<Prediction> = Vec::new();
            for (cache, sums) in caches.iter_mut().zip(&mut sums) {
                let (sequence, wanted) = (Sequence::Only, inputs.len() as u32);
                std::mem::swap(cache, &mut engine.cache);
                let stepped = engine.step(&[Chunk { wanted, ..Chunk::new(sequence, inputs) }]);
                std::mem::swap(cache, &mut engine.cache);
                stepped?;
                let predictions: Vec<_> = engine.logits()?.chunks_exact(vocabulary).map(Prediction::new).collect();
                let compared = if exact.is_empty() { &predictions } else { &exact };
                for ((own, exact), &target) in predictions.iter().zip(compared).zip(targets) {
                    sums.tokens += 1;
                    sums.nats -= f64::from(own.logarithms[target as usize]);
                    sums.same += u64::from(own.best == exact.best);
                    sums.divergence += exact.divergence(own);
                }
                if exact.is_empty() {
                    exact = predictions;
                }
            }
            each(index * window + at * rows + inputs.len() + 1);
        }
    }
    let row = |(&(keys, values), sums): (&(Format, Format), &Sums)| {
        let config = CacheConfig::new(1, shape.kv_heads, shape.head_dim, 1).formats(keys, values);
        let bytes = config.bytes_per_token()? * u64::from(shape.layers);
        let elements = 2 * u64::from(shape.keys()) * u64::from(shape.layers);
        let tokens = sums.tokens as f64;
        Ok(Row {
            keys: keys.to_string(),
            values: values.to_string(),
            bits: bytes as f64 * 8.0 / elements as f64,
            bytes_per_token: bytes,
            tokens: sums.tokens,
            perplexity: (sums.nats / tokens).exp(),
            same_best: sums.same as f64 / tokens,
            divergence: sums.divergence / tokens,
        })
    };
    formats.iter().zip(&sums).map(row).collect()
}

const INK: RGBColor = RGBColor(0x37, 0x41, 0x51);
const MESH: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
const POINT: RGBColor = RGBColor(0x25, 0x63, 0xeb);

/// Perplexity over bits of an element, as SVG. Points closer to the origin are better.
pub fn picture(rows: &[Row]) -> String {
    let mut text = String::new();
    draw(rows, &mut text).expect("a String takes every write");
    text
}

fn draw(rows: &[Row], text: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, (860, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let finite = || rows.iter().filter(|row| row.perplexity.is_finite());
    let least = finite().map(|row| row.perplexity).fold(f64::INFINITY, f64::min);
    let most = finite().map(|row| row.perplexity).fold(least, f64::max);
    let margin = ((most - least) * 0.08).max(least * 1e-3);
    let mut chart = ChartBuilder::on(&area)
        .margin(14)
        .caption("Perplexity of each format of keys / values", ("sans-serif", 20).into_font().color(&INK))
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d((4f64..44.0).log_scale().base(2.0), least - margin..most + margin)?;
    let label = || ("sans-serif", 15).into_font().color(&INK);
    chart
        .configure_mesh()
        .bold_line_style(MESH)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(label())
        .x_desc("bits per element")
        .y_desc("perplexity")
        .x_label_formatter(&|bits| format!("{bits:.0}"))
        .draw()?;
    let mut taken = Vec::new();
    for row in finite() {
        let name = if row.keys == row.values { row.keys.clone() } else { format!("{}/{}", row.keys, row.values) };
        let (x, y) = chart.backend_coord(&(row.bits, row.perplexity));
        let width = 7 * name.len() as i32;
        // Above the names that are there.
        let is_free = |up: &i32| {
            let overlaps =
                |&(left, right, at): &(i32, i32, i32)| left < x + width && x < right && (at - (y - up)).abs() < 11;
            !taken.iter().any(overlaps)
        };
        let up = (6..).step_by(11).find(is_free).unwrap_or(6);
        taken.push((x, x + width, y - up));
        let point = EmptyElement::at((row.bits, row.perplexity))
            + Circle::new((0, 0), 3, POINT.filled())
            + Text::new(name, (6, -up), ("sans-serif", 11).into_font().color(&INK));
        chart.draw_series([point])?;
    }
    area.present()?;
    Ok(())
}
