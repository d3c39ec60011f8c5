//! Attention over host slices, for tests and tools.

use super::{
    bound::Attention,
    options::{Mask, Options, Tensors},
};
use crate::{
    AttentionError, Error, Format, GpuTensor, HostRows, HostTensor, KvCache, Result, RowsIn, Scale, Strides,
    device::wait::block_on,
};

/// A mask in host memory: see [`Mask`].
#[derive(Clone, Copy, Debug)]
pub struct MaskRows<'a> {
    /// Its elements, row-major.
    pub numbers: &'a [f32],
    /// Its shape. Axes of length 1 are broadcast.
    pub shape: [u32; 4],
}

/// Computes the attention of host queries `[batch, query_heads, tokens, head_dim]` over a layer, submits, and waits.
/// Returns `[batch, query_heads, tokens, value_dim]` in f32. Rows that are no queries, because they lie past the rows
/// of the last update with [`Queries::Written`](crate::attention::Queries::Written), are not read; their output is
/// zero.
///
/// # Errors
/// [`AttentionError::TensorLength`], and as [`Attention::new`] and [`Attention::record`].
///
/// # Performance
/// Creates buffers and bind groups for this call only. An engine should keep an [`Attention`] instead.
pub fn attend<'r>(
    cache: &KvCache,
    options: &Options,
    queries: impl Into<HostRows<'r>>,
    mask: Option<MaskRows<'_>>,
) -> Result<HostTensor> {
    block_on(Some(cache.context().device()), "attention", attend_async(cache, options, queries, mask))
}

/// [`attend`] without blocking; see [`GpuTensor::read_async`].
///
/// # Errors
/// As [`attend`].
pub async fn attend_async<'r>(
    cache: &KvCache,
    options: &Options,
    queries: impl Into<HostRows<'r>>,
    mask: Option<MaskRows<'_>>,
) -> Result<HostTensor> {
    let (queries, context, config) = (queries.into(), cache.context(), cache.config());
    let &Options { query_heads, tokens, .. } = options;
    let shape = [config.batch_size, query_heads, tokens, config.value_dim];
    let elements = |shape: &[u32]| {
        shape.iter().try_fold(1u64, |product, &axis| product.checked_mul(axis.into())).unwrap_or(u64::MAX)
    };
    let lengths = [
        ("queries", elements(&[config.batch_size, query_heads, tokens, config.head_dim]), queries.len() as u64),
        ("mask", mask.map_or(0, |mask| elements(&mask.shape)), mask.map_or(0, |mask| mask.numbers.len() as u64)),
    ];
    for (name, expected, actual) in lengths {
        if expected != actual {
            return Err(Error::Attention(AttentionError::TensorLength { name, expected, actual }));
        }
    }
    let usage = wgpu::BufferUsages::STORAGE;
    let query_buffer = context.create_filled("queries", queries.bytes(), usage)?;
    let mask_buffer =
        mask.map(|mask| context.create_filled("mask", bytemuck::cast_slice(mask.numbers), usage)).transpose()?;
    let output = GpuTensor::new(context, "attention", shape, Format::F32, Scale::ONE)?;
    let dense =
        |buffer, format, dim| RowsIn { buffer, offset: 0, format, strides: Strides::bhtd(query_heads, tokens, dim) };
    let tensors = Tensors {
        queries: dense(&query_buffer, queries.format(), config.head_dim),
        output: dense(output.buffer(), Format::F32, config.value_dim),
        mask: mask.zip(mask_buffer.as_ref()).map(|(mask, buffer)| Mask { buffer, offset: 0, shape: mask.shape }),
    };
    let attention = Attention::new(cache, options, &tensors)?;
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    attention.record(cache, &mut encoder)?;
    context.submit("attention", encoder)?;
    output.read_async().await
}
