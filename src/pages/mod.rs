//! The bookkeeping of a pool of pages: which page holds which tokens of which sequence. It uses no device.
//!
//! A page holds `page_size` tokens of every layer (Kwon et al., "Efficient Memory Management for Large Language Model
//! Serving with `PagedAttention`", 2023). A sequence is a list of pages. Sequences with the same beginning share pages:
//! [`PagedSequences::add`] finds the longest prefix of full pages that the pool holds already, by the keys that vLLM
//! gives them ([`PageKey`]).
//!
//! The rules are those of vLLM 0.33, but for these: the tokens of a page are compared on a hit, so that a collision of
//! keys is a miss; a sequence may be forked and cut at any position, where vLLM only appends; and a page is offered to
//! others only when the step that filled it was submitted.
//!
//! - Only full pages are shared. A hit is at most one token short of the tokens given, rounded down to pages, so that a
//!   model has a row to compute.
//! - A page without references is free. Free pages are taken from the front of a queue: those without a key go to its
//!   front, those with one to its back, a sequence's last page first. A page that is taken loses its key.
//! - A page with a key never changes. A page that several sequences share is written in place only past the rows that
//!   any of them has written; otherwise the writer gets a copy of its rows, once.
//! - Layers with sliding windows are in groups of their own ([`PagesConfig::groups`]). A sequence has pages of its own
//!   in each group, all from the one pool. When it appends, its pages that lie wholly before the window go back, those
//!   of sinks apart. A hit needs all pages in groups without a window, and in the others those that the window needs:
//!   the last ⌈(window − 1) ÷ `page_size`⌉, at least one, and the sinks.
//!
//! ```
//! use wgpu_kv_cache::pages::{Append, PagedSequences, PagesConfig};
//!
//! // Pages of 4 tokens, 16 of them, for up to 8 sequences.
//! let mut sequences = PagedSequences::new(PagesConfig::new(4, 16, 8))?;
//! let prompt: Vec<u32> = (0..10).collect();
//! let first = sequences.add(&prompt, None)?; // in no namespace
//! assert_eq!(first.cached, 0);
//! let step = sequences.begin_step(&[Append::new(first.sequence, &prompt)])?;
//! assert_eq!((step.appends[0].start, step.appends[0].tokens), (0, 10)); // and no copies
//! assert_eq!(sequences.pages(first.sequence, 0)?.len(), 3);
//! sequences.submitted(); // the commands that fill the pages are in the queue
//!
//! let second = sequences.add(&prompt, None)?;
//! assert_eq!(second.cached, 8); // two full pages
//! assert_eq!(sequences.pages(second.sequence, 0)?, &sequences.pages(first.sequence, 0)?[..2]);
//! # Ok::<(), wgpu_kv_cache::Error>(())
//! ```

mod config;
mod finding;
mod free;
mod group;
mod held;
mod id;
mod keeping;
mod key;
mod planning;
mod pool;
mod prefixes;
mod room;
mod sequences;
mod step;

pub(crate) use self::step::StepKind;
pub use self::{
    config::PagesConfig,
    finding::Added,
    held::RETURNED,
    id::SequenceId,
    key::PageKey,
    pool::PageEvent,
    sequences::{PageCounts, PagedSequences},
    step::{Append, PageCopy, PlannedAppend, PlannedStep},
};
#[cfg(feature = "store")]
pub(crate) use self::{group::Group, pool::Evicted};
