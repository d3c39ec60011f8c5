//! The caller's tensors: what is bound of their buffers, and where rows lie in it.

use std::ops::Range;

use super::options::{Mask, SinkLogits};
use crate::{
    AttentionError, Context, DeviceError, Error, Format, Result, RowsIn, Strides,
    device::binding::{clamp_u32, window, window_binding, window_bytes},
    shape::layout::binding_limit,
};

/// What errors call a tensor and its parts.
pub(super) struct Words {
    name: &'static str,
    offset: &'static str,
    stride: &'static str,
    dim: &'static str,
}

pub(super) const QUERIES: Words = Words {
    name: "queries",
    offset: "the offset of the queries",
    stride: "a stride of the queries",
    dim: "the head size of the queries",
};
pub(super) const OUTPUT: Words = Words {
    name: "output",
    offset: "the offset of the output",
    stride: "a stride of the output",
    dim: "the head size of the output",
};
const MASK: Words = Words {
    name: "mask",
    offset: "the offset of the mask",
    stride: "a stride of the mask",
    dim: "the columns of the mask",
};
const SINK_LOGITS: Words = Words {
    name: "sink logits",
    offset: "the offset of the sink logits",
    stride: "a stride of the sink logits",
    dim: "the number of sink logits",
};

/// A tensor of the caller's: what is bound of its buffer, and offset and strides in it, in elements.
pub(super) struct Window<'a> {
    buffer: &'a wgpu::Buffer,
    bytes: Range<u64>,
    pub numbers: [u32; 4],
    /// Sequences that it holds rows for.
    pub sequences: u32,
}

impl<'a> Window<'a> {
    /// Rows `[batch, heads, tokens, dim]`, of which `lanes` elements are one word; of up to `most` sequences, as many
    /// as the buffer holds.
    pub fn new(
        context: &Context,
        of: &Words,
        rows: &RowsIn<'a>,
        shape: [u32; 4],
        (lanes, most): (u32, u32),
    ) -> Result<Self> {
        if rows.format.is_packed() {
            return Err(Error::Attention(AttentionError::TensorFormat { name: of.name, format: rows.format }));
        }
        let strides = [rows.strides.sequence, rows.strides.head, rows.strides.token];
        let lanes = u64::from(lanes);
        let counts = [most, shape[1], shape[2]];
        for stride in strides.into_iter().zip(counts).filter(|(_, count)| *count > 1).map(|(stride, _)| stride) {
            if !stride.is_multiple_of(lanes) {
                return Err(Error::Attention(AttentionError::TensorMisaligned {
                    what: of.stride,
                    value: stride,
                    alignment: lanes,
                }));
            }
        }
        if !u64::from(shape[3]).is_multiple_of(lanes) {
            let value = shape[3].into();
            return Err(Error::Attention(AttentionError::TensorMisaligned { what: of.dim, value, alignment: lanes }));
        }
        let alignment = u64::from(rows.format.unit_bytes()).saturating_mul(lanes);
        Self::check(context, of, rows, alignment, shape, most)
    }

    /// A mask, for queries `[batch, query_heads, tokens]` of up to `most` sequences.
    pub fn of_mask(
        context: &Context,
        mask: &Mask<'a>,
        [batch_size, query_heads, tokens]: [u32; 3],
        most: u32,
    ) -> Result<Self> {
        let shape = mask.shape;
        let refused = || Error::Attention(AttentionError::MaskShape { batch_size, query_heads, tokens, shape });
        let of_batch = shape[0] == 1 || (batch_size..=most).contains(&shape[0]);
        let fits = shape[1..].iter().zip([query_heads, tokens]).all(|(&axis, all)| axis == 1 || axis == all);
        if !of_batch || !fits || shape[3] == 0 {
            return Err(refused());
        }
        let token = u64::from(shape[3]);
        let head = token.saturating_mul(shape[2].into());
        let sequence = head.checked_mul(shape[1].into()).ok_or_else(refused)?;
        let strides = Strides { sequence, head, token };
        let rows = RowsIn { buffer: mask.buffer, offset: mask.offset, format: Format::F32, strides };
        let mut window = Self::check(context, &MASK, &rows, 4, shape, shape[0])?;
        for (number, axis) in window.numbers[1..].iter_mut().zip(shape) {
            // One for all.
            *number = if axis == 1 { 0 } else { *number };
        }
        window.sequences = if shape[0] == 1 { most } else { shape[0] };
        Ok(window)
    }

    /// A number for each query head.
    pub fn of_sink_logits(context: &Context, sinks: &SinkLogits<'a>, query_heads: u32) -> Result<Self> {
        let strides = Strides { sequence: 0, head: 0, token: 0 };
        let rows = RowsIn { buffer: sinks.buffer, offset: sinks.offset, format: Format::F32, strides };
        Self::check(context, &SINK_LOGITS, &rows, 4, [1, 1, 1, query_heads], 1)
    }

    fn check(
        context: &Context,
        of: &Words,
        rows: &RowsIn<'a>,
        alignment: u64,
        shape: [u32; 4],
        most: u32,
    ) -> Result<Self> {
        let &RowsIn { buffer, offset, format, strides } = rows;
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            let actual = buffer.usage();
            return Err(Error::Attention(AttentionError::TensorUsage { name: of.name, needed: "STORAGE", actual }));
        }
        if !offset.is_multiple_of(alignment) {
            return Err(Error::Attention(AttentionError::TensorMisaligned {
                what: of.offset,
                value: offset,
                alignment,
            }));
        }
        let end = match rows.end(shape) {
            Some(end) if end <= buffer.size() => end,
            needed => {
                let (needed, actual) = (needed.unwrap_or(u64::MAX), buffer.size());
                return Err(Error::Attention(AttentionError::TensorRange { name: of.name, needed, actual }));
            }
        };
        let alignment = context.limits().min_storage_buffer_offset_alignment;
        let (bytes, before) = window(offset, end, alignment);
        check_binding(context, window_bytes(&bytes))?;
        let last = buffer.size().min(bytes.start.saturating_add(binding_limit(context.limits())));
        let sequences = rows.sequences_held(shape, most, last);
        let shape = [sequences, shape[1], shape[2], shape[3]];
        let end = rows.end(shape).unwrap_or(end);
        let strides = [strides.sequence, strides.head, strides.token];
        let axis = |at: usize| if shape[at] == 1 { 0 } else { clamp_u32(strides[at]) };
        let first = format.units_of(before);
        Ok(Window { buffer, bytes: bytes.start..end, numbers: [first, axis(0), axis(1), axis(2)], sequences })
    }

    pub fn binding(&self) -> wgpu::BindingResource<'a> {
        window_binding(self.buffer, &self.bytes)
    }
}

pub(super) fn check_binding(context: &Context, needed: u64) -> Result<()> {
    let available = binding_limit(context.limits());
    if needed > available {
        return Err(Error::Device(DeviceError::DeviceLimit {
            limit: "max_storage_buffer_binding_size",
            needed,
            available,
        }));
    }
    Ok(())
}
