//! `kv-cache replay`.

mod form;
mod pages;

use std::{fs, io::Write as _, path::PathBuf};

use clap::Args;
use console::style;
use wgpu_kv_cache::{
    BatchedKvCache, CacheConfig, Context, Error, HostTensor, Pair, PerSequence, ReferenceCache, SequenceError, Side,
    Write, adapter_label, adapters,
    attention::{Extras, MaskRows, Options, Queries, attend},
    compare_tensors, find_adapter,
};

use self::form::{Floats, Given, Kind, Numbers, Operation, Outcome, Program, Rows, Wrong};
use crate::{Failure, output::Out};

/// Run a recorded program on an adapter and on the reference, and compare after each operation.
///
/// FILE is JSON: {"config": {…}, "ops": […]}, as README.md describes. If an operation breaks a rule, both must refuse
/// it for the same reason, and the program continues. Results, lengths and the whole storage of all layers are compared
/// bit for bit; attention, by its relative error.
#[derive(Args)]
pub struct Arguments {
    /// The program.
    #[arg(value_name = "FILE.json")]
    file: PathBuf,
    /// Use this adapter instead of the first, by its index or a part of its name, as `kv-cache adapters` prints them.
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Write the result of each operation.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Print the result of each operation instead of a summary.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, out: &mut Out) -> Result<(), Failure> {
    let file = |source| Failure::File { path: arguments.file.clone(), source };
    let text = fs::read_to_string(&arguments.file).map_err(file)?;
    let wrong = |message| Failure::NotProgram { path: arguments.file.clone(), message };
    let not_program = |error: serde_json::Error| wrong(error.to_string());
    let kind: Kind = serde_json::from_str(&text).map_err(not_program)?;
    let of_config = |error| match error {
        Wrong::Config(message) => wrong(message),
        Wrong::Cache(error) => Failure::Cache(error),
    };
    let adapter = match &arguments.adapter {
        Some(wanted) => find_adapter(wanted)?,
        None => adapters()?.swap_remove(0),
    };
    let label = adapter_label(&adapter.get_info());
    let context = Context::open(&adapter)?;
    let stopped = |(operation, stop)| match stop {
        Stop::Device(error) => Failure::Cache(error),
        Stop::Differs(difference) => Failure::Replay { adapter: label.clone(), operation, difference },
    };
    let (text, operations, refused) = if kind.is_paged() {
        let program: Program<pages::Operation> = serde_json::from_str(&text).map_err(not_program)?;
        let config = program.config.paged().map_err(of_config)?;
        let outcomes = pages::run(&context, &config, &program.ops).map_err(stopped)?;
        let refused = outcomes.iter().filter(|outcome| !outcome.ok).count();
        (form::results(&outcomes), outcomes.len(), refused)
    } else {
        let program: Program<Operation> = serde_json::from_str(&text).map_err(not_program)?;
        let mut replay = Replay::new(&context, &program.config.dense().map_err(of_config)?)?;
        let outcomes = (0..)
            .zip(&program.ops)
            .map(|(index, operation)| replay.step(operation).map_err(|stop| stopped((index, stop))))
            .collect::<Result<Vec<_>, _>>()?;
        let refused = outcomes.iter().filter(|outcome| !outcome.ok).count();
        (form::results(&outcomes), outcomes.len(), refused)
    };
    if let Some(path) = &arguments.out {
        fs::write(path, &text).map_err(|source| Failure::File { path: path.clone(), source })?;
    }
    if arguments.json {
        write!(out, "{text}")?;
    } else {
        writeln!(
            out,
            "{} {label}: {operations} operations, {refused} of them refused, device and reference agree bit for bit",
            style("replayed").green().bold(),
        )?;
    }
    Ok(())
}

/// The state of device and reference while a program runs.
struct Replay {
    device: BatchedKvCache,
    reference: Vec<ReferenceCache>,
}

/// Why a replay ends early.
enum Stop {
    Device(Error),
    Differs(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Device(error)
    }
}

