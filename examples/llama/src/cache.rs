//! [`Cache`]: keys and values of the model, in one of three placements, and the attention over them.
//!
//! This is all that an engine needs of the crate: a source and an attention for each layer, bound once, and three calls
//! in a step.

use std::path::Path;

use wgpu_kv_cache::{
    BatchedKvCache, BoundSource, CacheConfig, Checkpoint, Context, Format, PagedConfig, PagedKvCache, PagedSource,
    Placement, RowsIn, Source, Strides, Write,
    attention::{Attention, Options, Tensors},
    pages::{Append, SequenceId},
    save::{Label, SaveSequence},
    wgpu,
};

use crate::{Error, Result, model::Model};

/// Where keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One sequence, every position.
    Dense,
    /// One sequence: its last `window` positions, and its first `sinks`.
    Ring { window: u32, sinks: u32 },
    /// Up to `sequences` sequences over `pages` pages of `page_size` tokens.
    Pages { sequences: u32, page_size: u32, pages: u32 },
}

/// The shape of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    pub keys: Format,
    pub values: Format,
    pub place: Place,
    /// Lets the attention split positions among workgroups as the device likes. This is faster on a GPU where contexts
    /// are long, but sums then depend on the length and on who else is in the step: tokens are equal up to rounding
    /// alone.
    pub fast: bool,
}

/// Names a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sequence {
    /// The one of a dense cache or a ring.
    Only,
    Paged(SequenceId),
}

/// What a sequence brings to a step.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    pub sequence: Sequence,
    pub tokens: &'a [u32],
    /// How many of them, the last ones, may be taken back by [`Cache::accept`].
    pub drafts: u32,
    /// How many rows, the last ones, want to know the next token.
    pub wanted: u32,
}

impl<'a> Chunk<'a> {
    /// Tokens that stay, and the token after them.
    pub fn new(sequence: Sequence, tokens: &'a [u32]) -> Self {
        Chunk { sequence, tokens, drafts: 0, wanted: 1 }
    }

    /// Rows that want a token.
    pub fn wanting(&self) -> u32 {
        self.wanted.min(self.tokens.len() as u32)
    }
}

#[derive(Debug)]
enum Held {
    Dense { cache: Box<BatchedKvCache>, sources: Vec<BoundSource>, before: Option<Checkpoint> },
    Pages { cache: Box<PagedKvCache>, sources: Vec<PagedSource> },
}

#[derive(Debug)]
pub struct Cache {
    held: Held,
    attentions: Vec<Attention>,
    options: CacheOptions,
}

impl Cache {
    /// A cache whose rows are read from the projections of a model, and whose attention reads and writes there.
    pub fn new(context: &Context, model: &Model, options: &CacheOptions) -> Result<Self> {
        let (shape, sizes) = (&model.shape, &model.sizes);
        let (layers, heads, dim) = (shape.layers as usize, shape.kv_heads, shape.head_dim);
        let sequences = if let Place::Pages { sequences, .. } = options.place { sequences } else { 1 };
        let layer = CacheConfig::new(sequences, heads, dim, sizes.positions).formats(options.keys, options.values);

        // The projection writes queries, keys and values side by side; the cache reads the latter two in place.
        let features = u64::from(shape.queries() + 2 * shape.keys());
        let part = |first: u32| RowsIn {
            buffer: &model.buffers.projected,
            offset: u64::from(first) * 4,
            format: Format::F32,
            strides: Strides::fused(features, sizes.rows, dim),
        };
        let source =
            Source { keys: part(shape.queries()), values: part(shape.queries() + shape.keys()), tokens: sizes.rows };
        let output = RowsIn {
            buffer: &model.buffers.attended,
            offset: 0,
            format: Format::F32,
            strides: Strides::bthd(shape.query_heads, sizes.rows, dim),
        };
        let tensors = Tensors { queries: part(0), output, mask: None, sink_logits: None };
        let mut wanted = Options::packed(shape.query_heads, sizes.rows);
        if !options.fast {
            // One part, and sums in one order: a row gives the same bits in every step.
            wanted = Options { splits: Some(1), subgroups: false, ..wanted };
        }

        let held = match options.place {
            Place::Dense => Self::dense(context, layer, layers, &source)?,
            Place::Ring { window, sinks } => {
                // After the ring has wrapped, a step may still have as many rows, and all of them may be taken back.
                let slack = sizes.rows;
                Self::dense(context, layer.placement(Placement::Ring { window, sinks, slack }), layers, &source)?
            }
            Place::Pages { page_size, pages, .. } => {
                let cache = PagedKvCache::new(context, &PagedConfig::new(layer, layers, page_size, pages))?;
                let sources =
                    (0..layers).map(|layer| cache.bind_source(layer, &source)).collect::<wgpu_kv_cache::Result<_>>()?;
                Held::Pages { cache: Box::new(cache), sources }
            }
        };
        let attention = |layer: usize| match &held {
            Held::Dense { cache, .. } => Attention::new(cache.layer(layer)?, &wanted, &tensors),
            Held::Pages { cache, .. } => Attention::new(&cache.layer(layer)?, &wanted, &tensors),
        };
        let attentions = (0..layers).map(attention).collect::<wgpu_kv_cache::Result<_>>()?;
        Ok(Cache { held, attentions, options: *options })
    }

