//! Helpers for bind groups: several uniforms in one buffer, and bindings to windows of larger buffers.

use std::ops::Range;

use crate::{ConfigError, Context, Error, Result, kernels::Entry};

/// Creates one buffer for several uniforms, each at an offset that can be bound.
pub(crate) fn uniform_buffer<T: bytemuck::Pod>(context: &Context, uniforms: &[T]) -> Result<wgpu::Buffer> {
    let stride = uniform_stride::<T>(context);
    let bytes = stride.checked_mul(uniforms.len()).ok_or_else(|| {
        Error::Config(ConfigError::SizeOverflow {
            what: "bytes of all uniforms",
            factors: format!("{stride} × {}", uniforms.len()),
            bits: usize::BITS,
        })
    })?;
    let mut contents = vec![0; bytes];
    for (slot, uniform) in contents.chunks_exact_mut(stride).zip(uniforms) {
        slot[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(uniform));
    }
    context.create_filled("chunks", &contents, wgpu::BufferUsages::UNIFORM)
}

/// Distance between uniforms in a buffer of [`uniform_buffer`], in bytes.
fn uniform_stride<T>(context: &Context) -> usize {
    size_of::<T>().next_multiple_of(context.limits().min_uniform_buffer_offset_alignment as usize)
}

/// Returns the binding of one uniform in a buffer of [`uniform_buffer`].
pub(crate) fn uniform_binding<'a, T>(
    context: &Context,
    buffer: &'a wgpu::Buffer,
    index: u64,
) -> wgpu::BindingResource<'a> {
    // The uniform lies in the buffer, so this does not saturate.
    let offset = index.saturating_mul(uniform_stride::<T>(context) as u64);
    window_binding(buffer, &(offset..offset.saturating_add(size_of::<T>() as u64)))
}

/// Returns the range to bind for bytes `start..end`, which begins at an aligned offset and ends on a whole word, and
/// the number of bytes in it before `start`.
pub(crate) fn window(start: u64, end: u64, alignment: u32) -> (Range<u64>, u64) {
    let before = start.checked_rem(alignment.into()).unwrap_or(0);
    (start.saturating_sub(before)..end.checked_next_multiple_of(4).unwrap_or(u64::MAX), before)
}

/// Length of a range in bytes; 0 if it ends before it starts.
pub(crate) fn window_bytes(window: &Range<u64>) -> u64 {
    window.end.saturating_sub(window.start)
}

/// Returns the binding of a range of a buffer.
pub(crate) fn window_binding<'a>(buffer: &'a wgpu::Buffer, bytes: &Range<u64>) -> wgpu::BindingResource<'a> {
    let size = wgpu::BufferSize::new(window_bytes(bytes));
    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: bytes.start, size })
}

/// Creates bind group 0 of a kernel, which fits every variant of it.
pub(crate) fn bind(context: &Context, entry: Entry, bindings: &[wgpu::BindingResource<'_>]) -> Result<wgpu::BindGroup> {
    let entries: Vec<_> = (0..)
        .zip(bindings)
        .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
        .collect();
    let layout = &context.bindings_layout(entry);
    context.create("a bind group", 0, |device| {
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some("kv-cache"), layout, entries: &entries })
    })
}

/// Narrows a number inside a window or a grid, which was checked to fit: no window is larger than 2^31 bytes.
pub(crate) fn clamp_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
