//! Runs programs on the device and on the reference.

use super::{
    change::inserted,
    data::{Layout, Rows, mix, poison, upper_half},
    operation::{Change, Failure, FailureKind, Fault, Operation, Path, Program, Span},
};
use crate::{
    BatchedKvCache, BoundSource, CacheConfig, Context, Destination, DeviceError, Error, HostTensor, KvCache, Pair,
    Recorder, ReferenceCache, Result, RowsIn, SequenceError, Side, Source, StepError, Write,
    check::program::data::{Dense, Strided},
    compare_tensors,
    device::tensor::read_buffer,
};

/// Number of guard bytes before and after a caller's destination.
const GUARD_BYTES: usize = 12;
const GUARD: u8 = 0xa5;

struct Pass {
    device: BatchedKvCache,
    reference: Vec<ReferenceCache>,
    /// The fault of the current operation.
    fault: Option<Fault>,
    /// Whether the fault took effect.
    failed: bool,
}

impl Program {
    /// Runs the program on the context's device and on the reference. After every operation, the results, the lengths
    /// on the host and on the device, and the whole storage of every layer must be equal bit for bit.
    ///
    /// # Errors
    /// The first [`Failure`].
    pub fn run(&self, context: &Context) -> Result<(), Failure> {
        let at = |operation| move |kind| Failure { operation, kind };
        let make = || {
            BatchedKvCache::check_layers(self.num_layers)?;
            let device = BatchedKvCache::with_layers(context, &self.layers())?;
            let reference = self.layers().into_iter().map(ReferenceCache::new).collect::<Result<_>>()?;
            Ok(Pass { device, reference, fault: None, failed: false })
        };
        let mut pass = make().map_err(FailureKind::Device).map_err(at(0))?;
        if self.poison {
            pass.poison().map_err(FailureKind::Device).map_err(at(0))?;
        }
        for (index, operation) in self.operations.iter().enumerate() {
            pass.apply(operation).and_then(|()| pass.compare()).map_err(at(index))?;
        }
        Ok(())
    }
}

impl Pass {
    fn apply(&mut self, operation: &Operation) -> Result<(), FailureKind> {
        match operation {
            Operation::Update { layer, span, rows, path } => {
                let expected = self.update_reference(*layer, span, rows);
                let actual = self.update_device(*layer, span, rows, *path);
                agree(expected, actual).map(drop)
            }
            Operation::Advance { layer, span, seed } => {
                let write = span.write();
                let legal = self.reference_layer(*layer).and_then(|reference| reference.clone().advance(write));
                if legal.is_ok() {
                    self.poke_span(*layer, span, *seed)?;
                }
                let expected = self.reference_layer(*layer).and_then(|reference| reference.advance(write));
                let actual = self.submit(|device, encoder| device.layer_mut(*layer)?.record_advance(encoder, write));
                agree(expected, actual).map(drop)
            }
            Operation::Step { span, rows, room, path } => {
                let expected = self.step_reference(span, rows);
                let actual = self.step_device(span, rows, *room, *path);
                agree(expected, actual).map(drop)
            }
            Operation::Faulty { fault, operation } => self.apply_faulty(*fault, operation),
            Operation::Get { layer, start, end, guarded } => {
                let expected = self.reference_layer(*layer).and_then(|reference| reference.get(*start..*end));
                if *guarded {
                    self.get_guarded(*layer, *start, *end, expected)
                } else {
                    let actual = self.device.get(*layer, *start..*end).and_then(|range| range.read());
                    compare_ranges(*layer, agree(expected, actual)?)
                }
            }
            Operation::GetAll { layer } => {
                let expected = self.reference_layer(*layer).map(|reference| reference.get_all());
                let actual = self.device.get_all(*layer).and_then(|range| range.read());
                compare_ranges(*layer, agree(expected, actual)?)
            }
            Operation::Sequences { change, in_pass } => {
                let expected = self.change_reference(change);
                let actual = self.submit(|device, encoder| {
                    if *in_pass {
                        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                        change.record(device, &mut pass)
                    } else {
                        change.record(device, encoder)
                    }
                });
                agree(expected, actual).map(drop)
            }
            Operation::Extract { sequence } => {
                let expected: Result<Vec<_>> =
                    self.reference.iter().map(|reference| reference.extract(*sequence)).collect();
                let actual = self
                    .device
                    .extract(*sequence)
                    .and_then(|layers| layers.iter().map(Pair::read).collect::<Result<Vec<_>>>());
                let Some((expected, actual)) = agree(expected, actual)? else { return Ok(()) };
                let layers = expected.into_iter().zip(actual).enumerate();
                layers.into_iter().try_for_each(|(layer, ranges)| compare_ranges(layer, Some(ranges)))
            }
            Operation::Insert { sequence, length, rows } => {
                let rows: Vec<_> = (0u64..)
                    .zip(&self.reference)
                    .map(|(layer, reference)| {
                        let rows = Rows { seed: mix(rows.seed ^ layer), ..*rows };
                        inserted(reference.config(), *length, &rows)
                    })
                    .collect();
                let before = self.reference.clone();
                let mut layers = self.reference.iter_mut().zip(&rows);
                let expected = layers.try_for_each(|(layer, [keys, values])| {
                    layer.insert(*sequence, *length, keys.rows(), values.rows())
                });
                if expected.is_err() {
                    self.reference = before;
                }
                let rows: Vec<_> =
                    rows.iter().map(|[keys, values]| Pair { keys: keys.rows(), values: values.rows() }).collect();
                agree(expected, self.device.insert(*sequence, *length, &rows)).map(drop)
            }
            Operation::Reset => {
                self.reference.iter_mut().for_each(ReferenceCache::reset);
                self.device.reset().map_err(FailureKind::Device)
            }
        }
    }