    fn dense(context: &Context, layer: CacheConfig, layers: usize, source: &Source<'_>) -> Result<Held> {
        let cache = BatchedKvCache::new(context, layer, layers)?;
        let sources =
            cache.layers().iter().map(|layer| layer.bind_source(source)).collect::<wgpu_kv_cache::Result<_>>()?;
        Ok(Held::Dense { cache: Box::new(cache), sources, before: None })
    }

    pub fn options(&self) -> &CacheOptions {
        &self.options
    }

    /// Adds a sequence, and tells how many of the tokens it has already: those of a prefix that another has computed.
    pub fn add(&mut self, tokens: &[u32]) -> Result<(Sequence, u32)> {
        match &mut self.held {
            Held::Dense { cache, .. } => {
                cache.clear_sequence(0)?;
                Ok((Sequence::Only, 0))
            }
            Held::Pages { cache, .. } => {
                let added = cache.add(tokens, None)?;
                Ok((Sequence::Paged(added.sequence), added.cached))
            }
        }
    }

    pub fn length(&self, sequence: Sequence) -> Result<u32> {
        match (&self.held, sequence) {
            (Held::Pages { cache, .. }, Sequence::Paged(id)) => Ok(cache.sequences().length(id)?),
            (Held::Dense { cache, .. }, _) => Ok(cache.lengths()[0]),
            (Held::Pages { .. }, Sequence::Only) => Err(Error::NeedsPages { operation: "this sequence" }),
        }
    }

