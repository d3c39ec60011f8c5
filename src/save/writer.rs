//! [`Writer`]: a saved sequence, written from its beginning to its end.

use std::io::Write;

use super::header::{Saved, checksum};
use crate::{Result, SaveError};

/// Writes a saved sequence to anything that takes bytes.
pub(super) struct Writer<W> {
    inner: W,
    checksums: Vec<u8>,
}

fn failed(error: &std::io::Error) -> SaveError {
    SaveError::Io { during: "writing a sequence".into(), reason: error.to_string().into() }
}

impl<W: Write> Writer<W> {
    /// Writes what comes before the tensors.
    pub fn new(inner: W, saved: &Saved) -> Result<Self> {
        let mut writer = Writer { inner, checksums: Vec::new() };
        writer.part(&saved.encode()?)?;
        Ok(writer)
    }

    /// Writes the next tensor.
    pub fn part(&mut self, bytes: &[u8]) -> Result<()> {
        self.checksums.extend_from_slice(&checksum(bytes));
        self.inner.write_all(bytes).map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Writes the checksums.
    pub fn finish(mut self) -> Result<W> {
        self.inner.write_all(&self.checksums).and_then(|()| self.inner.flush()).map_err(|error| failed(&error))?;
        Ok(self.inner)
    }
}
