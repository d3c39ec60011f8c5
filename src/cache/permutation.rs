//! Moves rows between sequences in place, as `select` does. Orders the moves so that every sequence is read before it
//! is overwritten, and records the permute kernel.

use crate::{
    Context, Recorder, Result, Side,
    device::{
        binding::{bind, uniform_binding, uniform_buffer},
        storage::Storage,
    },
    kernels::{Kernel, Move, PermuteVariant, Selection, SideVariant},
    plan::{grid::grid_of_planes, operations::stored_slots, sequences::Sequences},
    shape::{
        layout::{Layout, binding_limit},
        placement::PIECES,
    },
};

/// Sentinel for a sequence: the registers of the thread.
const ASIDE: u32 = u32::MAX;

/// Moves rows between the sequences of a cache with one segment, in place.
#[derive(Debug)]
pub(crate) struct Permutation {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    grid: [u32; 3],
}

/// Maximum number of layers in one dispatch. The kernel's text grows with them.
const MOST_LAYERS: u32 = 16;

impl Permutation {
    /// Returns the number of layers that one dispatch can bind, for a batch of `sequences` after the selection. It is 0
    /// if the moves of one layer do not fit a binding.
    pub fn layers_at_once(context: &Context, sequences: usize) -> usize {
        let buffers = context.limits().max_storage_buffers_per_shader_stage.saturating_sub(1) / 3;
        // For each sequence, the moves of all its pieces and its length. A cycle has one more move than sequences, and
        // at least two sequences: half as many again at most.
        let pieces = u64::from(PIECES).saturating_mul(size_of::<Move>() as u64);
        let bytes = (sequences as u64).saturating_mul(pieces.saturating_mul(3).div_ceil(2).saturating_add(4));
        let bindings = binding_limit(context.limits()).checked_div(bytes).unwrap_or(0);
        let layers = bindings.min(buffers.clamp(1, MOST_LAYERS).into());
        usize::try_from(layers).expect("there are 16 at most")
    }

    /// Whether a grid is large enough for the planes of a layer.
    pub fn fits_a_grid(context: &Context, layout: &Layout) -> bool {
        let units = Side::BOTH.map(|side| SideVariant::moved(layout, side).moved_units()).into_iter().max();
        let high = layout.heads <= context.limits().max_compute_workgroups_per_dimension;
        high && grid_of_planes(units.unwrap_or(0), layout.heads.into(), context.limits()).is_ok()
    }

    /// Prepares a selection in layers of one layout with one segment each: sequence `i` of the new batch is a copy of
    /// sequence `sources[i]`.
    pub fn new<'a>(
        context: &Context,
        layout: &Layout,
        layers: impl ExactSizeIterator<Item = (&'a Storage, &'a Sequences)>,
        sources: &[u32],
    ) -> Result<Self> {
        let count = |count: usize| u32::try_from(count).expect("a batch size is 32 bits wide");
        let order = order(sources);
        let starts = layout.sequences();
        let number = count(layers.len());
        let (mut moves, mut lengths, mut buffers) = (Vec::new(), Vec::new(), Vec::new());
        for (storage, sequences) in layers {
            let known = |source: u32| (sequences.lengths[source as usize], sequences.oldest[source as usize]);
            let of_layer = order.iter().flat_map(|&(read, source, destination)| {
                let (length, oldest) = known(read);
                let slots = stored_slots(layout.placement, length, oldest);
                slots.map(move |slots| Move { source, destination, first: slots.start, end: slots.end })
            });
            moves.push(of_layer.collect::<Vec<_>>());
            lengths.extend(sources.iter().map(|&source| known(source).0));
            let segment = storage.segments.first().expect("a cache has a segment");
            buffers.extend([&storage.lengths.buffer, &segment.keys, &segment.values]);
        }
        let most = moves.iter().map(Vec::len).max().unwrap_or(0);
        // Empty moves pad the layers that have fewer.
        moves.iter_mut().for_each(|moves| moves.resize(most, Move::default()));
        let selection = Selection { moves: count(most), sequences: count(sources.len()), starts, spare: 0 };
        let mut selected: Vec<u32> = bytemuck::cast_slice(&moves.concat()).to_vec();
        selected.append(&mut lengths);
        let [keys, values] = Side::BOTH.map(|side| SideVariant::moved(layout, side));
        let kernel = Kernel::Permute(PermuteVariant { keys, values, heads: layout.heads, layers: number });
        let pipeline = context.pipeline(kernel)?;
        let uniform = uniform_buffer(context, &[selection])?;
        let selected = bytemuck::cast_slice(&selected);
        let selected = context.create_filled("selected", selected, wgpu::BufferUsages::STORAGE)?;
        let mut bindings = vec![uniform_binding::<Selection>(context, &uniform, 0), selected.as_entire_binding()];
        bindings.extend(buffers.into_iter().map(wgpu::Buffer::as_entire_binding));
        // A selection that moves nothing still sets lengths.
        let (units, heads) = match selection.moves {
            0 => (0, 1),
            _ => (keys.moved_units().max(values.moved_units()), layout.heads),
        };
        let grid = grid_of_planes(units.max(sources.len() as u64), u64::from(heads), context.limits())?;
        Ok(Permutation { pipeline, bindings: bind(context, kernel.entry(), &bindings)?, grid })
    }

    pub fn record(&self, recorder: &mut impl Recorder) {
        let [x, y, z] = self.grid;
        recorder.in_pass("kv-cache select", |pass| {
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.bindings, &[]);
            pass.dispatch_workgroups(x, y, z);
        });
    }
}

