//! Contexts on wgpu's no-op backend.

use wgpu_kv_cache::Context;

/// One with wgpu's default limits.
pub fn context() -> Context {
    context_with(wgpu::Limits::default())
}

/// One with these limits.
pub fn context_with(limits: wgpu::Limits) -> Context {
    let descriptor = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let (device, queue) = wgpu::Device::noop(&descriptor);
    Context::new(&device, &queue)
}
