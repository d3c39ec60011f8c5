//! `kv-cache plan`.

mod pool;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use serde_json::{Map, Value, json};
use wgpu_kv_cache::{BatchedKvCache, CacheConfig, ConfigError, Error, Format, Placement, Side};

use self::pool::Pool;
use crate::{Failure, bytes::Bytes, output, output::Out};

/// Context lengths to plan if none are given and the model names none.
const CONTEXTS: [u32; 4] = [2048, 8192, 32_768, 131_072];

/// Size of the largest binding that any device supports, 2^31 − 4 bytes.
const MAX_BINDING: u64 = (1 << 31) - 4;

/// Compute how much memory a model's cache needs. Uses no GPU.
///
/// The model's shape comes from a Hugging Face config.json or from --layers, --heads and --head-dim, which also
/// override what the file says.
#[derive(Args)]
pub struct Arguments {
    /// A Hugging Face config.json.
    #[arg(value_name = "CONFIG.JSON")]
    config: Option<PathBuf>,
    /// Layers of the model.
    #[arg(long)]
    layers: Option<u32>,
    /// KV heads. Grouped-query attention has fewer of them than query heads.
    #[arg(long)]
    heads: Option<u32>,
    /// Elements of one key.
    #[arg(long)]
    head_dim: Option<u32>,
    /// Elements of one value, if different from a key.
    #[arg(long)]
    value_dim: Option<u32>,
    /// Context lengths in tokens, separated by commas.
    #[arg(long, value_delimiter = ',')]
    context: Vec<u32>,
    /// Batch sizes, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    batch: Vec<u32>,
    /// Formats, separated by commas: f32, f16, bf16, `fp8_e4m3`, `q8_0`, `q4_0`, or keys/values as in `q8_0/q4_0`.
    #[arg(long, value_delimiter = ',', default_value = "f32,f16,q8_0,q4_0")]
    format: Vec<Formats>,
    /// Also plan a pool of pages of this many bytes, such as 4GiB.
    #[arg(long, value_name = "BYTES")]
    pool: Option<Bytes>,
    /// Tokens of a page of the pool.
    #[arg(long, value_name = "TOKENS", default_value = "16", requires = "pool")]
    page_size: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// The formats of keys and values.
#[derive(Clone, Copy)]
struct Formats(Format, Format);

impl FromStr for Formats {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (keys, values) = text.split_once('/').unwrap_or((text, text));
        Ok(Formats(keys.parse()?, values.parse()?))
    }
}

/// The parameters of a model that determine the size of its cache.
#[derive(Default)]
struct Model {
    layers: Option<u32>,
    heads: Option<u32>,
    head_dim: Option<u32>,
    value_dim: Option<u32>,
    context: Option<u32>,
    window: Option<u32>,
    /// Which layers have the window.
    slides: Slides,
}

/// Which layers of a model have a sliding window.
#[derive(Default)]
enum Slides {
    #[default]
    All,
    None,
    /// All but every so many.
    AllBut(u32),
    Each(Vec<bool>),
}

impl Model {
    fn placement(&self, layer: u32) -> Placement {
        let slides = match &self.slides {
            Slides::All => true,
            Slides::None => false,
            Slides::AllBut(pattern) => !(layer + 1).is_multiple_of(*pattern),
            Slides::Each(each) => each.get(layer as usize).copied().unwrap_or(false),
        };
        let window = self.window.filter(|_| slides);
        window.map_or(Placement::Linear, |window| Placement::Ring { window, sinks: 0, slack: 0 })
    }
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    let model = match &arguments.config {
        Some(path) => read_model(path)?,
        None => Model::default(),
    };
    let needed = |flag: &str, given: Option<u32>, read: Option<u32>| {
        given.or(read).ok_or_else(|| {
            let rule = match &arguments.config {
                Some(path) => format!("{} does not contain the value: pass {flag}", path.display()),
                None => format!("pass a config.json, or {flag} and the other sizes"),
            };
            Failure::Argument { rule }
        })
    };
    let layers = needed("--layers", arguments.layers, model.layers)?;
    let heads = needed("--heads", arguments.heads, model.heads)?;
    let head_dim = needed("--head-dim", arguments.head_dim, model.head_dim)?;
    let value_dim =
        arguments.value_dim.or(model.value_dim.filter(|_| arguments.head_dim.is_none())).unwrap_or(head_dim);
    if layers == 0 {
        return Err(Error::Config(ConfigError::ZeroDimension { name: "num_layers" }).into());
    }
    let contexts = match (&arguments.context[..], model.context) {
        ([], Some(longest)) => {
            let mut contexts: Vec<_> = CONTEXTS.into_iter().filter(|&context| context < longest).collect();
            contexts.push(longest);
            contexts
        }
        ([], None) => CONTEXTS.to_vec(),
        (contexts, _) => contexts.to_vec(),
    };

