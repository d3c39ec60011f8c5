//! Runs a trace through the cache as an engine would: a prefill, then one token at a time.

use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};
use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Context, Format, MemoryReport, ReferenceCache, RowsIn, Side, Source,
    Strides, Write, compare_tensors,
};

use crate::{
    Failure,
    timing::{REPETITIONS, device_copy, gigabytes_per_second, median, submission},
    trace::{Layer, Rows, Trace},
};

/// The results of one trace on one adapter in one format.
pub struct Trial {
    pub adapter: String,
    pub format: Format,
    pub prefill: Phase,
    pub decode: Phase,
    /// Number of elements compared with the reference: the whole storage of all layers.
    pub elements: u64,
    pub report: MemoryReport,
}

/// The measurements of one phase. For decoding, `bytes` and the times are those of one step.
pub struct Phase {
    pub tokens: u32,
    pub bytes: u64,
    pub time: Duration,
    /// Time of a copy of as many bytes on the device.
    pub copy: Duration,
}

impl Phase {
    pub fn bandwidth(&self) -> f64 {
        gigabytes_per_second(self.bytes, self.time)
    }

    pub fn copy_bandwidth(&self) -> f64 {
        gigabytes_per_second(self.bytes, self.copy)
    }

    fn json(&self) -> Value {
        json!({
            "tokens": self.tokens,
            "bytes": self.bytes,
            "seconds": self.time.as_secs_f64(),
            "gigabytes_per_second": self.bandwidth(),
            "device_copy_seconds": self.copy.as_secs_f64(),
            "device_copy_gigabytes_per_second": self.copy_bandwidth(),
        })
    }
}

impl Trial {
    pub fn json(&self) -> Value {
        json!({
            "adapter": self.adapter,
            "format": self.format.name(),
            "verified": true,
            "elements_compared": self.elements,
            "prefill": self.prefill.json(),
            "decode_step": self.decode.json(),
            "memory_report": self.report,
        })
    }
}

/// Number of steps of a progress bar for one trial.
pub fn steps(trace: &Trace, prefill: u32) -> u64 {
    u64::from(trace.tokens - prefill) + REPETITIONS as u64 + trace.layers.len() as u64
}

