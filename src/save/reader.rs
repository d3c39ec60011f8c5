//! [`Reader`]: a saved sequence, read part by part.

use std::io::{Read, Seek, SeekFrom};

use safetensors::tensor::Metadata;
use sha2::{Digest, Sha256};

use super::header::{CHECKSUM_BYTES, CHECKSUMS, Saved, malformed};
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

    /// Number of tensors that hold rows: keys and values of each layer.
    pub fn tensors(&self) -> usize {
        self.tensors.len()
    }

    /// Reads the bytes of a tensor, and checks them while `meanwhile` uses them.
    pub fn tensor<T>(&mut self, index: usize, meanwhile: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let (name, start, bytes) = &self.tensors[index];
        let read = read_at(&mut self.inner, *start, *bytes)?;
        let expected = self.checksums.chunks_exact(CHECKSUM_BYTES).nth(index.saturating_add(1));
        let (checked, used) = beside(|| check(expected, name, &read), || meanwhile(&read));
        checked.and(used)
    }
}

fn check(expected: Option<&[u8]>, part: &str, bytes: &[u8]) -> Result<()> {
    if expected == Some(&Sha256::digest(bytes)[..]) {
        Ok(())
    } else {
        Err(SaveError::Checksum { part: part.into() }.into())
    }
}

/// Does two things at a time, where there are threads.
#[cfg(not(target_family = "wasm"))]
fn beside<A: Send, B>(first: impl Fn() -> A + Sync, second: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, &first);
        let second = second();
        let done = thread.ok().and_then(|thread| thread.join().ok());
        (done.unwrap_or_else(&first), second)
    })
}

#[cfg(target_family = "wasm")]
fn beside<A, B>(first: impl Fn() -> A, second: impl FnOnce() -> B) -> (A, B) {
    (first(), second())
}

/// Reads a saved sequence, checks every byte of it, and tells what it is of.
///
/// # Errors
/// [`SaveError::Io`], [`SaveError::Malformed`], [`SaveError::Cut`], [`SaveError::Differs`], [`SaveError::TokenCount`],
/// [`SaveError::Checksum`].
pub fn inspect(reader: impl Read + Seek) -> Result<Saved> {
    let mut reader = Reader::new(reader)?;
    (0..reader.tensors()).try_for_each(|index| reader.tensor(index, |_| Ok(())))?;
    Ok(reader.saved)
}
