//! [`CostModel`]: what a dispatch and a copy cost on a device, to choose between them.

/// Costs on a device of the two forms of an operation: kernels, and the device's own buffer copies.
///
/// An update of matching formats, and a copy of a range, can be one dispatch or some buffer copies; both give the same
/// bits. A software driver copies long runs faster than any kernel writes them, a GPU does one dispatch faster than
/// hundreds of copies. The form with the lower estimate is recorded:
///
/// ```text
/// kernel   dispatches × dispatch_ns + bytes ÷ kernel_gb_per_s
/// copies   copies × copy_ns         + bytes ÷ copy_gb_per_s
/// ```
///
/// Only an encoder takes copies, so a caller who records into a compute pass always gets the kernel. A copy also needs
/// words of 4 bytes on both sides, `COPY_SRC` on a source, and `COPY_DST` on a destination.
///
/// [`Context::new`](crate::Context::new) assumes one by the type of the device;
/// [`Context::calibrate`](crate::Context::calibrate) measures it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CostModel {
    /// Nanoseconds of one dispatch that does nothing.
    pub dispatch_ns: f64,
    /// Nanoseconds of one copy of a few bytes.
    pub copy_ns: f64,
    /// Billions of bytes a second that a kernel writes.
    pub kernel_gb_per_s: f64,
    /// Billions of bytes a second that a copy writes.
    pub copy_gb_per_s: f64,
}

/// How an update is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// As dispatches of a kernel.
    Kernel,
    /// As the device's own buffer copies.
    Copies,
}

impl CostModel {
    /// Always the kernel.
    pub const KERNELS: CostModel =
        CostModel { dispatch_ns: 0.0, copy_ns: f64::INFINITY, kernel_gb_per_s: f64::INFINITY, copy_gb_per_s: 1.0 };

    /// Copies wherever they are possible.
    pub const COPIES: CostModel =
        CostModel { dispatch_ns: f64::INFINITY, copy_ns: 0.0, kernel_gb_per_s: 1.0, copy_gb_per_s: f64::INFINITY };

    /// Typical costs of a type of device: measured on lavapipe for [`wgpu::DeviceType::Cpu`], estimates for the
    /// others.
    #[must_use]
    pub const fn typical(device_type: wgpu::DeviceType) -> Self {
        match device_type {
            wgpu::DeviceType::Cpu => {
                CostModel { dispatch_ns: 70_000.0, copy_ns: 1_000.0, kernel_gb_per_s: 1.0, copy_gb_per_s: 20.0 }
            }
            wgpu::DeviceType::IntegratedGpu => {
                CostModel { dispatch_ns: 6_000.0, copy_ns: 4_000.0, kernel_gb_per_s: 40.0, copy_gb_per_s: 40.0 }
            }
            _ => CostModel { dispatch_ns: 4_000.0, copy_ns: 3_000.0, kernel_gb_per_s: 400.0, copy_gb_per_s: 400.0 },
        }
    }

    /// Whether copies are the cheaper form.
    pub(crate) fn prefers_copies(&self, dispatches: u64, copies: u64, bytes: u64) -> bool {
        // Gigabytes a second are bytes a nanosecond.
        let kernel = dispatches as f64 * self.dispatch_ns + bytes as f64 / self.kernel_gb_per_s;
        let copy = copies as f64 * self.copy_ns + bytes as f64 / self.copy_gb_per_s;
        copy < kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_form_is_preferred() {
        let costs = CostModel { dispatch_ns: 1000.0, copy_ns: 100.0, kernel_gb_per_s: 1.0, copy_gb_per_s: 2.0 };
        assert!(costs.prefers_copies(1, 9, 0));
        assert!(!costs.prefers_copies(1, 10, 0));
        assert!(costs.prefers_copies(1, 10, 1));
        assert!(!costs.prefers_copies(1, 1000, 100_000));
        assert!(costs.prefers_copies(1, 1000, 200_000));
        assert!(CostModel::COPIES.prefers_copies(1, u64::MAX, u64::MAX));
        assert!(!CostModel::KERNELS.prefers_copies(u64::MAX, 1, u64::MAX));
    }

    /// The figures that were seen on lavapipe: long runs are copied, a large batch of single tokens is dispatched.
    #[test]
    fn a_software_driver_copies_long_runs_and_dispatches_many_short_ones() {
        let costs = CostModel::typical(wgpu::DeviceType::Cpu);
        assert!(costs.prefers_copies(1, 16, 16 << 20), "a prefill of 2 × 8 MiB in 16 runs");
        assert!(costs.prefers_copies(1, 17, 16 * 256), "one layer of one token, 8 heads");
        assert!(!costs.prefers_copies(1, 513, 512 * 256), "one layer of a token for 32 sequences");
        let gpu = CostModel::typical(wgpu::DeviceType::DiscreteGpu);
        assert!(!gpu.prefers_copies(1, 17, 16 * 256));
        assert!(!gpu.prefers_copies(1, 16, 16 << 20));
    }
}
