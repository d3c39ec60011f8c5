//! Sequences as files: saved from a cache, and loaded into another, which may be of another kind, on another device, or
//! in another process.
//!
//! A file is a safetensors file (Hugging Face's format, which many tools read). It has the rows of all layers in their
//! stored bytes, `layers.N.keys` and `layers.N.values`, each `[kv_head, row, dim]`; formats of blocks are bytes,
//! `[kv_head, row, bytes]`. Of a layer with a window, the rows are those of its sinks and of the window. The metadata
//! has what the rows are of: [`Saved`]. The last tensor, `checksums`, has the 128-bit XXH3 of all before the tensors,
//! and that of each tensor before it, so that one flipped bit anywhere is found. It finds damage; who may write a file
//! can write another.
//!
//! Rows are interchangeable only between equal models. What makes them so, the caller says in [`Label::identity`]: the
//! model, its revision, the rotary embedding, an adapter. A sequence is loaded only with the identity that it was saved
//! with.
//!
//! ```no_run
//! use wgpu_kv_cache::{BatchedKvCache, Result, save::{Label, SaveSequence}};
//!
//! fn restart(cache: &mut BatchedKvCache, tokens: &[u32]) -> Result<()> {
//!     let identity = "SmolLM2-135M, revision 93efa2f, RoPE 100000";
//!     cache.save(0, "conversation.safetensors", &Label { identity, tokens })?;
//!     cache.clear_sequence(0)?;
//!     let loaded = cache.load(0, "conversation.safetensors", identity)?;
//!     assert_eq!(loaded.tokens, tokens);
//!     Ok(())
//! }
//! ```

mod dense;
#[cfg(not(target_family = "wasm"))]
mod file;
mod header;
#[cfg(feature = "pages")]
mod paged;
mod reader;
mod sequence;
mod writer;

pub use self::{
    header::{Saved, SavedLayer},
    reader::inspect,
    sequence::{Label, Loaded, SaveSequence},
};
