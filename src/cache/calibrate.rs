//! [`Context::calibrate`]: measures what dispatches and copies cost on a device.

use std::time::{Duration, Instant};

use crate::{BoundSource, CacheConfig, Context, CostModel, Format, KvCache, Result, RowsIn, Source, Strides, Write};

/// Time spent on one figure, after its warm-up.
const PATIENCE: Duration = Duration::from_millis(3);

impl Context {
    /// Measures a [`CostModel`] on this device, which takes about 60 ms and 10 MiB of device memory. Calibration is
    /// optional: keep the result (the feature `serde` can save it) and pass it to [`Context::with_costs`].
    ///
    /// Submits work and waits for it. Times are wall-clock times, so the device should be idle.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory) if the device has no memory left;
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost) if the device is lost;
    /// [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) if the device's limits are too small for any
    /// cache.
    pub fn calibrate(&self) -> Result<CostModel> {
        // Work in flight would distort the measurement. In a browser, which cannot wait, this returns the error.
        self.wait()?;
        // Long runs: 8 planes of 128 KiB per side. Short runs: a row of 256 bytes in each plane.
        let (heads, dim, tokens) = (8, 128, 512);
        let config = CacheConfig::new(1, heads, dim, tokens).formats(Format::F16, Format::F16);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let rows = self.create_buffer("calibration", config.bytes_per_layer()? / 2, usage, false)?;
        let source = |tokens| {
            let strides = Strides::bhtd(heads, tokens, dim);
            let rows = RowsIn { buffer: &rows, offset: 0, format: Format::F16, strides };
            Source { keys: rows, values: rows, tokens }
        };
        let time = |cache: &mut KvCache, source: &BoundSource, updates: u32| -> Result<f64> {
            let mut once = || -> Result<f64> {
                let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for _ in 0..updates {
                    cache.record_update(&mut encoder, source, Write::at(0, source.tokens()))?;
                }
                let start = Instant::now();
                self.submit("calibration", encoder)?;
                self.wait()?;
                Ok(start.elapsed().as_secs_f64() * 1e9)
            };
            // The first run finishes the pipeline and clears the storage.
            once()?;
            let start = Instant::now();
            let mut best = once()?;
            while start.elapsed() < PATIENCE {
                best = best.min(once()?);
            }
            Ok(best)
        };
        // The difference between many updates in a submission and one update cancels the cost of the submission.
        let form = |costs: CostModel, parts: f64| -> Result<(f64, f64)> {
            let mut cache = KvCache::new(&self.choosing_by(costs), config)?;
            let (short, long) = (cache.bind_source(&source(1))?, cache.bind_source(&source(tokens))?);
            let short = (time(&mut cache, &short, 33)? - time(&mut cache, &short, 1)?) / 32.0;
            let long = (time(&mut cache, &long, 5)? - time(&mut cache, &long, 1)?) / 4.0;
            Ok(((short / parts).max(1.0), config.bytes_per_layer()? as f64 / (long - short).max(1.0)))
        };
        let (dispatch_ns, kernel_gb_per_s) = form(CostModel::KERNELS, 1.0)?;
        // One copy per plane of both sides, and one for the lengths.
        let (copy_ns, copy_gb_per_s) = form(CostModel::COPIES, f64::from(2 * heads + 1))?;
        Ok(CostModel { dispatch_ns, copy_ns, kernel_gb_per_s, copy_gb_per_s })
    }
}
