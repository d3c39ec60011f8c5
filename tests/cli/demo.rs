//! `kv-cache demo`.

use std::process::Command;

use crate::{json, passes, text};

#[test]
fn the_demo_verifies_every_layer_format_and_adapter() {
    let adapters = json(&["adapters", "--json"]).as_array().unwrap().len();
    let demo = json(&["demo", "--json"]);
    let trials = demo["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 6 * adapters);
    for trial in trials {
        assert_eq!(trial["verified"], true);
        // 30 layers of keys and values, 3 heads of 64, 128 slots.
        assert_eq!(trial["elements_compared"], 30 * 2 * 3 * 64 * 128);
        assert_eq!(trial["memory_report"]["tokens_generated"], 96);
        assert_eq!((&trial["prefill"]["tokens"], &trial["decode_step"]["tokens"]), (&64.into(), &32.into()));
        assert!(trial["prefill"]["device_copy_gigabytes_per_second"].as_f64().unwrap() > 0.0);
    }
    // Without arguments the program runs the demo.
    let told = passes(&[]);
    assert!(told.contains("A KV cache on the GPU"), "{told}");
    assert!(told.contains("no differences"), "{told}");
    assert!(told.contains("growth_per_token_mb"), "{told}");
    assert!(!told.contains('\u{1b}'), "colours only on a terminal");
}

/// The published package does not contain the trace.
#[test]
fn a_missing_trace_is_told() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_kv-cache"));
    let output = demo.arg("demo").env("KV_CACHE_TRACE", "no/such/trace.safetensors").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.contains("no/such/trace.safetensors: the recorded trace is in the repository"), "{told}");
    assert!(told.contains("KV_CACHE_TRACE"), "{told}");
}
