//! Attention over sequences of a [`PagedRun`], on the device and in f64.

use super::{
    super::operation::FailureKind,
    operation::{PagedOutcome, PagedRefusal},
    rows::number,
    run::PagedRun,
};
use crate::{
    AttentionError, CacheConfig, Error, HostTensor, Placement, RangeError, ReferenceCache, Result, Side, Write,
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
        let appended = self.append(&appends, None, false, PagedOutcome::default())?;
        if let Some(refusal) = appended.refused {
            return Ok(Err(refusal));
        }
        let mut actual = self.device.layer(layer).and_then(|layer| attend(&layer, options, queries, extras));
        let Some(config) = self.device.config().layers.get(layer) else {
            return Ok(actual.map(|output| (Vec::new(), output)).map_err(PagedRefusal::Cache));
        };
        let config = *config;
        // What a window no longer has is refused, and what it hides is hidden from a reference that has it.
        match (self.refused_window(layer, names, options), actual) {
            (Some(expected), Err(actual)) if expected == actual => return Ok(Err(actual.into())),
            (Some(expected), actual) => {
                return Err(FailureKind::refusal(Some(expected), actual.err()));
            }
            (None, refused) => actual = refused,
        }
        let mut windowed = *options;
        if let (Placement::Ring { window, sinks, .. }, None) = (config.placement, options.window) {
            (windowed.window, windowed.sinks) = (Some(window), sinks);
        }
        let all = config.placement(Placement::Linear);
        let mut reference = self.dense_reference(layer, &all, names).map_err(FailureKind::Device)?;
        match (reference.as_mut().map(|reference| reference.attend(&windowed, queries, extras)), actual) {
            (Some(Ok(expected)), Ok(actual)) => Ok(Ok((expected, actual))),
            (Some(Err(expected)), Err(actual)) if expected == actual => Ok(Err(actual.into())),
            (None, Err(actual)) => Ok(Err(actual.into())),
            (expected, actual) => Err(FailureKind::refusal(expected.and_then(Result::err), actual.err())),
        }
    }

    /// Why an attention would be refused because of the window of the layer: it asks for more than is kept, or a query
    /// reads a position that is not there.
    fn refused_window(&self, layer: usize, names: &[String], options: &Options) -> Option<Error> {
        let (groups, _) = self.device.config().groups();
        let (group, placement) = (groups[layer], self.device.config().layers[layer].placement);
        let Placement::Ring { window, sinks, .. } = placement else { return None };
        let (wanted, wanted_sinks) = options.window.map_or((window, sinks), |wanted| (wanted, options.sinks));
        if wanted > window || wanted_sinks > sinks {
            return Some(AttentionError::AttentionWindow { window, sinks, wanted, wanted_sinks }.into());
        }
        let last = |name: &String| self.reference.oldest_read(name, group, options.tokens, (wanted, wanted_sinks));
        names.iter().enumerate().find_map(|(sequence, name)| {
            let (position, oldest) = last(name)?;
            Some(RangeError::Evicted { sequence: number(sequence), position, oldest }.into())
        })
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
        let layers = &self.device.config().layers;
        let rows = |side: Side| -> Vec<f32> {
            let row = |base: Option<&u32>, head| self.given.row(layers, side, base.copied().unwrap_or(0), layer, head);
            let of_head =
                |bases: &[u32], head| (0..most).flat_map(|token| row(bases.get(token), head)).collect::<Vec<_>>();
            bases.iter().flat_map(|bases| (0..config.num_heads).flat_map(|head| of_head(bases, head))).collect()
        };
        let write = Write::append(number(most)).counts(&counts);
        reference.update(&rows(Side::Keys), &rows(Side::Values), write)?;
        Ok(Some(reference))
    }
}
