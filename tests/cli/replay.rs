//! `kv-cache replay`.

use crate::{fails, file, json, passes};

const REPLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/replay.json");

#[test]
fn the_documented_program_replays_byte_for_byte_on_every_adapter() {
    let expected = include_str!("../../examples/replay.results.json");
    let out = file("replay.out.json", b"");
    for adapter in 0..json(&["adapters", "--json"]).as_array().unwrap().len() {
        let told = passes(&["replay", REPLAY, "--adapter", &adapter.to_string(), "--out", &out]);
        assert!(told.contains("15 operations, 3 of them refused, device and reference agree"), "{told}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), expected, "adapter {adapter}");
    }
    assert_eq!(passes(&["replay", REPLAY, "--json"]), expected);
}

#[test]
fn layers_of_other_formats_replay_with_attention() {
    let rows: Vec<f32> = (0..2 * 3 * 40).map(|i| (i as f32 * 0.3).sin()).collect();
    let queries: Vec<f32> = (0..4 * 2 * 40).map(|i| (i as f32 * 0.7).cos()).collect();
    let update = |layer| serde_json::json!({"op": "update", "layer": layer, "tokens": 3, "keys": rows, "values": rows.iter().map(|x| 1.0 - x).collect::<Vec<_>>()});
    let attention =
        |layer| serde_json::json!({"op": "attention", "layer": layer, "heads": 4, "tokens": 2, "queries": queries});
    let mut program = serde_json::json!({
        "config": {
            "layers": 3, "batch_size": 1, "num_heads": 2, "head_dim": 40, "max_seq_len": 8,
            "key_format": ["f16", "fp8_e4m3", "q8_0"], "value_format": "q4_0", "key_scale": [1.0, 0.01, 1.0],
            "placement": [{"kind": "linear"}, {"kind": "ring", "window": 2, "slack": 1}, {"kind": "linear"}],
        },
        "ops": [update(0), update(1), update(2), attention(0), attention(1), attention(2), {"op": "truncate", "lengths": 2},
                {"op": "get_all", "layer": 1}, {"op": "storage", "layer": 2},
                {"op": "attention", "layer": 0, "heads": 3, "tokens": 2, "queries": queries[..240]}],
    });
    let adapters = json(&["adapters", "--json"]).as_array().unwrap().len();
    for adapter in 0..adapters {
        let path = file("layers.json", program.to_string().as_bytes());
        let results = json(&["replay", &path, "--json", "--adapter", &adapter.to_string()]);
        let results = results["results"].as_array().unwrap();
        assert!(results[..9].iter().all(|outcome| outcome["ok"] == true), "{results:?}");
        assert_eq!(results[3]["shape"], serde_json::json!([1, 4, 2, 40]));
        assert_eq!(results[3]["output"].as_array().unwrap().len(), 4 * 2 * 40);
        assert_ne!(results[3]["output"], results[4]["output"], "other formats and another window");
        assert_eq!(results[9]["kind"], "query_heads");
    }
    program["config"]["key_scale"] = serde_json::json!([1.0, 0.0, 1.0]);
    let path = file("zero_scale.json", program.to_string().as_bytes());
    assert!(fails(&["replay", &path], 1).contains("a scale must be positive and finite, but is 0"));
    program["config"]["key_scale"] = serde_json::json!([1.0, 2.0]);
    let path = file("two_scales.json", program.to_string().as_bytes());
    fails(&["replay", &path], 1);
}

#[test]
fn refused_operations_of_a_program_leave_it_as_it_was() {
    let program = file(
        "refusals.json",
        br#"{"config": {"layers": 2, "batch_size": 1, "num_heads": 1, "head_dim": 1, "max_seq_len": 2},
             "ops": [
                {"op": "update", "layer": 1, "tokens": 1, "keys": ["NaN"], "values": ["-Infinity"]},
                {"op": "update", "layer": 0, "tokens": 1, "keys": [1, 2], "values": [3]},
                {"op": "update", "layer": 0, "tokens": 1, "keys": [1], "values": [3], "positions": [0, 1]},
                {"op": "update", "layer": 0, "tokens": 1, "keys": [1], "values": [3], "positions": 2},
                {"op": "update", "layer": 0, "tokens": 1, "keys": [1], "values": [3], "counts": 2},
                {"op": "get_all", "layer": 2},
                {"op": "truncate", "lengths": [3]},
                {"op": "select", "sources": []},
                {"op": "repeat", "times": 2},
                {"op": "copy_range", "from": 0, "start": 0, "end": 1, "to": 0, "position": 1},
                {"op": "clear_sequence", "sequence": 1},
                {"op": "storage", "layer": 1}]}"#,
    );
    let results = json(&["replay", &program, "--json"]);
    let results = results["results"].as_array().unwrap();
    let kinds: Vec<_> = results.iter().map(|result| result["kind"].as_str()).collect();
    assert_eq!(
        kinds,
        [
            None,
            Some("slice_length"),
            Some("per_sequence_length"),
            Some("write_beyond_capacity"),
            Some("count_above_tokens"),
            Some("layer_out_of_range"),
            Some("truncate_beyond_length"),
            Some("empty_selection"),
            Some("batch_too_large"),
            Some("range_beyond_written"),
            Some("index_out_of_range"),
            None
        ]
    );
    assert_eq!((&results[0]["lengths"], &results[1]["lengths"]), (&serde_json::json!([1]), &serde_json::json!([0])));
    assert_eq!(results[11]["keys"], serde_json::json!(["NaN", 0.0]));
    assert_eq!(results[11]["values"], serde_json::json!(["-Infinity", 0.0]));
}

