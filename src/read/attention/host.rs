//! Attention over host slices, for tests and tools.

use super::{
    bound::Attention,
    options::{Mask, Options, SinkLogits, Tensors},
};
use crate::{
    AttentionError, Error, Format, GpuTensor, HostRows, HostTensor, ReadLayer, Result, RowsIn, Scale, Strides,
    WriteError, device::wait::block_on,
};

/// A mask in host memory: see [`Mask`].
#[derive(Clone, Copy, Debug)]
pub struct MaskRows<'a> {
    /// Its elements, row-major.
    pub numbers: &'a [f32],
    /// Its shape. Axes of length 1 are broadcast.
    pub shape: [u32; 4],
}

/// What joins the scores, in host memory. A mask alone converts to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// A mask that is added to the scores.
    pub mask: Option<MaskRows<'a>>,
    /// A logit of each query head, `[query_heads]`: see [`SinkLogits`].
    pub sink_logits: Option<&'a [f32]>,
}

impl<'a> From<Option<MaskRows<'a>>> for Extras<'a> {
    fn from(mask: Option<MaskRows<'a>>) -> Self {
        Extras { mask, sink_logits: None }
    }
}

/// Computes the attention of host queries `[batch, query_heads, tokens, head_dim]` over a layer, submits, and waits.
/// Returns `[batch, query_heads, tokens, value_dim]` in f32. Rows that are no queries, because they lie past the rows
/// of the last update with [`Queries::Written`](crate::attention::Queries::Written), are not read; their output is
/// zero. [Packed](Options::packed) queries are `[rows, query_heads, head_dim]`, with as many rows as the sequences have
/// queries, and the output is `[1, rows, query_heads, value_dim]`.
///
/// # Errors
/// [`AttentionError::TensorLength`], also where packed queries are not as many as those of the sequences;
/// [`WriteError::NoTokens`] where no sequence has any; and as [`Attention::new`] and [`Attention::record`].
///
/// # Performance
/// Creates buffers and bind groups for this call only. An engine should keep an [`Attention`] instead.
pub fn attend<'r>(
    layer: &impl ReadLayer,
    options: &Options,
    queries: impl Into<HostRows<'r>>,
    extras: impl Into<Extras<'r>>,
) -> Result<HostTensor> {
    let device = layer.readable().context.device();
    block_on(Some(device), "attention", attend_async(layer, options, queries, extras))
}

/// [`attend`] without blocking; see [`GpuTensor::read_async`].
///
/// # Errors
/// As [`attend`].
pub async fn attend_async<'r>(
    layer: &impl ReadLayer,
    options: &Options,
    queries: impl Into<HostRows<'r>>,
    extras: impl Into<Extras<'r>>,
) -> Result<HostTensor> {
    let Extras { mask, sink_logits } = extras.into();
    let cache = layer.readable();
    let (queries, context, config) = (queries.into(), cache.context, cache.config);
    let &Options { query_heads, tokens, .. } = options;
    let packed = options.packed.map(|_| options.packed_rows(cache.sequences)).transpose()?;
    let [sequences, heads, rows] =
        packed.map_or([config.batch_size, query_heads, tokens], |rows| [1, query_heads, rows]);
    if packed == Some(0) {
        return Err(Error::Write(WriteError::NoTokens));
    }
    let elements = |shape: &[u32]| {
        shape.iter().try_fold(1u64, |product, &axis| product.checked_mul(axis.into())).unwrap_or(u64::MAX)
    };
    let lengths = [
        ("queries", elements(&[sequences, heads, rows, config.head_dim]), queries.len() as u64),
        ("mask", mask.map_or(0, |mask| elements(&mask.shape)), mask.map_or(0, |mask| mask.numbers.len() as u64)),
        ("sink logits", sink_logits.map_or(0, |_| heads.into()), sink_logits.map_or(0, |logits| logits.len() as u64)),
    ];
    for (name, expected, actual) in lengths {
        if expected != actual {
            return Err(Error::Attention(AttentionError::TensorLength { name, expected, actual }));
        }
    }
    let usage = wgpu::BufferUsages::STORAGE;
    let query_buffer = context.create_filled("queries", queries.bytes(), usage)?;
    let filled = |name, numbers: &[f32]| context.create_filled(name, bytemuck::cast_slice(numbers), usage);
    let mask_buffer = mask.map(|mask| filled("mask", mask.numbers)).transpose()?;
    let sink_buffer = sink_logits.map(|logits| filled("sink logits", logits)).transpose()?;
    let shape = if packed.is_some() { [1, rows, heads] } else { [sequences, heads, rows] };
    let shape = [shape[0], shape[1], shape[2], config.value_dim];
    let output = GpuTensor::new(context, "attention", shape, Format::F32, Scale::ONE)?;
    let dense = |buffer, format, dim| {
        let strides = if packed.is_some() { Strides::bthd } else { Strides::bhtd }(heads, rows, dim);
        RowsIn { buffer, offset: 0, format, strides }
    };
    let tensors = Tensors {
        queries: dense(&query_buffer, queries.format(), config.head_dim),
        output: dense(output.buffer(), Format::F32, config.value_dim),
        mask: mask.zip(mask_buffer.as_ref()).map(|(mask, buffer)| Mask { buffer, offset: 0, shape: mask.shape }),
        sink_logits: sink_buffer.as_ref().map(|buffer| SinkLogits { buffer, offset: 0 }),
    };
    let attention = Attention::new(layer, &Options { packed, ..*options }, &tensors)?;
    let mut encoder = context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    attention.record(layer, &mut encoder)?;
    context.submit("attention", encoder)?;
    output.read_async().await
}
