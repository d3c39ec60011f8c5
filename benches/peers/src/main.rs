//! Alternatives to this crate, compared with it for the same shapes, on the same adapter, in the same run.
//!
//!     make peers [ADAPTER=name]

mod boostr;
mod burn;
mod by_hand;
mod candle;
mod numpy;
mod ours;

use std::{error::Error, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use wgpu_kv_cache::{Context, adapter_label, adapters, find_adapter};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An update of a cache in f32, because some peers have no other format.
pub struct Case {
    pub name: &'static str,
    pub batch: usize,
    pub heads: usize,
    pub dim: usize,
    pub capacity: usize,
    /// Tokens per update.
    pub tokens: usize,
    /// The position where the update writes.
    pub position: usize,
}

impl Case {
    /// Elements in the rows of one side, `[batch, head, token, dim]`.
    pub fn elements(&self) -> usize {
        self.batch * self.heads * self.tokens * self.dim
    }

    /// Bytes written to both sides.
    fn bytes(&self) -> usize {
        self.elements() * 4 * 2
    }

    /// The updated rows of one side, taken from a cache `[batch, head, capacity, dim]`.
    pub fn rows_of(&self, storage: &[f32]) -> Vec<f32> {
        let plane = self.capacity * self.dim;
        let rows = self.position * self.dim..(self.position + self.tokens) * self.dim;
        storage.chunks_exact(plane).flat_map(|plane| plane[rows.clone()].iter().copied()).collect()
    }
}

/// Keys and values of an update.
pub struct Rows {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// A cache prepared for one case.
pub trait Peer {
    /// Runs one update at the case's position. Returns the time from the call until the device has finished.
    fn update(&mut self) -> Result<Duration>;

    /// Whether the cache holds the rows, keys and values, after the updates.
    fn holds(&mut self, rows: &Rows) -> Result<bool>;
}

/// Prepares a peer for a case.
type Prepare<'a> = Box<dyn Fn(&Case, &Rows) -> Result<Box<dyn Peer>> + 'a>;

const REPETITIONS: usize = 25;

const CASES: [Case; 5] = [
    Case { name: "prefill 512", batch: 1, heads: 8, dim: 128, capacity: 4096, tokens: 512, position: 0 },
    Case { name: "prefill 2048", batch: 1, heads: 8, dim: 128, capacity: 4096, tokens: 2048, position: 0 },
    Case { name: "decode, batch 1", batch: 1, heads: 8, dim: 128, capacity: 1024, tokens: 1, position: 500 },
    Case { name: "decode, batch 8", batch: 8, heads: 8, dim: 128, capacity: 1024, tokens: 1, position: 500 },
    Case { name: "decode, batch 32", batch: 32, heads: 8, dim: 128, capacity: 512, tokens: 1, position: 500 },
];

fn main() -> Result<()> {
    let wanted = std::env::args().nth(1).filter(|name| !name.is_empty());
    let adapter = match wanted {
        Some(name) => find_adapter(&name)?,
        None => adapters()?.swap_remove(0),
    };
    let info = adapter.get_info();
    // boostr numbers adapters in the order of wgpu's list.
    let index = adapters()?
        .iter()
        .position(|other| adapter_label(&other.get_info()) == adapter_label(&info))
        .ok_or("the adapter is gone")?;
    let context = Context::open(&adapter)?;
    let calibrated = Context::with_costs(context.device(), context.queue(), context.calibrate()?);
    let burn = burn::Shared::new(&adapter)?;
    let boostr = boostr::Client::new(index, &info)?;
    let peers: [(&str, Prepare<'_>); 7] = [
        ("this crate", Box::new(|case, rows| ours::prepare(&calibrated, case, rows))),
        ("a kernel by hand", Box::new(|case, rows| by_hand::prepare_kernel(&context, case, rows))),
        ("one buffer copy", Box::new(|case, rows| by_hand::prepare_copy(&context, case, rows))),
        ("boostr 0.10", Box::new(|case, rows| boostr.prepare(case, rows))),
        ("Burn 0.22", Box::new(|case, rows| burn.prepare(case, rows))),
        ("Candle 0.11, CPU", Box::new(candle::prepare)),
        ("numpy, CPU", Box::new(numpy::prepare)),
    ];

    println!("{}, {} {}", adapter_label(&info), info.driver, info.driver_info);
    println!("f32, 8 KV heads of 128; one layer; wall clock from call to done, medians of {REPETITIONS} in turn");
    println!("ms, and in brackets how many times this crate's\n");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(
        std::iter::once("update").chain(["bytes"]).chain(peers.iter().map(|(name, _)| *name)).collect::<Vec<_>>(),
    );
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for case in &CASES {
        let side = |salt: usize| (0..case.elements()).map(|i| ((i * 7 + salt) % 8191) as f32 / 8.0).collect();
        let rows = Rows { keys: side(1), values: side(5) };
        let mut ready = peers.iter().map(|(_, prepare)| prepare(case, &rows)).collect::<Result<Vec<_>>>()?;
        let mut times = vec![Vec::new(); ready.len()];
        for repetition in 0..REPETITIONS + 3 {
            for (peer, times) in ready.iter_mut().zip(&mut times) {
                let time = peer.update()?;
                if repetition >= 3 {
                    times.push(time);
                }
            }
        }
        for ((name, _), peer) in peers.iter().zip(&mut ready) {
            if !peer.holds(&rows)? {
                return Err(format!("{}: {name} does not hold the rows", case.name).into());
            }
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        let cell = |median: &f64| format!("{:.3} ({:.1})", median * 1e3, median / medians[0]);
        let name = [case.name.to_owned(), format!("{} KiB", case.bytes() >> 10)];
        table.add_row(name.into_iter().chain(medians.iter().map(cell)).collect::<Vec<_>>());
    }
    println!("{table}");
    println!("\nEvery cache was read back after its last update and held the rows, keys and values, bit for bit.");
    println!("One buffer copy moves as many bytes from one buffer to another in one piece, which is no cache.");
    Ok(())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
