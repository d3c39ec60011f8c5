//! Standard output, tables, numbers and progress.

use std::io::{self, BufWriter, StdoutLock, Write};

use comfy_table::{CellAlignment, Table, presets};
use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Standard output. Every write can fail, so nothing here uses `println!`, which panics.
pub type Out = BufWriter<StdoutLock<'static>>;

/// Locks standard output for the whole run.
pub fn open() -> Out {
    BufWriter::new(io::stdout().lock())
}

/// Creates a table with a heading line. The first `left` columns are text, the others are numbers.
pub fn table(headings: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| style(heading).bold().to_string()));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((if index == 0 { 2 } else { 1 }, 1));
        if index >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Formats bytes in the largest binary unit of which there is at least one.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if amount.fract() == 0.0 { format!("{amount} {}", UNITS[unit]) } else { format!("{amount:.2} {}", UNITS[unit]) }
}

/// Formats a count with separators between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Prints a value as JSON.
pub fn json(out: &mut Out, value: &impl Serialize) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string_pretty(value).expect("keys are strings"))
}

/// Creates a progress bar on standard error. It shows nothing if standard error is not a terminal.
pub fn progress(steps: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    let style = ProgressStyle::with_template("  {msg:40} {bar:30} {pos}/{len} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1 << 20), "1 MiB");
        assert_eq!(bytes(3 << 19), "1.50 MiB");
        assert_eq!(bytes(2_147_483_644), "2.00 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }

    #[test]
    fn counts_are_separated_by_thousands() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1000), "1 000");
        assert_eq!(count(65_535_000), "65 535 000");
    }
}
