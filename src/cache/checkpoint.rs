//! [`Checkpoint`]: what the host knew of a cache, to go back to after commands were recorded and never submitted.

use std::sync::Arc;

use crate::{BatchedKvCache, Error, KvCache, Result, StepError, plan::sequences::Sequences};

/// The lengths and the batch that the host tracked when [`KvCache::checkpoint`] or [`BatchedKvCache::checkpoint`] was
/// called.
///
/// Lengths on the host advance when a command is recorded. If its encoder is dropped instead of submitted, the device
/// keeps its old state, and [`KvCache::restore`] makes the host agree with it again. This also holds for a ring that a
/// dropped update would have overwritten, and after a dropped selection that changed the batch. What
/// `wgpu::Queue::write_buffer` wrote for the dropped commands does no harm.
///
/// ```
/// use wgpu_kv_cache::{BatchedKvCache, CacheConfig, Context, Write};
///
/// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// # let context = Context::new(&device, &queue);
/// let mut cache = BatchedKvCache::new(&context, CacheConfig::new(1, 2, 4, 16).max_batch_size(2), 3)?;
/// let before = cache.checkpoint();
/// let mut encoder = device.create_command_encoder(&Default::default());
/// cache.record_repeat(&mut encoder, 2)?;
/// assert_eq!(cache.config().batch_size, 2);
/// drop(encoder); // nothing was submitted
/// cache.restore(&before)?;
/// assert_eq!(cache.config().batch_size, 1);
///
/// // A step that is dropped is begun again.
/// let before = cache.checkpoint();
/// let mut encoder = device.create_command_encoder(&Default::default());
/// cache.begin_step(&mut encoder, Write::append(4))?;
/// cache.record_advance(0, &mut encoder)?;
/// drop(encoder);
/// cache.restore(&before)?;
/// let mut encoder = device.create_command_encoder(&Default::default());
/// cache.begin_step(&mut encoder, Write::append(4))?;
/// (0..3).try_for_each(|layer| cache.record_advance(layer, &mut encoder))?;
/// queue.submit([encoder.finish()]);
/// assert_eq!(cache.lengths(), [4]);
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Identity and sequences of each layer.
    layers: Vec<(Arc<()>, Sequences)>,
}

impl Checkpoint {
    pub(crate) fn new(layers: &[KvCache]) -> Self {
        let of = |layer: &KvCache| (layer.identity.clone(), layer.sequences.clone());
        Checkpoint { layers: layers.iter().map(of).collect() }
    }

    /// Restores the layers that the checkpoint was taken from.
    pub(crate) fn restore(&self, layers: &mut [KvCache]) -> Result<()> {
        let same = |(layer, (identity, _)): (&KvCache, &(Arc<()>, Sequences))| Arc::ptr_eq(&layer.identity, identity);
        if layers.len() != self.layers.len() || !layers.iter().zip(&self.layers).all(same) {
            return Err(Error::Step(StepError::ForeignCheckpoint));
        }
        for (layer, (_, sequences)) in layers.iter_mut().zip(&self.layers) {
            layer.set_sequences(sequences);
        }
        Ok(())
    }
}

impl KvCache {
    /// Saves the lengths and the batch that the host tracks, for [`restore`](Self::restore).
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(std::slice::from_ref(self))
    }

    /// Restores the lengths and the batch size on the host to a checkpoint. Call it after everything recorded since
    /// then was dropped without being submitted. It then always succeeds on the cache that the checkpoint was taken
    /// from, and changes nothing on the device.
    ///
    /// If something was submitted, the host would no longer agree with the device. Use [`truncate`](Self::truncate)
    /// instead to remove rows that were written.
    ///
    /// # Errors
    /// [`StepError::ForeignCheckpoint`] if the checkpoint was taken from another cache.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.restore(std::slice::from_mut(self))
    }
}

impl BatchedKvCache {
    /// Saves the lengths and the batch that the host tracks for all layers, for [`restore`](Self::restore).
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.layers())
    }

    /// Applies [`KvCache::restore`] to every layer, or to none.
    ///
    /// # Errors
    /// [`StepError::ForeignCheckpoint`] if the checkpoint was taken from another cache.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.restore(self.layers_mut())
    }
}
