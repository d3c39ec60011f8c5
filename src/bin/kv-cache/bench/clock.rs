//! [`Stopwatch`]: times submissions by the device's timestamps or by the wall clock.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wgpu_kv_cache::{CacheConfig, Context, DeviceError, Error, adapter_label};

use crate::Failure;

/// Features that timestamps between commands of an encoder need.
const FEATURES: wgpu::Features = wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS);

/// Bytes of the copy that checks the device's clock.
const CHECKED_BYTES: u64 = 16 << 20;

/// The clock that measures times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// Device timestamps before and after the commands.
    Device,
    /// The wall clock, from the start of recording to the end of the wait.
    Wall,
}

impl Clock {
    pub const fn name(self) -> &'static str {
        match self {
            Clock::Device => "device timestamps",
            Clock::Wall => "wall clock",
        }
    }
}

/// Measures the time of submissions.
pub struct Stopwatch {
    context: Context,
    timestamps: Option<Timestamps>,
    /// Why the wall clock is used; empty if device timestamps are.
    pub reason: String,
}

struct Timestamps {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    nanoseconds_per_tick: f64,
}

impl Stopwatch {
    /// Opens a device. Uses its timestamps if the adapter supports them and they agree with the wall clock on a long
    /// copy, which not every driver's do, unless `wall` asks for the wall clock.
    pub fn open(adapter: &wgpu::Adapter, wall: bool) -> Result<Self, Failure> {
        let refused = |error: &dyn std::error::Error| {
            Error::Device(DeviceError::DeviceRefused {
                adapter: adapter_label(&adapter.get_info()),
                message: error.to_string(),
            })
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("kv-cache bench"),
            required_features: CacheConfig::useful_features(adapter.features()) | (adapter.features() & FEATURES),
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| refused(&error))?;
        let context = Context::new(&device, &queue);
        let mut stopwatch = Stopwatch { context, timestamps: None, reason: String::new() };
        if wall {
            stopwatch.reason = "as requested".to_owned();
            return Ok(stopwatch);
        }
        if !device.features().contains(FEATURES) {
            stopwatch.reason = "the adapter has no timestamps".to_owned();
            return Ok(stopwatch);
        }
        stopwatch.timestamps = Some(Timestamps::new(&device, &queue));
        stopwatch.check()?;
        Ok(stopwatch)
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn clock(&self) -> Clock {
        if self.timestamps.is_some() { Clock::Device } else { Clock::Wall }
    }

    /// Falls back to the wall clock if the device's timestamps disagree with it on a long copy.
    fn check(&mut self) -> Result<(), Failure> {
        let bytes = CHECKED_BYTES.min(self.context.limits().max_buffer_size);
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = || {
            let descriptor = wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
            self.context.device().create_buffer(&descriptor)
        };
        let (from, to) = (buffer(), buffer());
        let (mut device, mut wall) = (Duration::ZERO, Duration::ZERO);
        for repetition in 0..4 {
            let start = Instant::now();
            let time = self.time(|encoder| {
                encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes);
                Ok(())
            })?;
            if repetition > 0 {
                wall += start.elapsed();
                device += time;
            }
        }
        let share = device.as_secs_f64() / wall.as_secs_f64();
        if !(0.05..=1.05).contains(&share) {
            self.timestamps = None;
            self.reason = format!("for a copy, the device's timestamps measure {:.0} % of it", share * 100.0);
        }
        Ok(())
    }

    /// Returns the time that the commands recorded by `record` take.
    pub fn time(
        &self,
        record: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<(), Failure>,
    ) -> Result<Duration, Failure> {
        self.context.wait()?;
        let start = Instant::now();
        let mut encoder = self.context.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some(timestamps) = &self.timestamps {
            encoder.write_timestamp(&timestamps.set, 0);
        }
        record(&mut encoder)?;
        if let Some(timestamps) = &self.timestamps {
            timestamps.resolve(&mut encoder);
        }
        self.context.queue().submit([encoder.finish()]);
        self.context.wait()?;
        match &self.timestamps {
            Some(timestamps) => timestamps.read(&self.context),
            None => Ok(start.elapsed()),
        }
    }
}

impl Timestamps {
    fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let descriptor = wgpu::QuerySetDescriptor { label: Some("times"), ty: wgpu::QueryType::Timestamp, count: 2 };
        let buffer = |usage| {
            let descriptor =
                wgpu::BufferDescriptor { label: Some("times"), size: 16, usage, mapped_at_creation: false };
            device.create_buffer(&descriptor)
        };
        Timestamps {
            set: device.create_query_set(&descriptor),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            readable: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
            nanoseconds_per_tick: queue.get_timestamp_period().into(),
        }
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.write_timestamp(&self.set, 1);
        encoder.resolve_query_set(&self.set, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, 16);
    }

    fn read(&self, context: &Context) -> Result<Duration, Failure> {
        let lost = || Error::Device(DeviceError::DeviceLost { during: "reading timestamps" });
        let (sender, receiver) = std::sync::mpsc::channel();
        self.readable.map_async(wgpu::MapMode::Read, .., move |outcome| {
            // The receiver is gone only if the wait failed.
            let _ = sender.send(outcome.is_ok());
        });
        context.wait()?;
        // The callback may run on another thread that polls the device.
        if !receiver.recv_timeout(Duration::from_secs(10)).unwrap_or(false) {
            return Err(lost().into());
        }
        let ticks: [u64; 2] = {
            let bytes = self.readable.get_mapped_range(..).map_err(|_| lost())?;
            bytemuck::pod_read_unaligned(&bytes)
        };
        self.readable.unmap();
        Ok(Duration::from_nanos((ticks[1].saturating_sub(ticks[0]) as f64 * self.nanoseconds_per_tick) as u64))
    }
}
