//! [`Bytes`]: a number of bytes, as an argument.

use std::str::FromStr;

/// A number of bytes, such as `1500000000` or `4GiB`.
#[derive(Clone, Copy)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let shift = match text[digits.len()..].trim() {
            "" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            other => return Err(format!("the unit must be KiB, MiB, GiB or TiB, but is {other:?}")),
        };
        let number: u64 = digits.parse().map_err(|_| format!("{digits:?} is no whole number"))?;
        number.checked_mul(1 << shift).map(Bytes).ok_or_else(|| format!("{text} has more than 64 bits"))
    }
}
