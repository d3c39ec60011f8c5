//! The JSON format of programs and of their results.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, IgnoredAny},
};
use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Error, Format, HostTensor, PagedConfig, Pair, Placement, StepError};

/// A recorded program.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program<O> {
    pub config: Config,
    pub ops: Vec<O>,
}

/// Which kind of cache a program is for.
#[derive(Deserialize)]
pub struct Kind {
    config: KindOfConfig,
}

#[derive(Deserialize)]
struct KindOfConfig {
    pages: Option<IgnoredAny>,
}

impl Kind {
    /// Whether the cache has pages.
    pub fn is_paged(&self) -> bool {
        self.config.pages.is_some()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    layers: usize,
    batch_size: Option<u32>,
    max_batch_size: Option<u32>,
    pages: Option<Pages>,
    max_sequences: Option<u32>,
    share_prefixes: Option<bool>,
    num_heads: u32,
    head_dim: u32,
    value_dim: Option<u32>,
    max_seq_len: Option<u32>,
    #[serde(default)]
    key_format: OfLayers<Named>,
    #[serde(default)]
    value_format: OfLayers<Named>,
    #[serde(default)]
    key_scale: OfLayers<Factor>,
    #[serde(default)]
    value_scale: OfLayers<Factor>,
    placement: Option<OfLayers<Placement>>,
    /// Of layers with pages; null or 0 means that a layer keeps all positions.
    window: Option<OfLayers<Option<u32>>>,
    sinks: Option<OfLayers<u32>>,
}

/// The most positions of a sequence whose pages before a window go back, unless said.
const POSITIONS_OF_WINDOWS: u32 = 1 << 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pages {
    page_size: u32,
    count: u32,
}

/// One value for all layers, or one for each.
enum OfLayers<T> {
    All(T),
    Each(Vec<T>),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for OfLayers<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let of_layers = if value.is_array() {
            serde_json::from_value(value).map(OfLayers::Each)
        } else {
            serde_json::from_value(value).map(OfLayers::All)
        };
        of_layers.map_err(D::Error::custom)
    }
}

impl<T: Default> Default for OfLayers<T> {
    fn default() -> Self {
        OfLayers::All(T::default())
    }
}

impl<T: Copy> OfLayers<T> {
    /// Returns the value for `layer`, of `layers` layers.
    fn of(&self, layer: usize, layers: usize) -> Result<T, Error> {
        match self {
            OfLayers::All(all) => Ok(*all),
            OfLayers::Each(each) if each.len() == layers => Ok(each[layer]),
            OfLayers::Each(each) => {
                Err(Error::Step(StepError::LayerCount { name: "an entry", num_layers: layers, actual: each.len() }))
            }
        }
    }
}

/// A format, given by its name.
#[derive(Clone, Copy)]
struct Named(Format);

impl Default for Named {
    fn default() -> Self {
        Named(Format::F32)
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Named).map_err(D::Error::custom)
    }
}

/// A scale, 1 by default.
#[derive(Clone, Copy, Deserialize)]
struct Factor(f32);

impl Default for Factor {
    fn default() -> Self {
        Factor(1.0)
    }
}

/// An operation; the field `op` names its kind.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    Update {
        layer: usize,
        tokens: u32,
        keys: Floats,
        values: Floats,
        positions: Option<Numbers>,
        counts: Option<Numbers>,
    },
    Truncate {
        lengths: Numbers,
    },
    ClearSequence {
        sequence: u32,
    },
    Reorder {
        sources: Vec<u32>,
    },
    Select {
        sources: Vec<u32>,
    },
    Repeat {
        times: u32,
    },
    CopySequence {
        from: u32,
        to: u32,
    },
    Keep {
        sequence: u32,
        last: u32,
        indices: Vec<u32>,
    },
    CopyRange {
        from: u32,
        start: u32,
        end: u32,
        to: u32,
        position: u32,
    },
    Get {
        layer: usize,
        start: u32,
        end: u32,
    },
    GetAll {
        layer: usize,
    },
    Storage {
        layer: usize,
    },
    Attention {
        layer: usize,
        heads: u32,
        tokens: u32,
        queries: Floats,
        #[serde(default = "yes")]
        causal: bool,
        scale: Option<f32>,
        /// 0 means no cap.
        softcap: Option<f32>,
        mask: Option<Floats>,
        mask_shape: Option<[u32; 4]>,
        window: Option<u32>,
        #[serde(default)]
        sinks: u32,
        #[serde(default)]
        lag: u32,
        sink_logits: Option<Floats>,
        /// Queries are the rows of the last update, not the last positions.
        #[serde(default)]
        written: bool,
        /// Queries are packed; at most so many of all sequences.
        packed: Option<u32>,
    },
    Reset {},
}

