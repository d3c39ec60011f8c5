//! [`PagedRun`]: a paged cache and its reference, side by side.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    super::operation::{Failure, FailureKind},
    operation::{PagedOperation, PagedOutcome, PagedProgram, PagedRefusal},
    reference::PagedReference,
    rows::{Given, Stored, TokenRows, number},
};
use crate::{
    CacheConfig, Context, DeviceError, Difference, Error, Format, HostRows, HostTensor, PageError, PagedConfig,
    PagedKvCache, Pair, Result, RowsIn, Side, Source, Strides,
    pages::{Append, PageEvent, PageKey, RETURNED, SequenceId},
    shape::tensor::host_len,
};

/// A paged cache and its reference. Each operation is done on both, and what they say of pages and lengths is compared.
#[derive(Debug)]
pub struct PagedRun {
    pub(super) device: PagedKvCache,
    pub(super) reference: PagedReference,
    /// Steps so far: some take their rows from strided buffers, in a compute pass.
    steps: u32,
    rows: TokenRows,
    pub(super) given: Given,
    ids: BTreeMap<String, SequenceId>,
    /// Handles of sequences that were freed.
    freed: BTreeMap<String, SequenceId>,
    /// Tokens of the prefixes of pages that the device evicted.
    evicted: Arc<Mutex<Vec<u32>>>,
    stored: Stored,
}

impl PagedProgram {
    /// Runs the program on the context's device and on the reference. After every operation, pages, lengths and results
    /// must be equal, and at the end the rows of all sequences in all layers, bit for bit.
    ///
    /// # Errors
    /// The first [`Failure`].
    pub fn run(&self, context: &Context) -> Result<(), Failure> {
        let at = |operation| move |kind| Failure { operation, kind };
        let mut run =
            PagedRun::new(context, &self.config, self.rows).map_err(|error| at(0)(FailureKind::Device(error)))?;
        for (index, operation) in self.operations.iter().enumerate() {
            run.step(operation).map_err(at(index))?;
        }
        run.compare_rows().map_err(at(self.operations.len()))
    }
}

impl PagedRun {
    /// An empty cache on a device, and its reference.
    ///
    /// # Errors
    /// Those of [`PagedKvCache::new`].
    pub fn new(context: &Context, config: &PagedConfig, rows: TokenRows) -> Result<Self> {
        let mut device = PagedKvCache::new(context, config)?;
        let evicted = Arc::new(Mutex::new(Vec::new()));
        let noted = evicted.clone();
        device.listen(move |event| {
            if let PageEvent::Removed { prefix, .. } = event {
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(*prefix);
            }
        });
        let reference = PagedReference::new(config);
        Ok(PagedRun {
            device,
            reference,
            steps: 0,
            rows,
            given: Given::default(),
            ids: BTreeMap::new(),
            freed: BTreeMap::new(),
            evicted,
            stored: Stored::default(),
        })
    }

    /// The cache.
    pub const fn cache(&self) -> &PagedKvCache {
        &self.device
    }

    /// The sequences, by name.
    pub const fn sequences(&self) -> &BTreeMap<String, SequenceId> {
        &self.ids
    }

    /// Does an operation on both.
    ///
    /// # Errors
    /// What differs between the two.
    pub fn step(&mut self, operation: &PagedOperation) -> Result<PagedOutcome, FailureKind> {
        self.evicted.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.reference.evicted.clear();
        let outcome = self.apply(operation)?;
        let evicted = std::mem::take(&mut *self.evicted.lock().unwrap_or_else(PoisonError::into_inner));
        let evicted = if *operation == PagedOperation::ClearPrefixes { Vec::new() } else { evicted };
        same("evicted prefixes", &self.reference.evicted, &evicted)?;
        self.compare_books()?;
        Ok(PagedOutcome { evicted, ..outcome })
    }

    fn keys(&self, tokens: &[u32], namespace: Option<&str>) -> Vec<PageKey> {
        self.device.sequences().keys(tokens, namespace).collect()
    }

    /// The handle of a sequence that is there.
    fn id(&self, name: &str) -> Result<SequenceId, FailureKind> {
        self.ids.get(name).copied().ok_or_else(|| FailureKind::Books(format!("there is no sequence {name:?}")))
    }

