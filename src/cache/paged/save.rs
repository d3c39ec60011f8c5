//! Sequences of a [`PagedKvCache`] that leave it, and come back.

use super::{PagedKvCache, PagedSource};
use crate::{
    GpuTensor, HostRows, PageError, Pair, Result, Strides,
    pages::{Append, SequenceId, StepKind as Kind},
    shape::placement::count,
};

impl PagedKvCache {
    /// The positions of a sequence that are valid in a layer, in order: all, or in a layer with a window its sinks and
    /// the last `window` positions.
    ///
    /// # Errors
    /// [`SequenceError::LayerOutOfRange`](crate::SequenceError::LayerOutOfRange); those of
    /// [`PagedSequences::tokens`](crate::pages::PagedSequences::tokens).
    pub fn valid_positions(&self, layer: usize, sequence: SequenceId) -> Result<impl Iterator<Item = u32> + use<>> {
        self.check_layer(layer)?;
        let length = self.books.length(sequence)?;
        Ok(self.config.layers[layer].placement.valid(length).into_iter().flatten())
    }

    /// Copies the valid rows of a sequence out of every layer, in the stored formats: `[1, kv_head, rows, dim]` for
    /// each layer, where row `r` is the `r`th of its [`valid_positions`](Self::valid_positions), as
    /// [`BatchedKvCache::extract`](crate::BatchedKvCache::extract) does for dense caches and rings. Each can be
    /// inserted into the other.
    ///
    /// # Errors
    /// Those of [`get`](Self::get). A sequence that was added from a cached prefix and has not appended may lack the
    /// first position of a window, which its next token does not see.
    pub fn extract(&self, sequence: SequenceId) -> Result<Vec<Pair<GpuTensor>>> {
        (0..self.layers.len()).map(|layer| self.extract_layer(layer, sequence)).collect()
    }

    pub(crate) fn extract_layer(&self, layer: usize, sequence: SequenceId) -> Result<Pair<GpuTensor>> {
        self.check_layer(layer)?;
        let valid = self.config.layers[layer].placement.valid(self.books.length(sequence)?);
        self.read_rows(layer, sequence, &valid, None)
    }

    /// Adds a sequence with rows from elsewhere, and submits. `rows` has keys and values of each layer, `[1, kv_head,
    /// rows, dim]`, as [`extract`](Self::extract), a dense cache or a ring gives them: those of all tokens, or in a
    /// layer with a window those of its sinks and of the last `window` tokens. Those of a prefix that is cached already
    /// are not written.
    ///
    /// # Errors
    /// Those of [`PagedSequences::check_room`](crate::pages::PagedSequences::check_room), [`append`](Self::append).
    pub fn insert(
        &mut self,
        tokens: &[u32],
        namespace: Option<&str>,
        rows: &[Pair<HostRows<'_>>],
    ) -> Result<SequenceId> {
        let length = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let brought = |layer: usize| {
            let brought = self.books.brought(self.layers[layer].place.group, length, Kind::Insert);
            brought.iter().map(count).fold(0, u32::saturating_add)
        };
        self.check_rows(brought, rows)?;
        self.check_insert(tokens, namespace)?;
        // All rows are uploaded, and those of the rest are read.
        let sources = self.upload(brought, rows, Strides::bhtd)?;
        self.insert_sources(tokens, namespace, &sources)
    }

    /// Adds a sequence like [`insert`](Self::insert), with rows on the device.
    #[cfg(feature = "save")]
    pub(crate) fn insert_tensors(
        &mut self,
        tokens: &[u32],
        namespace: Option<&str>,
        rows: &[Pair<GpuTensor>],
    ) -> Result<SequenceId> {
        self.check_insert(tokens, namespace)?;
        let bound = rows.iter().enumerate().map(|(layer, rows)| self.bind_source(layer, &rows.source()).map(Some));
        let sources: Vec<_> = bound.collect::<Result<_>>()?;
        self.insert_sources(tokens, namespace, &sources)
    }

    fn check_insert(&self, tokens: &[u32], namespace: Option<&str>) -> Result<()> {
        if self.books.step().is_some() {
            return Err(PageError::StepUnderWay.into());
        }
        self.books.check_room_of(tokens, namespace, &[], Kind::Insert)
    }

    fn insert_sources(
        &mut self,
        tokens: &[u32],
        namespace: Option<&str>,
        sources: &[Option<PagedSource>],
    ) -> Result<SequenceId> {
        let added = self.books.add(tokens, namespace)?;
        let rest = &tokens[added.cached as usize..];
        let inserted = self.submit_rows(&[Append::new(added.sequence, rest)], Kind::Insert, sources);
        if inserted.is_err() {
            self.books.free(added.sequence)?;
        }
        inserted.map(|()| added.sequence)
    }
}
