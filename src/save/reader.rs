//! [`Reader`]: a saved sequence, read part by part.

use std::io::{Read, Seek, SeekFrom};

use safetensors::tensor::Metadata;

use super::header::{CHECKSUM_BYTES, CHECKSUMS, Saved, checksum, malformed};
use crate::{Error, Result, SaveError};

/// Bytes before the header, which tell its length.
const PREFIX: u64 = 8;
/// The longest header that safetensors allows.
const MOST_HEADER: u64 = 100_000_000;

/// Reads a saved sequence. Its header is checked, and each tensor when it is read.
pub(super) struct Reader<R> {
    inner: R,
    pub saved: Saved,
    /// The name, the first byte and the length of each tensor that holds rows.
    tensors: Vec<(String, u64, usize)>,
    checksums: Vec<u8>,
}

fn failed(error: &std::io::Error) -> Error {
    SaveError::Io { during: "reading a sequence".into(), reason: error.to_string().into() }.into()
}

fn read_at(inner: &mut (impl Read + Seek), start: u64, bytes: usize) -> Result<Vec<u8>> {
    let mut read = vec![0; bytes];
    inner.seek(SeekFrom::Start(start)).and_then(|_| inner.read_exact(&mut read)).map_err(|error| failed(&error))?;
    Ok(read)
}

impl<R: Read + Seek> Reader<R> {
    /// Reads and checks all but the rows.
    pub fn new(mut inner: R) -> Result<Self> {
        let actual = inner.seek(SeekFrom::End(0)).map_err(|error| failed(&error))?;
        let at_least = |expected: u64| {
            if actual < expected { Err(Error::Save(SaveError::Cut { expected, actual })) } else { Ok(()) }
        };
        at_least(PREFIX)?;
        let prefix = read_at(&mut inner, 0, 8)?;
        let length = u64::from_le_bytes(prefix.as_slice().try_into().map_err(|error| malformed(&error))?);
        if length > MOST_HEADER {
            return Err(malformed(&format!("its header has {length} bytes")));
        }
        let data = PREFIX.saturating_add(length);
        at_least(data)?;
        let header = read_at(&mut inner, 0, usize::try_from(data).map_err(|error| malformed(&error))?)?;
        let metadata: Metadata = serde_json::from_slice(&header[8..]).map_err(|error| malformed(&error))?;
        let expected = data.saturating_add(metadata.data_len() as u64);
        at_least(expected)?;
        if actual > expected {
            return Err(malformed(&format!("it has {actual} bytes, but its header tells of {expected}")));
        }
        let saved = Saved::decode(&metadata)?;
        let mut tensors = Vec::new();
        let mut checksums = Vec::new();
        for (name, info) in saved.tensors()? {
            let (start, end) = info.data_offsets;
            let (start, bytes) = (data.saturating_add(start as u64), end.saturating_sub(start));
            if name == CHECKSUMS {
                checksums = read_at(&mut inner, start, bytes)?;
            } else {
                tensors.push((name, start, bytes));
            }
        }
        let reader = Reader { inner, saved, tensors, checksums };
        reader.check(0, "the header", &header)?;
        Ok(reader)
    }

    fn check(&self, index: usize, part: &str, bytes: &[u8]) -> Result<()> {
        check(self.checksums.chunks_exact(CHECKSUM_BYTES).nth(index), part, bytes)
    }

    /// Reads all tensors in order, and checks and uses each while the next one is read.
    pub fn each<T: Send>(mut self, used: impl Fn(usize, &[u8]) -> Result<T> + Sync) -> Result<(Saved, Vec<T>)> {
        let (tensors, checksums) = (std::mem::take(&mut self.tensors), std::mem::take(&mut self.checksums));
        let checked = |index: usize, bytes: &[u8]| {
            let expected = checksums.chunks_exact(CHECKSUM_BYTES).nth(index.saturating_add(1));
            check(expected, &tensors[index].0, bytes)?;
            used(index, bytes)
        };
        let read = |index: usize| tensors.get(index).map(|&(_, start, bytes)| read_at(&mut self.inner, start, bytes));
        Ok((self.saved, in_turn(read, checked)?))
    }
}

fn check(expected: Option<&[u8]>, part: &str, bytes: &[u8]) -> Result<()> {
    if expected == Some(&checksum(bytes)[..]) { Ok(()) } else { Err(SaveError::Checksum { part: part.into() }.into()) }
}

/// Reads by index until there is no more, and uses what was read in the same order: where there are threads, while the
/// next one is read.
#[cfg(not(target_family = "wasm"))]
fn in_turn<T: Send>(
    mut read: impl FnMut(usize) -> Option<Result<Vec<u8>>>,
    used: impl Fn(usize, &[u8]) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(0);
        let use_all = || (0..).zip(receiver).map(|(index, bytes)| used(index, &bytes)).collect::<Result<Vec<T>>>();
        let thread = std::thread::Builder::new().spawn_scoped(scope, use_all);
        let thread = thread.map_err(|error| failed(&error))?;
        let mut unread = None;
        for bytes in (0..).map_while(&mut read) {
            let taken = bytes.map(|bytes| sender.send(bytes).is_ok());
            // Where nobody takes it any more, something is wrong with what was taken.
            if taken != Ok(true) {
                unread = taken.err();
                break;
            }
        }
        drop(sender);
        let used = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        unread.map_or(Ok(used), Err)
    })
}

#[cfg(target_family = "wasm")]
fn in_turn<T: Send>(
    mut read: impl FnMut(usize) -> Option<Result<Vec<u8>>>,
    used: impl Fn(usize, &[u8]) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    (0..).map_while(|index| Some(read(index)?.and_then(|bytes| used(index, &bytes)))).collect()
}

/// Reads a saved sequence, checks every byte of it, and tells what it is of.
///
/// # Errors
/// [`SaveError::Io`], [`SaveError::Malformed`], [`SaveError::Cut`], [`SaveError::Differs`], [`SaveError::TokenCount`],
/// [`SaveError::Checksum`].
pub fn inspect(reader: impl Read + Seek) -> Result<Saved> {
    let (saved, _) = Reader::new(reader)?.each(|_, _| Ok(()))?;
    Ok(saved)
}