    /// Why an operation on sequences with these names would be refused. A handle that was freed is refused by the
    /// cache.
    pub(super) fn refused<'a>(&self, mut names: impl Iterator<Item = &'a String>) -> Option<PagedRefusal> {
        let name = names.find(|name| !self.ids.contains_key(*name))?;
        let freed = self.freed.get(name).and_then(|&id| self.device.sequences().tokens(id).err());
        Some(freed.map_or_else(|| PagedRefusal::NoSequence(name.clone()), PagedRefusal::Cache))
    }

    fn apply(&mut self, operation: &PagedOperation) -> Result<PagedOutcome, FailureKind> {
        let mut outcome = PagedOutcome::default();
        let exists = operation.new_name().filter(|name| self.ids.contains_key(*name));
        let exists = exists.map(|name| PagedRefusal::SequenceExists(name.clone()));
        if let Some(refusal) = self.refused(operation.sequences()).or(exists) {
            return Ok(PagedOutcome { refused: Some(refusal), ..outcome });
        }
        match operation {
            PagedOperation::Match { tokens, namespace } => {
                let namespace = namespace.as_deref();
                let cached = self.device.sequences().matched(tokens, namespace);
                same("cached tokens", &self.reference.matched(tokens, namespace), &cached)?;
                (outcome.cached, outcome.keys) = (Some(cached), self.keys(tokens, namespace));
            }
            PagedOperation::Add { sequence, tokens, namespace, rows } => {
                let namespace = namespace.as_deref();
                let given = match self.given_rows(tokens.len(), rows.as_ref()) {
                    Ok(given) => given,
                    Err(error) => return Ok(PagedOutcome { refused: Some(error.into()), ..outcome }),
                };
                outcome.keys = self.keys(tokens, namespace);
                let expected = self.reference.check_room(tokens, namespace);
                let expected = expected.and_then(|()| self.reference.add(sequence, tokens, namespace));
                let actual = self.device.sequences().check_room(tokens, namespace);
                let added = actual.and_then(|()| self.device.add(tokens, namespace));
                let (expected, added) = match (expected, added) {
                    (Ok(expected), Ok(added)) => (expected, added),
                    (expected, actual) => return refused(expected, actual),
                };
                same("cached tokens", &expected, &added.cached)?;
                self.ids.insert(sequence.clone(), added.sequence);
                outcome.cached = Some(added.cached);
                let rest = tokens[added.cached as usize..].to_vec();
                let given = given.map(|given| given[added.cached as usize..].to_vec());
                return self.append(&[(sequence.clone(), rest, 0)], given, false, outcome);
            }
            PagedOperation::Step { appends, dropped, rows } => {
                let tokens = appends.iter().map(|(_, tokens)| tokens.len()).sum();
                let given = match self.given_rows(tokens, rows.as_ref()) {
                    Ok(given) => given,
                    Err(error) => return Ok(PagedOutcome { refused: Some(error.into()), ..outcome }),
                };
                let appends: Vec<_> = appends.iter().map(|(name, tokens)| (name.clone(), tokens.clone(), 0)).collect();
                return self.append(&appends, given, *dropped, outcome);
            }
            PagedOperation::Draft { sequence, tokens, accepted, rows } => {
                let given = match self.given_rows(tokens.len(), rows.as_ref()) {
                    Ok(given) => given,
                    Err(error) => return Ok(PagedOutcome { refused: Some(error.into()), ..outcome }),
                };
                let drafts = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
                if *accepted > drafts {
                    let error = PageError::MoreAccepted { accepted: *accepted, drafts };
                    return Ok(PagedOutcome { refused: Some(PagedRefusal::Cache(error.into())), ..outcome });
                }
                let appended = self.append(&[(sequence.clone(), tokens.clone(), drafts)], given, false, outcome)?;
                if appended.refused.is_none() {
                    let id = self.id(sequence)?;
                    agree(self.reference.accept(sequence, *accepted), self.device.accept(id, *accepted))?;
                }
                return Ok(appended);
            }
            PagedOperation::Keep { sequence, last, indices } => {
                let id = self.id(sequence)?;
                let expected = self.reference.keep(sequence, id.row(), *last, indices);
                match (expected, self.device.keep(id, *last, indices)) {
                    (Ok(()), Ok(())) => {}
                    (expected, actual) => return refused(expected, actual),
                }
            }
            PagedOperation::Fork { from, to, length } => {
                let id = self.id(from)?;
                let all = self.device.sequences().length(id).map_err(FailureKind::Device)?;
                let actual = self.device.fork(id, length.unwrap_or(all));
                match (self.reference.fork(from, id.row(), to, *length), actual) {
                    (Ok(()), Ok(forked)) => drop(self.ids.insert(to.clone(), forked)),
                    (expected, actual) => return refused(expected, actual),
                }
            }
            PagedOperation::Truncate { sequence, length } => {
                let id = self.id(sequence)?;
                match (self.reference.truncate(sequence, id.row(), *length), self.device.truncate(id, *length)) {
                    (Ok(()), Ok(())) => {}
                    (expected, actual) => return refused(expected, actual),
                }
            }
            PagedOperation::Free { sequence } => {
                let id = self.id(sequence)?;
                self.reference.free(sequence);
                self.device.free(id).map_err(FailureKind::Device)?;
                self.ids.remove(sequence);
                self.freed.insert(sequence.clone(), id);
                // A handle is never valid again.
                if self.device.free(id).is_ok() || self.device.sequences().tokens(id).is_ok() {
                    return Err(FailureKind::Books(format!("the handle of {sequence:?} is valid after it was freed")));
                }
            }
            PagedOperation::ClearPrefixes => {
                self.reference.clear_prefixes();
                self.device.clear_prefixes();
            }
            PagedOperation::Rows { sequence, layer } => {
                let id = self.id(sequence)?;
                let positions = self.device.valid_positions(*layer, id).map(Iterator::collect::<Vec<_>>);
                let rows = positions.and_then(|positions| Ok((self.device.extract(id)?[*layer].read()?, positions)));
                match rows {
                    Ok((rows, positions)) => {
                        self.compare_sequence(sequence, *layer, &rows)?;
                        outcome.rows = Some((rows, positions));
                    }
                    // A binding of the device may be too small for all rows.
                    Err(error @ Error::Device(DeviceError::DeviceLimit { .. })) => outcome.refused = Some(error.into()),
                    Err(error) if self.reference.lacks_rows(sequence) || *layer >= self.device.num_layers() => {
                        outcome.refused = Some(error.into());
                    }
                    Err(error) => return Err(FailureKind::Device(error)),
                }
            }
        }
        Ok(outcome)
    }

    /// What names the rows that tokens are given, if they are.
    fn given_rows(&mut self, tokens: usize, rows: Option<&Pair<Vec<f32>>>) -> Result<Option<Vec<u32>>> {
        let layers = &self.device.config().layers;
        rows.map(|rows| self.given.add(layers, tokens, rows)).transpose()
    }

    /// Appends tokens, the last of which are drafts, to sequences in one step.
    pub(super) fn append(
        &mut self,
        appends: &[(String, Vec<u32>, u32)],
        given: Option<Vec<u32>>,
        dropped: bool,
        outcome: PagedOutcome,
    ) -> Result<PagedOutcome, FailureKind> {
        let mut bases = Vec::new();
        let mut planned = Vec::new();
        for (name, tokens, drafts) in appends {
            let id = self.id(name)?;
            let mut all = self.device.sequences().tokens(id).map_err(FailureKind::Device)?.to_vec();
            let before = all.len();
            all.extend(tokens);
            bases.extend_from_slice(&self.rows.bases(&all)[before..]);
            planned.push(Append::new(id, tokens).drafts(*drafts));
        }
        let bases = given.unwrap_or(bases);
        let expected = match twice(appends) {
            Some(name) => Err(PageError::SequenceTwice { row: self.id(name)?.row() }.into()),
            None => self.reference.step(appends, &bases, dropped),
        };
        let actual = if dropped { self.drop_step(&planned) } else { self.submit_step(&planned, &bases) };
        match (expected, actual) {
            (Ok(()), Ok(())) => Ok(outcome),
            (expected, actual) => refused(expected, actual),
        }
    }

    fn submit_step(&mut self, appends: &[Append<'_>], bases: &[u32]) -> Result<()> {
        let layers = self.device.config().layers.clone();
        let rows: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(layer, _)| Side::BOTH.map(|side| self.given.packed(&layers, side, layer, bases)))
            .collect();
        let rows: Vec<_> = rows
            .iter()
            .map(|[keys, values]| Pair { keys: HostRows::from(keys), values: HostRows::from(values) })
            .collect();
        self.steps += 1;
        let most = |config: &CacheConfig| config.num_heads * config.head_dim.max(config.value_dim);
        let numbers = layers.iter().map(most).max().unwrap_or(0) as usize;
        let longest = appends.iter().map(|append| append.tokens.len()).max().unwrap_or(0) + 1;
        let bytes = (numbers * appends.len() * longest * 4) as u64;
        let fits = bytes <= self.device.context().limits().max_storage_buffer_binding_size;
        if fits && self.steps.is_multiple_of(3) {
            self.record_strided(appends, &rows)
        } else {
            self.device.append(appends, &rows)
        }
    }

    /// Records a step into a compute pass, from buffers `[sequence, head, token, dim]` with room for more tokens.
    fn record_strided(&mut self, appends: &[Append<'_>], rows: &[Pair<HostRows<'_>>]) -> Result<()> {
        let context = self.device.context().clone();
        let sequences = number(appends.len().max(1));
        let tokens = number(appends.iter().map(|append| append.tokens.len()).max().unwrap_or(0)) + 1;
        let mut sources = Vec::new();
        for (layer, rows) in rows.iter().enumerate() {
            let config = self.device.config().layers[layer];
            let strided = |side: Side| {
                let (heads, dim) = (config.num_heads as usize, config.dim(side) as usize);
                let mut bytes = vec![0xffu8; sequences as usize * heads * tokens as usize * dim * 4];
                let mut packed = rows.side(side).bytes().chunks_exact(dim * 4);
                for (sequence, append) in appends.iter().enumerate() {
                    for token in 0..append.tokens.len() {
                        for head in 0..heads {
                            let at = ((sequence * heads + head) * tokens as usize + token) * dim * 4;
                            bytes[at..][..dim * 4]
                                .copy_from_slice(packed.next().expect("there is a row for each token"));
                        }
                    }
                }
                context.create_filled("strided rows", &bytes, wgpu::BufferUsages::STORAGE)
            };
            let (keys, values) = (strided(Side::Keys)?, strided(Side::Values)?);
            let rows_in = |buffer, dim| RowsIn {
                buffer,
                offset: 0,
                format: Format::F32,
                strides: Strides::bhtd(config.num_heads, tokens, dim),
            };
            let (keys, values) = (rows_in(&keys, config.head_dim), rows_in(&values, config.value_dim));
            sources.push(self.device.bind_strided_source(layer, sequences, &Source { keys, values, tokens })?);
        }
        let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.device.begin_step(&mut pass, appends)?;
            for (layer, source) in sources.iter().enumerate() {
                self.device.record_update(layer, &mut pass, source)?;
            }
        }
        context.submit("a step", encoder)?;
        self.device.submitted()
    }

    fn drop_step(&mut self, appends: &[Append<'_>]) -> Result<()> {
        let device = self.device.context().device().clone();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.device.begin_step(&mut encoder, appends)?;
        drop(encoder);
        self.device.dropped();
        Ok(())
    }

    /// Compares pages, lengths and tokens of all sequences, and what is free.
    fn compare_books(&self) -> Result<(), FailureKind> {
        self.reference.check().map_err(FailureKind::Books)?;
        let books = self.device.sequences();
        same("free pages", &self.reference.free_pages(), &(books.free_pages() as usize))?;
        same("cached pages", &self.reference.cached_pages(), &(books.cached_pages() as usize))?;
        let names: Vec<_> = self.reference.sequences.keys().collect();
        same("sequences", &names, &self.ids.keys().collect())?;
        for (name, held) in &self.reference.sequences {
            let id = self.id(name)?;
            let tokens = books.tokens(id).map_err(FailureKind::Device)?;
            same(&format!("tokens of {name:?}"), &&held.tokens[..], &tokens)?;
            for (group, pages) in held.pages.iter().enumerate() {
                let pages: Vec<u32> = pages.iter().map(|page| page.unwrap_or(RETURNED)).collect();
                let actual = books.pages(id, group).map_err(FailureKind::Device)?;
                same(&format!("pages of {name:?} in group {group}"), &&pages[..], &actual)?;
            }
        }
        Ok(())
    }

    /// Compares the rows of all sequences in all layers, as they lie in the pages, with those of their tokens.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare_rows(&mut self) -> Result<(), FailureKind> {
        let size = self.device.config().page_size as usize;
        let (groups, _) = self.device.config().groups();
        for (layer, group) in groups.into_iter().enumerate() {
            let storage = self.device.read_storage(layer).map_err(FailureKind::Device)?;
            let known = (&self.given, &self.device.config().layers[..]);
            for held in self.reference.sequences.values() {
                for (position, &base) in held.bases.iter().enumerate() {
                    let Some(page) = held.pages[group][position / size] else { continue };
                    let place = [page, number(position % size)];
                    compare_row(&mut self.stored, known, layer, &storage, place, base)?;
                }
            }
        }
        Ok(())
    }

    fn compare_sequence(&mut self, name: &str, layer: usize, rows: &Pair<HostTensor>) -> Result<(), FailureKind> {
        let config = self.device.config().layers[layer];
        let known = (&self.given, &self.device.config().layers[..]);
        let held = &self.reference.sequences[name];
        let valid = config.placement.valid(number(held.bases.len()));
        for (row, position) in (0..).zip(valid.into_iter().flatten()) {
            let base = held.bases[position as usize];
            compare_row(&mut self.stored, known, layer, rows, [0, row], base)?;
        }
        Ok(())
    }
}

