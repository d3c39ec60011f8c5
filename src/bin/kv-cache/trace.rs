//! Recorded keys and values: a safetensors file with `layers.{i}.keys` and `layers.{i}.values`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use wgpu_kv_cache::{
    Format, HostRows,
    half::{bf16, f16},
};

use crate::Failure;

/// Path of the recorded trace in the repository. The published package does not contain it.
const RECORDED: &str = "traces/smollm2-135m-story.safetensors";

/// Recorded keys and values of every layer of a model.
pub struct Trace {
    /// The description of the model in the file, or else the file's name.
    pub title: String,
    /// The tokens that the model read, if the file has them.
    pub tokens_read: Option<Vec<u32>>,
    pub batch_size: u32,
    pub num_heads: u32,
    pub tokens: u32,
    pub head_dim: u32,
    pub value_dim: u32,
    pub layers: Vec<Layer>,
}

/// Keys and values of one layer, `[batch, kv_head, tokens, dim]`.
pub struct Layer {
    pub keys: Rows,
    pub values: Rows,
    /// Queries of the last tokens; `None` if they were not recorded.
    pub queries: Option<Queries>,
}

/// Queries of one layer, `[batch, query_heads, tokens, head_dim]`.
pub struct Queries {
    pub rows: Rows,
    pub heads: u32,
    pub tokens: u32,
}

/// A dense tensor in f32, f16 or bf16.
pub enum Rows {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Rows {
    pub fn as_host(&self) -> HostRows<'_> {
        match self {
            Rows::F32(rows) => rows.into(),
            Rows::F16(rows) => rows.into(),
            Rows::Bf16(rows) => rows.into(),
        }
    }

    /// Converts the rows to f32, exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Rows::F32(rows) => rows.clone(),
            Rows::F16(rows) => rows.iter().map(|number| number.to_f32()).collect(),
            Rows::Bf16(rows) => rows.iter().map(|number| number.to_f32()).collect(),
        }
    }

    pub fn format(&self) -> Format {
        self.as_host().format()
    }

    /// Returns the rows of a range of the `tokens` tokens, of every sequence and head.
    pub fn slice(&self, range: std::ops::Range<u32>, tokens: u32, dim: u32) -> Rows {
        fn pick<T: Copy>(rows: &[T], range: std::ops::Range<u32>, tokens: u32, dim: u32) -> Vec<T> {
            let (start, end) = (range.start as usize * dim as usize, range.end as usize * dim as usize);
            let planes = rows.chunks_exact(tokens as usize * dim as usize);
            planes.flat_map(|plane| &plane[start..end]).copied().collect()
        }
        match self {
            Rows::F32(rows) => Rows::F32(pick(rows, range, tokens, dim)),
            Rows::F16(rows) => Rows::F16(pick(rows, range, tokens, dim)),
            Rows::Bf16(rows) => Rows::Bf16(pick(rows, range, tokens, dim)),
        }
    }
}

