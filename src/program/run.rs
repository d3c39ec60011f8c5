//! Running a program on the device and on the reference.

use super::{
    Failure, FailureKind, Operation, Path, Program, Rows, Span,
    data::{mix, upper_half},
    poison,
};
use crate::{
    BatchedKvCache, Context, Destination, Error, HostTensor, KvCache, Pair, ReferenceCache, Result, RowsIn, Side,
    Source, compare_tensors,
    program::data::{Dense, Strided},
    tensor::read_buffer,
};

/// Bytes before and after a caller's destination.
const GUARD_BYTES: usize = 12;
const GUARD: u8 = 0xa5;

struct Pass<'a> {
    program: &'a Program,
    device: BatchedKvCache,
    reference: Vec<ReferenceCache>,
}

impl Program {
    /// Runs the program on the context's device and on the reference. After every operation the results, the lengths
    /// on the host and on the device, and the whole storage of every layer must be equal, bit for bit.
    ///
    /// # Errors
    /// The first [`Failure`].
    pub fn run(&self, context: &Context) -> Result<(), Failure> {
        let at = |operation| move |kind| Failure { operation, kind };
        let make = || {
            let device = BatchedKvCache::new(context, self.config, self.num_layers)?;
            let reference = (0..self.num_layers).map(|_| ReferenceCache::new(self.config)).collect::<Result<_>>()?;
            Ok(Pass { program: self, device, reference })
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

impl Pass<'_> {
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
                let actual = self.submit(|device, encoder| device.record_advance(*layer, encoder, write));
                agree(expected, actual).map(drop)
            }
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
                let expected =
                    self.reference_layer(*layer).and_then(|reference| reference.get(0..reference.write_pos()));
                let actual = self.device.get_all(*layer).and_then(|range| range.read());
                compare_ranges(*layer, agree(expected, actual)?)
            }
            Operation::Reset => {
                self.reference.iter_mut().for_each(ReferenceCache::reset);
                self.device.reset().map_err(FailureKind::Device)
            }
        }
    }

    /// Lengths and the whole storage of every layer.
    fn compare(&self) -> Result<(), FailureKind> {
        for (layer, (device, reference)) in self.device.layers().iter().zip(&self.reference).enumerate() {
            let lengths = device.read_lengths().map_err(FailureKind::Device)?;
            if device.lengths() != reference.lengths() || lengths != reference.lengths() {
                return Err(FailureKind::Lengths {
                    layer,
                    expected: reference.lengths().to_vec(),
                    host: device.lengths().to_vec(),
                    device: lengths,
                });
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
        self.reference.get_mut(layer).ok_or(Error::LayerOutOfRange { layer, num_layers })
    }

    /// Elements of one side of an update; a program that is to be refused may ask for any number of tokens.
    fn dense(&self, side: Side, span: &Span, rows: &Rows) -> Dense {
        let config = &self.program.config;
        let tokens = span.tokens.min(config.max_seq_len + 1) as usize;
        rows.dense(side, config.batch_size as usize * config.num_heads as usize * tokens * config.dim(side) as usize)
    }

    fn update_reference(&mut self, layer: usize, span: &Span, rows: &Rows) -> Result<()> {
        let [keys, values] = Side::BOTH.map(|side| self.dense(side, span, rows));
        self.reference_layer(layer)?.update(keys.rows(), values.rows(), span.write())
    }

    fn update_device(&mut self, layer: usize, span: &Span, rows: &Rows, path: Path) -> Result<()> {
        let [keys, values] = Side::BOTH.map(|side| self.dense(side, span, rows));
        let layout = match path {
            Path::Host => return self.device.update(layer, keys.rows(), values.rows(), span.write()),
            Path::Encoder(layout) | Path::Pass(layout) => layout,
        };
        let config = self.program.config;
        let tokens = span.tokens.min(config.max_seq_len + 1);
        let [key_rows, value_rows] = [(Side::Keys, &keys), (Side::Values, &values)]
            .map(|(side, rows)| rows.strided(&config, side, tokens, layout));
        let context = self.device.context().clone();
        let upload = |rows: &Strided| {
            context.create_filled("rows", &rows.bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC)
        };
        let (key_buffer, value_buffer) = (upload(&key_rows)?, upload(&value_rows)?);
        let rows_in =
            |buffer, rows: &Strided, format| RowsIn { buffer, offset: rows.offset, format, strides: rows.strides };
        let source = self.device.bind_source(
            layer,
            &Source {
                keys: rows_in(&key_buffer, &key_rows, rows.key_format),
                values: rows_in(&value_buffer, &value_rows, rows.value_format),
                tokens,
            },
        )?;
        let write = span.write();
        self.submit(|device, encoder| match path {
            Path::Pass(_) => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                device.record_update(layer, &mut pass, &source, write)
            }
            _ => device.record_update(layer, encoder, &source, write),
        })
    }

    fn submit(
        &mut self,
        record: impl FnOnce(&mut BatchedKvCache, &mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<()> {
        let context = self.device.context().clone();
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        record(&mut self.device, &mut encoder)?;
        context.queue().submit([encoder.finish()]);
        Ok(())
    }

    /// Copies into the middle of buffers of the caller's, and checks the bytes on both sides.
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
        let destination = |side| Destination { buffer: buffers.side(side), offset: GUARD_BYTES as u64 };
        let destinations = Pair { keys: destination(Side::Keys), values: destination(Side::Values) };
        let actual = self.submit(|device, encoder| device.record_get(layer, encoder, start..end, destinations));
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
            let actual = HostTensor::new(expected.shape(), expected.format(), read[inside].to_vec());
            compare_side(layer, side, expected, &actual)?;
        }
        Ok(())
    }

    /// Fills the storage of device and reference with NaN.
    fn poison(&mut self) -> Result<()> {
        let config = self.program.config;
        for (layer, reference) in self.reference.iter_mut().enumerate() {
            for side in Side::BOTH {
                let bits = poison(config.format(side));
                let word = if config.format(side).element_bytes() == 4 { bits } else { bits | (bits << 16) };
                for segment in self.device.layer(layer)?.view().side(side).segments() {
                    let words =
                        vec![word; usize::try_from(segment.buffer.size() / 4).expect("a poisoned storage is small")];
                    let queue = self.device.context().queue();
                    queue.write_buffer(segment.buffer, 0, bytemuck::cast_slice(&words));
                }
                for at in coordinates(config.shape(side)) {
                    reference.poke(side, at, bits)?;
                }
            }
        }
        Ok(())
    }

    /// Writes bits straight into the storage of device and reference, as an engine's projection kernel would.
    fn poke_span(&mut self, layer: usize, span: &Span, seed: u64) -> Result<(), FailureKind> {
        let config = self.program.config;
        let after = {
            let mut after = self.reference[layer].clone();
            after.advance(span.write()).map_err(FailureKind::Device)?;
            after.lengths().to_vec()
        };
        for side in Side::BOTH {
            let width = 8 * config.format(side).element_bytes();
            let mut edits = Vec::new();
            for at in coordinates(config.shape(side)) {
                let sequence = at[0] as usize;
                let count = span.counts.as_ref().map_or(span.tokens, |counts| counts[sequence]);
                let end = after[sequence];
                if count > 0 && (end - count..end).contains(&at[2]) {
                    let place = at.into_iter().fold(side as u64, |hash, axis| hash * 1009 + u64::from(axis));
                    edits.push((at, upper_half(mix(seed ^ mix(place))) >> (32 - width)));
                }
            }
            for &(at, bits) in &edits {
                self.reference[layer].poke(side, at, bits).map_err(FailureKind::Device)?;
            }
            write_through_view(&self.device.layers()[layer], side, &edits).map_err(FailureKind::Device)?;
        }
        Ok(())
    }
}