    /// Begins a step, or refuses it and changes nothing.
    pub fn begin_step(&mut self, pass: &mut wgpu::ComputePass<'_>, chunks: &[Chunk<'_>]) -> Result<()> {
        match &mut self.held {
            Held::Dense { cache, before, .. } => {
                let [chunk] = chunks else { return Err(Error::NeedsPages { operation: "more than one sequence" }) };
                let checkpoint = cache.checkpoint();
                cache.begin_step(pass, Write::append(chunk.tokens.len() as u32).attended())?;
                *before = Some(checkpoint);
            }
            Held::Pages { cache, .. } => {
                let mut appends = Vec::new();
                for chunk in chunks {
                    appends.push(Append::new(paged(chunk.sequence)?, chunk.tokens).drafts(chunk.drafts));
                }
                cache.begin_step(pass, &appends)?;
            }
        }
        Ok(())
    }

    /// Records the rows of the step in a layer.
    pub fn update(&mut self, layer: usize, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        match &mut self.held {
            Held::Dense { cache, sources, .. } => cache.record_update(layer, pass, &sources[layer])?,
            Held::Pages { cache, sources } => cache.record_update(layer, pass, &sources[layer])?,
        }
        Ok(())
    }

    /// Records the attention of a layer.
    pub fn attend(&self, layer: usize, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        match &self.held {
            Held::Dense { cache, .. } => self.attentions[layer].record(cache.layer(layer)?, pass)?,
            Held::Pages { cache, .. } => self.attentions[layer].record(&cache.layer(layer)?, pass)?,
        }
        Ok(())
    }

    /// The commands of the step are in the queue.
    pub fn submitted(&mut self) -> Result<()> {
        match &mut self.held {
            Held::Dense { before, .. } => *before = None,
            Held::Pages { cache, .. } => cache.submitted()?,
        }
        Ok(())
    }

    /// The commands of the step will never run.
    pub fn dropped(&mut self) -> Result<()> {
        match &mut self.held {
            Held::Dense { cache, before, .. } => {
                if let Some(before) = before.take() {
                    cache.restore(&before)?;
                }
            }
            Held::Pages { cache, .. } => cache.dropped(),
        }
        Ok(())
    }

    /// Keeps the first `accepted` of `drafts` tokens, and takes back the others.
    pub fn accept(&mut self, sequence: Sequence, drafts: u32, accepted: u32) -> Result<()> {
        match &mut self.held {
            Held::Dense { cache, .. } if drafts > accepted => cache.rollback(drafts - accepted)?,
            Held::Dense { .. } => {}
            Held::Pages { cache, .. } => cache.accept(paged(sequence)?, accepted)?,
        }
        Ok(())
    }

    /// Cuts a sequence to its first tokens.
    pub fn truncate(&mut self, sequence: Sequence, length: u32) -> Result<()> {
        match &mut self.held {
            Held::Dense { cache, .. } => cache.truncate(length)?,
            Held::Pages { cache, .. } => cache.truncate(paged(sequence)?, length)?,
        }
        Ok(())
    }

    /// Ends a sequence. What it has in pages may still be found.
    pub fn free(&mut self, sequence: Sequence) -> Result<()> {
        match &mut self.held {
            Held::Dense { cache, .. } => cache.clear_sequence(0)?,
            Held::Pages { cache, .. } => cache.free(paged(sequence)?)?,
        }
        Ok(())
    }

    /// Saves a sequence to a file.
    pub fn save(&self, sequence: Sequence, path: &Path, label: &Label<'_>) -> Result<()> {
        match &self.held {
            Held::Dense { cache, .. } => cache.save(0, path, label)?,
            Held::Pages { cache, .. } => cache.save(paged(sequence)?, path, label)?,
        }
        Ok(())
    }

    /// Loads a sequence from a file, with its tokens.
    pub fn load(&mut self, path: &Path, identity: &str) -> Result<(Sequence, Vec<u32>)> {
        match &mut self.held {
            Held::Dense { cache, .. } => {
                cache.clear_sequence(0)?;
                Ok((Sequence::Only, cache.load(0, path, identity)?.tokens))
            }
            Held::Pages { cache, .. } => {
                let loaded = cache.load(None, path, identity)?;
                Ok((Sequence::Paged(loaded.sequence), loaded.tokens))
            }
        }
    }

    /// The paged cache itself, where there is one.
    pub fn pages(&mut self, operation: &'static str) -> Result<&mut PagedKvCache> {
        match &mut self.held {
            Held::Dense { .. } => Err(Error::NeedsPages { operation }),
            Held::Pages { cache, .. } => Ok(cache),
        }
    }

    /// What the cache takes, as lines of names and numbers.
    pub fn memory_report(&self) -> String {
        match &self.held {
            Held::Dense { cache, .. } => cache.memory_report().to_string(),
            Held::Pages { cache, .. } => {
                let (config, counts) = (cache.config(), cache.sequences().counts());
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                format!(
                    "num_layers              {}\npages                   {} of {} tokens\nreferenced              {}\n\
                     cached                  {}\ntotal_allocated_mb      {:.3}\noverhead_mb             {:.3}",
                    config.layers.len(),
                    config.pages,
                    config.page_size,
                    counts.referenced,
                    counts.cached,
                    mib(cache.memory_allocated_bytes()),
                    mib(cache.overhead_bytes()),
                )
            }
        }
    }
}

fn paged(sequence: Sequence) -> Result<SequenceId> {
    match sequence {
        Sequence::Paged(id) => Ok(id),
        Sequence::Only => Err(Error::NeedsPages { operation: "this sequence" }),
    }
}
