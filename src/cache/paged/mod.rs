//! [`PagedKvCache`]: the keys and values of many sequences, in pages that they share.

mod config;
mod groups;
mod keep;
mod layer;
#[cfg(feature = "store")]
mod outlet;
#[cfg(feature = "store")]
mod pieces;
mod planes;
mod rows;
mod runs;
mod save;
mod scratch;
mod step;
mod table;
mod tails;
#[cfg(feature = "store")]
mod transfer;

pub use self::{config::PagedConfig, layer::PagedLayer, step::PagedSource};
use self::{
    groups::Groups,
    planes::{Layer, Planes},
    runs::PagedStep,
    scratch::Scratch,
    table::Table,
};
#[cfg(feature = "store")]
pub(crate) use self::{
    outlet::{Lowered, Outlet},
    pieces::PageShape,
};
use crate::{
    CacheConfig, Context, Error, PerSequenceView, Result, SequenceError,
    device::ring::StepRing,
    pages::{Added, PageEvent, PagedSequences, PagesConfig, SequenceId},
    plan::sequences::Sequences,
    shape::layout::{binding_limit, step_bytes},
};

/// Smallest slot of a step, in bytes: room for the changes that a step of some hundred sequences makes to the table.
const LEAST_SLOT_BYTES: u64 = 16 << 10;

/// The keys and values of all layers of a model, for many sequences that come and go: a pool of pages, each with
/// `page_size` tokens of every layer, `[page, kv_head, page_size, dim]`.
///
/// A sequence is a list of pages ([`pages`](crate::pages) has the rules). Sequences with the same beginning share
/// pages. A block table on the device tells which pages a sequence has, so that attention and the caller's shaders read
/// it like a dense cache.
///
/// A forward pass is a *step*: [`begin_step`](Self::begin_step) takes what each sequence appends, any numbers of
/// tokens, then every layer records its rows by [`record_update`](Self::record_update) and is read, then the caller
/// submits and says so by [`submitted`](Self::submitted). The cache records into the caller's command stream and never
/// submits on this path. Submit steps in the order in which they were begun.
///
/// ```
/// use wgpu_kv_cache::{
///     CacheConfig, Context, Format, PagedConfig, PagedKvCache, RowsIn, Source, Strides, pages::Append,
/// };
///
/// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// let context = Context::new(&device, &queue);
/// // 2 layers of 4 KV heads of 64; up to 8 sequences of up to 1024 positions; 256 pages of 16 tokens.
/// let config = PagedConfig::new(CacheConfig::new(8, 4, 64, 1024), 2, 16, 256);
/// let mut cache = PagedKvCache::new(&context, &config)?;
///
/// // Rows of up to 512 tokens, packed: [token, kv_head, dim].
/// let buffer = || device.create_buffer(&wgpu::BufferDescriptor {
///     label: None, size: 512 * 4 * 64 * 4, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false,
/// });
/// let (keys, values) = (buffer(), buffer()); // yours
/// let rows = |buffer| RowsIn { buffer, offset: 0, format: Format::F32, strides: Strides::bthd(4, 512, 64) };
/// let source = Source { keys: rows(&keys), values: rows(&values), tokens: 512 };
/// let sources = [cache.bind_source(0, &source)?, cache.bind_source(1, &source)?];
///
/// let prompt: Vec<u32> = (0..100).collect();
/// let added = cache.add(&prompt, None)?;
/// let rest = &prompt[added.cached as usize..]; // what others have not computed
/// let mut encoder = device.create_command_encoder(&Default::default());
/// cache.begin_step(&mut encoder, &[Append::new(added.sequence, rest)])?;
/// for (layer, source) in sources.iter().enumerate() {
///     // Your kernels compute the rows, then:
///     cache.record_update(layer, &mut encoder, source)?;
/// }
/// queue.submit([encoder.finish()]);
/// cache.submitted()?;
/// assert_eq!(cache.sequences().tokens(added.sequence)?, &prompt);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Debug)]
pub struct PagedKvCache {
    pub(crate) context: Context,
    config: PagedConfig,
    books: PagedSequences,
    planes: Vec<Planes>,
    layers: Vec<Layer>,
    table: Table,
    /// Slots of all layers, for steps and for changes of the table.
    ring: StepRing,
    /// The sequences of the last step, in its order, of each group.
    batch: Vec<Sequences>,
    /// Those of the step before, or memory for the next.
    next_batch: Vec<Sequences>,
    /// Of each group.
    steps: Vec<PagedStep>,
    /// None until a step moves rows.
    scratch: Option<Scratch>,
    /// What takes the rows of pages that are evicted.
    #[cfg(feature = "store")]
    outlet: Option<std::sync::Arc<dyn Outlet>>,
}

