//! The caller's tensors: what is bound of their buffers, and where rows lie in it.

use std::ops::Range;

use super::{Mask, clamp_u32};
use crate::{Context, Error, Format, Result, RowsIn, binding::window_binding, layout::binding_limit};

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

/// A tensor of the caller's: what is bound of its buffer, and offset and strides in it, in elements.
pub(super) struct Window<'a> {
    buffer: &'a wgpu::Buffer,
    bytes: Range<u64>,
    pub numbers: [u32; 4],
}

impl<'a> Window<'a> {
    /// Rows `[batch, heads, tokens, dim]`, of which `lanes` elements are one word.
    pub fn new(context: &Context, of: &Words, rows: &RowsIn<'a>, shape: [u32; 4], lanes: u32) -> Result<Self> {
        if rows.format.is_packed() {
            return Err(Error::TensorFormat { name: of.name, format: rows.format });
        }
        let strides = [rows.strides.sequence, rows.strides.head, rows.strides.token];
        let lanes = u64::from(lanes);
        for stride in strides.into_iter().zip(shape).filter(|(_, count)| *count > 1).map(|(stride, _)| stride) {
            if !stride.is_multiple_of(lanes) {
                return Err(Error::TensorMisaligned { what: of.stride, value: stride, alignment: lanes });
            }
        }
        if !u64::from(shape[3]).is_multiple_of(lanes) {
            let value = shape[3].into();
            return Err(Error::TensorMisaligned { what: of.dim, value, alignment: lanes });
        }
        let alignment = u64::from(rows.format.unit_bytes()) * lanes;
        Self::check(context, (of, rows.buffer), (rows.offset, alignment), strides, shape, rows.format)
    }

    pub fn of_mask(context: &Context, mask: &Mask<'a>, [batch_size, query_heads, tokens, _]: [u32; 4]) -> Result<Self> {
        let shape = mask.shape;
        let fits = shape.into_iter().zip([batch_size, query_heads, tokens]).all(|(axis, all)| axis == 1 || axis == all);
        if !fits || shape[3] == 0 {
            return Err(Error::MaskShape { batch_size, query_heads, tokens, shape });
        }
        let token = u64::from(shape[3]);
        let head = token * u64::from(shape[2]);
        let sequence =
            head.checked_mul(shape[1].into()).ok_or(Error::MaskShape { batch_size, query_heads, tokens, shape })?;
        let strides = [sequence, head, token];
        let mut window = Self::check(context, (&MASK, mask.buffer), (mask.offset, 4), strides, shape, Format::F32)?;
        for (number, axis) in window.numbers[1..].iter_mut().zip(shape) {
            // One for all.
            *number = if axis == 1 { 0 } else { *number };
        }
        Ok(window)
    }

    fn check(
        context: &Context,
        (of, buffer): (&Words, &'a wgpu::Buffer),
        (offset, alignment): (u64, u64),
        strides: [u64; 3],
        shape: [u32; 4],
        format: Format,
    ) -> Result<Self> {
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::TensorUsage {
                name: of.name,
                needed: "STORAGE",
                actual: format!("{:?}", buffer.usage()),
            });
        }
        if !offset.is_multiple_of(alignment) {
            return Err(Error::TensorMisaligned { what: of.offset, value: offset, alignment });
        }
        let width = u64::from(format.unit_bytes());
        let end = strides
            .into_iter()
            .zip(shape)
            .try_fold(u64::from(shape[3]), |end, (stride, count)| {
                end.checked_add(u64::from(count - 1).checked_mul(stride)?)
            })
            .and_then(|elements| elements.checked_mul(width)?.checked_add(offset)?.checked_next_multiple_of(4));
        let end = match end {
            Some(end) if end <= buffer.size() => end,
            needed => {
                return Err(Error::TensorRange {
                    name: of.name,
                    needed: needed.unwrap_or(u64::MAX),
                    actual: buffer.size(),
                });
            }
        };
        let start = offset - offset % u64::from(context.limits().min_storage_buffer_offset_alignment);
        check_binding(context, end - start)?;
        let axis = |at: usize| if shape[at] == 1 { 0 } else { clamp_u32(strides[at]) };
        let numbers = [clamp_u32((offset - start) / width), axis(0), axis(1), axis(2)];
        Ok(Window { buffer, bytes: start..end, numbers })
    }

    pub fn binding(&self) -> wgpu::BindingResource<'a> {
        window_binding(self.buffer, &self.bytes)
    }
}

pub(super) fn check_binding(context: &Context, needed: u64) -> Result<()> {
    let available = binding_limit(context.limits());
    if needed > available {
        return Err(Error::DeviceLimit { limit: "max_storage_buffer_binding_size", needed, available });
    }
    Ok(())
}
