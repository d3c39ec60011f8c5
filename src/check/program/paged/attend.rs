//! Attention over sequences of a [`PagedRun`], on the device and in f64.

use super::{
    super::operation::FailureKind,
    operation::{PagedOutcome, PagedRefusal},
    rows::{TokenRows, number},
    run::PagedRun,
};
use crate::{
    CacheConfig, HostTensor, ReferenceCache, Result, Side, Write,
    attention::{Extras, Options, attend},
};

impl PagedRun {
    /// Computes attention of packed queries at the last positions of some sequences, in order, on the device and on the
    /// CPU. Both refuse what breaks a rule.
    ///
    /// # Errors
    /// A refusal of one of the two.
    pub fn attend(
        &mut self,
        layer: usize,
        names: &[String],
        options: &Options,
        queries: &[f32],
        extras: Extras<'_>,
    ) -> Result<Result<(Vec<f64>, HostTensor), PagedRefusal>, FailureKind> {
        if let Some(refusal) = self.refused(names.iter()) {
            return Ok(Err(refusal));
        }
        // A step without tokens says which sequences are read.
        let appends: Vec<_> = names.iter().map(|name| (name.clone(), Vec::new(), 0)).collect();
        let appended = self.append(&appends, false, PagedOutcome::default())?;
        if let Some(refusal) = appended.refused {
            return Ok(Err(refusal));
        }
        let actual = self.device.layer(layer).and_then(|layer| attend(&layer, options, queries, extras));
        let Some(config) = self.device.config().layers.get(layer) else {
            return Ok(actual.map(|output| (Vec::new(), output)).map_err(PagedRefusal::Cache));
        };
        let mut reference = self.dense_reference(layer, &config.clone(), names).map_err(FailureKind::Device)?;
        match (reference.as_mut().map(|reference| reference.attend(options, queries, extras)), actual) {
            (Some(Ok(expected)), Ok(actual)) => Ok(Ok((expected, actual))),
            (Some(Err(expected)), Err(actual)) if expected == actual => Ok(Err(actual.into())),
            (None, Err(actual)) => Ok(Err(actual.into())),
            (expected, actual) => {
                Err(FailureKind::Refusal { expected: expected.and_then(Result::err), actual: actual.err() })
            }
        }
    }

    /// The sequences as a dense batch, if there are any.
    fn dense_reference(&self, layer: usize, config: &CacheConfig, names: &[String]) -> Result<Option<ReferenceCache>> {
        let tokens: Vec<_> = names.iter().map(|name| &self.reference.sequences[name].tokens).collect();
        let most = tokens.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        if names.is_empty() {
            return Ok(None);
        }
        let batch = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let mut reference = ReferenceCache::new(CacheConfig { batch_size: batch, max_batch_size: batch, ..*config })?;
        if most == 0 {
            return Ok(Some(reference));
        }
        let counts: Vec<u32> = tokens.iter().map(|tokens| number(tokens.len())).collect();
        let bases: Vec<_> = names.iter().map(|name| &self.reference.sequences[name].bases).collect();
        let rows = |side: Side| -> Vec<f32> {
            let row = |base: Option<&u32>, head| {
                let row = TokenRows::row(side, config.dim(side), base.copied().unwrap_or(0), layer, head);
                row.collect::<Vec<_>>()
            };
            let of_head =
                |bases: &[u32], head| (0..most).flat_map(|token| row(bases.get(token), head)).collect::<Vec<_>>();
            bases.iter().flat_map(|bases| (0..config.num_heads).flat_map(|head| of_head(bases, head))).collect()
        };
        let write = Write::append(number(most)).counts(&counts);
        reference.update(&rows(Side::Keys), &rows(Side::Values), write)?;
        Ok(Some(reference))
    }
}
