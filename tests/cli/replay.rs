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
fn programs_of_pages_replay_on_every_adapter() {
    let program = serde_json::json!({
        "config": {"layers": 2, "num_heads": 2, "head_dim": 8, "key_format": "f16", "value_format": ["q8_0", "f32"],
                   "pages": {"page_size": 4, "count": 8}, "max_sequences": 3},
        "ops": [
            {"op": "match", "tokens": [0, 1, 2, 3, 4]},
            {"op": "add", "sequence": "a", "tokens": [0, 1, 2, 3, 4, 5, 6, 7, 8]},
            {"op": "add", "sequence": "b", "tokens": [0, 1, 2, 3, 4, 5, 6, 7, 8]},
            {"op": "append", "sequence": "a", "tokens": [10, 11]},
            {"op": "fork", "from": "a", "to": "c", "length": 10},
            {"op": "append", "sequence": "c", "tokens": [1], "namespace": null},
            {"op": "rows", "sequence": "c", "layer": 1},
            {"op": "attention", "sequences": ["c", "a"], "heads": 4, "tokens": 1, "queries": vec![0.25; 2 * 4 * 8]},
            {"op": "free", "sequence": "a"},
            {"op": "free", "sequence": "a"},
            {"op": "truncate", "sequence": "b", "length": 20},
            {"op": "add", "sequence": "d", "tokens": vec![5; 32]},
            {"op": "draft", "sequence": "b", "tokens": [1, 2, 3, 4], "accepted": 2},
            {"op": "free", "sequence": "b"},
            {"op": "free", "sequence": "c"},
            {"op": "add", "sequence": "d", "tokens": vec![5; 32]},
            {"op": "add", "sequence": "d", "tokens": []},
            {"op": "append", "sequence": "x", "tokens": []},
            {"op": "clear_prefixes"},
            {"op": "attention", "sequences": ["d", "d"], "heads": 2, "tokens": 1, "queries": vec![0.25; 2 * 2 * 8]},
        ],
    });
    let path = file("pages.json", program.to_string().as_bytes());
    for adapter in 0..json(&["adapters", "--json"]).as_array().unwrap().len() {
        let results = json(&["replay", &path, "--json", "--adapter", &adapter.to_string()]);
        let of = |index: usize, field: &str| results["results"][index][field].clone();
        assert_eq!(
            of(0, "keys"),
            serde_json::json!(["c49ab11fb576db6f376aef58c24f728a0ba1807e8cac5f940f1a5c4c20741898"])
        );
        assert_eq!((of(1, "cached"), of(2, "cached")), (0.into(), 8.into()));
        assert_eq!(of(2, "pages"), serde_json::json!({"a": [0, 1, 2], "b": [0, 1, 3]}));
        assert_eq!((of(2, "free_pages"), of(2, "cached_pages")), (4.into(), 2.into()));
        // The second writer to the tail that was forked gets a copy.
        assert_eq!(of(5, "pages")["c"], serde_json::json!([0, 1, 4]));
        assert_eq!(of(6, "shape"), serde_json::json!([1, 2, 11, 8]));
        // 31 t + 7 p + 3 l + i of the last token, head 0.
        assert_eq!(of(6, "keys")[10 * 8], 104.0);
        assert_eq!(of(6, "values")[10 * 8 + 1], -105.0);
        assert_eq!(of(7, "shape"), serde_json::json!([1, 2, 4, 8]));
        let kinds: Vec<_> = [9, 10, 11, 16, 17, 19].iter().map(|&index| of(index, "kind")).collect();
        assert_eq!(
            kinds,
            ["freed_sequence", "beyond_end", "out_of_pages", "sequence_exists", "no_sequence", "sequence_twice"]
        );
        assert_eq!(of(15, "evicted"), serde_json::json!([8, 4]), "the end of a prefix goes before its beginning");
        assert_eq!((of(18, "cached_pages"), of(18, "lengths")), (0.into(), serde_json::json!({"d": 32})));
    }
    for (field, value, word) in [
        ("batch_size", 2.into(), "`batch_size` belongs to a cache without `pages`"),
        ("max_sequences", serde_json::Value::Null, "missing field `max_sequences`"),
        ("max_sequences", 4_294_967_294u32.into(), "max_storage_buffer_binding_size"),
        ("pages", serde_json::json!({"page_size": 3, "count": 8}), "the page size must be a power of two, but is 3"),
        ("pages", serde_json::Value::Null, "`max_sequences` belongs to a cache with `pages`"),
    ] {
        let mut program = program.clone();
        program["config"][field] = value;
        program["ops"] = serde_json::json!([]);
        let path = file("pages_wrong.json", program.to_string().as_bytes());
        let told = fails(&["replay", &path], 1);
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn programs_of_windows_over_pages_replay() {
    // Layer 0 keeps the last 5 positions and the first, in a group of its own.
    let tokens: Vec<u32> = (0..12).collect();
    let rows = |tokens: usize, add: f32| -> Vec<f32> { (0..2 * tokens * 4).map(|i| i as f32 + add).collect() };
    let program = serde_json::json!({
        "config": {"layers": 2, "num_heads": 1, "head_dim": 4, "pages": {"page_size": 4, "count": 9},
                   "max_sequences": 2, "window": [5, null], "sinks": 1},
        "ops": [
            {"op": "add", "sequence": "a", "tokens": tokens},
            {"op": "append", "sequence": "a", "tokens": [50], "keys": rows(1, 0.5), "values": rows(1, 100.5)},
            {"op": "rows", "sequence": "a", "layer": 0},
            {"op": "rows", "sequence": "a", "layer": 1},
            {"op": "attention", "sequences": ["a"], "layer": 0, "heads": 1, "tokens": 1, "queries": [1, 0, 0, 0]},
            {"op": "attention", "sequences": ["a"], "layer": 0, "heads": 1, "tokens": 2, "window": 6,
             "queries": [1, 0, 0, 0, 1, 0, 0, 0]},
            {"op": "truncate", "sequence": "a", "length": 9},
            {"op": "append", "sequence": "a", "tokens": [1], "keys": [1], "values": rows(1, 0.0)},
            {"op": "append", "sequence": "a", "tokens": [1], "keys": rows(1, 0.0)},
            {"op": "draft", "sequence": "a", "tokens": [7, 8], "accepted": 1, "keys": rows(2, 0.5), "values": rows(2, 0.25)},
            {"op": "rows", "sequence": "a", "layer": 1},
            {"op": "free", "sequence": "a"},
            {"op": "add", "sequence": "b", "tokens": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]},
        ],
    });
    let path = file("windows.json", program.to_string().as_bytes());
    let results = json(&["replay", &path, "--json"]);
    let of = |index: usize, field: &str| results["results"][index][field].clone();
    assert_eq!(of(0, "pages"), serde_json::json!({"a": [[0, 1, 2], [3, 4, 5]]}));
    // The query at 12 sees from 8 on, and position 0.
    assert_eq!(of(1, "pages"), serde_json::json!({"a": [[0, null, 2, 6], [3, 4, 5, 7]]}));
    assert_eq!((of(1, "free_pages"), of(1, "cached_pages")), (2.into(), 6.into()));
    assert_eq!(of(2, "positions"), serde_json::json!([[0, 8, 9, 10, 11, 12]]));
    assert_eq!(of(2, "keys").as_array().unwrap()[20..], [0.5, 1.5, 2.5, 3.5]);
    assert_eq!(of(3, "values").as_array().unwrap()[48..], [104.5, 105.5, 106.5, 107.5]);
    assert_eq!(of(4, "shape"), serde_json::json!([1, 1, 1, 4]));
    let kinds: Vec<_> = [5, 6, 7, 8].iter().map(|&index| of(index, "kind")).collect();
    assert_eq!(kinds, ["attention_window", "rollback_evicted", "slice_length", "slice_length"]);
    assert_eq!((of(9, "lengths"), of(10, "keys")[13 * 4].clone()), (serde_json::json!({"a": 14}), 8.5.into()));
    // All that a hit of 8 needs is there: of the window the first page and the second.
    assert_eq!((of(12, "cached"), of(12, "ok")), (8.into(), true.into()));
}

#[test]
fn broken_programs_are_refused() {
    let config = r#""config": {"layers": 1, "batch_size": 1, "num_heads": 1, "head_dim": 1, "max_seq_len": 2"#;
    for (text, word) in [
        (format!("{{{config}}}, \"ops\": [], \"more\": 1}}"), "unknown field `more`"),
        (format!("{{{config}, \"window\": 1}}, \"ops\": []}}"), "`window` belongs to a cache with `pages`"),
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