    let headings = [
        "context",
        "batch",
        "format",
        "per token",
        "per layer",
        "all layers",
        "max_storage_buffer_binding_size",
        "buffers per layer",
    ];
    let mut table = output::table(&headings, 0);
    let mut list = Vec::new();
    for &context in &contexts {
        for &batch in &arguments.batch {
            for &Formats(keys, values) in &arguments.format {
                let config =
                    CacheConfig::new(batch, heads, head_dim, context).value_dim(value_dim).formats(keys, values);
                let plan = Plan::new(&config, layers)?;
                let format = if keys == values { keys.to_string() } else { format!("{keys}/{values}") };
                let limits = if plan.least == plan.best {
                    output::count(plan.best)
                } else {
                    format!("{} to {}", output::count(plan.least), output::count(plan.best))
                };
                table.add_row([
                    output::count(context.into()),
                    batch.to_string(),
                    format.clone(),
                    output::bytes(plan.token),
                    output::bytes(plan.layer),
                    output::bytes(plan.total),
                    limits,
                    format!("{} to {}", plan.buffers_at_best, plan.buffers_at_least),
                ]);
                list.push(json!({
                    "context": context,
                    "batch_size": batch,
                    "num_layers": layers,
                    "num_heads": heads,
                    "head_dim": head_dim,
                    "value_dim": value_dim,
                    "key_format": keys.name(),
                    "value_format": values.name(),
                    "bytes_per_token": plan.token,
                    "bytes_per_layer": plan.layer,
                    "total_bytes": plan.total,
                    "least_max_storage_buffer_binding_size": plan.least,
                    "best_max_storage_buffer_binding_size": plan.best,
                    "max_buffer_size": plan.best,
                }));
            }
        }
    }
    let mut pools = Vec::new();
    if let Some(bytes) = arguments.pool {
        for &Formats(keys, values) in &arguments.format {
            let layer = CacheConfig::new(1, heads, head_dim, 1).value_dim(value_dim).formats(keys, values);
            BatchedKvCache::check_layers(layers as usize)?;
            let placements: Vec<_> = (0..layers).map(|layer| model.placement(layer)).collect();
            pools.push(Pool::new(layer, &placements, arguments.page_size, bytes)?);
        }
    }
    if arguments.json {
        match arguments.pool {
            None => output::json(out, &list)?,
            Some(_) => {
                let pools: Vec<_> = pools.iter().map(|pool| pool.json(&contexts)).collect();
                output::json(out, &json!({"dense": list, "pools": pools}))?;
            }
        }
        return Ok(());
    }
    let values = if value_dim == head_dim { String::new() } else { format!(" (values {value_dim})") };
    writeln!(out, "{layers} layers, {heads} KV heads of {head_dim}{values}\n\n{table}\n")?;
    writeln!(out, "per token: keys and values of one more token for the whole batch, in all layers.")?;
    writeln!(
        out,
        "max_storage_buffer_binding_size and max_buffer_size: request at least the first number. With the second,"
    )?;
    writeln!(out, "each side of a layer is one buffer. wgpu's defaults are 134 217 728 and 268 435 456. On a device,")?;
    writeln!(out, "CacheConfig::required_limits returns the limits to request. No feature is needed.")?;
    if let Some(window) = model.window {
        writeln!(
            out,
            "The model has layers with a sliding window of {} tokens. The plan treats them as full; a pool does not.",
            output::count(window.into())
        )?;
    }
    if !pools.is_empty() {
        pool::print(out, &pools, &contexts)?;
    }
    Ok(())
}

/// The memory that a configuration takes, in bytes.
struct Plan {
    token: u64,
    layer: u64,
    total: u64,
    /// Size of the smallest usable binding, which holds one plane.
    least: u64,
    /// Size of a binding that holds a whole side, or of the largest that any device binds if that is smaller.
    best: u64,
    buffers_at_least: u64,
    buffers_at_best: u64,
}

