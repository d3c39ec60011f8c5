//! Sequences of dense caches and of rings.

use super::{header::Saved, sequence::sealed::Stored};
use crate::{BatchedKvCache, CacheConfig, Context, GpuTensor, KvCache, Pair, Result, SaveError};

impl Stored for KvCache {
    type Sequence = u32;
    type Place<'a> = u32;

    fn device_context(&self) -> &Context {
        &self.context
    }

    fn layer_configs(&self) -> Vec<CacheConfig> {
        vec![*self.config()]
    }

    fn described(&self, sequence: u32) -> Result<(u32, Option<&[u32]>)> {
        Ok((self.sequences.get(sequence)?.0, None))
    }

    fn rows_of(&self, _: usize, sequence: u32) -> Result<Pair<GpuTensor>> {
        self.extract(sequence)
    }

    fn check_place(&self, sequence: u32, saved: &Saved) -> Result<()> {
        let length = self.lengths().get(sequence as usize).copied().unwrap_or(0);
        if length > 0 {
            return Err(SaveError::Occupied { sequence, length }.into());
        }
        self.check_insert(sequence, saved.length).map(drop)
    }

    fn place(&mut self, sequence: u32, saved: &Saved, rows: &[Pair<GpuTensor>]) -> Result<u32> {
        self.insert_tensors(sequence, saved.length, rows).map(|()| sequence)
    }
}

impl Stored for BatchedKvCache {
    type Sequence = u32;
    type Place<'a> = u32;

    fn device_context(&self) -> &Context {
        self.context()
    }

    fn layer_configs(&self) -> Vec<CacheConfig> {
        self.layers().iter().map(|layer| *layer.config()).collect()
    }

    fn described(&self, sequence: u32) -> Result<(u32, Option<&[u32]>)> {
        self.layers()[0].described(sequence)
    }

    fn rows_of(&self, layer: usize, sequence: u32) -> Result<Pair<GpuTensor>> {
        self.layers()[layer].extract(sequence)
    }

    fn check_place(&self, sequence: u32, saved: &Saved) -> Result<()> {
        self.layers().iter().try_for_each(|layer| layer.check_place(sequence, saved))
    }

    fn place(&mut self, sequence: u32, saved: &Saved, rows: &[Pair<GpuTensor>]) -> Result<u32> {
        self.insert_tensors(sequence, saved.length, rows).map(|()| sequence)
    }
}