/// Writes the first `prefill` tokens of every layer at once and the others one by one. Compares the lengths, the whole
/// storage, the range of all tokens and a range within it with the reference.
pub fn run(
    context: &Context,
    adapter: &str,
    trace: &Trace,
    prefill: u32,
    format: Format,
    bar: &ProgressBar,
) -> Result<Trial, Failure> {
    let config = CacheConfig::new(
        trace.batch_size,
        trace.num_heads,
        trace.head_dim,
        trace.tokens.checked_next_power_of_two().unwrap_or(trace.tokens),
    )
    .value_dim(trace.value_dim)
    .formats(format, format);
    let mut cache = BatchedKvCache::new(context, config, trace.layers.len())?;
    let token_bytes = config.bytes_per_token()? * trace.layers.len() as u64;

    // The prompt of every layer, in buffers such as an engine's projections write.
    let sources = trace
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| {
            let part = |side| upload(context, trace, layer, side, 0..prefill);
            bind(&cache, index, trace, layer, &part(Side::Keys), &part(Side::Values), prefill)
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut times = Vec::new();
    for _ in 0..REPETITIONS {
        // Each repetition writes at position 0, so all but the first find warm caches, and all leave the same contents.
        times.push(submission(context, |encoder| record_step(&mut cache, encoder, &sources, Write::at(0, prefill)))?);
        bar.inc(1);
    }
    drop(sources);
    let bytes = token_bytes * u64::from(prefill);
    let prefill_phase = Phase { tokens: prefill, bytes, time: median(times), copy: device_copy(context, bytes)? };

    // One token of every layer, in buffers that are bound once and refilled for every step.
    let buffers: Vec<_> = trace
        .layers
        .iter()
        .map(|layer| Side::BOTH.map(|side| upload(context, trace, layer, side, prefill - 1..prefill)))
        .collect();
    let sources = trace
        .layers
        .iter()
        .zip(&buffers)
        .enumerate()
        .map(|(index, (layer, [keys, values]))| bind(&cache, index, trace, layer, keys, values, 1))
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut times = Vec::new();
    for token in prefill..trace.tokens {
        for (layer, buffers) in trace.layers.iter().zip(&buffers) {
            for (side, buffer) in Side::BOTH.into_iter().zip(buffers) {
                context.queue().write_buffer(
                    buffer,
                    0,
                    &padded(rows(trace, layer, side, token..token + 1).as_host().bytes()),
                );
            }
        }
        context.queue().submit([]);
        times.push(submission(context, |encoder| record_step(&mut cache, encoder, &sources, Write::append(1)))?);
        bar.inc(1);
    }
    let copy = device_copy(context, token_bytes)?;
    let decode = Phase { tokens: trace.tokens - prefill, bytes: token_bytes, time: median(times), copy };

    let elements = verify(&cache, adapter, trace, prefill, format, bar)?;
    let report = cache.memory_report();
    Ok(Trial { adapter: adapter.to_owned(), format, prefill: prefill_phase, decode, elements, report })
}

/// Records one step of all layers.
fn record_step(
    cache: &mut BatchedKvCache,
    encoder: &mut wgpu::CommandEncoder,
    sources: &[BoundSource],
    write: Write<'_>,
) -> wgpu_kv_cache::Result<()> {
    cache.begin_step(encoder, write)?;
    sources.iter().enumerate().try_for_each(|(layer, source)| cache.record_update(layer, encoder, source))
}

/// Compares every layer with the reference, and returns the number of elements compared.
fn verify(
    cache: &BatchedKvCache,
    adapter: &str,
    trace: &Trace,
    prefill: u32,
    format: Format,
    bar: &ProgressBar,
) -> Result<u64, Failure> {
    let different =
        |difference| Failure::Different { adapter: adapter.to_owned(), format: format.to_string(), difference };
    let mut elements = 0;
    for (index, (device, layer)) in cache.layers().iter().zip(&trace.layers).enumerate() {
        let mut reference = ReferenceCache::new(*cache.config())?;
        for (range, write) in [(0..prefill, Write::append(prefill))]
            .into_iter()
            .chain((prefill..trace.tokens).map(|token| (token..token + 1, Write::append(1))))
        {
            let [keys, values] = Side::BOTH.map(|side| rows(trace, layer, side, range.clone()));
            reference.update(keys.as_host(), values.as_host(), write)?;
        }
        let lengths = device.read_lengths()?;
        if lengths != reference.lengths() || device.lengths() != reference.lengths() {
            return Err(Failure::Lengths {
                adapter: adapter.to_owned(),
                format: format.to_string(),
                layer: index,
                expected: reference.lengths().to_vec(),
                actual: lengths,
            });
        }
        let storage = device.read_storage()?;
        if let Some(difference) = reference.compare_storage(index, &storage)? {
            return Err(different(Box::new(difference)));
        }
        for shape in [storage.keys.shape(), storage.values.shape()] {
            elements += shape.into_iter().map(u64::from).product::<u64>();
        }
        for range in [0..trace.tokens, prefill / 2..trace.tokens - (trace.tokens - prefill) / 2] {
            let (expected, actual) = (reference.get(range.clone())?, device.get(range)?.read()?);
            for side in Side::BOTH {
                if let Some(difference) = compare_tensors(index, side, expected.side(side), actual.side(side))? {
                    return Err(different(Box::new(difference)));
                }
            }
        }
        bar.inc(1);
    }
    Ok(elements)
}

fn rows(trace: &Trace, layer: &Layer, side: Side, range: std::ops::Range<u32>) -> Rows {
    match side {
        Side::Keys => layer.keys.slice(range, trace.tokens, trace.head_dim),
        Side::Values => layer.values.slice(range, trace.tokens, trace.value_dim),
    }
}

/// Pads bytes to a multiple of 4, the granularity of buffer writes.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

fn upload(context: &Context, trace: &Trace, layer: &Layer, side: Side, range: std::ops::Range<u32>) -> wgpu::Buffer {
    let bytes = padded(rows(trace, layer, side, range).as_host().bytes());
    let buffer = context.device().create_buffer(&wgpu::BufferDescriptor {
        label: Some("projection"),
        size: bytes.len() as u64,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    context.queue().write_buffer(&buffer, 0, &bytes);
    buffer
}

fn bind(
    cache: &BatchedKvCache,
    index: usize,
    trace: &Trace,
    layer: &Layer,
    keys: &wgpu::Buffer,
    values: &wgpu::Buffer,
    tokens: u32,
) -> Result<BoundSource, Failure> {
    let rows_in = |buffer, rows: &Rows, dim| RowsIn {
        buffer,
        offset: 0,
        format: rows.format(),
        strides: Strides::bhtd(trace.num_heads, tokens, dim),
    };
    let source = Source {
        keys: rows_in(keys, &layer.keys, trace.head_dim),
        values: rows_in(values, &layer.values, trace.value_dim),
        tokens,
    };
    Ok(cache.layer(index)?.bind_source(&source)?)
}