/// Sets elements of the device's storage where the view says that they lie.
fn write_through_view(device: &KvCache, side: Side, edits: &[([u32; 4], u32)]) -> Result<()> {
    let (context, view) = (device.context(), device.view().side(side));
    let width = view.format().element_bytes() as usize;
    for segment in view.segments() {
        let mut bytes = read_buffer(context, segment.buffer, 0, segment.buffer.size())?;
        for &([sequence, head, position, element], bits) in edits {
            let row = view.row(sequence, head, position)?;
            if row.buffer == segment.buffer {
                let at =
                    usize::try_from(row.offset).expect("the segment was read to the host") + element as usize * width;
                bytes[at..at + width].copy_from_slice(&bits.to_le_bytes()[..width]);
            }
        }
        context.queue().write_buffer(segment.buffer, 0, &bytes);
    }
    Ok(())
}

/// Every index of a shape.
fn coordinates([a, b, c, d]: [u32; 4]) -> impl Iterator<Item = [u32; 4]> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).flat_map(move |k| (0..d).map(move |l| [i, j, k, l]))))
}

/// Both results, `None` if both refused for the same reason.
fn agree<T, U>(expected: Result<T>, actual: Result<U>) -> Result<Option<(T, U)>, FailureKind> {
    match (expected, actual) {
        (Ok(expected), Ok(actual)) => Ok(Some((expected, actual))),
        (Err(expected), Err(actual)) if expected == actual => Ok(None),
        (expected, actual) => Err(FailureKind::Refusal { expected: expected.err(), actual: actual.err() }),
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
