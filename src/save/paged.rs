//! Sequences of paged caches.

use super::{header::Saved, sequence::sealed::Stored};
use crate::{
    CacheConfig, Context, GpuTensor, PagedKvCache, Pair, Result, SaveError,
    pages::{SequenceId, StepKind},
};

impl Stored for PagedKvCache {
    type Sequence = SequenceId;
    /// The namespace.
    type Place<'a> = Option<&'a str>;

    fn device_context(&self) -> &Context {
        self.context()
    }

    fn layer_configs(&self) -> Vec<CacheConfig> {
        self.config().layers.clone()
    }

    fn described(&self, sequence: SequenceId) -> Result<(u32, Option<&[u32]>)> {
        let tokens = self.sequences().tokens(sequence)?;
        Ok((self.sequences().length(sequence)?, Some(tokens)))
    }

    fn rows_of(&self, layer: usize, sequence: SequenceId) -> Result<Pair<GpuTensor>> {
        self.extract_layer(layer, sequence)
    }

    fn check_place(&self, namespace: Option<&str>, saved: &Saved) -> Result<()> {
        let tokens = saved.tokens.as_ref().ok_or(SaveError::NoTokens)?;
        self.sequences().check_room_of(tokens, namespace, &[], StepKind::Insert)
    }

    fn place(&mut self, namespace: Option<&str>, saved: &Saved, rows: &[Pair<GpuTensor>]) -> Result<SequenceId> {
        let tokens = saved.tokens.as_ref().ok_or(SaveError::NoTokens)?;
        self.insert_tensors(tokens, namespace, rows)
    }
}
