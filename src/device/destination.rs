//! [`Destination`]: where a range is copied to.

use crate::{BufferError, Error, Format, Result, Side};

/// Destination of one side of a range: a buffer of the caller, written densely from an offset on.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of 4.
    pub offset: u64,
    /// f32, f16 or bf16, into which rows are converted; or as they are stored.
    pub format: Option<Format>,
}

impl<'a> Destination<'a> {
    /// A destination of rows as they are stored.
    pub const fn new(buffer: &'a wgpu::Buffer, offset: u64) -> Self {
        Destination { buffer, offset, format: None }
    }

    /// Checks usage, alignment and range for a dense tensor of `bytes` bytes.
    pub(crate) fn check(&self, side: Side, bytes: u64) -> Result<()> {
        if !self.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::Buffer(BufferError::BufferUsage {
                side,
                needed: "STORAGE",
                actual: self.buffer.usage(),
            }));
        }
        if !self.offset.is_multiple_of(4) {
            return Err(Error::Buffer(BufferError::Misaligned { side, offset: self.offset, alignment: 4 }));
        }
        let needed = self.offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(4));
        match needed {
            Some(needed) if needed <= self.buffer.size() => Ok(()),
            needed => Err(Error::Buffer(BufferError::BufferRange {
                side,
                needed: needed.unwrap_or(u64::MAX),
                actual: self.buffer.size(),
            })),
        }
    }
}
