//! [`StepRing`]: passes steps to the device in slots of a buffer. A slot is not written again until the commands that
//! read it are done.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    Context, DeviceError, Error, Result,
    device::storage::Lengths,
    plan::step::{Head, Step},
    shape::layout::{binding_limit, step_bytes},
};

/// Size in bytes of the first block of slots, unless one slot is larger.
const FIRST_BLOCK_BYTES: u64 = 16 << 10;

/// Slots for the steps of all layers of a cache.
///
/// `Queue::write_buffer` takes effect before the next submission. If a slot were written twice before the caller
/// submits, both recordings would read the second step. Each recording therefore holds its slot until its command
/// buffer has run or was dropped. A step equal to the previous one shares its slot, as in every layer but the first of
/// a decoding step. The ring grows only when more steps are unfinished than ever before. A step that is larger than a
/// slot gets a buffer of its own.
#[derive(Clone, Debug)]
pub(crate) struct StepRing {
    slots: Arc<Mutex<Slots>>,
}

#[derive(Debug)]
struct Slots {
    slot_bytes: u64,
    /// Number of lengths, and of starts after them, that a slot holds before its runs. Those of absent sequences are
    /// zero.
    room: usize,
    blocks: Vec<Block>,
    /// The slot of the last step, as (block, slot).
    last: Option<(usize, usize)>,
    /// Bytes of the last step.
    contents: Vec<u8>,
    /// Bytes of the next step.
    next: Vec<u8>,
}

#[derive(Debug)]
struct Block {
    buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
    /// One mark per slot. A slot is free while nothing else holds its mark.
    marks: Vec<Arc<()>>,
}

/// A slot that holds a step.
#[derive(Clone, Debug)]
pub(crate) struct StepSlot {
    pub buffer: wgpu::Buffer,
    pub bind_group: wgpu::BindGroup,
    pub offset: u32,
    /// Byte offset in the buffer of the lengths after the step. The starts follow them.
    pub lengths: u64,
    /// Held to keep the slot from being written again.
    pub mark: Arc<()>,
}

impl StepSlot {
    /// Records a copy of the starts, and holds the slot until the copy is done.
    pub fn copy_starts(self, encoder: &mut wgpu::CommandEncoder, starts: &wgpu::Buffer) {
        let bytes = starts.size();
        encoder.copy_buffer_to_buffer(&self.buffer, self.lengths.saturating_add(bytes), starts, 0, bytes);
        encoder.on_submitted_work_done(move || drop(self.mark));
    }

    /// Records a copy of the lengths and starts after the step, and holds the slot until the copy is done.
    pub fn copy_lengths(self, encoder: &mut wgpu::CommandEncoder, lengths: &Lengths) {
        let (to, bytes) = (&lengths.buffer, lengths.with_starts());
        encoder.copy_buffer_to_buffer(&self.buffer, self.lengths, to, lengths.offset, bytes);
        encoder.on_submitted_work_done(move || drop(self.mark));
    }
}

impl StepRing {
    /// Creates slots for steps of up to `runs` runs for each of `batch_size` sequences.
    pub fn new(context: &Context, batch_size: u32, runs: u32) -> Result<Self> {
        Self::of_slots(context, step_bytes(batch_size, runs), batch_size)
    }

    /// Creates slots of at least so many bytes, for steps that set the lengths of up to `room` sequences.
    pub fn of_slots(context: &Context, bytes: u64, room: u32) -> Result<Self> {
        let alignment = context.limits().min_storage_buffer_offset_alignment;
        let slot_bytes = bytes.next_multiple_of(alignment.into());
        let room = room as usize;
        let mut slots =
            Slots { slot_bytes, room, blocks: Vec::new(), last: None, contents: Vec::new(), next: Vec::new() };
        slots.grow(context)?;
        Ok(StepRing { slots: Arc::new(Mutex::new(slots)) })
    }

    /// Writes a step to a slot, for the commands that are about to be recorded.
    pub fn write(&self, context: &Context, step: &Step) -> Result<StepSlot> {
        self.write_by(context, |bytes, room| {
            bytes.extend_from_slice(bytemuck::bytes_of(&step.head(room)));
            for numbers in [&step.lengths, &step.starts] {
                bytes.extend_from_slice(bytemuck::cast_slice(numbers));
                let absent = room.saturating_sub(numbers.len()).saturating_mul(size_of::<u32>());
                bytes.extend(std::iter::repeat_n(0, absent));
            }
            bytes.extend_from_slice(bytemuck::cast_slice(&step.runs));
        })
    }

    /// Writes to a slot what `fill` appends, given the number of sequences that a step has room for.
    pub fn write_by(&self, context: &Context, fill: impl FnOnce(&mut Vec<u8>, usize)) -> Result<StepSlot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = &mut *slots;
        slots.next.clear();
        fill(&mut slots.next, slots.room);
        if slots.next.len() as u64 > slots.slot_bytes {
            return slots.alone(context);
        }
        if slots.last.is_none() || slots.next != slots.contents {
            let (block, slot) = slots.free(context)?;
            let offset = slots.offset(slot);
            context.queue().write_buffer(&slots.blocks[block].buffer, offset, &slots.next);
            std::mem::swap(&mut slots.contents, &mut slots.next);
            slots.last = Some((block, slot));
        }
        let (block, slot) = slots.last.expect("a step was written");
        let offset = slots.offset(slot);
        let block = &slots.blocks[block];
        Ok(StepSlot {
            lengths: offset.saturating_add(size_of::<Head>() as u64),
            buffer: block.buffer.clone(),
            bind_group: block.bind_group.clone(),
            offset: u32::try_from(offset).expect("a block of slots stays far below 4 GiB"),
            mark: block.marks[slot].clone(),
        })
    }

    /// Size of one slot in bytes.
    #[cfg(feature = "pages")]
    pub fn slot_bytes(&self) -> u64 {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).slot_bytes
    }

    /// Size of all slots in bytes.
    pub fn bytes(&self) -> u64 {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.blocks.iter().map(|block| block.buffer.size()).sum()
    }
}

