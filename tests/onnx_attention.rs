//! The published node tests of ONNX `Attention` (opset 23 to 25) that use a cache, a mask, a soft cap, a window or a
//! causal mask, run through `kv-cache replay` on every adapter. `scripts/record_attention.py` converted them to
//! programs.

#![cfg(feature = "cli")]

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;
use wgpu_kv_cache::{adapter_label, adapters};

fn numbers(value: &Value) -> Vec<f64> {
    let number = |value: &Value| match value.as_str() {
        Some("NaN") => f64::NAN,
        Some("Infinity") => f64::INFINITY,
        Some("-Infinity") => f64::NEG_INFINITY,
        _ => value.as_f64().unwrap(),
    };
    value.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn node_tests_pass_through_replay() {
    let recorded: Value = serde_json::from_str(include_str!("data/onnx_attention.json")).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 69);
    for (index, adapter) in adapters().unwrap().into_iter().enumerate() {
        let label = adapter_label(&adapter.get_info());
        std::thread::scope(|threads| {
            for (half, cases) in cases.chunks(cases.len().div_ceil(2)).enumerate() {
                let label = &label;
                threads.spawn(move || cases.iter().for_each(|case| replay(case, index, half, label)));
            }
        });
    }
}

fn replay(case: &Value, adapter: usize, thread: usize, label: &str) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (program, results) =
        (folder.join(format!("onnx_{thread}.json")), folder.join(format!("onnx_{thread}.out.json")));
    let name = &case["name"];
    fs::write(&program, case["program"].to_string()).unwrap();
    let ran = Command::new(env!("CARGO_BIN_EXE_kv-cache"))
        .args(["replay", program.to_str().unwrap(), "--adapter", &adapter.to_string()])
        .args(["--out", results.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{name} on {label}: {}", String::from_utf8_lossy(&ran.stderr));
    let outcome: Value = serde_json::from_str(&fs::read_to_string(&results).unwrap()).unwrap();
    let last = outcome["results"].as_array().unwrap().last().unwrap();
    assert_eq!(last["ok"], true, "{name} on {label}: {last}");
    let (expected, actual) = (numbers(&case["output"]), numbers(&last["output"]));
    assert_eq!(expected.len(), actual.len(), "{name}");
    let size: f64 = expected.iter().map(|e| e * e).sum();
    let difference: f64 = expected.iter().zip(&actual).map(|(e, a)| (e - a) * (e - a)).sum();
    // The operator's 16-bit arithmetic alone can differ by this much. `onnx` allows 1e-3 throughout.
    let bound = if case["half"] == true { 1e-2 } else { 1e-5 };
    let distance = (difference / size.max(1e-12)).sqrt();
    assert!(distance < bound, "{name} on {label}: the distance is {distance:.1e}");
}
