//! [`Figure`]: the results of one case, and [`Measured`]: the times of one form of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use wgpu_kv_cache::Form;

use crate::timing;

/// Number of KV heads in every case.
pub const HEADS: u32 = 8;

/// The results of one case.
#[derive(Serialize, Deserialize)]
pub struct Figure {
    pub group: Group,
    /// Tokens of a prefill, rows of a range, sequences of a decoding step, positions of an attention.
    pub amount: u32,
    pub head_dim: u32,
    pub case: String,
    /// Sequences of an attention.
    #[serde(default)]
    pub batch: u32,
    /// What it shares a line of a plot with.
    #[serde(default)]
    pub series: String,
    /// Bytes written, or read by an attention, keys and values together.
    pub bytes: u64,
    pub kernel: Measured,
    /// `None` where copies cannot do it: they neither convert nor compute.
    pub copies: Option<Measured>,
    pub device_copy: Measured,
    pub chosen: Chosen,
}

/// Cases that share a table.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    Prefill,
    Conversion,
    Decode,
    Range,
    Attention,
}

/// The form that the cost model chooses.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chosen {
    Kernel,
    Copies,
}

/// The times of one form of a case.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Measured {
    pub median_seconds: f64,
    pub first_quartile_seconds: f64,
    pub third_quartile_seconds: f64,
    pub gigabytes_per_second: f64,
    /// Bandwidth relative to that of the device's copy of the same bytes in the same run.
    pub per_cent_of_device_copy: f64,
}

impl Group {
    pub const ALL: [Group; 5] = [Group::Prefill, Group::Conversion, Group::Decode, Group::Range, Group::Attention];

    pub const fn title(self) -> &'static str {
        match self {
            Group::Prefill => "Prefill, f16",
            Group::Conversion => "Prefill, converting",
            Group::Decode => "Decode step, f16",
            Group::Range => "Range, f16",
            Group::Attention => "Attention, one query a sequence, 32 query heads",
        }
    }
}

impl From<Form> for Chosen {
    fn from(form: Form) -> Self {
        if form == Form::Copies { Chosen::Copies } else { Chosen::Kernel }
    }
}

impl Measured {
    /// Computes median and quartiles of some times, and compares them with those of the device's copy.
    pub fn new(times: &[Duration], bytes: u64, device_copy: &[Duration]) -> Self {
        let [first, median, third] = quartiles(times);
        Measured {
            median_seconds: median.as_secs_f64(),
            first_quartile_seconds: first.as_secs_f64(),
            third_quartile_seconds: third.as_secs_f64(),
            gigabytes_per_second: timing::gigabytes_per_second(bytes, median),
            per_cent_of_device_copy: quartiles(device_copy)[1].as_secs_f64() / median.as_secs_f64().max(1e-9) * 100.0,
        }
    }

    /// Half the interquartile range, in per cent of the median.
    pub fn spread(&self) -> f64 {
        (self.third_quartile_seconds - self.first_quartile_seconds) / 2.0 / self.median_seconds.max(1e-9) * 100.0
    }

    /// Formats the time with its spread, the bandwidth, and the per cent of the device's copy.
    pub fn text(&self) -> String {
        format!(
            "{} ±{:>2.0} %  {:>7.2} GB/s {:>4.0} %",
            milliseconds(self.median_seconds),
            self.spread(),
            self.gigabytes_per_second,
            self.per_cent_of_device_copy
        )
    }
}

impl Figure {
    /// Returns the times of the form that the model chooses.
    pub fn chosen(&self) -> &Measured {
        match (self.chosen, &self.copies) {
            (Chosen::Copies, Some(copies)) => copies,
            _ => &self.kernel,
        }
    }
}

/// Formats a time in milliseconds.
pub fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

fn quartiles(times: &[Duration]) -> [Duration; 3] {
    let mut times = times.to_vec();
    times.sort_unstable();
    [1, 2, 3].map(|quarter| times.get(times.len() * quarter / 4).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_beside_the_copys() {
        let times = |millis: &[u64]| millis.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        let measured = Measured::new(&times(&[9, 1, 5, 4, 3]), 8_000_000, &times(&[1, 3, 2]));
        assert_eq!(
            [measured.first_quartile_seconds, measured.median_seconds, measured.third_quartile_seconds],
            [0.003, 0.004, 0.005]
        );
        assert_eq!((measured.gigabytes_per_second, measured.per_cent_of_device_copy), (2.0, 50.0));
        assert_eq!(measured.text(), "4.000 ms ±25 %     2.00 GB/s   50 %");
    }
}
