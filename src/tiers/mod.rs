//! Tiers below a pool of pages: host memory, and a [store](crate::store) that outlives the process.
//!
//! When a page with a key is evicted from the pool, its rows go down to host memory, and from there, when that is full,
//! to the store. When [`Tiers::add`] finds no page on the device, it looks below, and uploads what is there. The
//! engine's thread waits for nothing: copies from and to the device are submitted in the order of its queue, one thread
//! takes pages from mapped memory to host memory and to the store, and another brings them up again when
//! [`Tiers::prefetch`] asks for them.
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use wgpu_kv_cache::{PagedKvCache, Result, pages::SequenceId, store::FolderStore, tiers::{Tiers, TiersConfig}};
//!
//! fn serve(mut cache: PagedKvCache, prompts: &[Vec<u32>]) -> Result<()> {
//!     let store = Arc::new(FolderStore::open("prefixes", 64 << 30)?);
//!     // 4 GiB of host memory above it.
//!     let config = TiersConfig::new("SmolLM2-135M, revision 93efa2f, RoPE 100000", 4 << 30).store(store);
//!     let mut tiers = Tiers::new(&mut cache, config)?;
//!     for prompt in prompts {
//!         // While the request waits in the queue:
//!         let prefetch = tiers.prefetch(&cache, prompt, None)?;
//!         // An engine looks at `is_ready` each step, or awaits `ready`. One that cannot wait goes on with less.
//!         prefetch.wait(Duration::from_millis(100));
//!         let added = tiers.add(&mut cache, prompt, None)?;
//!         drop(prefetch);
//!         let rest = &prompt[added.cached() as usize..];
//!         // Compute `rest`, and generate.
//!         cache.free(added.sequence)?;
//!     }
//!     // Before the process ends, what the pool and host memory have goes to the store.
//!     tiers.spill(&cache, Duration::from_secs(10))?;
//!     Ok(())
//! }
//! ```
//!
//! Whatever goes wrong below the device is a miss, counted in [`Figures`], and never an error of a step or a wrong row:
//! a page has its tokens with it, its name is a hash of the caller's identity, the shape and formats of all layers, the
//! page size, the namespace and all tokens up to its end, and an object in a store has a checksum. After three failures
//! of the store in a row it is left alone for ten seconds; after three of which only reads came between, it is not
//! written to.

mod attached;
mod below;
mod config;
mod fetcher;
mod figures;
mod form;
mod guard;
mod inner;
mod keeper;
mod prefetch;
mod prompt;
mod request;

pub use self::{
    attached::{TieredAdded, Tiers},
    config::TiersConfig,
    figures::{Figures, TierFigures},
    prefetch::Prefetch,
};