/// One number for all sequences, or one for each.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a whole number from 0 to 4294967295, or a list with one for each sequence")]
pub enum Numbers {
    One(u32),
    Each(Vec<u32>),
}

/// f32 numbers. NaN and infinities, which JSON numbers cannot express, are strings.
pub struct Floats(pub Vec<f32>);

/// The result of an operation.
#[derive(Serialize)]
pub struct Outcome {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    lengths: Vec<u32>,
    write_pos: u32,
    #[serde(flatten)]
    given: Option<Given>,
}

/// The data that an operation returned.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Given {
    Rows(Rows),
    Attention { output: Floats, shape: [u32; 4] },
}

/// Rows that were copied out, or the whole storage.
#[derive(Serialize)]
pub struct Rows {
    shape: [u32; 4],
    keys: Floats,
    /// Absent if it equals `shape`.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_shape: Option<[u32; 4]>,
    values: Floats,
    /// `[batch][rows]`; absent for the storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<Vec<Vec<Option<u32>>>>,
}

impl Config {
    /// Returns the configuration of each layer.
    pub fn dense(&self) -> Result<Vec<CacheConfig>, Wrong> {
        let of_pages = [
            ("max_sequences", self.max_sequences.is_some()),
            ("share_prefixes", self.share_prefixes.is_some()),
            ("window", self.window.is_some()),
            ("sinks", self.sinks.is_some()),
        ];
        refuse(of_pages, "belongs to a cache with `pages`")?;
        let batch_size = self.batch_size.ok_or(Wrong::Config("missing field `batch_size`".to_owned()))?;
        let config = CacheConfig::new(batch_size, self.num_heads, self.head_dim, self.max_seq_len.unwrap_or(0))
            .max_batch_size(self.max_batch_size.unwrap_or(batch_size));
        self.layers_of(config).map_err(Wrong::Cache)
    }

    /// Returns the configuration of a paged cache.
    pub fn paged(&self) -> Result<PagedConfig, Wrong> {
        let of_batches = [
            ("batch_size", self.batch_size.is_some()),
            ("max_batch_size", self.max_batch_size.is_some()),
            ("placement", self.placement.is_some()),
        ];
        refuse(of_batches, "belongs to a cache without `pages`")?;
        let missing = |name: &str| Wrong::Config(format!("missing field `{name}`"));
        let &Pages { page_size, count: pages } = self.pages.as_ref().ok_or(missing("pages"))?;
        let max_sequences = self.max_sequences.ok_or(missing("max_sequences"))?;
        let pool = page_size.saturating_mul(pages).min(u32::MAX - 1);
        let room = if self.window.is_some() { pool.max(POSITIONS_OF_WINDOWS) } else { pool };
        let layer = CacheConfig::new(max_sequences, self.num_heads, self.head_dim, self.max_seq_len.unwrap_or(room));
        let mut layers = self.layers_of(layer).map_err(Wrong::Cache)?;
        for (index, layer) in layers.iter_mut().enumerate() {
            layer.placement = self.window_of(index).map_err(Wrong::Cache)?;
        }
        Ok(PagedConfig { layers, page_size, pages, share_prefixes: self.share_prefixes.unwrap_or(true) })
    }

    /// What a layer with pages keeps.
    fn window_of(&self, layer: usize) -> Result<Placement, Error> {
        let window = self.window.as_ref().map_or(Ok(None), |windows| windows.of(layer, self.layers))?;
        let sinks = self.sinks.as_ref().map_or(Ok(0), |sinks| sinks.of(layer, self.layers))?;
        let window = window.filter(|&window| window > 0);
        Ok(window.map_or(Placement::Linear, |window| Placement::Ring { window, sinks, slack: 0 }))
    }

    fn layers_of(&self, config: CacheConfig) -> Result<Vec<CacheConfig>, Error> {
        BatchedKvCache::check_layers(self.layers)?;
        let config = config.value_dim(self.value_dim.unwrap_or(self.head_dim));
        let layer = |layer| {
            let layers = self.layers;
            let (Named(keys), Named(values)) =
                (self.key_format.of(layer, layers)?, self.value_format.of(layer, layers)?);
            let (Factor(key), Factor(value)) = (self.key_scale.of(layer, layers)?, self.value_scale.of(layer, layers)?);
            Ok(config
                .formats(keys, values)
                .scales(key, value)
                .placement(self.placement.as_ref().map_or(Ok(Placement::Linear), |all| all.of(layer, layers))?))
        };
        (0..self.layers).map(layer).collect()
    }
}

