//! Wall-clock times of submissions, and bandwidths.

use std::time::{Duration, Instant};

use wgpu_kv_cache::Context;

use crate::Failure;

/// Number of submissions that are timed for one figure.
pub const REPETITIONS: usize = 7;

/// Returns the time of one submission: recording by `record`, submitting, and waiting for the device.
pub fn submission(
    context: &Context,
    record: impl FnOnce(&mut wgpu::CommandEncoder) -> wgpu_kv_cache::Result<()>,
) -> Result<Duration, Failure> {
    context.wait()?;
    let start = Instant::now();
    let mut encoder = context.device().create_command_encoder(&Default::default());
    record(&mut encoder)?;
    context.queue().submit([encoder.finish()]);
    context.wait()?;
    Ok(start.elapsed())
}

/// Returns the median of some times.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Converts to gigabytes (10^9 bytes) per second. `bytes` are the bytes written; bytes read do not count.
pub fn gigabytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64().max(1e-9) / 1e9
}

/// Returns the median time of a copy of `bytes` bytes from one buffer to another on the device.
pub fn device_copy(context: &Context, bytes: u64) -> Result<Duration, Failure> {
    use wgpu::{BufferDescriptor, BufferUsages};
    let bytes = bytes.next_multiple_of(4).min(context.limits().max_buffer_size / 4 * 4);
    let buffer = |label| {
        let usage = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        context.device().create_buffer(&BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage,
            mapped_at_creation: false,
        })
    };
    let (from, to) = (buffer("copy from"), buffer("copy to"));
    submission(context, |encoder| {
        encoder.clear_buffer(&from, 0, None);
        encoder.clear_buffer(&to, 0, None);
        Ok(())
    })?;
    let times = (0..REPETITIONS).map(|_| {
        submission(context, |encoder| {
            encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes);
            Ok(())
        })
    });
    Ok(median(times.collect::<Result<_, _>>()?))
}