impl Slots {
    /// Byte offset of a slot in its block, which is smaller than 2^31 bytes.
    fn offset(&self, slot: usize) -> u64 {
        (slot as u64).saturating_mul(self.slot_bytes)
    }

    /// Finds a slot that no unfinished command reads: the first free one after the last used. Adds slots if there is
    /// none.
    fn free(&mut self, context: &Context) -> Result<(usize, usize)> {
        let (last_block, last_slot) = self.last.unwrap_or((0, 0));
        // The block of the last step comes once more at the end, so that its earlier slots are tried too.
        let blocks = (0..self.blocks.len()).cycle().skip(last_block).take(self.blocks.len().saturating_add(1));
        for (turn, index) in blocks.enumerate() {
            let marks = &self.blocks[index].marks;
            let from = if turn == 0 { last_slot.saturating_add(usize::from(self.last.is_some())) } else { 0 };
            if let Some(slot) = (from..marks.len()).find(|&slot| Arc::strong_count(&marks[slot]) == 1) {
                return Ok((index, slot));
            }
        }
        self.grow(context)?;
        Ok((self.blocks.len().saturating_sub(1), 0))
    }

    /// Writes the next step to a buffer of its own.
    fn alone(&self, context: &Context) -> Result<StepSlot> {
        let bytes = self.next.len() as u64;
        fits_binding(context, bytes)?;
        let (buffer, bind_group) = create(context, bytes, bytes)?;
        context.queue().write_buffer(&buffer, 0, &self.next);
        Ok(StepSlot { buffer, bind_group, offset: 0, lengths: size_of::<Head>() as u64, mark: Arc::default() })
    }

    /// Doubles the number of slots, within the device's binding limit per block.
    fn grow(&mut self, context: &Context) -> Result<()> {
        let most = fits_binding(context, self.slot_bytes)?;
        let present: u64 = self.blocks.iter().map(|block| block.buffer.size()).sum();
        let bytes = present.max(FIRST_BLOCK_BYTES).min(most);
        let slots = bytes.checked_div(self.slot_bytes).expect("a slot holds a step").max(1);
        log::debug!("{slots} more slots for steps of {} bytes", self.slot_bytes);
        let (buffer, bind_group) = create(context, slots.saturating_mul(self.slot_bytes), self.slot_bytes)?;
        self.blocks.push(Block { buffer, bind_group, marks: (0..slots).map(|_| Arc::default()).collect() });
        Ok(())
    }
}

/// Checks that a slot of so many bytes can be bound, and returns the most that can.
fn fits_binding(context: &Context, needed: u64) -> Result<u64> {
    let available = binding_limit(context.limits());
    if needed > available {
        let limit = "max_storage_buffer_binding_size";
        return Err(Error::Device(DeviceError::DeviceLimit { limit, needed, available }));
    }
    Ok(available)
}

/// Creates a buffer for steps, and a bind group that shows a slot of it at a dynamic offset.
fn create(context: &Context, bytes: u64, slot_bytes: u64) -> Result<(wgpu::Buffer, wgpu::BindGroup)> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let buffer = context.create_buffer("steps", bytes, usage, false)?;
    let bind_group = context.create("steps", 0, |device| {
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("step"),
            layout: &context.step_layout(),
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &buffer,
                    offset: 0,
                    size: wgpu::BufferSize::new(slot_bytes),
                }),
            }],
        })
    })?;
    Ok((buffer, bind_group))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(length: u32) -> Step {
        let mut step = Step::default();
        step.push_write(crate::Placement::Linear, 0, 0, 0, length);
        step.push_sequence(length, 0, 0);
        step
    }

    #[test]
    fn a_slot_is_not_written_again_while_a_recording_holds_it() {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let context = Context::new(&device, &queue);
        let ring = StepRing::new(&context, 1, 1).unwrap();
        let bytes = ring.bytes();
        let held: Vec<_> = (1..=200).map(|length| ring.write(&context, &step(length)).unwrap()).collect();
        for (i, slot) in held.iter().enumerate() {
            let same = |other: &&StepSlot| other.bind_group == slot.bind_group && other.offset == slot.offset;
            assert_eq!(held.iter().filter(same).count(), 1, "slot {i} was handed out twice");
        }
        assert!(ring.bytes() > bytes, "200 held steps need more than the first block");

        drop(held);
        let bytes = ring.bytes();
        for length in 1..=2000 {
            ring.write(&context, &step(length)).unwrap();
        }
        assert_eq!(ring.bytes(), bytes, "released slots are used again");
    }

    #[test]
    fn equal_steps_share_a_slot_and_different_ones_do_not() {
        let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
        let context = Context::new(&device, &queue);
        let ring = StepRing::new(&context, 1, 1).unwrap();
        let [a, b, c] = [5, 5, 6].map(|length| ring.write(&context, &step(length)).unwrap());
        assert_eq!(a.offset, b.offset);
        assert_ne!(b.offset, c.offset);
    }
}
