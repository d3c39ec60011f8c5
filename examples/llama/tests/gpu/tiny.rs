//! A small Llama with random weights as a GGUF file, and the same model on the CPU in f64.

use std::{collections::BTreeMap, path::Path};

use gguf_rs_lib::{
    format::{metadata::MetadataArray, types::GGUFValueType},
    prelude::{GGUFBuilder, GGUFTensorType, MetadataValue},
};
use half::f16;

pub const LAYERS: usize = 2;
// On a CPU a row of six blocks is one part, or three in a tile; one of seven goes the way that a GPU goes.
pub const HIDDEN: usize = 192;
pub const FORWARD: usize = 224;
pub const QUERY_HEADS: usize = 12;
pub const KV_HEADS: usize = 2;
pub const DIM: usize = 16;
pub const VOCABULARY: usize = 300;
pub const CONTEXT: usize = 256;
const EPSILON: f32 = 1e-5;
const ROPE_BASE: f32 = 10_000.0;

/// Shape, kind and bytes of a tensor, and what its blocks decode to, `[rows, columns]`.
pub type Tensor = (Vec<u64>, GGUFTensorType, Vec<u8>, Vec<f32>);

/// The model.
#[derive(Debug)]
pub struct Tiny {
    pub tensors: BTreeMap<String, Tensor>,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// The bytes of 32 weights, and what they decode to.
fn block(kind: GGUFTensorType, weights: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let largest = weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    let nibbles = |codes: &[u8]| (0..16).map(|i| codes[i] | codes[16 + i] << 4).collect::<Vec<u8>>();
    match kind {
        GGUFTensorType::F32 => (weights.iter().flat_map(|weight| weight.to_le_bytes()).collect(), weights.to_vec()),
        GGUFTensorType::F16 => {
            let halves: Vec<f16> = weights.iter().map(|&weight| f16::from_f32(weight)).collect();
            (
                halves.iter().flat_map(|half| half.to_le_bytes()).collect(),
                halves.iter().map(|half| half.to_f32()).collect(),
            )
        }
        GGUFTensorType::Q8_0 => {
            let scale = f16::from_f32(largest / 127.0);
            let codes: Vec<i8> = weights.iter().map(|weight| (weight / scale.to_f32()).round() as i8).collect();
            let bytes = scale.to_le_bytes().into_iter().chain(codes.iter().map(|code| code.to_le_bytes()[0])).collect();
            (bytes, codes.iter().map(|&code| f32::from(code) * scale.to_f32()).collect())
        }
        GGUFTensorType::Q4_0 => {
            let scale = f16::from_f32(largest / -8.0);
            let code = |weight: &f32| (weight / scale.to_f32() + 8.5).clamp(0.0, 15.0) as u8;
            let codes: Vec<u8> = weights.iter().map(code).collect();
            let bytes = scale.to_le_bytes().into_iter().chain(nibbles(&codes)).collect();
            (bytes, codes.iter().map(|&code| (f32::from(code) - 8.0) * scale.to_f32()).collect())
        }
        GGUFTensorType::Q4_1 => {
            let least = weights.iter().fold(f32::MAX, |least, &weight| least.min(weight));
            let most = weights.iter().fold(f32::MIN, |most, &weight| most.max(weight));
            let (scale, least) = (f16::from_f32((most - least) / 15.0), f16::from_f32(least));
            let code = |weight: &f32| ((weight - least.to_f32()) / scale.to_f32()).round().clamp(0.0, 15.0) as u8;
            let codes: Vec<u8> = weights.iter().map(code).collect();
            let bytes =
                [scale.to_le_bytes(), least.to_le_bytes()].concat().into_iter().chain(nibbles(&codes)).collect();
            (bytes, codes.iter().map(|&code| f32::from(code) * scale.to_f32() + least.to_f32()).collect())
        }
        kind => panic!("{kind:?}"),
    }
}

impl Tiny {
    /// Weights of every matrix in blocks of a kind.
    pub fn new(kind: GGUFTensorType) -> Self {
        let mut tiny = Tiny { tensors: BTreeMap::new() };
        let mut random = Random(7);
        let mut add = |name: &str, columns: usize, rows: usize, size: f32, kind: GGUFTensorType| {
            let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
            for _ in 0..columns * rows / 32 {
                let weights: Vec<f32> = (0..32).map(|_| random.next() * size).collect();
                let (coded, back) = block(kind, &weights);
                bytes.extend(coded);
                decoded.extend(back);
            }
            let shape = if rows == 1 { vec![columns as u64] } else { vec![columns as u64, rows as u64] };
            tiny.tensors.insert(name.to_owned(), (shape, kind, bytes, decoded));
        };
        add("token_embd.weight", HIDDEN, VOCABULARY, 1.0, kind);
        add("output.weight", HIDDEN, VOCABULARY, 0.5, kind);
        add("output_norm.weight", HIDDEN, 1, 2.0, GGUFTensorType::F32);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            add(&name("attn_norm"), HIDDEN, 1, 2.0, GGUFTensorType::F32);
            add(&name("attn_q"), HIDDEN, QUERY_HEADS * DIM, 0.4, kind);
            add(&name("attn_k"), HIDDEN, KV_HEADS * DIM, 0.4, kind);
            // Another type than its neighbours, so that the matrices are not one.
            add(&name("attn_v"), HIDDEN, KV_HEADS * DIM, 0.4, GGUFTensorType::F16);
            add(&name("attn_output"), QUERY_HEADS * DIM, HIDDEN, 0.3, kind);
            add(&name("ffn_norm"), HIDDEN, 1, 2.0, GGUFTensorType::F32);
            add(&name("ffn_gate"), HIDDEN, FORWARD, 0.3, kind);
            add(&name("ffn_up"), HIDDEN, FORWARD, 0.3, kind);
            add(&name("ffn_down"), FORWARD, HIDDEN, 0.3, kind);
        }
        tiny
    }

