//! [`Error`]: why a model, a prompt or a request is refused.

use std::path::PathBuf;

use wgpu_kv_cache::wgpu;

/// Every refusal names the rule and what broke it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Cache(#[from] wgpu_kv_cache::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: not a GGUF file, or cut: {reason}", path.display())]
    NotGguf { path: PathBuf, reason: String },
    #[error("the architecture is {found:?}, but this engine reads \"llama\" alone")]
    Architecture { found: String },
    #[error("the file has no {key} of the right kind")]
    Missing { key: String },
    #[error("{key} is {value}, but {rule}")]
    Metadata { key: String, value: String, rule: &'static str },
    #[error("the tensor {name} is missing")]
    MissingTensor { name: String },
    #[error("the tensor {name} is of type {kind}, but types that are read are F32, F16, Q8_0, Q4_0 and Q4_1")]
    TensorType { name: String, kind: String },
    #[error("the tensor {name} has the shape {found:?}, but should have {expected:?}")]
    TensorShape { name: String, found: Vec<u64>, expected: Vec<u64> },
    #[error("the tensor {name} is none that this engine applies, so its results would be wrong")]
    UnknownTensor { name: String },
    #[error("{what} takes {needed} bytes, but a binding of this device holds {available}")]
    TooLarge { what: String, needed: u64, available: u64 },
    #[error("a prompt must have a token at least")]
    EmptyPrompt,
    #[error("{tokens} tokens are to be cached, but the context has room for {context} (--context)")]
    ContextFull { tokens: usize, context: u32 },
    #[error("the token {token} is not in the vocabulary of {vocabulary}")]
    UnknownToken { token: u32, vocabulary: u32 },
    #[error("{rows} rows are to be computed in a step, but there is room for {room} (--rows)")]
    TooManyRows { rows: usize, room: u32 },
    #[error("{wanted} rows are to have logits in a step, but there is room for {room}")]
    TooManyWanted { wanted: usize, room: u32 },
    #[error("a dense cache and a ring hold one sequence; {operation} needs --placement pages")]
    NeedsPages { operation: &'static str },
    #[error("the vocabulary is of the kind {found:?}, and {rule}; pass --prompt-ids")]
    Vocabulary { found: String, rule: &'static str },
    #[error("the tokenizer refuses: {reason}")]
    Tokenizer { reason: String },
    #[error("the file has no chat template that can be applied ({reason}); pass --raw")]
    Template { reason: String },
    #[error("{argument}: {rule}")]
    Argument { argument: String, rule: String },
    #[error("the device refused: {reason}")]
    Device { reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

impl From<wgpu::PollError> for Error {
    fn from(error: wgpu::PollError) -> Self {
        Error::Device { reason: error.to_string() }
    }
}

impl From<wgpu::MapRangeError> for Error {
    fn from(error: wgpu::MapRangeError) -> Self {
        Error::Device { reason: error.to_string() }
    }
}
