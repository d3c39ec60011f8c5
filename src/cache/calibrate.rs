//! [`Context::calibrate`]: what dispatches and copies cost on this device, measured.

use std::time::{Duration, Instant};

use crate::{BoundSource, CacheConfig, Context, CostModel, Format, KvCache, Result, RowsIn, Source, Strides, Write};

/// Time for one figure, with its warm-up.
const PATIENCE: Duration = Duration::from_millis(3);

impl Context {
    /// Measures a [`CostModel`] on this device: about 60 ms, 10 MiB of device memory while it runs. Opt in; keep the
    /// result (with the feature `serde` it can be saved) and give it to [`Context::with_costs`].
    ///
    /// Submits work and waits for it. The times are those of the wall clock, so let the device be idle.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](crate::DeviceError::OutOfMemory),
    /// [`DeviceError::DeviceLost`](crate::DeviceError::DeviceLost), and
    /// [`DeviceError::DeviceLimit`](crate::DeviceError::DeviceLimit) on a device that can hold no cache.
    pub fn calibrate(&self) -> Result<CostModel> {
        // What is under way would be measured with it. A browser, which cannot wait, is told so here.
        self.wait()?;
        // Long runs: 8 planes of 128 KiB a side. Short ones: a row of 256 bytes in each plane.
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
            // The first finishes the pipeline and clears the storage.
            once()?;
            let start = Instant::now();
            let mut best = once()?;
            while start.elapsed() < PATIENCE {
                best = best.min(once()?);
            }
            Ok(best)
        };
        // The difference between many updates in a submission and one leaves out what the submission costs.
        let form = |costs: CostModel, parts: f64| -> Result<(f64, f64)> {
            let mut cache = KvCache::new(&self.choosing_by(costs), config)?;
            let (short, long) = (cache.bind_source(&source(1))?, cache.bind_source(&source(tokens))?);
            let short = (time(&mut cache, &short, 33)? - time(&mut cache, &short, 1)?) / 32.0;
            let long = (time(&mut cache, &long, 5)? - time(&mut cache, &long, 1)?) / 4.0;
            Ok(((short / parts).max(1.0), config.bytes_per_layer()? as f64 / (long - short).max(1.0)))
        };
        let (dispatch_ns, kernel_gb_per_s) = form(CostModel::KERNELS, 1.0)?;
        // A copy for each plane of both sides, and one for the lengths.
        let (copy_ns, copy_gb_per_s) = form(CostModel::COPIES, f64::from(2 * heads + 1))?;
        Ok(CostModel { dispatch_ns, copy_ns, kernel_gb_per_s, copy_gb_per_s })
    }
}
