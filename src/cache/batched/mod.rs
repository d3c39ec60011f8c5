//! [`BatchedKvCache`]: the caches of all layers of a model, and operations on one or all of them.

mod model_step;
mod sequence;
mod step;

use std::{ops::Range, sync::Arc};

use self::model_step::{ModelStep, Positions};
use crate::{
    CacheConfig, ConfigError, Context, Error, GpuTensor, HostRows, KvCache, Pair, Result, SequenceError, Write,
    device::ring::StepRing,
    shape::layout::{Layout, runs},
};

/// The caches of all layers of a model. Layers advance one by one, as a forward pass reaches them.
///
/// ```
/// use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Context, Write};
///
/// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// # let context = Context::new(&device, &queue);
/// let mut cache = BatchedKvCache::new(&context, CacheConfig::new(1, 2, 4, 16), 3)?;
/// for layer in 0..cache.num_layers() {
///     cache.update(layer, &[0.5f32; 8][..], &[1.5f32; 8][..], Write::append(1))?;
/// }
/// assert_eq!(cache.memory_report().tokens_generated, 1);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Debug)]
pub struct BatchedKvCache {
    layers: Vec<KvCache>,
    /// The slots in which the steps of all layers are passed to the device.
    ring: StepRing,
    positions: Positions,
    /// Identities of the layers that the cache was created with.
    identities: Vec<Arc<()>>,
    /// The step whose layers are being recorded, and memory for the next one.
    step: ModelStep,
    next_step: ModelStep,
}

impl BatchedKvCache {
    /// Maximum number of layers of a cache.
    pub const MAX_LAYERS: usize = 65_536;

    /// Checks a number of layers before any memory is allocated for them.
    ///
    /// # Errors
    /// [`ConfigError::ZeroDimension`] for none; [`ConfigError::TooManyLayers`] for more than
    /// [`MAX_LAYERS`](Self::MAX_LAYERS).
    pub const fn check_layers(num_layers: usize) -> Result<()> {
        match num_layers {
            0 => Err(Error::Config(ConfigError::ZeroDimension { name: "num_layers" })),
            1..=Self::MAX_LAYERS => Ok(()),
            _ => Err(Error::Config(ConfigError::TooManyLayers { num_layers, most: Self::MAX_LAYERS })),
        }
    }

    /// Allocates `num_layers` empty layers of one shape.
    ///
    /// # Errors
    /// The errors of [`check_layers`](Self::check_layers) and [`KvCache::new`]; [`ConfigError::SizeOverflow`] if the
    /// bytes of all layers overflow 64 bits.
    pub fn new(context: &Context, config: CacheConfig, num_layers: usize) -> Result<Self> {
        Self::check_layers(num_layers)?;
        Self::of(context, (0..num_layers).map(|_| config))
    }

    /// Allocates empty layers with a configuration for each. Layers may differ in everything but their sequences: in a
    /// hybrid model, some layers attend to all positions and others to a sliding window.
    ///
    /// ```
    /// use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Context, Placement};
    ///
    /// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
    /// # let context = Context::new(&device, &queue);
    /// let full = CacheConfig::new(1, 4, 64, 8192);
    /// let sliding = full.placement(Placement::Ring { window: 512, sinks: 0, slack: 4 });
    /// let cache = BatchedKvCache::with_layers(&context, &[sliding, sliding, full])?;
    /// assert_eq!(cache.layers()[0].config().slots(), 516);
    /// # Ok::<(), wgpu_kv_cache::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`check_layers`](Self::check_layers) and [`KvCache::new`]; [`ConfigError::LayersDiffer`] if the
    /// `batch_size` or `max_batch_size` of a layer is not that of the first; [`ConfigError::SizeOverflow`] if the bytes
    /// of all layers overflow 64 bits.
    pub fn with_layers(context: &Context, layers: &[CacheConfig]) -> Result<Self> {
        Self::check_layers(layers.len())?;
        for (layer, config) in layers.iter().enumerate() {
            for (name, first, actual) in [
                ("batch_size", layers[0].batch_size, config.batch_size),
                ("max_batch_size", layers[0].max_batch_size, config.max_batch_size),
            ] {
                if actual != first {
                    return Err(Error::Config(ConfigError::LayersDiffer { layer, name, first, actual }));
                }
            }
        }
        Self::of(context, layers.iter().copied())
    }

