//! [`Context::calibrate`]: what dispatches and copies cost on this device, measured.

use std::time::{Duration, Instant};

use crate::{CacheConfig, Context, CostModel, Format, KvCache, Result, RowsIn, Source, Strides, Write};

/// Time for one figure, with its warm-up.
const PATIENCE: Duration = Duration::from_millis(12);

impl Context {
    /// Measures a [`CostModel`] on this device: about 60 ms, 10 MiB of device memory while it runs. Opt in; keep the
    /// result (with the feature `serde` it can be saved) and give it to [`Context::with_costs`].
    ///
    /// Submits work and waits for it. The times are those of the wall clock, so let the device be idle.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::DeviceLost`](crate::Error::DeviceLost), and
    /// [`Error::DeviceLimit`](crate::Error::DeviceLimit) on a device that can hold no cache.
    pub fn calibrate(&self) -> Result<CostModel> {
        // Long runs: 8 planes of 128 KiB a side. Short ones: a row of 256 bytes in each plane.
        let (heads, dim, tokens) = (8, 128, 512);
        let config = CacheConfig::new(1, heads, dim, tokens).formats(Format::F16, Format::F16);
        let kernels = Context::with_costs(self.device(), self.queue(), CostModel::KERNELS);
        let copies = Context::with_costs(self.device(), self.queue(), CostModel::COPIES);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let rows = self.create_buffer("calibration", config.bytes_per_layer()? / 2, usage, false)?;
        let rows_in =
            || RowsIn { buffer: &rows, offset: 0, format: Format::F16, strides: Strides::bhtd(heads, tokens, dim) };
        let time = |context: &Context, tokens: u32, updates: u32| -> Result<f64> {
            let mut cache = KvCache::new(context, config)?;
            let source = cache.bind_source(&Source { keys: rows_in(), values: rows_in(), tokens })?;
            let mut best = f64::INFINITY;
            let start = Instant::now();
            while start.elapsed() < PATIENCE || best.is_infinite() {
                let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for _ in 0..updates {
                    cache.record_update(&mut encoder, &source, Write::at(0, tokens))?;
                }
                let submitted = Instant::now();
                self.queue().submit([encoder.finish()]);
                self.wait()?;
                best = best.min(submitted.elapsed().as_secs_f64() * 1e9 / f64::from(updates));
            }
            Ok(best)
        };
        // The difference between many updates in a submission and one leaves out what the submission costs.
        let form = |context: &Context, steps: f64| -> Result<(f64, f64)> {
            let short = (time(context, 1, 33)? * 33.0 - time(context, 1, 1)?) / 32.0;
            let long = (time(context, tokens, 5)? * 5.0 - time(context, tokens, 1)?) / 4.0;
            let step = (short / steps).max(1.0);
            let bytes = config.bytes_per_layer()? as f64;
            Ok((step, bytes / (long - short).max(1.0)))
        };
        let (dispatch_ns, kernel_gb_per_s) = form(&kernels, 1.0)?;
        // A copy for each plane of both sides, and one for the lengths.
        let (copy_ns, copy_gb_per_s) = form(&copies, f64::from(2 * heads + 1))?;
        Ok(CostModel { dispatch_ns, copy_ns, kernel_gb_per_s, copy_gb_per_s })
    }
}
