//! `kv-cache quality`.

use std::path::PathBuf;

use serde_json::Value;

use crate::{fails, file, json, passes, safetensors};

#[test]
fn quality_tells_what_each_format_loses() {
    let picture = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("quality.svg");
    let picture = picture.to_str().unwrap();
    let quality = json(&["quality", "--json", "--adapter", "0", "--picture", picture]);
    let rows = quality["formats"].as_array().unwrap();
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap();
    // Name, bits per element, and the smallest and largest loss of the keys. The trace was recorded in f16, so f16
    // loses nothing.
    let expected = [
        ("f32", 32.0, 0.0, 0.0),
        ("f16", 16.0, 0.0, 0.0),
        ("bf16", 16.0, 1.5e-3, 1.9e-3),
        ("q8_0", 8.5, 4e-3, 1.2e-2),
        ("fp8_e4m3", 8.0, 2.2e-2, 3e-2),
        ("fp8_e4m3 × scale", 8.0, 2.2e-2, 3e-2),
        ("q8_0 / q4_0", 6.5, 4e-3, 1.2e-2),
        ("q4_0", 4.5, 0.08, 0.2),
    ];
    assert_eq!(rows.len(), expected.len());
    for (row, (name, bits, least, most)) in rows.iter().zip(expected) {
        assert_eq!((row["name"].as_str().unwrap(), number(row, "bits_per_element")), (name, bits));
        assert_eq!(number(row, "bytes_per_token"), bits / 8.0 * f64::from(30 * 3 * 128));
        assert!((least..=most).contains(&number(row, "keys")), "{row}");
        assert!(number(row, "values") <= 0.2 && number(row, "attention") < 0.5, "{row}");
    }
    assert!(number(&rows[0], "attention") < 1e-5);
    assert!((1e-9..1e-5).contains(&number(&quality, "exp_error")), "{quality}");
    assert!(std::fs::read_to_string(picture).unwrap().contains("<svg"));
    let told = passes(&["quality", "--adapter", "0"]);
    assert!(told.contains("bits/element") && told.contains("████") && told.contains("q4_0"), "{told}");
    // Without queries in the trace there is no attention.
    let own = file(
        "no_queries.safetensors",
        &safetensors(&[("layers.0.keys", "F32", &[1, 1, 2, 4], 4), ("layers.0.values", "F32", &[1, 1, 2, 4], 4)]),
    );
    assert!(json(&["quality", &own, "--json", "--adapter", "0"])["formats"][0].get("attention").is_none());
    let own = file(
        "wrong_queries.safetensors",
        &safetensors(&[
            ("layers.0.keys", "F32", &[1, 2, 2, 4], 4),
            ("layers.0.values", "F32", &[1, 2, 2, 4], 4),
            ("layers.0.queries", "F32", &[1, 3, 2, 4], 4),
        ]),
    );
    let error = fails(&["quality", &own, "--adapter", "0"], 1);
    assert!(error.contains("layers.0.queries must be [batch, query_heads, tokens, head_dim]"), "{error}");
}

#[test]
fn quality_of_numbers_that_a_format_cannot_hold_is_infinite() {
    // Arbitrary bits, including NaN and numbers beyond the range of f16.
    let tensors: [(&str, &str, &[usize], usize); 2] =
        [("layers.0.keys", "F32", &[1, 1, 8, 32], 4), ("layers.0.values", "F32", &[1, 1, 8, 32], 4)];
    let trace = file("any_bits.safetensors", &safetensors(&tensors));
    let picture = file("any_bits.svg", b"");
    let told = passes(&["quality", &trace, "--adapter", "0", "--picture", &picture]);
    assert!(told.contains("inf") || told.contains("NaN"), "{told}");
    assert!(std::fs::read_to_string(picture).unwrap().contains("</svg>"));
}
