//! [`CostModel`]: the costs of dispatches and copies on a device, to choose between the two.

/// Costs on a device of the two forms of an operation: kernels and buffer copies.
///
/// An update in the cache's own formats, and a copy of a range in its stored formats, can be recorded as dispatches or
/// as buffer copies. Both give the same bits. A software driver copies long runs faster than any kernel writes them; a
/// GPU runs one dispatch faster than hundreds of copies. The form with the lower estimate is recorded:
///
/// ```text
/// kernel   dispatches × dispatch_ns + bytes ÷ kernel_gb_per_s
/// copies   copies × copy_ns         + bytes ÷ copy_gb_per_s
/// ```
///
/// Copies can only be recorded into an encoder, so a compute pass always gets the kernel. On both sides of a copy, rows
/// must start and end on multiples of 4 bytes, in a format without block scales (not
/// [`Format::Q8_0`](crate::Format::Q8_0) or [`Format::Q4_0`](crate::Format::Q4_0)). The source needs the usage
/// `COPY_SRC` and the destination `COPY_DST`.
///
/// [`Context::new`](crate::Context::new) uses the [`typical`](Self::typical) costs of the device's type;
/// [`Context::calibrate`](crate::Context::calibrate) measures the costs of the device.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CostModel {
    /// Time of one dispatch that does nothing, in nanoseconds.
    pub dispatch_ns: f64,
    /// Time of one copy of a few bytes, in nanoseconds.
    pub copy_ns: f64,
    /// Write throughput of a kernel, in 10^9 bytes per second.
    pub kernel_gb_per_s: f64,
    /// Write throughput of a copy, in 10^9 bytes per second.
    pub copy_gb_per_s: f64,
}

/// How an update, or the copy of a range, is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Dispatches of a kernel.
    Kernel,
    /// Buffer copies.
    Copies,
}

impl CostModel {
    /// Always prefers the kernel.
    pub const KERNELS: CostModel =
        CostModel { dispatch_ns: 0.0, copy_ns: f64::INFINITY, kernel_gb_per_s: f64::INFINITY, copy_gb_per_s: 1.0 };

    /// Prefers copies wherever they are possible.
    pub const COPIES: CostModel =
        CostModel { dispatch_ns: f64::INFINITY, copy_ns: 0.0, kernel_gb_per_s: 1.0, copy_gb_per_s: f64::INFINITY };

    /// Returns typical costs for a type of device: measured on lavapipe for [`wgpu::DeviceType::Cpu`], and estimated
    /// for the others.
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
        // One gigabyte per second is one byte per nanosecond.
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

    /// As measured on lavapipe: long runs are faster as copies, and a large batch of single tokens as a dispatch.
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