impl PagedKvCache {
    /// Allocates a pool without sequences.
    ///
    /// # Errors
    /// Those of [`PagedConfig::validate`]; [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) and
    /// [`ConfigError::PlaneTooLarge`](crate::ConfigError::PlaneTooLarge) if the device was created with limits that are
    /// too small; [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost.
    pub fn new(context: &Context, config: &PagedConfig) -> Result<Self> {
        config.validate()?;
        let first = config.first();
        let books = PagesConfig { max_seq_len: first.max_seq_len, ..config.books() };
        let Groups { placements, layers, planes } = config.grouped();
        let planes: Vec<_> = planes.into_iter().map(|planes| Planes::new(context, planes)).collect::<Result<_>>()?;
        // Larger steps get buffers of their own.
        let slot_bytes = step_bytes(first.max_batch_size, 1).max(LEAST_SLOT_BYTES).min(binding_limit(context.limits()));
        let table = Table::new(context, config.table())?;
        Ok(PagedKvCache {
            context: context.clone(),
            config: config.clone(),
            books: PagedSequences::new(books)?,
            planes,
            layers: layers.into_iter().map(Layer::new).collect(),
            table,
            ring: StepRing::of_slots(context, slot_bytes, 0)?,
            batch: vec![Sequences::default(); placements.len()],
            next_batch: vec![Sequences::default(); placements.len()],
            steps: placements.iter().map(|_| PagedStep::default()).collect(),
            scratch: None,
            #[cfg(feature = "store")]
            outlet: None,
        })
    }

    /// Its shape.
    pub const fn config(&self) -> &PagedConfig {
        &self.config
    }

    /// The context that the cache was created with.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// The books of the pool: tokens and pages of each sequence, and what could be found or taken.
    pub const fn sequences(&self) -> &PagedSequences {
        &self.books
    }

    /// Bytes that keys and values occupy on the device, summed over all layers.
    pub fn memory_allocated_bytes(&self) -> u64 {
        self.planes.iter().map(|planes| planes.layout.bytes()).fold(0, u64::saturating_add)
    }

    /// Bytes that the cache occupies on the device beside keys and values: the block table, scales, the slots in which
    /// steps are passed to the device, and scratch memory through which rows were moved. For each shape of layers that
    /// has room for as many rows as a step moved most, up to the next power of two, but no more than 16 MiB a side.
    pub fn overhead_bytes(&self) -> u64 {
        let scales = self.planes.iter().map(|planes| planes.storage.lengths.buffer.size());
        let scratch = self.scratch.as_ref().map_or(0, Scratch::bytes);
        scales.chain([self.table.buffer.size(), self.ring.bytes(), scratch]).fold(0, u64::saturating_add)
    }

