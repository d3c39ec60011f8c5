//! `kv-cache share`.

use std::{
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;
use wgpu_kv_cache::{
    CacheConfig, Context, HostRows, PagedConfig, PagedKvCache, Pair, adapter_label, find_adapter,
    half::{bf16, f16},
    pages::{Append, SequenceId},
    store::{self, Options, Store},
    tiers::{Tiers, TiersConfig},
};

use crate::{
    Failure,
    bytes::Bytes,
    demo::chosen,
    output,
    output::Out,
    trace::{Rows, Trace},
};

/// Share a prefix between processes: run it twice with one store.
///
/// The first process writes the recorded rows to a paged cache, leaves its pages in the store, and goes away. The next
/// one, on this adapter or another, finds them there, uploads them, and compares every byte with the recording. Both
/// say what came from where and how long it took, beside writing all rows anew.
#[derive(Args)]
pub struct Arguments {
    /// A trace as `kv-cache verify` takes it, of one sequence [default: the trace in the repository].
    #[arg(value_name = "FILE.safetensors")]
    file: Option<PathBuf>,
    /// The store that processes share: a folder, which is created if there is none, or a URL of Redis (redis://) or of
    /// a bucket (s3://, gs://, az://), for which the environment has the credentials.
    #[arg(long, value_name = "FOLDER|URL")]
    store: String,
    /// Bytes that a folder may hold, such as 64GiB [default: 1GiB].
    #[arg(long, value_name = "BYTES")]
    budget: Option<Bytes>,
    /// How long pages that nobody uses stay in Redis [default: as long as the server keeps them].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// What the names of pages begin with in Redis or in a bucket.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Bytes of host memory between the device and the store.
    #[arg(long, value_name = "BYTES", default_value = "1GiB")]
    host_bytes: Bytes,
    /// Tokens of a page.
    #[arg(long, value_name = "TOKENS", default_value = "16")]
    page_size: u32,
    /// Use this adapter instead of the first, by its index or a part of its name, as `kv-cache adapters` prints them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// How long to wait for the store.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    let trace = match &arguments.file {
        Some(path) => Trace::open(path)?,
        None => Trace::recorded()?,
    };
    if trace.batch_size != 1 {
        let rule = format!("a trace of one sequence is shared, but this one has {}", trace.batch_size);
        return Err(Failure::Argument { rule });
    }
    let adapter = match &arguments.adapter {
        Some(wanted) => find_adapter(wanted)?,
        None => chosen(None)?.swap_remove(0),
    };
    let label = adapter_label(&adapter.get_info());
    let context = Context::open(&adapter)?;
    let store = open(arguments)?;
    let tokens = trace.token_ids();

    let mut cache = cache(&context, &trace, arguments.page_size)?;
    let tiers = TiersConfig::new(trace.title.clone(), arguments.host_bytes.0).store(store);
    let mut tiers = Tiers::new(&mut cache, tiers)?;
    let all = anew(&context, &trace, arguments.page_size, &tokens)?;
    let start = Instant::now();
    let prefetch = tiers.prefetch(&cache, &tokens, None)?;
    let in_time = prefetch.wait(PATIENCE);
    let fetching = start.elapsed();
    let start = Instant::now();
    let added = tiers.add(&mut cache, &tokens, None)?;
    if added.cached() > 0 {
        cache.get(0, added.sequence, 0..1)?.read()?;
    }
    let uploading = start.elapsed();
    drop(prefetch);
    let begun = added.cached();
    let writing = write(&mut cache, &trace, added.sequence, &tokens, begun)?;
    compare(&cache, &trace, added.sequence, &label)?;
    let start = Instant::now();
    tiers.put(&cache, added.sequence)?;
    let in_time = tiers.flush(PATIENCE) && in_time;
    let putting = start.elapsed();
    let figures = tiers.figures();
    drop((tiers, cache));
    if figures.failures > 0 {
        let kind = figures.failure.map(|kind| kind.to_string()).unwrap_or_default();
        let rule = format!("{} calls of the store failed, the last one so: {kind}", figures.failures);
        return Err(Failure::Argument { rule });
    }
    if !in_time {
        return Err(Failure::Argument { rule: format!("the store did not answer within {PATIENCE:?}") });
    }

    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    if arguments.json {
        let report = json!({
            "adapter": label, "store": printed(&arguments.store), "tokens": tokens.len(),
            "fetched_tokens": added.store, "fetched_pages": figures.store.pages_out,
            "fetched_bytes": figures.store.bytes_out, "fetch_ms": milliseconds(fetching),
            "upload_ms": milliseconds(uploading), "written_tokens": trace.tokens - begun,
            "write_ms": milliseconds(writing), "put_pages": figures.store.pages_in,
            "put_bytes": figures.store.bytes_in, "put_ms": milliseconds(putting),
            "all_anew_ms": milliseconds(all), "verified": true,
        });
        return Ok(output::json(out, &report)?);
    }
    let layers = trace.layers.len();
    writeln!(out, "{}, {} tokens in {layers} layers, on {label}", trace.title, trace.tokens)?;
    let mut table = output::table(&["", "tokens", "pages", "bytes", "ms"], 1);
    let row = |what: &str, tokens: u32, pages: String, bytes: String, time: Duration| {
        [what.to_owned(), tokens.to_string(), pages, bytes, format!("{:.1}", milliseconds(time))]
    };
    let [fetched, stored] = [figures.store.bytes_out, figures.store.bytes_in].map(output::bytes);
    let uploaded = output::bytes(figures.device.bytes_in);
    let [fetched_pages, put] = [figures.store.pages_out, figures.store.pages_in].map(|pages| pages.to_string());
    table.add_row(row("from the store to host memory", added.store, fetched_pages.clone(), fetched, fetching));
    table.add_row(row("from host memory to the device", added.store, fetched_pages, uploaded, uploading));
    table.add_row(row("written", trace.tokens - begun, String::new(), String::new(), writing));
    let left = u32::try_from(figures.store.pages_in).unwrap_or(u32::MAX).saturating_mul(arguments.page_size);
    table.add_row(row("left in the store", left, put, stored, putting));
    table.add_row(row("all written anew", trace.tokens, String::new(), String::new(), all));
    writeln!(out, "\n{table}\n\nevery byte is that of the recording")?;
    if added.store == 0 {
        writeln!(out, "run it again, on any adapter: the pages are in {}", printed(&arguments.store))?;
    } else {
        let most = (trace.tokens - 1) / arguments.page_size * arguments.page_size;
        writeln!(out, "at most {most} of the {} tokens are found: whole pages, before the last token", trace.tokens)?;
    }
    Ok(())
}

