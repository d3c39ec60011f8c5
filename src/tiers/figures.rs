//! [`Figures`]: what has gone between the tiers.

use std::{fmt::Write as _, io, time::Duration};

/// What was found in a tier, and what came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierFigures {
    /// Pages of prompts that sequences began with from here, each counted once, by the lowest tier that had to be
    /// asked.
    pub hits: u64,
    /// Full pages of prompts that were looked for and not found here: on the device and in host memory by
    /// [`add`](super::Tiers::add), in the store by a [`prefetch`](super::Tiers::prefetch).
    pub misses: u64,
    /// Pages that came here, each group of layers counted.
    pub pages_in: u64,
    /// Bytes of these.
    pub bytes_in: u64,
    /// Time in which they came: that of the thread that moved them.
    pub time_in: Duration,
    /// Pages that were read from here, each group of layers counted.
    pub pages_out: u64,
    /// Bytes of these.
    pub bytes_out: u64,
    /// Time in which they were read: that of the thread that moved them.
    pub time_out: Duration,
}

/// What has gone between the tiers since they were attached, and what is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// The pool. What comes to it is what it gets from host memory.
    pub device: TierFigures,
    /// Host memory.
    pub host: TierFigures,
    /// The store.
    pub store: TierFigures,
    /// Pages on their way down that are in no tier: too much was on its way, or the device or the store failed. What
    /// leaves host memory for other pages, with no store below, is not among them.
    pub lost: u64,
    /// Objects that were not what they should be, and were removed.
    pub damaged: u64,
    /// Calls of the store that failed.
    pub failures: u64,
    /// How the last of them failed; a panic is [`Other`](io::ErrorKind::Other).
    pub failure: Option<io::ErrorKind>,
    /// Whether the store is left alone, after failures in a row. One that only refuses to write is still read.
    pub rests: bool,
    /// Pages in host memory.
    pub host_pages: u64,
    /// Bytes of these.
    pub host_bytes: u64,
    /// Bytes on their way from the device to host memory.
    pub lowering_bytes: u64,
    /// Pages that wait to go to the store.
    pub storing_pages: u64,
    /// Prefetches that wait.
    pub prefetches: u64,
}

impl TierFigures {
    pub(super) fn came(&mut self, pages: usize, bytes: usize, time: Duration) {
        self.pages_in = self.pages_in.saturating_add(pages as u64);
        self.bytes_in = self.bytes_in.saturating_add(bytes as u64);
        self.time_in = self.time_in.saturating_add(time);
    }

    pub(super) fn went(&mut self, pages: usize, bytes: usize, time: Duration) {
        self.pages_out = self.pages_out.saturating_add(pages as u64);
        self.bytes_out = self.bytes_out.saturating_add(bytes as u64);
        self.time_out = self.time_out.saturating_add(time);
    }

    pub(super) fn found(&mut self, hits: usize, misses: usize) {
        self.hits = self.hits.saturating_add(hits as u64);
        self.misses = self.misses.saturating_add(misses as u64);
    }
}

impl Figures {
    /// The figures in the text format of Prometheus.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let tiers = [("device", &self.device), ("host", &self.host), ("store", &self.store)];
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
            let _ = writeln!(text, "# HELP kv_cache_{name} {help}.\n# TYPE kv_cache_{name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "kv_cache_{name}{labels} {value}");
            }
        };
        type Of = fn(&TierFigures) -> f64;
        #[allow(clippy::cast_precision_loss, reason = "Prometheus has floating-point numbers only")]
        let rows: [(&str, &str, Of); 8] = [
            ("tier_hits_total", "Pages of prompts that sequences began with, by tier", |tier| tier.hits as f64),
            ("tier_misses_total", "Pages of prompts that were not found in a tier", |tier| tier.misses as f64),
            ("tier_pages_in_total", "Pages that came to a tier", |tier| tier.pages_in as f64),
            ("tier_bytes_in_total", "Bytes that came to a tier", |tier| tier.bytes_in as f64),
            ("tier_seconds_in_total", "Time in which pages came to a tier", |tier| tier.time_in.as_secs_f64()),
            ("tier_pages_out_total", "Pages that were read from a tier", |tier| tier.pages_out as f64),
            ("tier_bytes_out_total", "Bytes that were read from a tier", |tier| tier.bytes_out as f64),
            ("tier_seconds_out_total", "Time in which pages were read from a tier", |tier| tier.time_out.as_secs_f64()),
        ];
        for (name, help, of) in rows {
            let values = tiers.map(|(tier, figures)| (format!("{{tier=\"{tier}\"}}"), of(figures)));
            let values: Vec<(&str, f64)> = values.iter().map(|(labels, value)| (&labels[..], *value)).collect();
            metric(name, "counter", help, &values);
        }
        #[allow(clippy::cast_precision_loss, reason = "Prometheus has floating-point numbers only")]
        let rows = [
            ("pages_lost_total", "counter", "Pages on their way down that are in no tier", self.lost as f64),
            ("objects_damaged_total", "counter", "Objects that were not what they should be", self.damaged as f64),
            ("store_failures_total", "counter", "Calls of the store that failed", self.failures as f64),
            ("store_rests", "gauge", "Whether the store is left alone", f64::from(u8::from(self.rests))),
            ("host_pages", "gauge", "Pages in host memory", self.host_pages as f64),
            ("host_bytes", "gauge", "Bytes of pages in host memory", self.host_bytes as f64),
            ("lowering_bytes", "gauge", "Bytes on their way from the device", self.lowering_bytes as f64),
            ("storing_pages", "gauge", "Pages that wait to go to the store", self.storing_pages as f64),
            ("prefetches", "gauge", "Prefetches that wait", self.prefetches as f64),
        ];
        rows.into_iter().for_each(|(name, kind, help, value)| metric(name, kind, help, &[("", value)]));
        text
    }
}
