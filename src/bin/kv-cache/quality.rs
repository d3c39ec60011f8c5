//! `kv-cache quality`.

mod exponential;
mod picture;

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Args;
use console::style;
use serde::Serialize;
use wgpu_kv_cache::{
    CacheConfig, Context, Format, KvCache, ReferenceCache, Side, Write, adapter_label,
    attention::{Options, attend},
};

use crate::{
    Failure,
    demo::chosen,
    output,
    output::Out,
    trace::{Layer, Trace},
};

/// Measure the errors of each format in a model's keys, values and attention.
///
/// Writes the keys and values of a recorded trace to a cache in each format on the device, and reads them back as f32.
/// If the trace has queries, computes attention over the cache as well. An error is the root mean square of the
/// difference, divided by the root mean square of the exact numbers, over all layers. Attention is compared with
/// attention in f64 over the recorded keys and values.
#[derive(Args)]
pub struct Arguments {
    /// A trace as `kv-cache verify` takes it, with optional layers.{i}.queries, [batch, heads, tokens, dim], of the
    /// last tokens [default: the trace in the repository].
    #[arg(value_name = "FILE.safetensors")]
    file: Option<PathBuf>,
    /// Use this adapter instead of the first, by its index or a part of its name, as `kv-cache adapters` prints them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Also write the chart as SVG.
    #[arg(long, value_name = "FILE.svg")]
    picture: Option<PathBuf>,
    /// Print JSON instead of the table and the chart.
    #[arg(long)]
    json: bool,
}

/// The errors of one choice of formats.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    pub name: String,
    /// Bits per element of keys and values together.
    pub bits_per_element: f64,
    /// Bytes per token of a sequence, in all layers together.
    pub bytes_per_token: u64,
    pub keys: f64,
    pub values: f64,
    /// `None` if the trace has no queries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<f64>,
}

/// How scales of fp8 are chosen.
#[derive(Clone, Copy, PartialEq)]
enum Scales {
    One,
    /// Maps the largest magnitude of a side to 448.
    Largest,
}

/// Sums of the squares of the differences, and of the exact numbers.
#[derive(Clone, Copy, Default)]
struct Distance {
    difference: f64,
    size: f64,
}

impl Distance {
    fn add(&mut self, expected: impl Iterator<Item = f64>, actual: &[f32]) {
        for (expected, actual) in expected.zip(actual) {
            self.difference += (expected - f64::from(*actual)).powi(2);
            self.size += expected * expected;
        }
    }

    fn relative(self) -> f64 {
        if self.difference == 0.0 { 0.0 } else { (self.difference / self.size).sqrt() }
    }
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    let trace = match &arguments.file {
        Some(path) => Trace::open(path)?,
        None => Trace::recorded()?,
    };
    let adapter = chosen(arguments.adapter.as_deref())?.swap_remove(0);
    let context = Context::open(&adapter)?;
    let choices = [
        (Format::F32, Format::F32, Scales::One),
        (Format::F16, Format::F16, Scales::One),
        (Format::Bf16, Format::Bf16, Scales::One),
        (Format::Q8_0, Format::Q8_0, Scales::One),
        (Format::Fp8E4M3, Format::Fp8E4M3, Scales::One),
        (Format::Fp8E4M3, Format::Fp8E4M3, Scales::Largest),
        (Format::Q8_0, Format::Q4_0, Scales::One),
        (Format::Q4_0, Format::Q4_0, Scales::One),
    ];
    let expected = exact_attention(&trace)?;
    let bar = output::progress(choices.len() as u64 * trace.layers.len() as u64, "quality");
    let mut rows = Vec::new();
    for (keys, values, scales) in choices {
        rows.push(measure(&context, &trace, &expected, (keys, values, scales), &bar)?);
    }
    bar.finish_and_clear();
    let exponential = exponential::largest_error(&context)?;
    if let Some(path) = &arguments.picture {
        fs::write(path, picture::svg(&rows)).map_err(|source| Failure::File { path: path.clone(), source })?;
    }
    if arguments.json {
        output::json(out, &serde_json::json!({ "trace": trace.title, "exp_error": exponential, "formats": rows }))?;
        return Ok(());
    }
    writeln!(
        out,
        "{}\n{}, {} tokens, {} layers, {} KV heads of {}; on {}\n",
        style("What each format loses").bold(),
        trace.title,
        trace.tokens,
        trace.layers.len(),
        trace.num_heads,
        trace.head_dim,
        adapter_label(&adapter.get_info())
    )?;
    print_table(out, &rows)?;
    writeln!(out, "\n{}", style("Relative RMS error from 1e-4, 16 marks per decade").bold())?;
    write!(out, "{}", picture::text(&rows))?;
    writeln!(
        out,
        "\nfp8 × scale: keys and values of each layer have a scale that maps the largest number to 448.\n\
         Attention needs queries, which {} layers of this trace have. The largest relative error of the driver's exp\n\
         is {exponential:.1e}.",
        trace.layers.iter().filter(|layer| layer.queries.is_some()).count()
    )?;
    Ok(())
}

