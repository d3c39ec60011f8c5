//! Records operations on the sequences of one or more layers. Each operation is planned for all layers, then prepared
//! for all, then recorded.
//!
//! Planning checks the arguments and allocates scratch memory. Preparing writes steps to slots and creates pipelines.
//! Both can fail, and then no length and no byte has changed. Recording, and committing the new lengths, cannot fail.

use std::ops::Range;

use super::ranges::PreparedRead;
use crate::{
    BoundSource, GpuTensor, KvCache, Pair, Recorder, Result,
    cache::{bound::Prepared, permutation::Permutation},
    device::{record::StepData, ring::StepSlot, storage::Lengths},
    plan::step::Step,
};

/// A planned operation on the sequences of one layer. The layer's step holds the lengths afterwards.
#[derive(Debug)]
pub(crate) struct Planned {
    pub transfers: Vec<Transfer>,
    /// Whether the lengths need a command of their own, because no rows are written with them.
    pub sets_lengths: bool,
    /// Number of sequences in the batch afterwards.
    pub batch_size: u32,
}

/// Rows to write to sequences of a layer.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// The copy that fills the scratch memory they are written from; `None` if the rows are the caller's.
    pub out: Option<CopyOut>,
    pub source: BoundSource,
    pub place: Step,
}

/// Rows of some sequences to copy into scratch memory.
#[derive(Debug)]
pub(crate) struct CopyOut {
    pub sequences: Range<u32>,
    pub tensors: Pair<GpuTensor>,
    pub step: Step,
}

/// A [`Planned`] operation that can be recorded without failing.
#[derive(Debug)]
struct Moves<'a> {
    reads: Vec<PreparedRead<'a>>,
    places: Vec<Prepared<'a>>,
    lengths: Option<PreparedLengths<'a>>,
}

/// New lengths that can be recorded without failing.
#[derive(Debug)]
enum PreparedLengths<'a> {
    Copy(StepSlot, &'a Lengths),
    Kernel(Prepared<'a>),
}

impl Moves<'_> {
    fn record(self, recorder: &mut impl Recorder) {
        self.reads.into_iter().for_each(|read| read.record(recorder));
        self.places.into_iter().for_each(|place| place.record(recorder, "kv-cache place"));
        match self.lengths {
            Some(PreparedLengths::Kernel(prepared)) => prepared.record(recorder, "kv-cache lengths"),
            Some(PreparedLengths::Copy(slot, lengths)) => {
                let encoder = recorder.encoder().expect("a copy is prepared for an encoder");
                slot.copy_lengths(encoder, lengths);
            }
            None => {}
        }
    }
}

impl Planned {
    /// Plans new lengths without rows.
    pub fn lengths(batch_size: u32) -> Self {
        Planned { transfers: Vec::new(), sets_lengths: true, batch_size }
    }

    /// Plans rows, whose kernel also sets the lengths.
    pub fn transfer(batch_size: u32, transfer: Transfer) -> Self {
        Planned { transfers: vec![transfer], sets_lengths: false, batch_size }
    }
}

/// Records an operation on all layers, or on none.
pub(crate) fn record_each<R: Recorder>(
    layers: &mut [KvCache],
    recorder: &mut R,
    plan: impl Fn(usize, &mut KvCache) -> Result<Planned>,
) -> Result<()> {
    let planned = plan_each(layers, recorder, plan)?;
    let moves = prepare_each(layers, recorder, &planned)?;
    moves.into_iter().for_each(|moves| moves.record(recorder));
    adopt_each(layers, &planned);
    Ok(())
}

/// Records the lengths that every layer plans. An encoder gets one copy per layer; in a pass one dispatch serves as
/// many layers of one shape as the device can bind.
pub(crate) fn record_lengths<R: Recorder>(
    layers: &mut [KvCache],
    recorder: &mut R,
    plan: impl Fn(&mut KvCache) -> Result<()>,
) -> Result<()> {
    let batch_size = layers.iter().map(|layer| layer.config().batch_size).max().unwrap_or(0) as usize;
    let shared = layers.first().map_or(0, |first| Permutation::layers_at_once(&first.context, batch_size));
    if layers.len() == 1 || shared == 0 || recorder.encoder().is_some() {
        return record_each(layers, recorder, |_, layer| {
            plan(layer)?;
            Ok(Planned::lengths(layer.config().batch_size))
        });
    }
    layers.iter_mut().try_for_each(plan)?;
    let permutations = alike(layers, shared).map(KvCache::relength).collect::<Result<Vec<_>>>()?;
    permutations.iter().for_each(|permutation| permutation.record(recorder));
    layers.iter_mut().for_each(KvCache::commit);
    Ok(())
}

