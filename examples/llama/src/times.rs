//! [`Times`]: where the time of a step goes, by the device's own clock.

use std::time::Duration;

use wgpu_kv_cache::wgpu;

use crate::Result;

/// Features by which a device tells the time inside a pass.
pub const FEATURES: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY
    .union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
    .union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

/// Time of the parts of all steps so far, on the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    pub update: Duration,
    pub attention: Duration,
    pub rest: Duration,
}

/// Timestamps at the beginning of a pass, around the update and the attention of each layer, and at the end.
#[derive(Debug)]
pub struct Times {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    count: u32,
    next: u32,
    nanoseconds_per_tick: f64,
    pub parts: Parts,
}

impl Times {
    /// `None` where the device has no such clock.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue, layers: u32) -> Option<Self> {
        device.features().contains(FEATURES).then(|| {
            let count = 3 * layers + 2;
            let descriptor = wgpu::QuerySetDescriptor { label: Some("times"), ty: wgpu::QueryType::Timestamp, count };
            let buffer = |usage| {
                let size = u64::from(count) * 8;
                let descriptor =
                    wgpu::BufferDescriptor { label: Some("times"), size, usage, mapped_at_creation: false };
                device.create_buffer(&descriptor)
            };
            Times {
                set: device.create_query_set(&descriptor),
                resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
                readable: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
                count,
                next: 0,
                nanoseconds_per_tick: queue.get_timestamp_period().into(),
                parts: Parts::default(),
            }
        })
    }

    /// Begins a step. The one before may have been dropped.
    pub fn begin(&mut self) {
        self.next = 0;
    }

    pub fn mark(&mut self, pass: &mut wgpu::ComputePass<'_>) {
        pass.write_timestamp(&self.set, self.next);
        self.next += 1;
    }

    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.set, 0..self.count, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, self.readable.size());
    }

    /// Maps the times of a step that was submitted.
    pub fn map(&self) {
        self.readable.map_async(wgpu::MapMode::Read, .., |_| {});
    }

    /// Adds the mapped times, after the device was waited for.
    pub fn add(&mut self) -> Result<()> {
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&self.readable.get_mapped_range(..)?);
        self.readable.unmap();
        let time = |ticks: u64| Duration::from_nanos((ticks as f64 * self.nanoseconds_per_tick) as u64);
        let all = ticks[ticks.len() - 1].saturating_sub(ticks[0]);
        let (mut update, mut attention) = (0, 0);
        for layer in ticks[1..ticks.len() - 1].chunks_exact(3) {
            update += layer[1].saturating_sub(layer[0]);
            attention += layer[2].saturating_sub(layer[1]);
        }
        self.parts.update += time(update);
        self.parts.attention += time(attention);
        self.parts.rest += time(all.saturating_sub(update + attention));
        Ok(())
    }
}
