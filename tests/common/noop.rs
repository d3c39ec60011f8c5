//! Contexts on wgpu's no-op backend.

use wgpu_kv_cache::Context;

/// A context with wgpu's default limits.
pub fn context() -> Context {
    context_with(wgpu::Limits::default())
}

/// A context with the given limits.
pub fn context_with(limits: wgpu::Limits) -> Context {
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = wgpu::Device::noop(&descriptor);
    Context::new(&device, &queue)
}