impl Trace {
    /// Opens the recorded trace: the file that the environment variable `KV_CACHE_TRACE` names, or else the
    /// repository's trace, in the current folder or the one that the program was built in.
    pub fn recorded() -> Result<Self, Failure> {
        let path: PathBuf = match std::env::var_os("KV_CACHE_TRACE") {
            Some(path) => path.into(),
            None if Path::new(RECORDED).is_file() => RECORDED.into(),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDED),
        };
        if path.is_file() {
            return Self::open(&path);
        }
        let rule = "the recorded trace is in the repository, not in the package: clone the repository, set \
                    KV_CACHE_TRACE to the file, or pass your own trace to kv-cache verify";
        Err(Failure::Trace { path: path.display().to_string(), rule: rule.to_owned() })
    }

    /// The token of each position: those that the model read, or else numbers.
    pub fn token_ids(&self) -> Vec<u32> {
        let read = self.tokens_read.as_ref().filter(|read| read.len() == self.tokens as usize);
        read.cloned().unwrap_or_else(|| (0..self.tokens).collect())
    }

    pub fn open(path: &Path) -> Result<Self, Failure> {
        let bytes = fs::read(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &bytes)
    }

    fn parse(path: &str, bytes: &[u8]) -> Result<Self, Failure> {
        let broken = |source| Failure::NotSafetensors { path: path.to_owned(), source };
        let wrong = |rule: String| Failure::Trace { path: path.to_owned(), rule };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let file = SafeTensors::deserialize(bytes).map_err(broken)?;
        let mut trace: Option<Trace> = None;
        let named = |name: &str| file.tensor(name).ok();
        for index in 0.. {
            let [key_name, value_name] = ["keys", "values"].map(|side| format!("layers.{index}.{side}"));
            let (keys, values) = match (named(&key_name), named(&value_name)) {
                (Some(keys), Some(values)) => (keys, values),
                (None, None) => break,
                (None, _) => return Err(wrong(format!("the file has {value_name}, but no {key_name}"))),
                (_, None) => return Err(wrong(format!("the file has {key_name}, but no {value_name}"))),
            };
            let [batch, heads, tokens, head_dim] = shape(&key_name, keys.shape()).map_err(wrong)?;
            let value_shape = shape(&value_name, values.shape()).map_err(wrong)?;
            if value_shape[..3] != [batch, heads, tokens] {
                return Err(wrong(format!(
                    "{key_name} and {value_name} must agree in [batch, kv_head, tokens], but are {:?} and {:?}",
                    keys.shape(),
                    values.shape()
                )));
            }
            let query_name = format!("layers.{index}.queries");
            let queries = named(&query_name)
                .map(|queries| {
                    let query_shape = shape(&query_name, queries.shape())?;
                    let [_, query_heads, query_tokens, _] = query_shape;
                    if query_shape != [batch, query_heads, query_tokens, head_dim] || query_heads % heads != 0 {
                        return Err(format!(
                            "{query_name} must be [batch, query_heads, tokens, head_dim] to match {key_name} of {:?}, \
                             but is {:?}",
                            keys.shape(),
                            queries.shape()
                        ));
                    }
                    let rows = rows(&query_name, queries.dtype(), queries.data())?;
                    Ok(Queries { rows, heads: query_heads, tokens: query_tokens })
                })
                .transpose()
                .map_err(wrong)?;
            let layer = Layer {
                keys: rows(&key_name, keys.dtype(), keys.data()).map_err(wrong)?,
                values: rows(&value_name, values.dtype(), values.data()).map_err(wrong)?,
                queries,
            };
            let trace = trace.get_or_insert_with(|| Trace {
                title: header
                    .metadata()
                    .as_ref()
                    .and_then(|fields| fields.get("model"))
                    .unwrap_or(&path.to_owned())
                    .clone(),
                tokens_read: header
                    .metadata()
                    .as_ref()
                    .and_then(|fields| serde_json::from_str(fields.get("token_ids")?).ok()),
                batch_size: batch,
                num_heads: heads,
                tokens,
                head_dim,
                value_dim: value_shape[3],
                layers: Vec::new(),
            });
            let first = [trace.batch_size, trace.num_heads, trace.tokens, trace.head_dim, trace.value_dim];
            let this = [batch, heads, tokens, head_dim, value_shape[3]];
            if this != first {
                return Err(wrong(format!(
                    "every layer must have the shape of layer 0, [batch, kv_head, tokens, head_dim, value_dim] = \
                     {first:?}, but layer {index} has {this:?}"
                )));
            }
            trace.layers.push(layer);
        }
        trace.ok_or_else(|| {
            let names = file.names().iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            wrong(format!("a trace must contain layers.0.keys and layers.0.values, but begins with: {names}"))
        })
    }
}

/// Checks that a shape has four axes, none of them zero, and returns them.
fn shape(name: &str, shape: &[usize]) -> Result<[u32; 4], String> {
    let rule = || format!("{name} must be [batch, kv_head, tokens, dim] with at least 1 of each, but is {shape:?}");
    let axes: Vec<u32> = shape.iter().map(|&axis| u32::try_from(axis)).collect::<Result<_, _>>().map_err(|_| rule())?;
    let axes: [u32; 4] = axes.try_into().map_err(|_| rule())?;
    if axes.contains(&0) { Err(rule()) } else { Ok(axes) }
}

fn rows(name: &str, dtype: Dtype, data: &[u8]) -> Result<Rows, String> {
    let halves = || data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    match dtype {
        Dtype::F32 => {
            let words = data.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
            Ok(Rows::F32(words.map(f32::from_bits).collect()))
        }
        Dtype::F16 => Ok(Rows::F16(halves().map(f16::from_bits).collect())),
        Dtype::BF16 => Ok(Rows::Bf16(halves().map(bf16::from_bits).collect())),
        other => Err(format!("{name} must be F32, F16 or BF16, but is {other:?}")),
    }
}
