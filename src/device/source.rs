//! Describes the rows in a caller's buffer: [`Source`], [`RowsIn`], [`Strides`]. An update reads them in place, at any
//! offset and strides.

use std::ops::Range;

use crate::{
    BufferError, Error, Format, Result, Side,
    device::binding::{clamp_u32, window},
    plan::{grid::Block, operations::check_source_format},
    shape::placement::count,
};

/// Distances between the rows of a strided tensor, in elements, or in 4-byte words for a packed format. Each row is
/// contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// From one sequence to the next.
    pub sequence: u64,
    /// From one KV head to the next.
    pub head: u64,
    /// From one token to the next.
    pub token: u64,
}

impl Strides {
    /// Returns the strides of a dense `[batch, head, token, dim]` tensor.
    pub const fn bhtd(heads: u32, tokens: u32, dim: u32) -> Self {
        let token = dim as u64;
        let head = token.saturating_mul(tokens as u64);
        Strides { sequence: head.saturating_mul(heads as u64), head, token }
    }

    /// Returns the strides of a dense `[batch, token, head, dim]` tensor.
    pub const fn bthd(heads: u32, tokens: u32, dim: u32) -> Self {
        Self::fused((heads as u64).saturating_mul(dim as u64), tokens, dim)
    }

    /// Returns the strides of one part of a fused `[batch, token, features]` tensor, such as the output of one
    /// projection to queries, keys and values. `features` is the distance between tokens; the heads of the part are
    /// contiguous.
    pub const fn fused(features: u64, tokens: u32, dim: u32) -> Self {
        Strides { sequence: features.saturating_mul(tokens as u64), head: dim as u64, token: features }
    }
}

/// Rows in the caller's buffer. Element (b, h, t, d) is at byte `offset` plus `b × sequence + h × head + t × token + d`
/// elements.
#[derive(Clone, Copy, Debug)]
pub struct RowsIn<'a> {
    /// The buffer; it must have `wgpu::BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Byte offset of the first element; a multiple of the element's size.
    pub offset: u64,
    /// Format of the elements: f32, f16 or bf16, or the packed format in which the cache stores them.
    pub format: Format,
    /// Distances between rows.
    pub strides: Strides,
}

/// Keys and values of up to `tokens` tokens in the caller's buffers, for
/// [`KvCache::bind_source`](crate::KvCache::bind_source).
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The keys.
    pub keys: RowsIn<'a>,
    /// The values.
    pub values: RowsIn<'a>,
    /// Number of rows of each sequence and head. An update may use fewer.
    pub tokens: u32,
}

/// The part of a caller's buffer that one dispatch binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceWindow {
    /// The bytes to bind, from an aligned start.
    pub bytes: Range<u64>,
    /// Elements from the start of the binding to the row of `first_sequence`, `first_head` and the first token.
    pub offset: u32,
    /// Strides `[sequence, head, token]` in elements; 0 for an axis along which the window has only one index.
    pub strides: [u32; 3],
}

