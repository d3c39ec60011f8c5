//! [`ModelFile`]: a GGUF file of the architecture `llama`, checked before anything is loaded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use gguf_rs_lib::{
    prelude::{GGUFFileReader, GGUFTensorType, MetadataValue},
    reader::GGUFReaderConfig,
};

use crate::{Error, Result};

/// Numbers of a model. A head size of keys is that of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub layers: u32,
    pub hidden: u32,
    pub feed_forward: u32,
    pub query_heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub vocabulary: u32,
    /// Positions that the model was trained for.
    pub context: u32,
    pub epsilon: f32,
    pub rope_base: f32,
    /// Elements of a head that are rotated.
    pub rope_dim: u32,
}

impl Shape {
    /// Features of the queries of a token.
    pub fn queries(&self) -> u32 {
        self.query_heads * self.head_dim
    }

    /// Features of the keys of a token, and of its values.
    pub fn keys(&self) -> u32 {
        self.kv_heads * self.head_dim
    }
}

/// How the weights of a tensor are stored: blocks of 32 along a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    F32,
    F16,
    Q8_0,
    Q4_0,
    Q4_1,
}

impl Blocks {
    fn of(name: &str, kind: GGUFTensorType) -> Result<Self> {
        Ok(match kind {
            GGUFTensorType::F32 => Blocks::F32,
            GGUFTensorType::F16 => Blocks::F16,
            GGUFTensorType::Q8_0 => Blocks::Q8_0,
            GGUFTensorType::Q4_0 => Blocks::Q4_0,
            GGUFTensorType::Q4_1 => Blocks::Q4_1,
            kind => return Err(Error::TensorType { name: name.to_owned(), kind: format!("{kind:?}") }),
        })
    }
}

/// A tensor of weights: `rows` of `columns`, a multiple of 32 unless there is one row.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    pub blocks: Blocks,
    pub rows: u32,
    pub columns: u32,
}

/// A GGUF file with all tensors of a Llama, and no others.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    reader: GGUFFileReader<BufReader<File>>,
    shape: Shape,
    tensors: BTreeMap<String, Tensor>,
}

