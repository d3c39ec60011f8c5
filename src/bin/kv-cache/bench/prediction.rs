//! [`Prediction`]: what `BENCHMARKS.md` says that a GPU can reach in attention, beside what it reached.

use serde::{Deserialize, Serialize};

use super::figure::Figure;

/// The case that the prediction is about.
const CASE: &str = "batch 1, 32768 × 128, f16";
/// Bytes that the kernel has in flight on a device that runs all of its threads at once: 64 splits of 8 KV heads, 64
/// threads, four loads of 16 bytes each.
const IN_FLIGHT: f64 = 64.0 * 8.0 * 64.0 * 64.0;
/// Latency that is assumed of a device without a line of its own, in seconds.
const LATENCY: f64 = 0.6e-6;

/// The devices in `BENCHMARKS.md`: a part of the name, bytes per second, seconds of latency, bytes in flight.
const DEVICES: [(&str, f64, f64, f64); 4] = [
    ("H100", 3.35e12, 0.65e-6, IN_FLIGHT),
    ("RTX 4090", 1.01e12, 0.55e-6, IN_FLIGHT),
    ("RX 6800", 0.51e12, 0.6e-6, 1.9e6),
    ("Apple M2", 0.1e12, 0.5e-6, 0.3e6),
];

/// A bound on the bandwidth by Little's law, and the bandwidth measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub case: String,
    /// The line of `BENCHMARKS.md`; `None` if it has none for this device. The bandwidth is then assumed to be twice
    /// that of the device's copy, which reads and writes.
    pub device: Option<String>,
    pub bandwidth_gigabytes_per_second: f64,
    /// Latency of memory, assumed.
    pub latency_seconds: f64,
    pub bytes_in_flight: f64,
    /// Fraction of the bandwidth that latency allows.
    pub predicted_fraction: f64,
    pub measured_gigabytes_per_second: f64,
    pub measured_fraction: f64,
}

impl Prediction {
    /// For an adapter and what was measured on it. `None` without the case.
    pub fn of(adapter: &str, figures: &[Figure]) -> Option<Self> {
        figures.iter().find(|figure| figure.case == CASE).map(|figure| Self::new(adapter, figure))
    }

    fn new(adapter: &str, figure: &Figure) -> Self {
        let known = DEVICES.iter().find(|(name, ..)| adapter.contains(name));
        let copied = 2e9 * figure.device_copy.gigabytes_per_second;
        let &(_, bandwidth, latency, in_flight) = known.unwrap_or(&("", copied, LATENCY, IN_FLIGHT));
        let measured = figure.kernel.gigabytes_per_second;
        Prediction {
            case: figure.case.clone(),
            device: known.map(|(name, ..)| (*name).to_owned()),
            bandwidth_gigabytes_per_second: bandwidth / 1e9,
            latency_seconds: latency,
            bytes_in_flight: in_flight,
            predicted_fraction: (in_flight / (bandwidth * latency)).min(1.0),
            measured_gigabytes_per_second: measured,
            measured_fraction: measured * 1e9 / bandwidth,
        }
    }

    /// One line.
    pub fn text(&self) -> String {
        let of = match &self.device {
            Some(device) => format!("BENCHMARKS.md predicts for {device}: at most"),
            None => {
                "BENCHMARKS.md has no line for this device; with twice its copy as the bandwidth, at most".to_owned()
            }
        };
        format!(
            "Attention, {}: {of} {:.2} of {:.0} GB/s, as {:.1} MB in flight allow at {:.2} µs of latency; measured {:.0} \
             GB/s, {:.2} of it.",
            self.case,
            self.predicted_fraction,
            self.bandwidth_gigabytes_per_second,
            self.bytes_in_flight / 1e6,
            self.latency_seconds * 1e6,
            self.measured_gigabytes_per_second,
            self.measured_fraction,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::figure::{Chosen, Group, Measured},
        *,
    };

    #[test]
    fn a_known_device_has_its_line_and_another_twice_its_copy() {
        // 134 MB in 100 µs, copied in 200 µs.
        let (time, copy) = ([Duration::from_micros(100)], [Duration::from_micros(200)]);
        let bytes = 32_768 * 8 * 128 * 2 * 2;
        let figure = Figure {
            group: Group::Attention,
            amount: 32_768,
            head_dim: 128,
            case: CASE.to_owned(),
            batch: 1,
            series: String::new(),
            bytes,
            kernel: Measured::new(&time, bytes, &copy),
            copies: None,
            device_copy: Measured::new(&copy, bytes, &copy),
            chosen: Chosen::Kernel,
        };
        let known = Prediction::new("NVIDIA H100 80GB HBM3 [vulkan]", &figure);
        assert_eq!((known.device.as_deref(), known.bandwidth_gigabytes_per_second), (Some("H100"), 3350.0));
        assert!((known.predicted_fraction - 0.963).abs() < 1e-3 && (known.measured_fraction - 0.40065).abs() < 1e-3);
        assert!(known.text().contains("predicts for H100: at most 0.96 of 3350 GB/s"), "{}", known.text());
        let other = Prediction::new("Some GPU", &figure);
        assert!(other.device.is_none() && (other.bandwidth_gigabytes_per_second - 1342.2).abs() < 0.1);
        assert!((other.measured_fraction - 1.0).abs() < 1e-9, "{other:?}");
        assert!(other.text().contains("no line for this device"));
    }
}
