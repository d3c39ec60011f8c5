//! [`Saved`]: what a file says of the sequence in it.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{CacheConfig, Error, Format, Placement, Result, SaveError, Side, shape::placement::count};

/// What files of this crate say that they are, and the version of their form.
const FORMAT: &str = "wgpu-kv-cache sequence";
const VERSION: &str = "1";

/// The name of the tensor that ends a file.
pub(super) const CHECKSUMS: &str = "checksums";
/// Bytes of a checksum, the canonical form of a 128-bit XXH3.
pub(super) const CHECKSUM_BYTES: usize = 16;

pub(super) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    xxh3_128(bytes).to_be_bytes()
}

/// What a file says of the sequence in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Saved {
    /// The version of this crate that wrote it.
    pub crate_version: String,
    /// What makes its rows not interchangeable with others, as its writer said.
    pub identity: String,
    /// Number of its positions.
    pub length: u32,
    /// Its tokens, if its writer knew them.
    pub tokens: Option<Vec<u32>>,
    /// Shape and formats of each layer.
    pub layers: Vec<SavedLayer>,
}

/// Shape and formats of a layer of a saved sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SavedLayer {
    /// Number of KV heads.
    pub num_heads: u32,
    /// Size of a key.
    pub head_dim: u32,
    /// Size of a value.
    pub value_dim: u32,
    /// Format of keys, by its name.
    pub key_format: String,
    /// Format of values, by its name.
    pub value_format: String,
    /// Factor of fp8 codes of keys.
    pub key_scale: f32,
    /// Factor of fp8 codes of values.
    pub value_scale: f32,
    /// Which positions the layer keeps.
    pub placement: Placement,
}

pub(super) fn malformed(reason: &impl ToString) -> Error {
    SaveError::Malformed { reason: reason.to_string().into() }.into()
}

impl SavedLayer {
    fn new(config: &CacheConfig) -> Self {
        SavedLayer {
            num_heads: config.num_heads,
            head_dim: config.head_dim,
            value_dim: config.value_dim,
            key_format: config.key_format.to_string(),
            value_format: config.value_format.to_string(),
            key_scale: config.key_scale.get(),
            value_scale: config.value_scale.get(),
            placement: config.placement,
        }
    }

    /// Number of rows that it has of a sequence: one for each valid position.
    #[must_use]
    pub fn rows(&self, length: u32) -> u32 {
        self.placement.valid(length).iter().map(count).fold(0, u32::saturating_add)
    }

    /// Its fields as errors name and show them. Slack is no property of rows.
    fn fields(&self) -> [(&'static str, String); 8] {
        let placement = match self.placement {
            Placement::Linear => "linear".to_owned(),
            Placement::Ring { window, sinks, .. } => format!("a window of {window} and {sinks} sinks"),
        };
        [
            ("num_heads", self.num_heads.to_string()),
            ("head_dim", self.head_dim.to_string()),
            ("value_dim", self.value_dim.to_string()),
            ("key_format", self.key_format.clone()),
            ("value_format", self.value_format.clone()),
            ("key_scale", self.key_scale.to_string()),
            ("value_scale", self.value_scale.to_string()),
            ("placement", placement),
        ]
    }

    pub(super) fn format(&self, side: Side) -> Result<Format> {
        let name = if side == Side::Keys { &self.key_format } else { &self.value_format };
        name.parse().map_err(|_| malformed(&format!("there is no format {name:?}")))
    }

    pub(super) const fn dim(&self, side: Side) -> u32 {
        match side {
            Side::Keys => self.head_dim,
            Side::Values => self.value_dim,
        }
    }
}

impl Saved {
    pub(super) fn new(layers: &[CacheConfig], length: u32, identity: &str, tokens: Option<&[u32]>) -> Self {
        Saved {
            crate_version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: identity.to_owned(),
            length,
            tokens: tokens.map(<[u32]>::to_vec),
            layers: layers.iter().map(SavedLayer::new).collect(),
        }
    }

    /// Checks that a cache of such layers, and a caller with this identity, can use the rows.
    pub(super) fn check(&self, layers: &[CacheConfig], identity: &str) -> Result<()> {
        let differs = |field: String, expected: String, saved: String| {
            if expected == saved {
                return Ok(());
            }
            let [field, expected, saved] = [field, expected, saved].map(String::into_boxed_str);
            Err(SaveError::Differs { field, expected, saved })
        };
        differs("identity".to_owned(), format!("{identity:?}"), format!("{:?}", self.identity))?;
        differs("the number of layers".to_owned(), layers.len().to_string(), self.layers.len().to_string())?;
        for (index, (layer, config)) in self.layers.iter().zip(layers).enumerate() {
            for ((name, expected), (_, saved)) in SavedLayer::new(config).fields().into_iter().zip(layer.fields()) {
                differs(format!("{name} of layer {index}"), expected, saved)?;
            }
        }
        Ok(())
    }