/// Orders the moves of a selection so that doing them one after the other has the effect of doing all at once. Each
/// move is (sequence whose rows move, from, to). A cycle keeps one unit aside.
fn order(sources: &[u32]) -> Vec<(u32, u32, u32)> {
    let mut pending: Vec<(u32, u32)> =
        (0..).zip(sources).filter(|(to, from)| to != *from).map(|(to, &from)| (from, to)).collect();
    // Number of pending moves that read each sequence.
    let most = pending.iter().map(|&(from, to)| from.max(to)).max().map_or(0, |most| (most as usize).saturating_add(1));
    let (mut readers, mut into) = (vec![0u32; most], vec![None; most]);
    for &(from, to) in &pending {
        let readers = &mut readers[from as usize];
        *readers = readers.saturating_add(1);
        into[to as usize] = Some(from);
    }
    let mut ordered = Vec::with_capacity(pending.len().saturating_add(1));
    // A sequence that no move reads can be overwritten at once, which may free the sequence it is copied from.
    let mut free: Vec<u32> = pending.iter().map(|&(_, to)| to).filter(|&to| readers[to as usize] == 0).collect();
    while let Some(to) = free.pop() {
        let Some(from) = into[to as usize].take() else { continue };
        ordered.push((from, from, to));
        let readers = &mut readers[from as usize];
        *readers = readers.saturating_sub(1);
        if *readers == 0 {
            free.push(from);
        }
    }
    // The remaining moves form cycles, in which each sequence is read once.
    pending.retain(|&(_, to)| into[to as usize].is_some());
    for &(_, start) in &pending {
        if into[start as usize].is_none() {
            continue;
        }
        ordered.push((start, start, ASIDE));
        let mut to = start;
        while let Some(from) = into[to as usize].take() {
            ordered.push((from, if from == start { ASIDE } else { from }, to));
            to = from;
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the batch after the moves, done one after the other.
    fn moved(sources: &[u32], batch: u32) -> Vec<u32> {
        let mut sequences: Vec<u32> = (0..batch.max(sources.len() as u32)).collect();
        let mut aside = None;
        for (rows, from, to) in order(sources) {
            let unit = if from == ASIDE { aside.unwrap() } else { sequences[from as usize] };
            assert_eq!(unit, rows, "a move carries the rows that it says");
            if to == ASIDE { aside = Some(unit) } else { sequences[to as usize] = unit }
        }
        sequences.truncate(sources.len());
        sequences
    }

    #[test]
    fn every_selection_of_up_to_five_is_as_if_through_a_copy() {
        for batch in 1..=5u32 {
            for size in 1..=5u32 {
                for number in 0..batch.pow(size) {
                    let sources: Vec<u32> = (0..size).map(|place| number / batch.pow(place) % batch).collect();
                    assert_eq!(moved(&sources, batch), sources, "of {batch}");
                }
            }
        }
    }

    #[test]
    fn a_cycle_takes_one_more_move_and_the_identity_none() {
        assert_eq!(order(&[0, 1, 2]), []);
        assert_eq!(order(&[1, 2, 0]).len(), 4);
        assert_eq!(order(&[1, 0, 3, 2]).len(), 6);
        assert_eq!(order(&[1, 1, 1]).len(), 2);
    }
}
