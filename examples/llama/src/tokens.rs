//! [`Tokens`]: text to tokens and back, by the vocabulary and merges of a GGUF file.

use minijinja::{Environment, context};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::{Error, Result, file::ModelFile};

/// How Llama 3 splits a text.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn user(content: impl Into<String>) -> Self {
        Message { role: "user".to_owned(), content: content.into() }
    }
}

#[derive(Debug)]
pub struct Tokens {
    tokenizer: Tokenizer,
    template: Option<String>,
    /// Put before every text, where the file says so.
    first: Option<u32>,
    /// Text of the tokens that begin and end a sequence, which templates may use.
    ends: [String; 2],
    /// After these a model has nothing to add.
    pub stops: Vec<u32>,
}

impl Tokens {
    /// Builds a tokenizer in the form of Hugging Face's `tokenizer.json`.
    pub fn new(file: &ModelFile) -> Result<Self> {
        let missing = |key: &str| Error::Missing { key: key.to_owned() };
        let model = file.text("tokenizer.ggml.model").unwrap_or("none");
        if model != "gpt2" {
            let rule = "a vocabulary that is read is \"gpt2\", of byte pairs with merges";
            return Err(Error::Vocabulary { found: model.to_owned(), rule });
        }
        let key = "tokenizer.ggml.tokens";
        let texts = file.texts(key).ok_or_else(|| missing(key))?;
        let merges = file.texts("tokenizer.ggml.merges").ok_or_else(|| missing("tokenizer.ggml.merges"))?;
        let kinds = file.numbers("tokenizer.ggml.token_type").unwrap_or_default();

        let bytes = |splits: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": splits});
        let pre = file.text("tokenizer.ggml.pre").unwrap_or("default");
        let (pre_tokenizer, ignore_merges) = match pre {
            "default" | "gpt-2" => (bytes(true), false),
            "smollm" => {
                let digits = json!({"type": "Digits", "individual_digits": true});
                (json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}), false)
            }
            "llama-bpe" | "llama3" => {
                let split =
                    json!({"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated", "invert": false});
                (json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]}), true)
            }
            found => {
                let rule = "texts are split in the ways of \"gpt-2\", \"smollm\" and \"llama-bpe\" alone";
                return Err(Error::Vocabulary { found: found.to_owned(), rule });
            }
        };
        let vocabulary: Map<String, Value> =
            texts.iter().enumerate().map(|(id, &text)| (text.to_owned(), id.into())).collect();
        // Control tokens, and those that users defined.
        let special = |id: usize| matches!(kinds.get(id), Some(3 | 4));
        let added: Vec<Value> = texts
            .iter()
            .enumerate()
            .filter(|&(id, _)| special(id))
            .map(|(id, text)| {
                json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": kinds[id] == 3})
            })
            .collect();
        let document = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": added, "pre_tokenizer": pre_tokenizer, "decoder": bytes(false),
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges},
        });
        let tokenizer = Tokenizer::from_bytes(document.to_string()).map_err(refused)?;
        let id = |name: &str| file.number(&format!("tokenizer.ggml.{name}_token_id"));
        let text = |id: Option<u32>| id.and_then(|id| texts.get(id as usize)).map_or("", |text| text).to_owned();
        let begins = file.flag("tokenizer.ggml.add_bos_token").unwrap_or(false);
        Ok(Tokens {
            tokenizer,
            template: file.text("tokenizer.chat_template").map(str::to_owned),
            first: id("bos").filter(|_| begins),
            ends: [text(id("bos")), text(id("eos"))],
            stops: [id("eos"), id("eot")].into_iter().flatten().collect(),
        })
    }

    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(refused)?;
        let ids = encoding.get_ids();
        let first = self.first.filter(|first| ids.first() != Some(first));
        Ok(first.into_iter().chain(ids.iter().copied()).collect())
    }

    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(refused)
    }

    /// A function that takes token after token and gives text as soon as it is whole.
    pub fn stream(&self) -> impl FnMut(u32) -> Result<Option<String>> {
        let mut stream = self.tokenizer.decode_stream(true);
        move |token| stream.step(token).map_err(refused)
    }

    /// The tokens of a conversation in the model's own form, up to where it answers.
    pub fn conversation(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let Some(template) = &self.template else { return Err(Error::Template { reason: "there is none".to_owned() }) };
        let failed = |error: minijinja::Error| Error::Template { reason: format!("{error:#}") };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        let raise = |text: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, text))
        };
        environment.add_function("raise_exception", raise);
        let [bos_token, eos_token] = &self.ends;
        let values = context! { messages, add_generation_prompt => true, bos_token, eos_token };
        self.encode(&environment.render_str(template, values).map_err(failed)?)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn refused(error: tokenizers::Error) -> Error {
    Error::Tokenizer { reason: error.to_string() }
}