impl RowsIn<'_> {
    /// Strides in elements, `[sequence, head, token]`.
    fn strides(&self) -> [u64; 3] {
        [self.strides.sequence, self.strides.head, self.strides.token]
    }

    /// Checks format, usage, alignment and size for the whole source, `[batch, heads, tokens, dim]`.
    pub(crate) fn check(&self, side: Side, stored: Format, [batch, heads, tokens, dim]: [u32; 4]) -> Result<()> {
        check_source_format(side, self.format, stored)?;
        if !self.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::Buffer(BufferError::BufferUsage {
                side,
                needed: "STORAGE",
                actual: self.buffer.usage(),
            }));
        }
        let alignment = u64::from(self.format.unit_bytes());
        if !self.offset.is_multiple_of(alignment) {
            return Err(Error::Buffer(BufferError::Misaligned { side, offset: self.offset, alignment }));
        }
        match self.end([batch, heads, tokens, dim]) {
            Some(needed) if needed <= self.buffer.size() => Ok(()),
            needed => Err(Error::Buffer(BufferError::BufferRange {
                side,
                needed: needed.unwrap_or(u64::MAX),
                actual: self.buffer.size(),
            })),
        }
    }

    /// Returns the byte offset of the end of the last row of `[batch, heads, tokens, dim]`, rounded up to a multiple of
    /// 4; `None` if it overflows.
    pub(crate) fn end(&self, [batch, heads, tokens, dim]: [u32; 4]) -> Option<u64> {
        let width = u64::from(self.format.unit_bytes());
        [batch, heads, tokens]
            .into_iter()
            .zip(self.strides())
            .try_fold(u64::from(self.format.units(dim)), |end, (count, stride)| {
                end.checked_add(u64::from(count.saturating_sub(1)).checked_mul(stride)?)
            })
            .and_then(|elements| elements.checked_mul(width)?.checked_add(self.offset)?.checked_next_multiple_of(4))
    }

    /// Returns the largest number of sequences, up to `most`, whose rows end at or before byte `last` of the buffer.
    /// The rows of `batch` sequences must fit.
    pub(crate) fn sequences_held(&self, [batch, heads, tokens, dim]: [u32; 4], most: u32, last: u64) -> u32 {
        let (mut held, mut above) = (batch, most.max(batch));
        while held < above {
            let middle = held.midpoint(above).saturating_add(1).min(above);
            match self.end([middle, heads, tokens, dim]) {
                Some(end) if end <= last => held = middle,
                _ => above = middle.saturating_sub(1),
            }
        }
        held
    }

    /// Returns the window that holds a block. The caller has called [`check`](Self::check).
    pub(crate) fn window(&self, block: &Block, heads: u32, dim: u32, alignment: u32) -> SourceWindow {
        let (first, last) = block_corners(block, heads);
        let strides = self.strides();
        // The rows lie in the buffer, so this does not saturate, except for a stride that is never taken: it is
        // multiplied by 0.
        let start_of = |corner: [u32; 3]| {
            let steps = corner.into_iter().zip(strides).map(|(index, stride)| u64::from(index).saturating_mul(stride));
            let elements = steps.fold(0, u64::saturating_add);
            elements.saturating_mul(self.format.unit_bytes().into()).saturating_add(self.offset)
        };
        let end = start_of(last).saturating_add(self.format.row_bytes(dim));
        let (bytes, before) = window(start_of(first), end, alignment);
        let axis = |i: usize| if first[i] == last[i] { 0 } else { clamp_u32(strides[i]) };
        SourceWindow { bytes, offset: self.format.units_of(before), strides: [axis(0), axis(1), axis(2)] }
    }

    /// Whether every row starts on a multiple of 16 bytes.
    pub(crate) fn is_wide(&self) -> bool {
        let elements = u64::from(self.format.lanes()).saturating_mul(4);
        !self.format.is_packed()
            && self.offset.is_multiple_of(16)
            && self.strides().into_iter().all(|stride| stride.is_multiple_of(elements))
    }

    /// Whether the tokens of this block span more bytes than its heads and sequences, so that splitting by tokens helps
    /// more.
    pub(crate) fn reaches_by_tokens(&self, block: &Block, heads: u32) -> bool {
        let (first, last) = block_corners(block, heads);
        let strides = self.strides();
        let [sequences, heads, tokens] =
            [0, 1, 2].map(|i| u64::from(count(&(first[i]..last[i]))).saturating_mul(strides[i]));
        tokens > sequences.saturating_add(heads)
    }
}

/// Returns the first and the last row of a block, `[sequence, head, token]`. A block that spans several sequences has
/// all heads.
pub(crate) fn block_corners(block: &Block, heads: u32) -> ([u32; 3], [u32; 3]) {
    let corner = |plane: u32| {
        let sequence_and_head = plane.checked_div(heads).zip(plane.checked_rem(heads));
        sequence_and_head.expect("no dimension is zero")
    };
    let last_of = |range: &Range<u32>| range.end.saturating_sub(1);
    let (first_sequence, first_head) = corner(block.planes.start);
    let (last_sequence, last_head) = corner(last_of(&block.planes));
    let (first_head, last_head) =
        if first_sequence == last_sequence { (first_head, last_head) } else { (0, heads.saturating_sub(1)) };
    ([first_sequence, first_head, block.tokens.start], [last_sequence, last_head, last_of(&block.tokens)])
}