/// The results of an operation on the reference and on the device.
type Both<T> = (Result<T, Error>, Result<T, Error>);

impl Replay {
    fn new(context: &Context, layers: &[CacheConfig]) -> Result<Self, Error> {
        let device = BatchedKvCache::with_layers(context, layers)?;
        let reference = layers.iter().copied().map(ReferenceCache::new).collect::<Result<_, _>>()?;
        Ok(Replay { device, reference })
    }

    /// Runs one operation and compares device and reference.
    fn step(&mut self, operation: &Operation) -> Result<Outcome, Stop> {
        let layer = operation.layer().unwrap_or(0);
        let done = self.apply(operation)?;
        self.compare()?;
        // A layer out of range has no lengths.
        let lengths = self.reference.get(layer).map_or(&[][..], ReferenceCache::lengths).to_vec();
        let write_pos = lengths.iter().copied().max().unwrap_or(0);
        Ok(match done {
            Ok(rows) => Outcome::done(lengths, write_pos, rows),
            Err(error) => Outcome::refused(lengths, write_pos, &error),
        })
    }

    /// Runs an operation on both, and returns the result on which they agree.
    fn apply(&mut self, operation: &Operation) -> Result<Result<Option<Given>, Error>, Stop> {
        match operation {
            Operation::Update { layer, tokens, keys, values, positions, counts } => {
                let batch = self.device.config().batch_size as usize;
                let counts = counts.as_ref().map(|counts| counts.each(batch));
                let write = match positions {
                    None => Write::append(*tokens),
                    Some(Numbers::One(position)) => Write::at(*position, *tokens),
                    Some(Numbers::Each(positions)) => Write::at_each(positions, *tokens),
                };
                let write = match &counts {
                    Some(counts) => write.counts(counts),
                    None => write,
                };
                let (Floats(keys), Floats(values)) = (keys, values);
                let expected =
                    self.reference_layer(*layer).and_then(|reference| reference.update(&keys[..], &values[..], write));
                agree((expected, self.device.update(*layer, &keys[..], &values[..], write)), None)
            }
            Operation::Truncate { lengths } => {
                let lengths = match lengths {
                    Numbers::One(length) => PerSequence::All(*length),
                    Numbers::Each(lengths) => PerSequence::Each(lengths),
                };
                let expected = self.on_reference(|reference| reference.truncate(lengths));
                agree((expected, self.device.truncate(lengths)), None)
            }
            Operation::ClearSequence { sequence } => {
                let expected = self.on_reference(|reference| reference.clear_sequence(*sequence));
                agree((expected, self.device.clear_sequence(*sequence)), None)
            }
            Operation::Reorder { sources } => {
                let expected = self.on_reference(|reference| reference.reorder(sources));
                agree((expected, self.device.reorder(sources)), None)
            }
            Operation::Select { sources } => {
                let expected = self.on_reference(|reference| reference.select(sources));
                agree((expected, self.device.select(sources)), None)
            }
            Operation::Repeat { times } => {
                let expected = self.on_reference(|reference| reference.repeat(*times));
                agree((expected, self.device.repeat(*times)), None)
            }
            Operation::CopySequence { from, to } => {
                let expected = self.on_reference(|reference| reference.copy_sequence(*from, *to));
                agree((expected, self.device.copy_sequence(*from, *to)), None)
            }
            Operation::Keep { sequence, last, indices } => {
                let expected = self.on_reference(|reference| reference.keep(*sequence, *last, indices));
                agree((expected, self.device.keep(*sequence, *last, indices)), None)
            }
            Operation::CopyRange { from, start, end, to, position } => {
                let range = || *start..*end;
                let expected = self.on_reference(|reference| reference.copy_range(*from, range(), *to, *position));
                agree((expected, self.device.copy_range(*from, range(), *to, *position)), None)
            }
            Operation::Get { layer, start, end } => {
                let expected = self.reference_layer(*layer).and_then(|reference| reference.get(*start..*end));
                let actual = self.device.get(*layer, *start..*end).and_then(|rows| rows.read());
                // Called only if both returned rows, so the range is no longer than the longest sequence.
                agree_rows((expected, actual), || {
                    self.positions(*layer, |reference, sequence| {
                        (*start..(*end).min(reference.lengths()[sequence as usize])).collect()
                    })
                })
            }
            Operation::GetAll { layer } => {
                let expected = self.reference_layer(*layer).map(|reference| reference.get_all());
                let actual = self.device.get_all(*layer).and_then(|rows| rows.read());
                agree_rows((expected, actual), || {
                    self.positions(*layer, |reference, sequence| {
                        reference.valid_positions(sequence).expect("the sequence is in the batch")
                    })
                })
            }
            Operation::Storage { layer } => {
                if let Err(error) = self.reference_layer(*layer) {
                    return Ok(Err(error));
                }
                // The storage needs no comparison here: `compare` follows every operation.
                let device = self.device.layer(*layer)?;
                let batch = device.config().batch_size;
                Ok(Ok(Some(Given::Rows(Rows::storage(&device.read_storage()?, batch)))))
            }
            Operation::Attention {
                layer,
                heads,
                tokens,
                queries: Floats(queries),
                causal,
                scale,
                softcap,
                mask,
                mask_shape,
                window,
                sinks,
                lag,
                sink_logits,
                written,
                packed,
            } => {
                let options = Options {
                    causal: *causal,
                    window: *window,
                    sinks: *sinks,
                    lag: *lag,
                    packed: *packed,
                    queries: if *written { Queries::Written } else { Queries::Last },
                    scale: *scale,
                    softcap: softcap.filter(|cap| *cap != 0.0),
                    ..Options::new(*heads, *tokens)
                };
                let mask = mask.as_ref().map(|Floats(numbers)| {
                    let columns = u32::try_from(numbers.len()).unwrap_or(u32::MAX) / tokens.max(&1);
                    MaskRows { numbers, shape: mask_shape.unwrap_or([1, 1, *tokens, columns]) }
                });
                let extras = Extras { mask, sink_logits: sink_logits.as_ref().map(|Floats(logits)| &logits[..]) };
                let expected = self.reference_layer(*layer).and_then(|layer| layer.attend(&options, queries, extras));
                let actual = self.device.layer(*layer).and_then(|layer| attend(layer, &options, queries, extras));
                agree_attention((expected, actual))
            }
            Operation::Reset {} => {
                self.reference.iter_mut().for_each(ReferenceCache::reset);
                self.device.reset()?;
                Ok(Ok(None))
            }
        }
    }