/// What is wrong with a configuration.
pub enum Wrong {
    Config(String),
    Cache(Error),
}

fn refuse<const N: usize>(fields: [(&str, bool); N], why: &str) -> Result<(), Wrong> {
    match fields.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Wrong::Config(format!("`{name}` {why}"))),
        None => Ok(()),
    }
}

impl Operation {
    /// Returns the layer that the operation applies to; `None` if it applies to all.
    pub fn layer(&self) -> Option<usize> {
        match self {
            Operation::Update { layer, .. }
            | Operation::Get { layer, .. }
            | Operation::GetAll { layer }
            | Operation::Storage { layer }
            | Operation::Attention { layer, .. } => Some(*layer),
            _ => None,
        }
    }
}

impl Numbers {
    /// Returns one number for each sequence of a batch.
    pub fn each(&self, batch: usize) -> Vec<u32> {
        match self {
            Numbers::One(number) => vec![*number; batch],
            Numbers::Each(numbers) => numbers.clone(),
        }
    }
}

impl Outcome {
    pub fn done(lengths: Vec<u32>, write_pos: u32, given: Option<Given>) -> Self {
        Outcome { ok: true, kind: None, error: None, lengths, write_pos, given }
    }

    pub fn refused(lengths: Vec<u32>, write_pos: u32, error: &Error) -> Self {
        let (kind, error) = (Some(error.kind()), Some(error.to_string()));
        Outcome { ok: false, kind, error, lengths, write_pos, given: None }
    }
}

/// Formats `{"results": […]}`, with one line per operation.
pub fn results<T: Serialize>(outcomes: &[T]) -> String {
    let line = |outcome: &T| serde_json::to_string(outcome).expect("keys are strings");
    let lines: Vec<String> = outcomes.iter().map(line).collect();
    format!("{{\"results\": [\n{}\n]}}\n", lines.join(",\n"))
}

impl Rows {
    fn new(pair: &Pair<HostTensor>, positions: Option<Vec<Vec<Option<u32>>>>) -> Self {
        let (shape, value_shape) = (pair.keys.shape(), pair.values.shape());
        Rows {
            shape,
            keys: Floats(pair.keys.to_f32()),
            value_shape: (value_shape != shape).then_some(value_shape),
            values: Floats(pair.values.to_f32()),
            positions,
        }
    }

    /// Creates the rows of a range, given the positions that each sequence has in it.
    pub fn copied(pair: &Pair<HostTensor>, positions: Vec<Vec<u32>>) -> Self {
        let rows = pair.keys.shape()[2] as usize;
        let padded = |known: Vec<u32>| {
            let mut padded: Vec<_> = known.into_iter().map(Some).collect();
            padded.resize(rows, None);
            padded
        };
        Self::new(pair, Some(positions.into_iter().map(padded).collect()))
    }

    /// Creates the storage of the sequences in the batch, without those beyond it.
    pub fn storage(pair: &Pair<HostTensor>, batch: u32) -> Self {
        let mut rows = Self::new(pair, None);
        for (shape, floats) in [(Some(&mut rows.shape), &mut rows.keys), (rows.value_shape.as_mut(), &mut rows.values)]
        {
            let sequences = pair.keys.shape()[0] as usize;
            floats.0.truncate(floats.0.len() / sequences * batch as usize);
            if let Some(shape) = shape {
                shape[0] = batch;
            }
        }
        rows
    }
}

impl Serialize for Floats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|float| match *float {
            float if float.is_nan() => Float::Text("NaN"),
            f32::INFINITY => Float::Text("Infinity"),
            f32::NEG_INFINITY => Float::Text("-Infinity"),
            float => Float::Number(float),
        }))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Float {
    Number(f32),
    Text(&'static str),
}

impl<'de> Deserialize<'de> for Floats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number, \"NaN\", \"Infinity\" or \"-Infinity\"")]
        enum Float {
            Number(f64),
            Text(String),
        }
        let floats = Vec::<Float>::deserialize(deserializer)?;
        let float = |float| match float {
            // JSON numbers that are no f32 round to the nearest.
            Float::Number(number) => Ok(number as f32),
            Float::Text(text) => match text.as_str() {
                "NaN" | "nan" => Ok(f32::NAN),
                "Infinity" | "inf" => Ok(f32::INFINITY),
                "-Infinity" | "-inf" => Ok(f32::NEG_INFINITY),
                _ => Err(D::Error::custom(format!(
                    "an element must be a number, \"NaN\", \"Infinity\" or \"-Infinity\", but is \"{text}\""
                ))),
            },
        };
        floats.into_iter().map(float).collect::<Result<_, _>>().map(Floats)
    }
}

pub fn yes() -> bool {
    true
}