/// Operations at positions near 2^32 cost as much as near 0, including refused ones.
#[test]
fn positions_near_the_last_replay() {
    let base = 4_000_000_000u32;
    let rows: Vec<f32> = (0..2 * 3).map(|i| i as f32).collect();
    let get = |start, end| serde_json::json!({"op": "get", "layer": 0, "start": start, "end": end});
    let attention = |tokens: usize| {
        let queries = vec![0.5; 2 * tokens];
        serde_json::json!({"op": "attention", "layer": 0, "heads": 1, "tokens": tokens, "queries": queries})
    };
    let program = serde_json::json!({
        "config": {
            "layers": 1, "batch_size": 2, "num_heads": 1, "head_dim": 1,
            "placement": {"kind": "ring", "window": 4, "sinks": 2, "slack": 1},
        },
        "ops": [
            {"op": "update", "layer": 0, "tokens": 3, "keys": rows, "values": rows, "positions": [base, 1]},
            get(base, base + 3), get(0, base), get(base, u32::MAX), get(u32::MAX, 0), {"op": "get_all", "layer": 0},
            attention(2), attention(3),
            {"op": "update", "layer": 0, "tokens": u32::MAX, "keys": rows, "values": rows, "positions": 0},
            {"op": "update", "layer": 0, "tokens": u32::MAX - 1, "keys": rows, "values": rows, "positions": 0},
            {"op": "copy_range", "from": 0, "start": 0, "end": base, "to": 1, "position": 0},
            {"op": "copy_range", "from": 0, "start": base, "end": base + 3, "to": 1, "position": base},
            {"op": "truncate", "lengths": base + 2}, {"op": "truncate", "lengths": base - 2},
            {"op": "repeat", "times": u32::MAX}, {"op": "clear_sequence", "sequence": u32::MAX},
            attention(1),
            {"op": "clear_sequence", "sequence": 0},
            {"op": "update", "layer": 0, "tokens": 9, "keys": vec![0.5; 18], "values": vec![0.5; 18], "positions": 0},
            // Positions 0 and 1 are sinks of the ring, so they are stored although this attention has no sinks. Later
            // queries see evicted positions.
            {"op": "attention", "layer": 0, "heads": 1, "tokens": 9, "queries": vec![0.5; 18], "window": 2},
        ],
    });
    let path = file("far.json", program.to_string().as_bytes());
    let results = json(&["replay", &path, "--json", "--adapter", "0"]);
    let results = results["results"].as_array().unwrap();
    let kinds: Vec<_> = results.iter().map(|outcome| outcome["kind"].as_str().unwrap_or("ok")).collect();
    assert_eq!(
        kinds,
        [
            "ok",
            "ok",
            "evicted",
            "range_beyond_written",
            "range_reversed",
            "ok",
            "ok",
            "evicted",
            "position_overflow",
            "slice_length",
            "evicted",
            "ok",
            "ok",
            "rollback_evicted",
            "batch_too_large",
            "index_out_of_range",
            "ok",
            "ok",
            "ok",
            "evicted"
        ]
    );
    assert_eq!(results[1]["positions"], serde_json::json!([[base, base + 1, base + 2], [null, null, null]]));
    assert_eq!(results[1]["keys"], serde_json::json!([0.0, 1.0, 2.0, 0.0, 0.0, 0.0]));
    assert_eq!(results[5]["positions"][0], serde_json::json!([0, 1, base - 1, base, base + 1, base + 2]));
}

#[test]
fn broken_programs_are_refused() {
    let config = r#""config": {"layers": 1, "batch_size": 1, "num_heads": 1, "head_dim": 1, "max_seq_len": 2"#;
    for (text, word) in [
        (format!("{{{config}}}, \"ops\": [], \"more\": 1}}"), "unknown field `more`"),
        (format!("{{{config}, \"window\": 1}}, \"ops\": []}}"), "unknown field `window`"),
        (format!("{{{config}}}, \"ops\": [{{\"op\": \"reset\", \"layer\": 1}}]}}"), "unknown field `layer`"),
        (format!("{{{config}}}, \"ops\": [{{\"op\": \"swap\"}}]}}"), "unknown variant `swap`"),
        (format!("{{{config}}}, \"ops\": [{{\"op\": \"repeat\"}}]}}"), "missing field `times`"),
        (format!("{{{config}, \"key_format\": \"f8\"}}, \"ops\": []}}"), "f8"),
        (
            format!("{{{config}, \"placement\": {{\"kind\": \"ring\", \"window\": 0}}}}, \"ops\": []}}"),
            "window must be at least 1",
        ),
        (
            format!("{{{config}, \"placement\": {{\"kind\": \"linear\", \"window\": 3}}}}, \"ops\": []}}"),
            "unknown field `window`",
        ),
        (format!("{{{config}, \"placement\": [{{\"kind\": \"page\"}}]}}, \"ops\": []}}"), "unknown variant `page`"),
        (format!("{{{config}}}, \"ops\": [{{\"op\": \"truncate\", \"lengths\": -1}}]}}"), "a whole number"),
        (
            format!("{{{config}}}, \"ops\": []}}").replace("\"layers\": 1", "\"layers\": 1099511627776"),
            "num_layers must be at most 65536, but is 1099511627776",
        ),
        ("[]".to_owned(), "not a program"),
    ] {
        let program = file("broken.json", text.as_bytes());
        let told = fails(&["replay", &program], 1);
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(fails(&["replay", "/nowhere.json"], 1).contains("/nowhere.json"));
}
