//! The cases of the benchmark: prefills, decoding steps and ranges.

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, CostModel, Destination, Format, KvCache, Pair, Write,
};

use super::{
    attention::Contexts,
    clock::Stopwatch,
    figure::{Figure, Group, HEADS},
    measure::{Bench, Case, Record, source},
};
use crate::{Failure, output, timing};

/// Number of layers in a decoding step.
const LAYERS: usize = 32;
/// Number of slots of the cache that ranges are copied from.
const CAPACITY: u32 = 8192;

/// The cases to measure, and the number of repetitions.
pub struct Sweep {
    pub repetitions: usize,
    tokens: Vec<u32>,
    batches: &'static [u32],
    rows: &'static [u32],
    contexts: Contexts,
}

impl Sweep {
    /// All cases. On a driver that runs on the CPU, attention has smaller caches.
    pub fn whole(is_cpu: bool) -> Self {
        let tokens = (0..=16).map(|power| 1 << power).collect();
        let contexts = Contexts {
            formats: &[Format::F32, Format::F16, Format::Bf16, Format::Fp8E4M3, Format::Q8_0, Format::Q4_0],
            batches: &[1, 8, 32],
            positions: (8..=17).map(|power| 1 << power).collect(),
            most_bytes: if is_cpu { 256 << 20 } else { 4 << 30 },
        };
        Sweep { repetitions: 25, tokens, batches: &[1, 8, 32], rows: &[1, 16, 256, 1024, 4096], contexts }
    }

    /// Fewer cases, which take less than a minute on a software driver.
    pub fn quick() -> Self {
        let contexts = Contexts {
            formats: &[Format::F16, Format::Q8_0],
            batches: &[1],
            positions: vec![256, 2048],
            most_bytes: u64::MAX,
        };
        Sweep { repetitions: 9, tokens: vec![1, 16, 256, 1024], batches: &[1, 8], rows: &[1, 256, 2048], contexts }
    }

    /// Measures every case, with a progress bar.
    pub fn measure(&self, stopwatch: &Stopwatch, costs: CostModel, label: &str) -> Result<Vec<Figure>, Failure> {
        let context = stopwatch.context();
        let with = |costs| Context::with_costs(context.device(), context.queue(), costs);
        let bench = Bench {
            stopwatch,
            forms: [with(CostModel::KERNELS), with(CostModel::COPIES)],
            model: with(costs),
            repetitions: self.repetitions,
        };
        let conversions = [(Format::F32, Format::F16), (Format::F32, Format::Bf16), (Format::F16, Format::F32)];
        let contexts = self.contexts.cases()?;
        let cases = 2 * self.tokens.len() + conversions.len() + self.batches.len() + self.rows.len() + contexts.len();
        let bar = output::progress(cases as u64, label);
        let mut figures = Vec::with_capacity(cases);
        let mut done = |figure: Figure| {
            figures.push(figure);
            bar.inc(1);
        };
        for dim in [64, 128] {
            for &tokens in &self.tokens {
                done(bench.prefill(tokens, dim, Format::F16, Format::F16)?);
            }
        }
        for (source, stored) in conversions {
            done(bench.prefill(1024, 128, source, stored)?);
        }
        for &batch in self.batches {
            done(bench.decode(batch)?);
        }
        for &rows in self.rows {
            done(bench.range(rows)?);
        }
        for config in contexts {
            done(bench.attention(config)?);
        }
        bar.finish_and_clear();
        Ok(figures)
    }
}