    /// The file, after `change` has had its way with metadata.
    pub fn builder(&self, change: impl FnOnce(&mut BTreeMap<String, MetadataValue>)) -> GGUFBuilder {
        let number = |number: usize| MetadataValue::U32(number as u32);
        let text = |text: &str| MetadataValue::String(text.to_owned());
        let texts = |texts: Vec<String>| {
            let values = texts.into_iter().map(MetadataValue::String).collect();
            MetadataValue::Array(Box::new(MetadataArray::new(GGUFValueType::String, values).unwrap()))
        };
        let vocabulary =
            bytes_of_gpt2().chain((256..VOCABULARY - 1).map(|id| format!("<{id}>"))).chain(["ab".to_owned()]).collect();
        let kinds = (0..VOCABULARY)
            .map(|id| MetadataValue::I32(if (256..VOCABULARY - 1).contains(&id) { 3 } else { 1 }))
            .collect();
        let mut metadata: BTreeMap<String, MetadataValue> = [
            ("general.architecture", text("llama")),
            ("llama.block_count", number(LAYERS)),
            ("llama.context_length", number(CONTEXT)),
            ("llama.embedding_length", number(HIDDEN)),
            ("llama.feed_forward_length", number(FORWARD)),
            ("llama.attention.head_count", number(QUERY_HEADS)),
            ("llama.attention.head_count_kv", number(KV_HEADS)),
            ("llama.attention.layer_norm_rms_epsilon", MetadataValue::F32(EPSILON)),
            ("llama.rope.freq_base", MetadataValue::F32(ROPE_BASE)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            ("tokenizer.ggml.tokens", texts(vocabulary)),
            ("tokenizer.ggml.token_type", MetadataValue::Array(Box::new(MetadataArray::new(GGUFValueType::I32, kinds).unwrap()))),
            ("tokenizer.ggml.merges", texts(vec!["a b".to_owned()])),
            ("tokenizer.ggml.eos_token_id", number(256)),
            (
                "tokenizer.chat_template",
                text("{% for message in messages %}<257>{{ message['role'] + ':' + message['content'] }}<258>{% endfor %}\
                      {% if add_generation_prompt %}<257>{% endif %}"),
            ),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        change(&mut metadata);
        let builder =
            metadata.into_iter().fold(GGUFBuilder::new(), |builder, (key, value)| builder.add_metadata(key, value));
        self.tensors.iter().fold(builder, |builder, (name, (shape, kind, bytes, _))| {
            builder.add_tensor(name, shape.clone(), *kind, bytes.clone()).unwrap()
        })
    }

    pub fn write(&self, path: &Path) {
        self.builder(|_| {}).build_to_file(path).unwrap();
    }

    fn weights(&self, name: &str) -> &[f32] {
        &self.tensors[name].3
    }

    /// `W x`, in f64.
    fn product(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
        self.weights(name).chunks_exact(x.len()).map(dot).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (square + f64::from(EPSILON)).sqrt();
        x.iter().zip(self.weights(name)).map(|(x, gain)| x * scale * f64::from(*gain)).collect()
    }

    /// Logits after each of the tokens.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        // [layer][position][KV_HEADS * DIM]
        let mut keys = vec![Vec::<Vec<f64>>::new(); LAYERS];
        let mut values = keys.clone();
        let mut logits = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let embedding = &self.weights("token_embd.weight")[token as usize * HIDDEN..][..HIDDEN];
            let mut hidden: Vec<f64> = embedding.iter().map(|&weight| weight.into()).collect();
            for layer in 0..LAYERS {
                let name = |part: &str| format!("blk.{layer}.{part}.weight");
                let x = self.norm(&name("attn_norm"), &hidden);
                let mut queries = self.product(&name("attn_q"), &x);
                let mut own_keys = self.product(&name("attn_k"), &x);
                rotate(&mut queries, position);
                rotate(&mut own_keys, position);
                keys[layer].push(own_keys);
                values[layer].push(self.product(&name("attn_v"), &x));
                let mut attended = vec![0.0; QUERY_HEADS * DIM];
                for head in 0..QUERY_HEADS {
                    let kv = head / (QUERY_HEADS / KV_HEADS) * DIM;
                    let query = &queries[head * DIM..][..DIM];
                    let score = |key: &Vec<f64>| {
                        let dot: f64 = query.iter().zip(&key[kv..kv + DIM]).map(|(q, k)| q * k).sum();
                        (dot / (DIM as f64).sqrt()).exp()
                    };
                    let weights: Vec<f64> = keys[layer].iter().map(score).collect();
                    let sum: f64 = weights.iter().sum();
                    for (weight, value) in weights.iter().zip(&values[layer]) {
                        for i in 0..DIM {
                            attended[head * DIM + i] += weight / sum * value[kv + i];
                        }
                    }
                }
                add(&mut hidden, &self.product(&name("attn_output"), &attended));
                let x = self.norm(&name("ffn_norm"), &hidden);
                let (gates, ups) = (self.product(&name("ffn_gate"), &x), self.product(&name("ffn_up"), &x));
                let activated: Vec<f64> =
                    gates.iter().zip(&ups).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
                add(&mut hidden, &self.product(&name("ffn_down"), &activated));
            }
            logits.push(self.product("output.weight", &self.norm("output_norm.weight", &hidden)));
        }
        logits
    }
}

fn add(to: &mut [f64], what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += what);
}

fn rotate(heads: &mut [f64], position: usize) {
    for head in heads.chunks_exact_mut(DIM) {
        for (pair, both) in head.chunks_exact_mut(2).enumerate() {
            let angle = position as f64 * f64::from(ROPE_BASE).powf(-2.0 * pair as f64 / DIM as f64);
            let (sine, cosine) = angle.sin_cos();
            let [x, y] = [both[0], both[1]];
            (both[0], both[1]) = (x * cosine - y * sine, x * sine + y * cosine);
        }
    }
}

/// The characters by which GPT-2 writes bytes.
fn bytes_of_gpt2() -> impl Iterator<Item = String> {
    let printed = |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
    let mut others = 256..;
    (0..256u32).map(move |byte| {
        let character = if printed(byte) { byte } else { others.next().unwrap() };
        char::from_u32(character).unwrap().to_string()
    })
}