/// Computes attention in f64 over the recorded keys and values, for each layer that has queries.
fn exact_attention(trace: &Trace) -> Result<Vec<Option<Vec<f64>>>, Failure> {
    let of_layer = |layer: &Layer| -> Result<Option<Vec<f64>>, Failure> {
        let Some(queries) = &layer.queries else { return Ok(None) };
        let mut cache = ReferenceCache::new(config(trace, Format::F32, Format::F32))?;
        cache.update(layer.keys.as_host(), layer.values.as_host(), Write::append(trace.tokens))?;
        let options = Options::last(queries.heads, queries.tokens);
        Ok(Some(cache.attend(&options, &queries.rows.to_f32(), None)?))
    };
    trace.layers.iter().map(of_layer).collect()
}

fn config(trace: &Trace, keys: Format, values: Format) -> CacheConfig {
    CacheConfig::new(trace.batch_size, trace.num_heads, trace.head_dim, trace.tokens)
        .value_dim(trace.value_dim)
        .formats(keys, values)
}

fn measure(
    context: &Context,
    trace: &Trace,
    expected: &[Option<Vec<f64>>],
    (keys, values, scales): (Format, Format, Scales),
    bar: &indicatif::ProgressBar,
) -> Result<Quality, Failure> {
    let [mut key_distance, mut value_distance, mut attention] = [Distance::default(); 3];
    let mut bytes_per_token = 0;
    for (layer, expected) in trace.layers.iter().zip(expected) {
        let recorded = [layer.keys.to_f32(), layer.values.to_f32()];
        let mut config = config(trace, keys, values);
        if scales == Scales::Largest {
            let largest = |rows: &[f32]| rows.iter().fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs())) / 448.0;
            config = config.scales(largest(&recorded[0]), largest(&recorded[1]));
        }
        bytes_per_token += config.bytes_per_token()?;
        let mut cache = KvCache::new(context, config)?;
        cache.update(layer.keys.as_host(), layer.values.as_host(), Write::append(trace.tokens))?;
        let read = cache.get_as(0..trace.tokens, Format::F32)?.read()?;
        for (side, distance) in [(Side::Keys, &mut key_distance), (Side::Values, &mut value_distance)] {
            let recorded = &recorded[usize::from(side == Side::Values)];
            distance.add(recorded.iter().copied().map(f64::from), &read.side(side).to_f32());
        }
        if let (Some(queries), Some(expected)) = (&layer.queries, expected) {
            let options = Options::last(queries.heads, queries.tokens);
            let output = attend(&cache, &options, queries.rows.as_host(), None)?;
            attention.add(expected.iter().copied(), &output.to_f32());
        }
        bar.inc(1);
    }
    let elements = u64::from(trace.batch_size * trace.num_heads) * u64::from(trace.head_dim + trace.value_dim);
    let scaled = if scales == Scales::Largest { " × scale" } else { "" };
    let name = if keys == values { format!("{keys}{scaled}") } else { format!("{keys} / {values}") };
    Ok(Quality {
        name,
        bits_per_element: 8.0 * bytes_per_token as f64 / (elements * trace.layers.len() as u64) as f64,
        bytes_per_token,
        keys: key_distance.relative(),
        values: value_distance.relative(),
        attention: expected.iter().any(Option::is_some).then(|| attention.relative()),
    })
}

fn print_table(out: &mut Out, rows: &[Quality]) -> io::Result<()> {
    let mut table = output::table(&["keys / values", "bits/element", "bytes/token", "keys", "values", "attention"], 1);
    for row in rows {
        let error = |error: f64| if error == 0.0 { "0".to_owned() } else { format!("{error:.2e}") };
        table.add_row([
            row.name.clone(),
            format!("{:.2}", row.bits_per_element),
            output::count(row.bytes_per_token),
            error(row.keys),
            error(row.values),
            row.attention.map_or_else(|| "–".to_owned(), error),
        ]);
    }
    writeln!(out, "{table}")
}