impl Plan {
    fn new(config: &CacheConfig, layers: u32) -> Result<Self, Failure> {
        let overflow = |what, factor: u64| {
            Error::Config(ConfigError::SizeOverflow { what, factors: format!("{layers} × {factor}"), bits: 64 })
        };
        let (layer, token) = (config.bytes_per_layer()?, config.bytes_per_token()?);
        let total = layer.checked_mul(layers.into()).ok_or_else(|| overflow("bytes of all layers", layer))?;
        let planes = u64::from(config.batch_size) * u64::from(config.num_heads);
        let [keys, values] = [config.bytes_per_plane(Side::Keys)?, config.bytes_per_plane(Side::Values)?];
        let (largest, plane) = if keys >= values { (Side::Keys, keys) } else { (Side::Values, values) };
        if plane > MAX_BINDING {
            return Err(Error::Config(ConfigError::PlaneTooLarge {
                side: largest,
                plane_bytes: plane,
                limit_bytes: MAX_BINDING,
            })
            .into());
        }
        let best = (plane * planes).min(MAX_BINDING);
        Ok(Plan {
            token: token.checked_mul(layers.into()).ok_or_else(|| overflow("bytes of one token", token))?,
            layer,
            total,
            least: plane,
            best,
            buffers_at_least: 2 * planes,
            buffers_at_best: 2 * planes.div_ceil(best / plane),
        })
    }
}

/// Reads a model's config.json, with the field names that Transformers models use.
fn read_model(path: &Path) -> Result<Model, Failure> {
    let text = fs::read_to_string(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
    let not_json = |message: String| Failure::NotJson { path: path.to_owned(), message };
    let parsed: Value = serde_json::from_str(&text).map_err(|error| not_json(error.to_string()))?;
    let whole = parsed.as_object().ok_or_else(|| not_json("the file contains another kind of value".to_owned()))?;
    // Multimodal models keep the sizes of the language model in a separate object.
    let fields = whole.get("text_config").and_then(Value::as_object).unwrap_or(whole);
    let number = |names: &[&str]| number(path, fields, names);

    let query_heads = number(&["num_attention_heads", "n_head", "num_heads"])?;
    let width = number(&["hidden_size", "n_embd", "d_model"])?;
    let divided = match (width, query_heads) {
        (Some(width), Some(heads)) if heads > 0 && width.is_multiple_of(heads) => Some(width / heads),
        _ => None,
    };
    // Multi-head latent attention, as in DeepSeek-V2 and -V3, with decompressed keys and values.
    let latent = match (number(&["qk_nope_head_dim"])?, number(&["qk_rope_head_dim"])?) {
        (Some(nope), Some(rope)) => nope.checked_add(rope),
        _ => None,
    };
    Ok(Model {
        layers: number(&["num_hidden_layers", "n_layer", "num_layers"])?,
        heads: number(&["num_key_value_heads", "num_kv_heads"])?.or(query_heads),
        head_dim: latent.or(number(&["head_dim"])?).or(divided),
        value_dim: number(&["v_head_dim"])?,
        context: number(&["max_position_embeddings", "n_positions", "max_seq_len"])?,
        window: number(&["sliding_window"])?,
        slides: slides(fields, number(&["sliding_window_pattern"])?),
    })
}

/// Which layers have the window: as their types say, or a pattern as in Gemma 3, or all unless it is switched off.
fn slides(fields: &Map<String, Value>, pattern: Option<u32>) -> Slides {
    if let Some(types) = fields.get("layer_types").and_then(Value::as_array) {
        return Slides::Each(types.iter().map(|name| name == "sliding_attention").collect());
    }
    match (fields.get("use_sliding_window"), pattern) {
        (Some(Value::Bool(false)), _) => Slides::None,
        (_, Some(pattern)) => Slides::AllBut(pattern),
        _ => Slides::All,
    }
}

/// Returns the first of the named fields that is present and not null.
fn number(path: &Path, fields: &Map<String, Value>, names: &[&str]) -> Result<Option<u32>, Failure> {
    let Some((name, value)) =
        names.iter().find_map(|name| Some((name, fields.get(*name).filter(|value| !value.is_null())?)))
    else {
        return Ok(None);
    };
    let whole = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
    whole.map(Some).ok_or_else(|| Failure::Model {
        path: path.display().to_string(),
        rule: format!("{name} must be a whole number from 1 to 4294967295, but is {value}"),
    })
}
