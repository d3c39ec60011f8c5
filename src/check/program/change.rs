//! Operations on sequences, recorded on the device and applied to the reference.

use super::{
    data::{Dense, Rows},
    operation::Change,
};
use crate::{BatchedKvCache, CacheConfig, Recorder, ReferenceCache, Result, Side};

impl Change {
    pub(super) fn record(&self, device: &mut BatchedKvCache, recorder: &mut impl Recorder) -> Result<()> {
        match self {
            Change::Truncate(lengths) => device.record_truncate(recorder, lengths.per_sequence()),
            Change::Clear(sequence) => device.record_clear_sequence(recorder, *sequence),
            Change::Select(sources) => device.record_select(recorder, sources),
            Change::Reorder(sources) => device.record_reorder(recorder, sources),
            Change::Repeat(times) => device.record_repeat(recorder, *times),
            &Change::CopySequence { from, to } => device.record_copy_sequence(recorder, from, to),
            Change::Keep { sequence, last, indices } => device.record_keep(recorder, *sequence, *last, indices),
            &Change::CopyRange { from, start, end, to, position } => {
                device.record_copy_range(recorder, from, start..end, to, position)
            }
        }
    }

    pub(super) fn apply(&self, reference: &mut ReferenceCache) -> Result<()> {
        match self {
            Change::Truncate(lengths) => reference.truncate(lengths.per_sequence()),
            Change::Clear(sequence) => reference.clear_sequence(*sequence),
            Change::Select(sources) => reference.select(sources),
            Change::Reorder(sources) => reference.reorder(sources),
            Change::Repeat(times) => reference.repeat(*times),
            &Change::CopySequence { from, to } => reference.copy_sequence(from, to),
            Change::Keep { sequence, last, indices } => reference.keep(*sequence, *last, indices),
            &Change::CopyRange { from, start, end, to, position } => {
                reference.copy_range(from, start..end, to, position)
            }
        }
    }
}

/// Generates the keys and values of a sequence of this length. Their number is capped, because a program that must be
/// refused may ask for any length.
pub(super) fn inserted(config: &CacheConfig, length: u32, rows: &Rows) -> [Dense; 2] {
    let valid: u32 = config.placement.valid(length).into_iter().map(|range| range.end - range.start).sum();
    let count = valid.min(config.slots().saturating_add(1)) as usize * config.num_heads as usize;
    Side::BOTH.map(|side| rows.dense(side, count * config.dim(side) as usize))
}