    /// One layer, as attention and the caller's shaders read it.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`] if the cache has no such layer.
    pub fn layer(&self, layer: usize) -> Result<PagedLayer<'_>> {
        self.check_layer(layer)?;
        let config = CacheConfig { batch_size: self.batch[0].count(), ..self.config.layers[layer] };
        let own = &self.layers[layer];
        Ok(PagedLayer { cache: self, layer: own, planes: &self.planes[own.place.planes], config })
    }

    fn check_layer(&self, layer: usize) -> Result<()> {
        let num_layers = self.layers.len();
        if layer < num_layers {
            Ok(())
        } else {
            Err(Error::Sequence(SequenceError::LayerOutOfRange { layer, num_layers }))
        }
    }

    /// The position of the first row of each sequence of the step, in its order, `[max_batch_size]` of u32. The buffer
    /// is valid in the command stream from [`begin_step`](Self::begin_step) until the next one.
    pub fn positions(&self) -> PerSequenceView<'_> {
        let (offset, rows) = (self.table.layout.start(0), self.table.layout.rows);
        let [offset, bytes] = [offset, rows].map(|words| u64::from(words).saturating_mul(4));
        PerSequenceView { buffer: &self.table.buffer, offset, bytes }
    }

    /// Adds a sequence; see [`PagedSequences::add`].
    ///
    /// # Errors
    /// Those of [`PagedSequences::add`].
    pub fn add(&mut self, tokens: &[u32], namespace: Option<&str>) -> Result<Added> {
        self.books.add(tokens, namespace)
    }

    /// Adds a sequence of which the keys of the first pages are known.
    #[cfg(feature = "store")]
    pub(crate) fn add_by(
        &mut self,
        tokens: &[u32],
        namespace: Option<&str>,
        keys: &[crate::pages::PageKey],
    ) -> Result<Added> {
        self.books.add_by(tokens, namespace, keys)
    }

    /// Adds a sequence with the first tokens of another; see [`PagedSequences::fork`].
    ///
    /// # Errors
    /// Those of [`PagedSequences::fork`].
    pub fn fork(&mut self, from: SequenceId, length: u32) -> Result<SequenceId> {
        self.books.fork(from, length)
    }

    /// The planes of a layer.
    fn planes_of(&self, layer: usize) -> Result<&Planes> {
        self.check_layer(layer)?;
        Ok(&self.planes[self.layers[layer].place.planes])
    }

    /// Cuts a sequence; see [`PagedSequences::truncate`].
    ///
    /// # Errors
    /// Those of [`PagedSequences::truncate`].
    pub fn truncate(&mut self, sequence: SequenceId, length: u32) -> Result<()> {
        self.books.truncate(sequence, length)
    }

    /// Decides which drafts stay; see [`PagedSequences::accept`].
    ///
    /// # Errors
    /// Those of [`PagedSequences::accept`].
    pub fn accept(&mut self, sequence: SequenceId, accepted: u32) -> Result<()> {
        self.books.accept(sequence, accepted)
    }

    /// Ends a sequence; see [`PagedSequences::free`].
    ///
    /// # Errors
    /// Those of [`PagedSequences::free`].
    pub fn free(&mut self, sequence: SequenceId) -> Result<()> {
        self.books.free(sequence)
    }

    /// Forgets all prefixes; see [`PagedSequences::clear_prefixes`]. Tiers are attached no longer: attach others, with
    /// the identity of the new weights.
    pub fn clear_prefixes(&mut self) {
        self.books.clear_prefixes();
        #[cfg(feature = "store")]
        {
            self.outlet = None;
        }
    }

    /// Ends all sequences and forgets all prefixes. What was recorded and not submitted is [dropped](Self::dropped).
    /// Tiers stay attached, and have what they have: after an update of the model's weights, see
    /// [`clear_prefixes`](Self::clear_prefixes).
    pub fn reset(&mut self) {
        self.dropped();
        self.books.reset();
        self.batch.iter_mut().for_each(|batch| *batch = Sequences::default());
    }

    /// Calls `listener` whenever a page becomes findable or no longer is; see [`PagedSequences::listen`].
    pub fn listen(&mut self, listener: impl FnMut(&PageEvent) + Send + Sync + 'static) {
        self.books.listen(listener);
    }
}