impl Bench<'_> {
    fn prefill(&self, tokens: u32, dim: u32, from: Format, to: Format) -> Result<Figure, Failure> {
        let config = CacheConfig::new(1, HEADS, dim, tokens).formats(to, to);
        let rows = self.buffer(u64::from(HEADS) * u64::from(tokens) * u64::from(dim * from.unit_bytes()));
        let more = self.buffer(rows.size());
        let bind = |cache: &KvCache| cache.bind_source(&source(&rows, &more, from, tokens, dim));
        let write = Write::at(0, tokens);
        let model = KvCache::new(&self.model, config)?;
        let chosen = model.form(&bind(&model)?, write)?;
        drop(model);
        let forms = if from == to { 2 } else { 1 };
        let mut records: Vec<Record<'_>> = Vec::new();
        for context in &self.forms[..forms] {
            let mut cache = KvCache::new(context, config)?;
            let source = bind(&cache)?;
            records.push(Box::new(move |encoder| Ok(cache.record_update(encoder, &source, write)?)));
        }
        let case = Case {
            group: if from == to { Group::Prefill } else { Group::Conversion },
            amount: tokens,
            head_dim: dim,
            name: format!("{tokens} × {dim}, {from} to {to}"),
            batch: 0,
            series: String::new(),
            bytes: config.bytes_per_token()? * u64::from(tokens),
            chosen,
        };
        self.figure(case, records)
    }

    fn decode(&self, batch: u32) -> Result<Figure, Failure> {
        let (dim, format) = (128, Format::F16);
        let config = CacheConfig::new(batch, HEADS, dim, 128).formats(format, format);
        let rows = self.buffer(config.bytes_per_token()? / 2);
        let more = self.buffer(rows.size());
        let bind = |cache: &KvCache| cache.bind_source(&source(&rows, &more, format, 1, dim));
        let write = Write::at(0, 1);
        let model = KvCache::new(&self.model, config)?;
        let chosen = model.form(&bind(&model)?, write)?;
        let mut records: Vec<Record<'_>> = Vec::new();
        for (context, by_copies) in self.forms.iter().zip([false, true]) {
            let mut cache = BatchedKvCache::new(context, config, LAYERS)?;
            let sources: Vec<BoundSource> = cache.layers().iter().map(bind).collect::<Result<_, _>>()?;
            records.push(Box::new(move |encoder| {
                // Kernels of all layers go into one pass, as in an engine.
                cache.begin_step(encoder, write)?;
                if by_copies {
                    for (layer, source) in sources.iter().enumerate() {
                        cache.record_update(layer, encoder, source)?;
                    }
                } else {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    for (layer, source) in sources.iter().enumerate() {
                        cache.record_update(layer, &mut pass, source)?;
                    }
                }
                Ok(())
            }));
        }
        let case = Case {
            group: Group::Decode,
            amount: batch,
            head_dim: dim,
            name: format!("batch {batch}, {LAYERS} layers × {dim}"),
            batch: 0,
            series: String::new(),
            bytes: config.bytes_per_token()? * LAYERS as u64,
            chosen,
        };
        self.figure(case, records)
    }

    fn range(&self, rows: u32) -> Result<Figure, Failure> {
        let (dim, format) = (128, Format::F16);
        let config = CacheConfig::new(1, HEADS, dim, CAPACITY).formats(format, format);
        let bytes = config.bytes_per_token()? * u64::from(rows);
        let to = [self.buffer(bytes / 2), self.buffer(bytes / 2)];
        let range = 1000..1000 + rows;
        // Advance makes all rows valid; their contents do not matter.
        let full = |context: &Context| {
            let mut cache = KvCache::new(context, config)?;
            timing::submission(context, |encoder| cache.record_advance(encoder, Write::at(0, CAPACITY)))?;
            Ok::<_, Failure>(cache)
        };
        let mut records: Vec<Record<'_>> = Vec::new();
        for context in &self.forms {
            let cache = full(context)?;
            let (to, range) = (&to, range.clone());
            records.push(Box::new(move |encoder| {
                let destination = |buffer| Destination::new(buffer, 0);
                let destinations = Pair { keys: destination(&to[0]), values: destination(&to[1]) };
                Ok(cache.record_get(encoder, range.clone(), destinations)?)
            }));
        }
        let case = Case {
            group: Group::Range,
            amount: rows,
            head_dim: dim,
            name: format!("{rows} of {CAPACITY} × {dim}"),
            batch: 0,
            series: String::new(),
            bytes,
            chosen: full(&self.model)?.range_form(range)?,
        };
        self.figure(case, records)
    }
}