/// Records a selection on every layer: sequence `i` of the new batch is a copy of sequence `sources[i]`. Layers whose
/// rows move in place share dispatches; the other layers use scratch memory.
pub(crate) fn record_select<R: Recorder>(layers: &mut [KvCache], recorder: &mut R, sources: &[u32]) -> Result<()> {
    layers.iter().try_for_each(|layer| layer.check_selection(sources).map(drop))?;
    let planned = plan_each(layers, recorder, |_, layer| layer.plan_select(sources))?;
    let shared = layers.first().map_or(0, |first| Permutation::layers_at_once(&first.context, sources.len()));
    let permutations = alike(layers, shared)
        .filter(|run| run[0].moves_in_place(sources))
        .map(|run| KvCache::permutation(run, sources))
        .collect::<Result<Vec<_>>>()?;
    let moves = prepare_each(layers, recorder, &planned)?;
    permutations.iter().for_each(|permutation| permutation.record(recorder));
    moves.into_iter().for_each(|moves| moves.record(recorder));
    adopt_each(layers, &planned);
    Ok(())
}

/// Neighbouring layers of one shape, up to as many as one dispatch binds.
fn alike(layers: &[KvCache], most: usize) -> impl Iterator<Item = &[KvCache]> {
    layers.chunk_by(KvCache::moves_like).flat_map(move |alike| alike.chunks(most.max(1)))
}

/// Plans an operation on each layer.
fn plan_each(
    layers: &mut [KvCache],
    recorder: &mut impl Recorder,
    plan: impl Fn(usize, &mut KvCache) -> Result<Planned>,
) -> Result<Vec<Planned>> {
    let in_pass = recorder.encoder().is_none();
    let plan = |(index, layer): (usize, &mut KvCache)| {
        let planned = plan(index, layer)?;
        if planned.sets_lengths && in_pass {
            layer.make_advance()?;
        }
        Ok(planned)
    };
    layers.iter_mut().enumerate().map(plan).collect()
}

/// Prepares the planned operation of each layer. Everything that can fail happens here.
fn prepare_each<'a>(
    layers: &'a [KvCache],
    recorder: &mut impl Recorder,
    planned: &'a [Planned],
) -> Result<Vec<Moves<'a>>> {
    layers.iter().zip(planned).map(|(layer, planned)| layer.prepare_moves(recorder, planned)).collect()
}

/// Commits the lengths and the batch of a recorded operation.
fn adopt_each(layers: &mut [KvCache], planned: &[Planned]) {
    for (layer, planned) in layers.iter_mut().zip(planned) {
        layer.config.batch_size = planned.batch_size;
        layer.commit();
    }
}

impl KvCache {
    fn prepare_moves<'a>(&'a self, recorder: &mut impl Recorder, planned: &'a Planned) -> Result<Moves<'a>> {
        let mut moves = Moves { reads: Vec::new(), places: Vec::new(), lengths: None };
        for Transfer { out, source, place } in &planned.transfers {
            if let Some(CopyOut { sequences, tensors, step }) = out {
                moves.reads.push(self.prepare_read(recorder, step, sequences, &tensors.destinations())?);
            }
            let data = StepData::new(&self.context, &self.ring, place)?;
            moves.places.push(source.writes().prepare(&self.context, data, place, (place.longest, source.tokens))?);
        }
        if planned.sets_lengths {
            moves.lengths = Some(if recorder.encoder().is_some() {
                PreparedLengths::Copy(self.ring.write(&self.context, &self.step)?, &self.storage.lengths)
            } else {
                let data = StepData::new(&self.context, &self.ring, &self.step)?;
                PreparedLengths::Kernel(self.prepare_advance(data, &self.step)?)
            });
        }
        Ok(moves)
    }
}