    fn reference_layer(&mut self, layer: usize) -> Result<&mut ReferenceCache, Error> {
        let num_layers = self.reference.len();
        self.reference.get_mut(layer).ok_or(Error::Sequence(SequenceError::LayerOutOfRange { layer, num_layers }))
    }

    /// Applies a change to all layers of the reference, or to none if it fails for one.
    fn on_reference(&mut self, change: impl Fn(&mut ReferenceCache) -> Result<(), Error>) -> Result<(), Error> {
        let before = self.reference.clone();
        let changed = self.reference.iter_mut().try_for_each(change);
        if changed.is_err() {
            self.reference = before;
        }
        changed
    }

    /// Returns the positions of each sequence's rows, as `of` gives them.
    fn positions(&self, layer: usize, of: impl Fn(&ReferenceCache, u32) -> Vec<u32>) -> Vec<Vec<u32>> {
        let Some(reference) = self.reference.get(layer) else { return Vec::new() };
        (0..reference.config().batch_size).map(|sequence| of(reference, sequence)).collect()
    }

    /// Compares the lengths and the whole storage of every layer.
    fn compare(&self) -> Result<(), Stop> {
        for (layer, (device, reference)) in self.device.layers().iter().zip(&self.reference).enumerate() {
            let on_device = device.read_lengths()?;
            if device.lengths() != reference.lengths() || on_device != reference.lengths() {
                return Err(Stop::Differs(format!(
                    "lengths of layer {layer} should be {:?}, but are {:?} on the host and {on_device:?} on the device",
                    reference.lengths(),
                    device.lengths()
                )));
            }
            if let Some(difference) = reference.compare_storage(layer, &device.read_storage()?)? {
                return Err(Stop::Differs(format!("storage: {difference}")));
            }
        }
        Ok(())
    }
}