impl ModelFile {
    /// Opens a file and checks metadata and tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let file = File::open(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let bytes = file.metadata().map_err(|source| Error::Io { path: path.clone(), source })?.len();
        // Strings of a vocabulary are the largest part of metadata, and each takes some memory beside its bytes.
        let config = GGUFReaderConfig { max_decoded_metadata_size: 1 << 30, ..Default::default() };
        let not_gguf = |reason: String| Error::NotGguf { path: path.clone(), reason };
        if bytes == 0 {
            return Err(not_gguf("it is empty".to_owned()));
        }
        let reader = GGUFFileReader::with_config(BufReader::new(file), config).map_err(|e| not_gguf(e.to_string()))?;
        let mut file = ModelFile { path, reader, shape: Shape::default(), tensors: BTreeMap::new() };
        file.shape = file.read_shape()?;
        file.check_tensors()?;
        Ok(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether there is a tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).copied()
    }

    /// The bytes of a tensor, as they are in the file.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>> {
        let cut = |reason: String| Error::NotGguf { path: self.path.clone(), reason };
        let data = self.reader.load_tensor_data(name).map_err(|error| cut(format!("{name}: {error}")))?;
        Ok(data.ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?.into_owned())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.reader.metadata().get_string(key)
    }

    pub fn number(&self, key: &str) -> Option<u32> {
        let value = self.reader.metadata().get(key)?;
        value.as_u64().or_else(|| value.as_i64().and_then(|value| value.try_into().ok()))?.try_into().ok()
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        self.reader.metadata().get_bool(key)
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<&str>> {
        let MetadataValue::Array(array) = self.reader.metadata().get(key)? else { return None };
        array.iter().map(MetadataValue::as_str).collect()
    }

    /// An array of whole numbers.
    pub fn numbers(&self, key: &str) -> Option<Vec<i64>> {
        let MetadataValue::Array(array) = self.reader.metadata().get(key)? else { return None };
        array.iter().map(|value| value.as_i64().or_else(|| value.as_u64()?.try_into().ok())).collect()
    }

    fn read_shape(&self) -> Result<Shape> {
        let metadata = self.reader.metadata();
        let found = metadata.get_string("general.architecture").unwrap_or("");
        if found != "llama" {
            return Err(Error::Architecture { found: found.to_owned() });
        }
        let key = |name: &str| format!("llama.{name}");
        let some = |name: &str| match self.number(&key(name)) {
            Some(0) => Err(Error::Metadata { key: key(name), value: "0".to_owned(), rule: "must be at least 1" }),
            Some(number) => Ok(number),
            None => Err(Error::Missing { key: key(name) }),
        };
        let float = |name: &str| metadata.get_f64(&key(name)).map(|number| number as f32);
        let refused = |name: &str, value: u32, rule| Error::Metadata { key: key(name), value: value.to_string(), rule };

        let (hidden, query_heads) = (some("embedding_length")?, some("attention.head_count")?);
        let kv_heads = self.number(&key("attention.head_count_kv")).unwrap_or(query_heads);
        let head_dim = self.number(&key("attention.key_length")).unwrap_or(hidden / query_heads);
        let rope_dim = self.number(&key("rope.dimension_count")).unwrap_or(head_dim);
        let vocabulary = self.reader.get_tensor_info("token_embd.weight").and_then(|tensor| tensor.shape().dim(1));
        let shape = Shape {
            layers: some("block_count")?,
            hidden,
            feed_forward: some("feed_forward_length")?,
            query_heads,
            kv_heads,
            head_dim,
            vocabulary: vocabulary
                .and_then(|number| number.try_into().ok())
                .ok_or_else(|| Error::MissingTensor { name: "token_embd.weight".to_owned() })?,
            context: some("context_length")?,
            epsilon: float("attention.layer_norm_rms_epsilon")
                .ok_or_else(|| Error::Missing { key: key("attention.layer_norm_rms_epsilon") })?,
            rope_base: float("rope.freq_base").unwrap_or(10_000.0),
            rope_dim,
        };
        if kv_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
            return Err(refused("attention.head_count_kv", kv_heads, "must divide attention.head_count"));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(4) {
            return Err(refused("attention.key_length", head_dim, "must be a multiple of 4"));
        }
        if self.number(&key("attention.value_length")).is_some_and(|length| length != head_dim) {
            return Err(refused("attention.value_length", head_dim, "must be that of keys"));
        }
        if rope_dim > head_dim || !rope_dim.is_multiple_of(2) {
            return Err(refused("rope.dimension_count", rope_dim, "must be even and at most the head size"));
        }
        for (name, number) in [("embedding_length", hidden), ("feed_forward_length", shape.feed_forward)] {
            if !number.is_multiple_of(32) {
                return Err(refused(name, number, "must be a multiple of 32, the weights of a block"));
            }
        }
        if !shape.queries().is_multiple_of(32) {
            return Err(refused("attention.head_count", query_heads, "times the head size must be a multiple of 32"));
        }
        if let Some(kind) = self.text(&key("rope.scaling.type")).filter(|kind| *kind != "none") {
            let rule = "scaled rotations are read from rope_freqs.weight alone";
            return Err(Error::Metadata { key: key("rope.scaling.type"), value: kind.to_owned(), rule });
        }
        Ok(shape)
    }

    /// All tensors that a Llama has, with `[columns, rows]` or `[columns]`. The last of them may be missing.
    fn expected(&self) -> impl Iterator<Item = (String, Vec<u64>, bool)> {
        let shape = self.shape;
        let [hidden, forward, queries, keys] =
            [shape.hidden, shape.feed_forward, shape.queries(), shape.keys()].map(u64::from);
        let vocabulary = u64::from(shape.vocabulary);
        let of_layer = move |layer: u32| {
            let name = move |part: &str| format!("blk.{layer}.{part}.weight");
            [
                (name("attn_norm"), vec![hidden], true),
                (name("attn_q"), vec![hidden, queries], true),
                (name("attn_k"), vec![hidden, keys], true),
                (name("attn_v"), vec![hidden, keys], true),
                (name("attn_output"), vec![queries, hidden], true),
                (name("ffn_norm"), vec![hidden], true),
                (name("ffn_gate"), vec![hidden, forward], true),
                (name("ffn_up"), vec![hidden, forward], true),
                (name("ffn_down"), vec![forward, hidden], true),
            ]
        };
        [
            ("token_embd.weight".to_owned(), vec![hidden, vocabulary], true),
            ("output_norm.weight".to_owned(), vec![hidden], true),
            ("output.weight".to_owned(), vec![hidden, vocabulary], false),
            ("rope_freqs.weight".to_owned(), vec![u64::from(shape.rope_dim / 2)], false),
        ]
        .into_iter()
        .chain((0..shape.layers).flat_map(of_layer))
    }

    fn check_tensors(&mut self) -> Result<()> {
        let mut unknown: BTreeSet<String> = self.reader.tensor_names().into_iter().map(str::to_owned).collect();
        let mut tensors = BTreeMap::new();
        for (name, expected, needed) in self.expected() {
            let Some(info) = self.reader.get_tensor_info(&name) else {
                if needed {
                    return Err(Error::MissingTensor { name });
                }
                continue;
            };
            unknown.remove(&name);
            let found = info.shape().dims();
            if found != expected {
                return Err(Error::TensorShape { name, found: found.to_vec(), expected });
            }
            let blocks = Blocks::of(&name, info.tensor_type())?;
            if expected.len() == 1 && blocks != Blocks::F32 {
                return Err(Error::TensorType { name, kind: format!("{blocks:?} where there is one row") });
            }
            let axis = |at: usize| expected.get(at).map_or(1, |&axis| axis as u32);
            tensors.insert(name, Tensor { blocks, rows: axis(1), columns: axis(0) });
        }
        if let Some(name) = unknown.into_iter().next() {
            return Err(Error::UnknownTensor { name });
        }
        self.tensors = tensors;
        Ok(())
    }
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            layers: 0,
            hidden: 0,
            feed_forward: 0,
            query_heads: 0,
            kv_heads: 0,
            head_dim: 0,
            vocabulary: 0,
            context: 0,
            epsilon: 0.0,
            rope_base: 0.0,
            rope_dim: 0,
        }
    }
}