/// Compares row `[group, slot]` of tensors `[group, head, slot, dim]`, of all heads, with that of a base.
fn compare_row(
    stored: &mut Stored,
    known: (&Given, &[CacheConfig]),
    layer: usize,
    tensors: &Pair<HostTensor>,
    [group, slot]: [u32; 2],
    base: u32,
) -> Result<(), FailureKind> {
    for side in Side::BOTH {
        let tensor = tensors.side(side);
        let [_, heads, slots, dim] = tensor.shape();
        let row_bytes = host_len(tensor.format().row_bytes(dim));
        let width = tensor.format().unit_bytes() as usize;
        for head in 0..heads {
            let at = ((group * heads + head) * slots + slot) as usize * row_bytes;
            let (expected, actual) = (stored.row(known, side, layer, head, base), &tensor.bytes()[at..][..row_bytes]);
            let Some(byte) = expected.iter().zip(actual).position(|(a, b)| a != b) else { continue };
            let element = byte / width;
            let bits = |bytes: &[u8]| {
                bytes[element * width..][..width].iter().rev().fold(0, |bits, &byte| (bits << 8) | u32::from(byte))
            };
            let (expected, actual) = (bits(expected), bits(actual));
            let difference = Difference {
                layer,
                side,
                sequence: group as usize,
                head: head as usize,
                position: slot as usize,
                element,
                format: tensor.format(),
                expected,
                actual,
            };
            return Err(FailureKind::Element { place: "pages", difference });
        }
    }
    Ok(())
}

/// The first sequence that a step has again.
fn twice(appends: &[(String, Vec<u32>, u32)]) -> Option<&String> {
    let again = |&(index, (name, ..)): &(usize, &(String, Vec<u32>, u32))| {
        appends[..index].iter().any(|(other, ..)| other == name)
    };
    appends.iter().enumerate().find(again).map(|(_, (name, ..))| name)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, actual: &T) -> Result<(), FailureKind> {
    if expected == actual {
        Ok(())
    } else {
        Err(FailureKind::Books(format!("{what} should be {expected:?}, but are {actual:?}")))
    }
}

/// Both refused for the same reason.
fn refused<T, U>(expected: Result<T>, actual: Result<U>) -> Result<PagedOutcome, FailureKind> {
    match (expected.err(), actual.err()) {
        (Some(expected), Some(actual)) if expected == actual => {
            Ok(PagedOutcome { refused: Some(actual.into()), ..PagedOutcome::default() })
        }
        (expected, actual) => Err(FailureKind::refusal(expected, actual)),
    }
}

fn agree(expected: Result<()>, actual: Result<()>) -> Result<(), FailureKind> {
    if expected == actual { Ok(()) } else { Err(FailureKind::refusal(expected.err(), actual.err())) }
}