fn open(arguments: &Arguments) -> Result<Arc<dyn Store>, Failure> {
    let mut options = Options::new();
    if let Some(Bytes(budget)) = arguments.budget {
        options = options.budget(budget);
    }
    if let Some(ttl) = arguments.ttl {
        options = options.ttl(ttl);
    }
    if let Some(prefix) = &arguments.prefix {
        options = options.prefix(prefix);
    }
    Ok(store::open(&arguments.store, &options)?)
}

/// The store without what a URL may have of passwords.
fn printed(store: &str) -> &str {
    let Some((scheme, rest)) = store.split_once("://") else { return store };
    if rest.contains(['@', '?', '#']) { scheme } else { store }
}

/// A cache for the sequence of a trace, in the format in which it was recorded.
fn cache(context: &Context, trace: &Trace, page_size: u32) -> Result<PagedKvCache, Failure> {
    let layer = |layer: &crate::trace::Layer| {
        CacheConfig::new(1, trace.num_heads, trace.head_dim, trace.tokens)
            .value_dim(trace.value_dim)
            .formats(layer.keys.format(), layer.values.format())
    };
    let layers: Vec<_> = trace.layers.iter().map(layer).collect();
    let pages = trace.tokens.div_ceil(page_size.max(1));
    let config = PagedConfig { layers: layers.clone(), ..PagedConfig::new(layers[0], 1, page_size, pages) };
    Ok(PagedKvCache::new(context, &config)?)
}

/// Writes all rows twice, so that the driver has compiled what it needs, and tells how long the second time took.
fn anew(context: &Context, trace: &Trace, page_size: u32, tokens: &[u32]) -> Result<Duration, Failure> {
    let mut cache = cache(context, trace, page_size)?;
    let mut time = Duration::ZERO;
    for namespace in ["compiled", "measured"] {
        let sequence = cache.add(tokens, Some(namespace))?.sequence;
        time = write(&mut cache, trace, sequence, tokens, 0)?;
        cache.free(sequence)?;
    }
    Ok(time)
}

/// Appends the rows of the tokens from one on, waits for the device, and tells how long it took.
fn write(
    cache: &mut PagedKvCache,
    trace: &Trace,
    sequence: SequenceId,
    tokens: &[u32],
    from: u32,
) -> Result<Duration, Failure> {
    if from == trace.tokens {
        return Ok(Duration::ZERO);
    }
    let packed = |rows: &Rows, dim| packed(rows, from, trace.tokens, dim);
    let rows: Vec<_> = (trace.layers.iter())
        .map(|layer| (packed(&layer.keys, trace.head_dim), packed(&layer.values, trace.value_dim)))
        .collect();
    let rows: Vec<Pair<HostRows<'_>>> =
        rows.iter().map(|(keys, values)| Pair { keys: keys.as_host(), values: values.as_host() }).collect();
    let start = Instant::now();
    cache.append(&[Append::new(sequence, &tokens[from as usize..])], &rows)?;
    cache.get(0, sequence, from..from + 1)?.read()?;
    Ok(start.elapsed())
}

/// Rows of the tokens from one on, `[token, head, dim]`, of `[head, token, dim]`.
fn packed(rows: &Rows, from: u32, tokens: u32, dim: u32) -> Rows {
    fn of<T: Copy>(rows: &[T], [from, tokens, dim]: [usize; 3]) -> Vec<T> {
        let heads = rows.len() / (tokens * dim);
        let row = |token: usize, head: usize| &rows[(head * tokens + token) * dim..][..dim];
        (from..tokens).flat_map(|token| (0..heads).flat_map(move |head| row(token, head))).copied().collect()
    }
    let shape = [from, tokens, dim].map(|number| number as usize);
    match rows {
        Rows::F32(rows) => Rows::F32(of::<f32>(rows, shape)),
        Rows::F16(rows) => Rows::F16(of::<f16>(rows, shape)),
        Rows::Bf16(rows) => Rows::Bf16(of::<bf16>(rows, shape)),
    }
}

/// Compares every byte of a sequence with the recording.
fn compare(cache: &PagedKvCache, trace: &Trace, sequence: SequenceId, label: &str) -> Result<(), Failure> {
    for (index, (rows, layer)) in cache.extract(sequence)?.into_iter().zip(&trace.layers).enumerate() {
        let rows = rows.read()?;
        for (side, rows, recorded) in [("keys", &rows.keys, &layer.keys), ("values", &rows.values, &layer.values)] {
            if let Some(byte) = (rows.bytes().iter().zip(recorded.as_host().bytes())).position(|(a, b)| a != b) {
                let rule = format!("{label}: {side} of layer {index} differ from the recording from byte {byte} on");
                return Err(Failure::Argument { rule });
            }
        }
    }
    Ok(())
}