    /// Applies an operation with a fault. If the fault takes effect, restores the reference, so that the comparison
    /// shows that the device is unchanged.
    fn apply_faulty(&mut self, fault: Fault, operation: &Operation) -> Result<(), FailureKind> {
        let (reference, checkpoint) = (self.reference.clone(), self.device.checkpoint());
        let context = self.device.context().clone();
        if let Fault::OutOfMemory(after) = fault {
            context.fail_creations_after(Some(after));
        }
        (self.fault, self.failed) = (Some(fault), false);
        let done = self.apply(operation);
        context.fail_creations_after(None);
        let refused_by = match &done {
            Err(FailureKind::Refusal { actual: Some(error), .. }) => Some(&**error),
            Err(FailureKind::Device(error)) => Some(error),
            _ => None,
        };
        let out_of_memory = matches!(refused_by, Some(Error::Device(DeviceError::OutOfMemory { .. })));
        self.fault = None;
        if !self.failed && !out_of_memory {
            return done;
        }
        self.reference = reference;
        if out_of_memory && matches!(operation, Operation::Step { .. }) {
            // The layers before the failed one were recorded into an encoder that is gone.
            self.device.restore(&checkpoint).map_err(FailureKind::Device)?;
        }
        Ok(())
    }

    /// Compares the lengths, the starts and the whole storage of every layer.
    fn compare(&self) -> Result<(), FailureKind> {
        for (layer, (device, reference)) in self.device.layers().iter().zip(&self.reference).enumerate() {
            let read = device.read_lengths_and_starts().map_err(FailureKind::Device)?;
            let host = [device.lengths(), &device.sequences.starts].map(<[u32]>::to_vec);
            let expected = [reference.lengths().to_vec(), reference.starts()];
            for (what, ((expected, host), device)) in
                ["lengths", "starts"].into_iter().zip(expected.into_iter().zip(host).zip(read))
            {
                if host != expected || device != expected {
                    return Err(FailureKind::Lengths { what, layer, expected, host, device });
                }
            }
            let storage = device.read_storage().map_err(FailureKind::Device)?;
            if let Some(difference) = reference.compare_storage(layer, &storage).map_err(FailureKind::Device)? {
                return Err(FailureKind::Element { place: "storage", difference });
            }
        }
        Ok(())
    }

    fn reference_layer(&mut self, layer: usize) -> Result<&mut ReferenceCache> {
        let num_layers = self.reference.len();
        self.reference.get_mut(layer).ok_or(Error::Sequence(SequenceError::LayerOutOfRange { layer, num_layers }))
    }

    /// Applies a change to all layers of the reference, or to none if one refuses it.
    fn change_reference(&mut self, change: &Change) -> Result<()> {
        let before = self.reference.clone();
        let changed = self.reference.iter_mut().try_for_each(|reference| change.apply(reference));
        if changed.is_err() {
            self.reference = before;
        }
        changed
    }

