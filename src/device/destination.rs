//! [`Destination`]: the caller's buffer that a range of the cache is copied to.

use crate::{BufferError, Error, Format, Result, Side};

/// Destination of the keys or the values of a range: the caller's buffer, written densely from an offset on.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of 4.
    pub offset: u64,
    /// Format that rows are converted to: f32, f16 or bf16. `None` keeps the stored format.
    pub format: Option<Format>,
}

impl<'a> Destination<'a> {
    /// Creates a destination for rows in their stored format.
    pub const fn new(buffer: &'a wgpu::Buffer, offset: u64) -> Self {
        Destination { buffer, offset, format: None }
    }

    /// Checks that the buffer has the usage, alignment and size for a dense tensor of `bytes` bytes.
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
