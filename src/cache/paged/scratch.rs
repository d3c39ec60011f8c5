//! [`Scratch`]: memory through which rows of a cache move to other places, because a buffer cannot be read and written
//! in one dispatch. It stays between steps, so that a step that moves rows allocates nothing.

use std::sync::Arc;

use super::planes::Planes;
use crate::{
    BoundSource, CacheConfig, Context, GpuTensor, Pair, Recorder, Result, Scale, Side,
    cache::{bound::Prepared, reads::BoundReads},
    device::{
        record::{StepData, dispatch},
        ring::StepSlot,
    },
    kernels::StepPath,
    plan::step::Step,
};

const LABEL: &str = "kv-cache copy of rows";

/// Rows that are copied in some planes: out of the cache, and back to other places.
pub(super) struct Part {
    /// Indices of the planes.
    pub planes: Vec<usize>,
    pub out: (Step, StepSlot),
    pub back: (Step, StepSlot),
}

/// Room for some rows of one layer. Layers take turns: those of one shape share their tensors.
#[derive(Debug)]
pub(super) struct Scratch {
    pub rows: u32,
    tensors: Vec<Pair<GpuTensor>>,
    /// Of each of the planes.
    bound: Vec<Bound>,
}

/// Scratch memory, bound to planes.
#[derive(Debug)]
struct Bound {
    reads: Pair<BoundReads>,
    source: BoundSource,
}

/// A move of rows that can be recorded without failing.
pub(super) struct PreparedMove<'a> {
    reads: &'a Pair<BoundReads>,
    grids: Pair<Vec<[u32; 3]>>,
    out: StepData,
    back: Prepared<'a>,
}

impl PreparedMove<'_> {
    pub fn record(self, recorder: &mut impl Recorder) {
        let PreparedMove { reads, grids, out, back } = self;
        let (keys, values) = (reads.keys.dispatches(&grids.keys), reads.values.dispatches(&grids.values));
        dispatch(recorder, LABEL, out, keys.chain(values));
        back.record(recorder, LABEL);
    }
}

impl Scratch {
    /// Room for `rows` rows of each layer in turn.
    pub fn new(context: &Context, planes: &[Planes], rows: u32) -> Result<Self> {
        let mut scratch = Scratch { rows, tensors: Vec::new(), bound: Vec::new() };
        for planes in planes {
            let at = scratch.tensors_of(context, planes)?;
            scratch.bound.push(Bound::new(context, planes, &scratch.tensors[at], rows)?);
        }
        Ok(scratch)
    }

    /// The index of the tensors for some planes.
    fn tensors_of(&mut self, context: &Context, planes: &Planes) -> Result<usize> {
        let shape = |side: Side| [1, planes.layout.heads, self.rows, planes.stored.dim(side)];
        let is_of = |tensors: &Pair<GpuTensor>| {
            let fits = |side: Side| {
                let tensor = tensors.side(side);
                tensor.shape() == shape(side) && tensor.format() == planes.stored.format(side)
            };
            Side::BOTH.into_iter().all(fits)
        };
        if let Some(at) = self.tensors.iter().position(is_of) {
            return Ok(at);
        }
        let tensor = |side: Side| {
            // Rows are copied as stored, whatever the scale.
            GpuTensor::new(context, "copied rows", shape(side), planes.stored.format(side), Scale::ONE)
        };
        self.tensors.push(Pair { keys: tensor(Side::Keys)?, values: tensor(Side::Values)? });
        Ok(self.tensors.len().saturating_sub(1))
    }

    /// Prepares the copies of a part in some planes.
    pub fn prepare<'a>(&'a self, context: &'a Context, planes: usize, part: &'a Part) -> Result<PreparedMove<'a>> {
        let Bound { reads, source } = &self.bound[planes];
        let (out, slot) = &part.out;
        let grids = |side: Side| reads.side(side).grids(out, context.limits());
        let grids = Pair { keys: grids(Side::Keys)?, values: grids(Side::Values)? };
        let (back, back_slot) = &part.back;
        let rows = (back.longest, source.tokens);
        let back = source.writes().prepare(context, StepData::Slot(back_slot.clone()), back, rows)?;
        Ok(PreparedMove { reads, grids, out: StepData::Slot(slot.clone()), back })
    }

    /// Bytes that it occupies on the device.
    pub fn bytes(&self) -> u64 {
        let tensors = self.tensors.iter().flat_map(|pair| Side::BOTH.map(|side| pair.side(side).buffer().size()));
        let bound = self.bound.iter().flat_map(|Bound { reads, source }| {
            [reads.keys.device_bytes(), reads.values.device_bytes(), source.device_bytes()]
        });
        tensors.chain(bound).fold(0, u64::saturating_add)
    }
}

impl Bound {
    fn new(context: &Context, planes: &Planes, tensors: &Pair<GpuTensor>, rows: u32) -> Result<Self> {
        let Planes { stored, layout, storage } = planes;
        let destinations = tensors.destinations();
        let reads = |side: Side| {
            let (rows, destination) = ((rows, StepPath::Ring), destinations.side(side));
            BoundReads::new(context, layout, storage, side, &(0..1), rows, destination)
        };
        let reads = Pair { keys: reads(Side::Keys)?, values: reads(Side::Values)? };
        let config = CacheConfig { batch_size: 1, max_batch_size: 1, ..*stored };
        let source = BoundSource::new(context, &config, layout, storage, &Arc::default(), &tensors.source())?;
        Ok(Bound { reads, source })
    }
}
