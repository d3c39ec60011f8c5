//! [`Table`]: the block table on the device, and what the host knows of it.

use crate::{
    ConfigError, Context, DeviceError, Error, Result,
    device::{
        binding::bind,
        record::{Dispatch, Recorder, StepData, dispatch},
        ring::{StepRing, StepSlot},
    },
    kernels::{Entry, Kernel},
    pages::RETURNED,
    plan::grid::grid,
    shape::{layout::binding_limit, table::TableLayout},
};

/// A word of the table's buffer: its index, and what it becomes.
type Change = [u32; 2];

/// The buffer of a block table. A step sets the words that it changes, at its place in the command stream.
#[derive(Debug)]
pub(super) struct Table {
    pub layout: TableLayout,
    pub buffer: wgpu::Buffer,
    bindings: wgpu::BindGroup,
    pipeline: wgpu::ComputePipeline,
    /// The numbers before the table as the device has them once all that was recorded has run.
    numbers: Vec<u32>,
    /// What the step under way changes, and what its numbers were before.
    changes: Vec<Change>,
    before: Vec<Change>,
    /// Sequences of the last step.
    count: u32,
    count_before: u32,
}

/// Changes that can be recorded without failing.
pub(super) struct Prepared<'a> {
    table: &'a Table,
    slots: Vec<(StepSlot, [u32; 3])>,
}

impl Prepared<'_> {
    pub fn record(self, recorder: &mut impl Recorder) {
        let Table { pipeline, bindings, .. } = self.table;
        for (slot, grid) in self.slots {
            let one = std::iter::once(Dispatch { pipeline, bindings, grid });
            dispatch(recorder, "kv-cache table", StepData::Slot(slot), one);
        }
    }
}

impl Table {
    pub fn new(context: &Context, layout: TableLayout) -> Result<Self> {
        let (needed, available) = (layout.bytes(), binding_limit(context.limits()));
        if needed > available {
            let limit = "max_storage_buffer_binding_size";
            return Err(Error::Device(DeviceError::DeviceLimit { limit, needed, available }));
        }
        let room = usize::try_from(layout.room()).map_err(|_| {
            Error::Config(ConfigError::SizeOverflow {
                what: "rows of the table",
                factors: layout.room().to_string(),
                bits: usize::BITS,
            })
        })?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = context.create_buffer("block table", needed, usage, false)?;
        Ok(Table {
            layout,
            bindings: bind(context, Entry::Table, &[buffer.as_entire_binding()])?,
            pipeline: context.pipeline(Kernel::Table)?,
            buffer,
            numbers: vec![0; room.saturating_mul(3)],
            changes: Vec::new(),
            before: Vec::new(),
            count: 0,
            count_before: 0,
        })
    }

    /// Begins the changes of a step.
    pub fn begin(&mut self) {
        self.changes.clear();
        self.before.clear();
        (self.count_before, self.count) = (self.count, 0);
    }

    fn set(&mut self, index: u32, word: u32) {
        let known = &mut self.numbers[index as usize];
        if *known != word {
            self.before.push([index, *known]);
            self.changes.push([index, word]);
            *known = word;
        }
    }

    /// Adds a sequence to the step: its row, and its start and length afterwards.
    pub fn add(&mut self, row: u32, [start, length]: [u32; 2]) {
        let (index, layout) = (self.count, self.layout);
        self.count = self.count.saturating_add(1);
        for (index, word) in [(layout.length(index), length), (layout.start(index), start), (layout.row(index), row)] {
            self.set(index, word);
        }
    }

    /// Sets the entries of a row of a group's table, from `first` on.
    pub fn set_entries(&mut self, group: u32, row: u32, first: u32, pages: &[u32]) {
        let layout = self.layout.of(group);
        // Nobody reads a page that was returned, but an index must be inside of the pool.
        let page = |page| if page == RETURNED { 0 } else { page };
        self.changes.extend((first..).zip(pages).map(|(entry, &own)| [layout.entry(row, entry), page(own)]));
    }

    /// Ends the changes: there are no sequences past those of the step.
    pub fn end(&mut self) {
        for index in self.count..self.count_before {
            self.set(self.layout.length(index), 0);
            self.set(self.layout.start(index), 0);
        }
    }

    /// Takes the changes of the step back, which the device will not see.
    pub fn undo(&mut self) {
        for &[index, word] in self.before.iter().rev() {
            self.numbers[index as usize] = word;
        }
        self.before.clear();
        self.count = self.count_before;
    }

    /// Writes the changes to slots.
    pub fn prepare(&self, context: &Context, ring: &StepRing) -> Result<Prepared<'_>> {
        let head = size_of::<Change>();
        let room = usize::try_from(ring.slot_bytes()).unwrap_or(usize::MAX).saturating_sub(head);
        let most = room.checked_div(size_of::<Change>()).unwrap_or(0).max(1);
        self.prepare_changes(context, ring, self.changes.chunks(most))
    }

    /// Prepares a dispatch that changes nothing.
    pub fn prepare_warm_up(&self, context: &Context, ring: &StepRing) -> Result<Prepared<'_>> {
        self.prepare_changes(context, ring, std::iter::once::<&[Change]>(&[]))
    }

    fn prepare_changes<'c>(
        &self,
        context: &Context,
        ring: &StepRing,
        slots: impl Iterator<Item = &'c [Change]>,
    ) -> Result<Prepared<'_>> {
        let slots = slots.map(|changes| {
            let count = changes.len() as u64;
            let slot = ring.write_by(context, |bytes, _| {
                bytes.extend_from_slice(bytemuck::bytes_of(&count));
                bytes.extend_from_slice(bytemuck::cast_slice(changes));
            })?;
            Ok((slot, grid(count.max(1), context.limits())?))
        });
        Ok(Prepared { table: self, slots: slots.collect::<Result<_>>()? })
    }
}
