//! [`Checkpoint`]: the way back from commands that were recorded and never submitted.

use std::sync::Arc;

use crate::{BatchedKvCache, Error, KvCache, Result, StepError, plan::sequences::Sequences};

/// The lengths and the batch that the host tracked when [`KvCache::checkpoint`] or [`BatchedKvCache::checkpoint`] was
/// called.
///
/// Lengths on the host advance when a command is recorded. Where its encoder is dropped instead of submitted, the
/// device still has what it had before, and [`KvCache::restore`] makes the host agree with it again: also in a ring
/// that a dropped update would have overwritten, and after a dropped selection that changed the batch. What
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
    /// Of each layer, what it is known by.
    layers: Vec<(Arc<()>, Sequences)>,
}

impl Checkpoint {
    pub(crate) fn new(layers: &[KvCache]) -> Self {
        let of = |layer: &KvCache| (layer.identity.clone(), layer.sequences.clone());
        Checkpoint { layers: layers.iter().map(of).collect() }
    }

    /// Takes the layers that it was made of back.
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

    /// Takes lengths and batch size on the host back to a checkpoint, after everything that was recorded since then has
    /// been dropped without being submitted. Then it always works; it touches nothing on the device.
    ///
    /// Where something was submitted, the host would no longer agree with the device: use
    /// [`truncate`](Self::truncate) to take back rows that were written.
    ///
    /// # Errors
    /// [`StepError::ForeignCheckpoint`].
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.restore(std::slice::from_mut(self))
    }
}

impl BatchedKvCache {
    /// Saves the lengths and the batch that the host tracks for all layers, for [`restore`](Self::restore).
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.layers())
    }

    /// [`KvCache::restore`] of all layers.
    ///
    /// # Errors
    /// [`StepError::ForeignCheckpoint`].
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.restore(self.layers_mut())
    }
}