    /// The tensors of the file, in order, those of checksums last.
    pub(super) fn tensors(&self) -> Result<Vec<(String, TensorInfo)>> {
        let mut tensors = Vec::new();
        let mut start = 0usize;
        let mut push = |name: String, dtype: Dtype, shape: Vec<usize>, bytes: usize| {
            let end = start.checked_add(bytes).ok_or_else(|| malformed(&"more bytes than can be counted"))?;
            tensors.push((name, TensorInfo { dtype, shape, data_offsets: (start, end) }));
            start = end;
            Ok::<_, Error>(())
        };
        for (index, layer) in self.layers.iter().enumerate() {
            for (side, name) in [(Side::Keys, "keys"), (Side::Values, "values")] {
                let (format, dim) = (layer.format(side)?, layer.dim(side));
                let row_bytes = format.row_bytes(dim);
                let (dtype, last) = match format {
                    Format::F32 => (Dtype::F32, dim.into()),
                    Format::F16 => (Dtype::F16, dim.into()),
                    Format::Bf16 => (Dtype::BF16, dim.into()),
                    _ => (Dtype::U8, row_bytes),
                };
                let shape: Option<Vec<usize>> = [layer.num_heads.into(), layer.rows(self.length).into(), last]
                    .into_iter()
                    .map(|length: u64| usize::try_from(length).ok())
                    .collect();
                let shape = shape.ok_or_else(|| malformed(&"a shape that cannot be counted"))?;
                let rows = u64::from(layer.num_heads).checked_mul(layer.rows(self.length).into());
                let bytes = rows.and_then(|rows| usize::try_from(rows.checked_mul(row_bytes)?).ok());
                let bytes = bytes.ok_or_else(|| malformed(&"more bytes than can be counted"))?;
                push(format!("layers.{index}.{name}"), dtype, shape, bytes)?;
            }
        }
        let sums = self.layers.len().saturating_mul(2).saturating_add(1);
        push(CHECKSUMS.to_owned(), Dtype::U8, vec![sums, CHECKSUM_BYTES], sums.saturating_mul(CHECKSUM_BYTES))?;
        Ok(tensors)
    }

    /// All that is in a file before its tensors.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let text = |value: serde_json::Result<String>| value.map_err(|error| malformed(&error));
        // In order, so that equal sequences are equal files.
        let mut metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("crate_version".to_owned(), self.crate_version.clone()),
            ("identity".to_owned(), self.identity.clone()),
            ("length".to_owned(), self.length.to_string()),
            ("layers".to_owned(), text(serde_json::to_string(&self.layers))?),
        ]);
        if let Some(tokens) = &self.tokens {
            metadata.insert("tokens".to_owned(), text(serde_json::to_string(tokens))?);
        }
        let mut members = BTreeMap::from([("__metadata__".to_owned(), serde_json::json!(metadata))]);
        for (name, info) in self.tensors()? {
            members.insert(name, serde_json::to_value(info).map_err(|error| malformed(&error))?);
        }
        let mut header = text(serde_json::to_string(&members))?.into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut header);
        Ok(bytes)
    }

    /// What a file's metadata says. Its tensors must be those of such a sequence.
    pub(super) fn decode(metadata: &Metadata) -> Result<Self> {
        let none = HashMap::new();
        let fields = metadata.metadata().as_ref().unwrap_or(&none);
        let field = |name: &str| fields.get(name).ok_or_else(|| malformed(&format!("it has no field {name}")));
        for (name, expected) in [("format", FORMAT), ("version", VERSION)] {
            let saved = field(name)?;
            if saved != expected {
                let [expected, saved] = [expected, saved].map(|text| format!("{text:?}").into_boxed_str());
                return Err(SaveError::Differs { field: name.into(), expected, saved }.into());
            }
        }
        let saved = Saved {
            crate_version: field("crate_version")?.clone(),
            identity: field("identity")?.clone(),
            length: field("length")?.parse().map_err(|error| malformed(&error))?,
            tokens: fields
                .get("tokens")
                .map(|text| serde_json::from_str(text))
                .transpose()
                .map_err(|error| malformed(&error))?,
            layers: serde_json::from_str(field("layers")?).map_err(|error| malformed(&error))?,
        };
        if let Some(tokens) = saved.tokens.as_ref().filter(|tokens| tokens.len() as u64 != u64::from(saved.length)) {
            return Err(SaveError::TokenCount { length: saved.length, tokens: tokens.len() }.into());
        }
        saved.layers.iter().try_for_each(|layer| layer.placement.check())?;
        let expected = saved.tensors()?;
        let same = |(name, info): &(String, TensorInfo)| {
            let own = metadata.info(name);
            own.is_some_and(|own| {
                (own.dtype, &own.shape, own.data_offsets) == (info.dtype, &info.shape, info.data_offsets)
            })
        };
        if metadata.offset_keys().len() != expected.len() || !expected.iter().all(same) {
            return Err(malformed(&"its tensors are not those of its layers"));
        }
        Ok(saved)
    }
}
