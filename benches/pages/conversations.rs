//! Recorded requests.

use std::{fs, path::Path};

/// The blocks of the prompt of each request, from `traces/conversations.txt` or a file like it.
///
/// # Errors
/// A file that cannot be read, or a line that is not one of numbers and ranges.
pub fn read(path: &Path) -> Result<Vec<Vec<u32>>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let request = |line: &str| {
        let mut blocks = Vec::new();
        for range in line.split_whitespace() {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            blocks.extend(first.parse().ok()?..=last.parse::<u32>().ok()?);
        }
        Some(blocks)
    };
    let lines = text.lines().enumerate();
    lines.map(|(index, line)| request(line).ok_or(format!("line {}: {line}", index + 1))).collect()
}

/// That of this repository.
///
/// # Errors
/// As [`read`].
pub fn recorded() -> Result<Vec<Vec<u32>>, String> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("traces/conversations.txt"))
}