/// Checks that both did the operation, or refused it for the same reason.
fn agree(both: Both<()>, given: Option<Given>) -> Result<Result<Option<Given>, Error>, Stop> {
    match both {
        (Ok(()), Ok(())) => Ok(Ok(given)),
        (Err(expected), Err(actual)) if expected == actual => Ok(Err(actual)),
        (expected, actual) => Err(parted(expected.err(), actual.err())),
    }
}

/// Like [`agree`], for rows, which must be equal.
fn agree_rows(
    both: Both<Pair<HostTensor>>,
    positions: impl FnOnce() -> Vec<Vec<u32>>,
) -> Result<Result<Option<Given>, Error>, Stop> {
    let (expected, actual) = match both {
        (Ok(expected), Ok(actual)) => (expected, actual),
        (expected, actual) => return agree((expected.map(drop), actual.map(drop)), None),
    };
    for side in Side::BOTH {
        let (expected, actual) = match side {
            Side::Keys => (&expected.keys, &actual.keys),
            Side::Values => (&expected.values, &actual.values),
        };
        if let Some(difference) = compare_tensors(0, side, expected, actual)? {
            return Err(Stop::Differs(format!("copied rows: {difference}")));
        }
    }
    Ok(Ok(Some(Given::Rows(Rows::copied(&actual, positions())))))
}

/// Maximum error of attention: the root mean square of the difference, divided by that of the reference's output.
const DISTANCE: f64 = 1e-5;

/// Like [`agree`], for attention, whose sums are in floating point.
fn agree_attention(
    both: (Result<Vec<f64>, Error>, Result<HostTensor, Error>),
) -> Result<Result<Option<Given>, Error>, Stop> {
    let (expected, actual) = match both {
        (Ok(expected), Ok(actual)) => (expected, actual),
        (expected, actual) => return agree((expected.map(drop), actual.map(drop)), None),
    };
    let output = actual.to_f32();
    within(&expected, &output).map_err(Stop::Differs)?;
    Ok(Ok(Some(Given::Attention { output: Floats(output), shape: actual.shape() })))
}

/// Checks that an output of attention is near that of the reference.
fn within(expected: &[f64], output: &[f32]) -> Result<(), String> {
    let number = |(e, a): &(&f64, &f32)| e.is_finite() && a.is_finite();
    if let Some(at) = expected.iter().zip(output).position(|(e, a)| e.is_nan() != a.is_nan()) {
        let (expected, actual) = (expected[at], output[at]);
        return Err(format!("attention: element {at} should be {expected}, but is {actual}"));
    }
    let pairs = || expected.iter().zip(output).filter(number);
    let difference: f64 = pairs().map(|(e, a)| (e - f64::from(*a)).powi(2)).sum();
    let size: f64 = pairs().map(|(e, _)| e * e).sum();
    let distance = (difference / size.max(f64::MIN_POSITIVE)).sqrt();
    if difference > 0.0 && distance > DISTANCE {
        return Err(format!("attention: the relative distance must be at most {DISTANCE:e}, but is {distance:e}"));
    }
    Ok(())
}

fn parted(expected: Option<Error>, actual: Option<Error>) -> Stop {
    let text = |error: Option<Error>| error.map_or_else(|| "succeeded".to_owned(), |error| format!("refused: {error}"));
    Stop::Differs(format!("the reference {}, but the device {}", text(expected), text(actual)))
}