    /// Returns the layer's current configuration and the number of rows that a source holds. The number is capped,
    /// because a program that must be refused may ask for any number of tokens.
    fn source(&self, layer: usize, span: &Span) -> (CacheConfig, u32) {
        let reference = self.reference.get(layer).or(self.reference.first()).expect("a program has a layer");
        let config = *reference.config();
        // A step has the same tokens in all layers, so the cap follows from the largest.
        let most = self.reference.iter().map(|reference| reference.config().slots()).max().unwrap_or(0);
        (config, span.tokens.min(most.saturating_mul(4).saturating_add(1)))
    }

    /// Generates the rows of one side of an update.
    fn dense(&self, layer: usize, side: Side, span: &Span, rows: &Rows) -> Dense {
        let (config, tokens) = self.source(layer, span);
        let tokens = tokens as usize;
        rows.dense(side, config.batch_size as usize * config.num_heads as usize * tokens * config.dim(side) as usize)
    }

    fn update_reference(&mut self, layer: usize, span: &Span, rows: &Rows) -> Result<()> {
        let [keys, values] = Side::BOTH.map(|side| self.dense(layer, side, span, rows));
        self.reference_layer(layer)?.update(keys.rows(), values.rows(), span.write())
    }

    fn update_device(&mut self, layer: usize, span: &Span, rows: &Rows, path: Path) -> Result<()> {
        let layout = match path {
            Path::Host => {
                let [keys, values] = Side::BOTH.map(|side| self.dense(layer, side, span, rows));
                return self.device.update(layer, keys.rows(), values.rows(), span.write());
            }
            Path::Encoder(layout) | Path::Pass(layout) => layout,
        };
        let source = self.bind(layer, span, rows, layout, 0)?;
        let write = span.write();
        self.submit(|device, encoder| match path {
            Path::Pass(_) => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                device.layer_mut(layer)?.record_update(&mut pass, &source, write)
            }
            _ => device.layer_mut(layer)?.record_update(encoder, &source, write),
        })
    }

    /// Uploads the rows of a span in an engine's layout, and binds them to a layer.
    fn bind(&self, layer: usize, span: &Span, rows: &Rows, layout: Layout, room: u32) -> Result<BoundSource> {
        let [keys, values] = Side::BOTH.map(|side| self.dense(layer, side, span, rows));
        let (config, tokens) = self.source(layer, span);
        let [key_rows, value_rows] = [(Side::Keys, &keys), (Side::Values, &values)]
            .map(|(side, rows)| rows.strided(&config, side, (tokens, room), layout));
        let context = self.device.context().clone();
        let upload = |rows: &Strided| {
            context.create_filled("rows", &rows.bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC)
        };
        let (key_buffer, value_buffer) = (upload(&key_rows)?, upload(&value_rows)?);
        let rows_in =
            |buffer, rows: &Strided, format| RowsIn { buffer, offset: rows.offset, format, strides: rows.strides };
        self.device.layer(layer)?.bind_source(&Source {
            keys: rows_in(&key_buffer, &key_rows, rows.key_format),
            values: rows_in(&value_buffer, &value_rows, rows.value_format),
            tokens: tokens.saturating_add(room),
        })
    }

    /// Returns the rows of one layer of a step.
    fn rows_of_layer(rows: &Rows, layer: usize) -> Rows {
        Rows { seed: mix(rows.seed ^ layer as u64), ..*rows }
    }

    /// Writes a step to every layer of the reference, or to none if one refuses it.
    fn step_reference(&mut self, span: &Span, rows: &Rows) -> Result<()> {
        for (layer, reference) in self.reference.iter().enumerate() {
            let pairs = self.reference[0].lengths().iter().zip(reference.lengths());
            if let Some((sequence, (&first, &actual))) = pairs.enumerate().find(|(_, (first, actual))| first != actual)
            {
                return Err(Error::Step(StepError::LayersOutOfStep { layer, sequence, first, actual }));
            }
        }
        let before = self.reference.clone();
        for layer in 0..self.reference.len() {
            if let Err(error) = self.update_reference(layer, span, &Self::rows_of_layer(rows, layer)) {
                self.reference = before;
                return Err(error);
            }
        }
        Ok(())
    }

    fn step_device(&mut self, span: &Span, rows: &Rows, room: u32, path: Path) -> Result<()> {
        let layout = match path {
            Path::Host => Layout::Bhtd,
            Path::Encoder(layout) | Path::Pass(layout) => layout,
        };
        let bind = |layer| {
            // The step is to be refused for having no tokens, not the binding of its sources.
            let span = Span { tokens: span.tokens.max(1), ..span.clone() };
            self.bind(layer, &span, &Self::rows_of_layer(rows, layer), layout, room)
        };
        let sources: Vec<BoundSource> = (0..self.reference.len()).map(bind).collect::<Result<_>>()?;
        let write = span.write();
        self.submit(|device, encoder| match path {
            Path::Pass(_) => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                record_step(device, &mut pass, &sources, write)
            }
            _ => record_step(device, encoder, &sources, write),
        })
    }

    fn submit(
        &mut self,
        record: impl FnOnce(&mut BatchedKvCache, &mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<()> {
        let context = self.device.context().clone();
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let before = self.device.checkpoint();
        record(&mut self.device, &mut encoder)?;
        if self.fault == Some(Fault::Dropped) {
            self.failed = true;
            return self.device.restore(&before);
        }
        let submitted = context.submit("a step of a program", encoder);
        submitted.or_else(|error| self.device.restore(&before).and(Err(error)))
    }

    /// Copies a range into the middle of larger buffers, and checks the bytes around it and the range itself.
    fn get_guarded(
        &mut self,
        layer: usize,
        start: u32,
        end: u32,
        expected: Result<Pair<HostTensor>>,
    ) -> Result<(), FailureKind> {
        let context = self.device.context().clone();
        let bytes = |side: Side| expected.as_ref().map_or(0, |range| range.side(side).bytes().len());
        let buffer = |side: Side| {
            let filled = vec![GUARD; (GUARD_BYTES + bytes(side) + GUARD_BYTES).next_multiple_of(4)];
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            context.create_filled("guarded", &filled, usage).map_err(FailureKind::Device)
        };
        let buffers = Pair { keys: buffer(Side::Keys)?, values: buffer(Side::Values)? };
        let destination = |side| Destination::new(buffers.side(side), GUARD_BYTES as u64);
        let destinations = Pair { keys: destination(Side::Keys), values: destination(Side::Values) };
        let actual = self.submit(|device, encoder| device.layer(layer)?.record_get(encoder, start..end, destinations));
        let Some((expected, ())) = agree(expected, actual)? else { return Ok(()) };
        for side in Side::BOTH {
            let buffer = buffers.side(side);
            let read = read_buffer(&context, buffer, 0, buffer.size()).map_err(FailureKind::Device)?;
            let expected = expected.side(side);
            let inside = GUARD_BYTES..GUARD_BYTES + expected.bytes().len();
            let changed = read.iter().enumerate().find(|(byte, value)| !inside.contains(byte) && **value != GUARD);
            if let Some((byte, _)) = changed {
                return Err(FailureKind::Guard { side, byte });
            }
            let actual = HostTensor::new(expected.shape(), expected.format(), expected.scale(), read[inside].to_vec());
            compare_side(layer, side, expected, &actual)?;
        }
        Ok(())
    }

    /// Fills the storage of the device and of the reference with NaN.
    fn poison(&mut self) -> Result<()> {
        for (layer, reference) in self.reference.iter_mut().enumerate() {
            let config = *reference.config();
            for side in Side::BOTH {
                let bits = poison(config.format(side));
                let word = if config.format(side).unit_bytes() == 4 { bits } else { bits | (bits << 16) };
                for segment in self.device.layer(layer)?.view().side(side).segments() {
                    let words =
                        vec![word; usize::try_from(segment.buffer.size() / 4).expect("a poisoned storage is small")];
                    self.device.context().write("poison", segment.buffer, bytemuck::cast_slice(&words))?;
                }
                let [batch, heads, slots, _] = config.shape(side);
                for at in coordinates([batch, heads, slots, config.units(side)]) {
                    reference.poke(side, at, bits)?;
                }
            }
        }
        Ok(())
    }

    /// Writes bits directly to the storage of the device and of the reference, as an engine's projection kernel would.
    fn poke_span(&mut self, layer: usize, span: &Span, seed: u64) -> Result<(), FailureKind> {
        let config = *self.reference[layer].config();
        let after = {
            let mut after = self.reference[layer].clone();
            after.advance(span.write()).map_err(FailureKind::Device)?;
            after.lengths().to_vec()
        };
        for side in Side::BOTH {
            let width = 8 * config.format(side).unit_bytes();
            let mut edits = Vec::new();
            for (sequence, index) in (0..config.batch_size).zip(0..) {
                let index: usize = index;
                let count = span.counts.as_ref().map_or(span.tokens, |counts| counts[index]);
                // In a ring, only the rows that no later row overwrites.
                let (first, end) = (after[index] - count, after[index]);
                let sinks = first..config.placement.sinks().min(end);
                let others = first.max(config.placement.first_stored(end))..end;
                for position in sinks.chain(others) {
                    for [_, head, _, element] in coordinates([1, config.num_heads, 1, config.units(side)]) {
                        let at = [sequence, head, position, element];
                        let place = at.into_iter().fold(side as u64, |hash, axis| hash * 1009 + u64::from(axis));
                        edits.push((at, upper_half(mix(seed ^ mix(place))) >> (32 - width)));
                    }
                }
            }
            for &([sequence, head, position, element], bits) in &edits {
                let slot = config.placement.slot(position);
                self.reference[layer].poke(side, [sequence, head, slot, element], bits).map_err(FailureKind::Device)?;
            }
            write_through_view(&self.device.layers()[layer], side, &edits).map_err(FailureKind::Device)?;
        }
        Ok(())
    }
}

fn record_step(
    device: &mut BatchedKvCache,
    recorder: &mut impl Recorder,
    sources: &[BoundSource],
    write: Write<'_>,
) -> Result<()> {
    device.begin_step(recorder, write)?;
    sources.iter().enumerate().try_for_each(|(layer, source)| device.record_update(layer, recorder, source))
}

/// Sets elements of the device's storage at the offsets that the view gives.
fn write_through_view(device: &KvCache, side: Side, edits: &[([u32; 4], u32)]) -> Result<()> {
    let (context, view) = (device.context(), device.view().side(side));
    let width = view.format().unit_bytes() as usize;
    for segment in view.segments() {
        let mut bytes = read_buffer(context, segment.buffer, 0, segment.buffer.size())?;
        for &([sequence, head, position, element], bits) in edits {
            let row = view.row(sequence, head, position)?;
            if row.buffer == segment.buffer {
                let unit = u64::from(element) * width as u64;
                let at = if unit < row.bytes { row.offset + unit } else { row.scales.start + unit - row.bytes };
                let at = usize::try_from(at).expect("the segment was read to the host");
                bytes[at..at + width].copy_from_slice(&bits.to_le_bytes()[..width]);
            }
        }
        context.write("rows", segment.buffer, &bytes)?;
    }
    Ok(())
}

/// Returns every index of a shape, in row-major order.
fn coordinates([a, b, c, d]: [u32; 4]) -> impl Iterator<Item = [u32; 4]> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).flat_map(move |k| (0..d).map(move |l| [i, j, k, l]))))
}

/// Returns both results, or `None` if both sides refused for the same reason.
fn agree<T, U>(expected: Result<T>, actual: Result<U>) -> Result<Option<(T, U)>, FailureKind> {
    match (expected, actual) {
        (Ok(expected), Ok(actual)) => Ok(Some((expected, actual))),
        (Err(expected), Err(actual)) if expected == actual => Ok(None),
        (expected, actual) => Err(FailureKind::refusal(expected.err(), actual.err())),
    }
}

fn compare_ranges(layer: usize, ranges: Option<(Pair<HostTensor>, Pair<HostTensor>)>) -> Result<(), FailureKind> {
    let Some((expected, actual)) = ranges else { return Ok(()) };
    Side::BOTH.into_iter().try_for_each(|side| compare_side(layer, side, expected.side(side), actual.side(side)))
}

fn compare_side(layer: usize, side: Side, expected: &HostTensor, actual: &HostTensor) -> Result<(), FailureKind> {
    match compare_tensors(layer, side, expected, actual).map_err(FailureKind::Device)? {
        Some(difference) => Err(FailureKind::Element { place: "range", difference }),
        None => Ok(()),
    }
}