    fn of(context: &Context, layers: impl Iterator<Item = CacheConfig> + Clone) -> Result<Self> {
        let mut bytes = 0u64;
        for config in layers.clone() {
            let layer_bytes = Layout::for_limits(&config, context.limits())?.bytes();
            bytes = bytes.checked_add(layer_bytes).ok_or_else(|| {
                Error::Config(ConfigError::SizeOverflow {
                    what: "bytes of all layers",
                    factors: format!("{bytes} + {layer_bytes}"),
                    bits: 64,
                })
            })?;
        }
        let most = layers.clone().map(|config| runs(config.placement)).max().unwrap_or(1);
        let batch = layers.clone().map(|config| config.max_batch_size).max().unwrap_or(1);
        let ring = StepRing::new(context, batch, most)?;
        let layers: Vec<KvCache> =
            layers.map(|config| KvCache::with_ring(context, config, &ring)).collect::<Result<_>>()?;
        let identities = layers.iter().map(|layer| layer.identity.clone()).collect();
        let positions = Positions::new(context, batch)?;
        let (step, next_step) = (ModelStep::default(), ModelStep::default());
        Ok(BatchedKvCache { layers, ring, positions, identities, step, next_step })
    }

    /// Shape and formats of the first layer. `batch_size` is the current number of sequences in its batch.
    pub fn config(&self) -> &CacheConfig {
        self.layers.first().expect("a cache has at least one layer").config()
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// All layers, in order.
    pub fn layers(&self) -> &[KvCache] {
        &self.layers
    }

    pub(crate) fn layers_mut(&mut self) -> &mut [KvCache] {
        &mut self.layers
    }

    /// Returns one layer.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`] if the cache has no such layer.
    pub fn layer(&self, layer: usize) -> Result<&KvCache> {
        self.layers
            .get(layer)
            .ok_or(Error::Sequence(SequenceError::LayerOutOfRange { layer, num_layers: self.layers.len() }))
    }

    /// Returns one layer, mutably.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`] if the cache has no such layer.
    pub fn layer_mut(&mut self, layer: usize) -> Result<&mut KvCache> {
        let num_layers = self.layers.len();
        self.layers.get_mut(layer).ok_or(Error::Sequence(SequenceError::LayerOutOfRange { layer, num_layers }))
    }

    /// The position of the next append of a lock-step batch, from the first layer, which a forward pass reaches first.
    pub fn write_pos(&self) -> u32 {
        self.layers.first().map_or(0, KvCache::write_pos)
    }

    /// The length of each sequence, `[batch]`, from the first layer, which a forward pass reaches first.
    pub fn lengths(&self) -> &[u32] {
        self.layers.first().map_or(&[], KvCache::lengths)
    }

    /// Calls [`KvCache::update`] on one layer.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`], and the errors of [`KvCache::update`].
    pub fn update<'r>(
        &mut self,
        layer: usize,
        keys: impl Into<HostRows<'r>>,
        values: impl Into<HostRows<'r>>,
        write: Write<'_>,
    ) -> Result<()> {
        self.layer_mut(layer)?.update(keys, values, write)
    }

    /// Calls [`KvCache::get`] on one layer.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`], and the errors of [`KvCache::get`].
    pub fn get(&self, layer: usize, range: Range<u32>) -> Result<Pair<GpuTensor>> {
        self.layer(layer)?.get(range)
    }

    /// Calls [`KvCache::get_all`] on one layer.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`], and the errors of [`KvCache::get_all`].
    pub fn get_all(&self, layer: usize) -> Result<Pair<GpuTensor>> {
        self.layer(layer)?.get_all()
    }

    /// Resets every layer to length zero, clears its storage, and submits once.
    ///
    /// # Errors
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost;
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the submission exhausts memory.
    pub fn reset(&mut self) -> Result<()> {
        self.submit("a reset", |cache, encoder| {
            cache.record_reset(encoder);
            Ok(())
        })
    }

    /// Records [`reset`](Self::reset) into an encoder, without submitting.
    pub fn record_reset(&mut self, encoder: &mut wgpu::CommandEncoder) {
        for layer in &mut self.layers {
            layer.record_reset(encoder);
        }
    }

    /// Bytes occupied by valid rows, summed over all layers.
    pub fn memory_used_bytes(&self) -> u64 {
        self.layers.iter().map(KvCache::memory_used_bytes).sum()
    }

    /// Bytes that keys and values occupy on the device, summed over all layers.
    pub fn memory_allocated_bytes(&self) -> u64 {
        self.layers.iter().map(KvCache::memory_allocated_bytes).sum()
    }

    /// Bytes that the cache occupies on the device beside keys and values: lengths, positions, and the slots in which
    /// steps are passed to the device. Each bound source occupies
    /// [`BoundSource::device_bytes`](crate::BoundSource::device_bytes) more.
    pub fn overhead_bytes(&self) -> u64 {
        let lengths = self.layers.iter().map(KvCache::length_bytes);
        // Layers share the slots.
        let slots = self.layers.first().map_or(0, KvCache::slot_bytes);
        lengths.chain([self.positions.bytes(), slots]).fold(0, u64::saturating_add)
    }

    /// The context that the cache was created with.
    pub fn context(&self) -> &Context {
        self.layers.first().expect("a cache has at least one layer").context()
    }
}
