//! The program as a user runs it: status, words and JSON. Needs an adapter for what touches one.
#![cfg(feature = "cli")]

use std::{
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

const TRACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/smollm2-135m-story.safetensors");

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kv-cache")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run that must succeed.
fn passes(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Standard error of a run that must end with a status.
fn fails(arguments: &[&str], status: i32) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&passes(arguments)).unwrap()
}

/// A file of the test's own.
fn file(name: &str, contents: &[u8]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A safetensors file with these tensors: name, dtype, shape, bytes of one element.
fn safetensors(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for &(name, dtype, shape, width) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * width;
        header.insert(
            name.to_owned(),
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }),
        );
    }
    let header = serde_json::to_string(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend((0..end).map(|i| (i * 37) as u8));
    bytes
}

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
    let told = passes(&["demo"]);
    assert!(told.contains("none differs"), "{told}");
    assert!(told.contains("growth_per_token_mb"), "{told}");
    assert!(!told.contains('\u{1b}'), "colours only on a terminal");
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
fn quality_tells_what_each_format_loses() {
    let picture = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("quality.svg");
    let picture = picture.to_str().unwrap();
    let quality = json(&["quality", "--json", "--adapter", "0", "--picture", picture]);
    let rows = quality["formats"].as_array().unwrap();
    let number = |row: &Value, field: &str| row[field].as_f64().unwrap();
    // Name, bits an element, and what keys lose, at least and at most; f16 holds the trace as it was recorded.
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
    // A trace without queries has no attention.
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
fn without_arguments_it_is_the_demo() {
    assert!(passes(&[]).contains("A KV cache on the GPU"));
}

#[test]
fn adapters_are_found_by_index_and_name() {
    let list = json(&["adapters", "--json"]);
    let first = &list[0];
    assert!(first["max_storage_buffer_binding_size"].as_u64().unwrap() > 0);
    assert!(first["longest_sequence"]["f16"].as_u64().unwrap() > 0);
    let name = first["name"].as_str().unwrap();
    let demo = json(&["demo", "--json", "--adapter", name]);
    assert_eq!(demo["trials"].as_array().unwrap().len(), 6);
    let demo = json(&["demo", "--json", "--adapter", "0"]);
    assert!(demo["trials"][0]["adapter"].as_str().unwrap().starts_with(name));
    let error = fails(&["demo", "--adapter", "Voodoo 2"], 1);
    assert!(error.contains("no adapter is named or numbered \"Voodoo 2\"") && error.contains(name), "{error}");
    assert!(fails(&["demo", "--adapter", "99"], 1).contains("no adapter is named or numbered \"99\""));
    let table = passes(&["adapters"]);
    assert!(table.contains(name) && table.contains("longest f16"), "{table}");
}

#[test]
fn no_adapter_at_all_says_what_to_install() {
    let output = Command::new(env!("CARGO_BIN_EXE_kv-cache"))
        .arg("demo")
        .envs([("WGPU_BACKEND", "vulkan"), ("VK_DRIVER_FILES", "/nonexistent"), ("VK_ICD_FILENAMES", "/nonexistent")])
        .output()
        .unwrap();
    if cfg!(target_os = "linux") {
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains("no GPU adapter was found; install a Vulkan driver"), "{error}");
    }
}

#[test]
fn a_trace_of_ones_own_is_verified() {
    let verified = json(&["verify", TRACE, "--json", "--adapter", "0", "--prefill", "5"]);
    assert_eq!(verified["trials"][1]["prefill"]["tokens"], 5);
    assert_eq!(verified["trials"][1]["decode_step"]["tokens"], 91);

    // Another batch size, odd head sizes, all formats.
    let own = file(
        "own.safetensors",
        &safetensors(&[
            ("layers.0.keys", "BF16", &[2, 3, 7, 5], 2),
            ("layers.0.values", "F32", &[2, 3, 7, 9], 4),
            ("layers.1.keys", "F16", &[2, 3, 7, 5], 2),
            ("layers.1.values", "F16", &[2, 3, 7, 9], 2),
        ]),
    );
    let verified = passes(&["verify", &own]);
    assert!(verified.contains("2 layers × 6 formats"), "{verified}");
    // All of it at once, and one token alone.
    passes(&["verify", &own, "--prefill", "7", "--adapter", "0"]);
    let single = file(
        "single.safetensors",
        &safetensors(&[("layers.0.keys", "F32", &[1, 1, 1, 1], 4), ("layers.0.values", "F32", &[1, 1, 1, 1], 4)]),
    );
    passes(&["verify", &single, "--adapter", "0"]);
    assert!(fails(&["verify", &own, "--prefill", "8"], 1).contains("--prefill must be from 1 to the trace's 7 tokens"));
    assert!(fails(&["verify", &own, "--prefill", "0"], 1).contains("but is 0"));
}

/// Bug 24 of other caches: files cut short, or holding something else.
#[test]
fn broken_traces_are_refused() {
    let whole = std::fs::read(TRACE).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        let cut = file(&format!("cut-{length}.safetensors"), &whole[..length]);
        let error = fails(&["verify", &cut], 1);
        assert!(error.contains("not a safetensors file, or cut short"), "{error}");
    }
    let story = concat!(env!("CARGO_MANIFEST_DIR"), "/traces/story.txt");
    assert!(fails(&["verify", story], 1).contains("not a safetensors file"));
    assert!(fails(&["verify", "/nonexistent.safetensors"], 1).contains("/nonexistent.safetensors: No such file"));

    let keys: (&str, &str, &[usize], usize) = ("layers.0.keys", "F16", &[1, 2, 3, 4], 2);
    let values: (&str, &str, &[usize], usize) = ("layers.0.values", "F16", &[1, 2, 3, 4], 2);
    type Tensor<'a> = (&'a str, &'a str, &'a [usize], usize);
    let cases: [(&str, &[Tensor<'_>], &str); 7] = [
        (
            "no-layer",
            &[("weights", "F16", &[1, 2], 2)],
            "must hold layers.0.keys and layers.0.values, but begins with: weights",
        ),
        ("no-values", &[keys], "layers.0.keys is there, but layers.0.values is missing"),
        ("axes", &[("layers.0.keys", "F16", &[2, 3, 4], 2), values], "must be [batch, kv_head, tokens, dim]"),
        (
            "empty",
            &[("layers.0.keys", "F16", &[1, 2, 0, 4], 2), values],
            "with at least 1 of each, but is [1, 2, 0, 4]",
        ),
        ("tokens", &[keys, ("layers.0.values", "F16", &[1, 2, 4, 4], 2)], "must agree in [batch, kv_head, tokens]"),
        ("integers", &[("layers.0.keys", "I32", &[1, 2, 3, 4], 4), values], "must be F32, F16 or BF16, but is I32"),
        (
            "layers",
            &[keys, values, ("layers.1.keys", "F16", &[1, 2, 3, 8], 2), ("layers.1.values", "F16", &[1, 2, 3, 4], 2)],
            "layer 1 has [1, 2, 3, 8, 4]",
        ),
    ];
    for (name, tensors, words) in cases {
        let path = file(&format!("{name}.safetensors"), &safetensors(tensors));
        let error = fails(&["verify", &path], 1);
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn random_programs_are_reproducible() {
    let first = json(&["verify", "--random", "20", "--seed", "5", "--adapter", "0", "--json"]);
    assert_eq!(first, json(&["verify", "--random", "20", "--seed", "5", "--adapter", "0", "--json"]));
    assert_eq!((&first[0]["programs"], &first[0]["seed"]), (&20.into(), &5.into()));
    assert!(first[0]["operations"].as_u64().unwrap() >= 40);
    assert!(passes(&["verify", "--random", "3", "--adapter", "0"]).contains("3 programs from seed"));
    assert!(fails(&["verify", "--random", "0"], 1).contains("--random must be at least 1"));
    assert!(fails(&["verify"], 2).contains("Usage"));
    assert!(fails(&["verify", TRACE, "--random", "3"], 2).contains("cannot be used with"));
    assert!(fails(&["verify", TRACE, "--seed", "3"], 2).contains("cannot be used with '--seed <S>'"));
}

#[test]
fn the_benchmark_measures_every_form_beside_the_devices_copy() {
    let page = file("bench.html", b"");
    let printed = passes(&["bench", "--quick", "--json", "--adapter", "0", "--report", &page]);
    let bench: Value = serde_json::from_str(&printed).unwrap();
    let figures = bench["figures"].as_array().unwrap();
    for group in ["prefill", "conversion", "decode", "range"] {
        assert!(figures.iter().any(|figure| figure["group"] == group), "{group}");
    }
    for figure in figures {
        for form in ["kernel", "device_copy"] {
            assert!(figure[form]["gigabytes_per_second"].as_f64().unwrap() > 0.0, "{figure}");
        }
        assert_eq!(figure["device_copy"]["per_cent_of_device_copy"], 100.0);
        // Converting takes arithmetic, so there is no form of copies to choose.
        assert_eq!(figure["copies"].is_null(), figure["group"] == "conversion", "{figure}");
        assert!(figure["chosen"] == "kernel" || !figure["copies"].is_null(), "{figure}");
    }
    assert!(bench["cost_model"]["dispatch_ns"].as_f64().unwrap() > 0.0);
    // It says which clock, and why where it is not the device's.
    assert_eq!(bench["clock"] == "device", bench["clock_reason"] == "", "{bench}");

    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<svg").count(), 5, "two of prefills, one of each other group");
    assert!(html.contains(bench["adapter"].as_str().unwrap()) && html.contains("max_storage_buffer_binding_size"));
    // Nothing is loaded from elsewhere; an SVG names its own format by an address.
    let elsewhere = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!elsewhere.contains("http"), "{:?}", elsewhere.split("http").nth(1));
    for figure in figures {
        assert!(html.contains(figure["case"].as_str().unwrap()), "{figure}");
    }

    // As if the first had taken the same time again and again, whatever it did here, and then four times as long.
    let (mut steady, mut slower) = (bench.clone(), bench.clone());
    let median = bench["figures"][0]["kernel"]["median_seconds"].as_f64().unwrap();
    for time in ["median_seconds", "first_quartile_seconds", "third_quartile_seconds"] {
        steady["figures"][0]["kernel"][time] = median.into();
        slower["figures"][0]["kernel"][time] = (median * 4.0).into();
    }
    slower["figures"].as_array_mut().unwrap().pop();
    let (before, after) =
        (file("before.json", steady.to_string().as_bytes()), file("after.json", slower.to_string().as_bytes()));
    let comparison = json(&["bench", "--compare", &before, &after, "--json"]);
    let changes = comparison["changes"].as_array().unwrap();
    assert_eq!((&changes[0]["form"], &changes[0]["times_as_fast"]), (&"kernel".into(), &0.25.into()));
    assert_eq!(changes[0]["clear"], true);
    for change in &changes[1..] {
        assert_eq!((&change["times_as_fast"], &change["clear"]), (&1.0.into(), &false.into()));
    }
    assert_eq!((&comparison["before"]["only"], &comparison["after"]["only"]), (&1.into(), &0.into()));
    let told = passes(&["bench", "--compare", &before, &after]);
    assert!(told.contains("▼") && told.contains("1 more cases are in A only"), "{told}");
}

#[test]
fn broken_comparisons_are_refused() {
    let report = file("report.json", b"{\"figures\": []}");
    let told = fails(&["bench", "--compare", &report, &report], 1);
    assert!(told.contains("report.json: not a report of bench --json: missing field"), "{told}");
    assert!(fails(&["bench", "--compare", "/nowhere.json", &report], 1).contains("/nowhere.json"));
    fails(&["bench", "--compare", &report], 2);
    fails(&["bench", "--compare", &report, &report, "--quick"], 2);
    assert!(fails(&["bench", "--report", "/nowhere/page.html"], 1).contains("/nowhere/page.html"));
}

const REPLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/replay.json");

#[test]
fn the_documented_program_replays_byte_for_byte_on_every_adapter() {
    let expected = include_str!("../examples/replay.results.json");
    let out = file("replay.out.json", b"");
    for adapter in 0..json(&["adapters", "--json"]).as_array().unwrap().len() {
        let told = passes(&["replay", REPLAY, "--adapter", &adapter.to_string(), "--out", &out]);
        assert!(told.contains("15 operations, 3 of them refused, device and reference agree"), "{told}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), expected, "adapter {adapter}");
    }
    assert_eq!(passes(&["replay", REPLAY, "--json"]), expected);
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
            "`1099511627776`, expected u16",
        ),
        ("[]".to_owned(), "not a program"),
    ] {
        let program = file("broken.json", text.as_bytes());
        let told = fails(&["replay", &program], 1);
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(fails(&["replay", "/nowhere.json"], 1).contains("/nowhere.json"));
}

#[test]
fn plans_need_no_gpu() {
    let plan = json(&[
        "plan",
        "--layers",
        "32",
        "--heads",
        "8",
        "--head-dim",
        "128",
        "--context",
        "8192",
        "--format",
        "f16,f16/bf16,q8_0/q4_0",
        "--json",
    ]);
    assert_eq!(plan.as_array().unwrap().len(), 3);
    assert_eq!(plan[0]["total_bytes"], 1u64 << 30);
    assert_eq!(plan[0]["bytes_per_token"], 128 << 10);
    assert_eq!(plan[0]["bytes_per_layer"], 32 << 20);
    assert_eq!(plan[0]["least_max_storage_buffer_binding_size"], 2 << 20);
    assert_eq!(plan[0]["best_max_storage_buffer_binding_size"], 16 << 20);
    assert_eq!(plan[1]["value_format"], "bf16");
    // 128 codes of a byte and 4 scales of two; of 4 bits, 64 bytes and the scales.
    assert_eq!(plan[2]["bytes_per_token"], 32 * 8 * (136 + 72));
    assert_eq!(plan[2]["bytes_per_layer"], 8 * 8192 * (136 + 72));
    assert_eq!(plan[2]["least_max_storage_buffer_binding_size"], 8192 * 136);
}

#[test]
fn plans_read_the_configurations_of_hugging_face() {
    let plan = |name: &str, config: &str, more: &[&str]| {
        let path = file(name, config.as_bytes());
        json(&[&["plan", &path, "--json", "--format", "f16"], more].concat())
    };
    // Grouped-query attention, and a head size that is not hidden_size / num_attention_heads.
    let qwen = plan(
        "qwen.json",
        r#"{"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "hidden_size": 1024, "max_position_embeddings": 40960, "sliding_window": null}"#,
        &[],
    );
    assert_eq!((&qwen[0]["num_heads"], &qwen[0]["head_dim"]), (&8.into(), &128.into()));
    let contexts: Vec<_> = qwen.as_array().unwrap().iter().map(|row| row["context"].as_u64().unwrap()).collect();
    assert_eq!(contexts, [2048, 8192, 32768, 40960]);
    // A head size that has to be divided, no grouping, the names of GPT-2.
    let gpt2 = plan("gpt2.json", r#"{"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}"#, &[]);
    assert_eq!(
        (&gpt2[0]["num_heads"], &gpt2[0]["head_dim"], &gpt2[0]["context"]),
        (&12.into(), &64.into(), &1024.into())
    );
    // The language model inside one of images and text; flags override.
    let text = r#"{"text_config": {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}}"#;
    let nested = plan("nested.json", text, &["--heads", "2", "--context", "100"]);
    assert_eq!(
        (&nested[0]["num_heads"], &nested[0]["head_dim"], &nested[0]["num_layers"]),
        (&2.into(), &16.into(), &2.into())
    );
    // Keys and values of different sizes.
    let latent = r#"{"num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
                     "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "hidden_size": 7168}"#;
    let latent = plan("latent.json", latent, &["--context", "10"]);
    assert_eq!((&latent[0]["head_dim"], &latent[0]["value_dim"]), (&192.into(), &128.into()));

    let window = file(
        "window.json",
        br#"{"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "sliding_window": 4096}"#,
    );
    assert!(passes(&["plan", &window]).contains("a sliding window of 4 096 tokens; all are planned as full"));
}

#[test]
fn broken_plans_are_refused() {
    let refused = |config: &str, words: &str| {
        let path = file(&format!("refused-{}.json", words.len()), config.as_bytes());
        let error = fails(&["plan", &path], 1);
        assert!(error.contains(words), "{error}");
    };
    refused("{", "not a JSON object");
    refused("[1]", "it holds another kind of value");
    refused(r#"{"num_hidden_layers": 2}"#, "does not tell it: give --heads");
    refused(r#"{"num_hidden_layers": -2}"#, "num_hidden_layers must be a whole number from 1 to 4294967295, but is -2");
    refused(r#"{"num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 64}"#, "give --head-dim");
    assert!(fails(&["plan"], 1).contains("give a config.json, or --layers and the other sizes"));
    let sizes = ["plan", "--layers", "1", "--heads", "1", "--head-dim"];
    assert!(fails(&[&sizes[..], &["0"]].concat(), 1).contains("head_dim must be at least 1, but is 0"));
    assert!(fails(&[&sizes[..], &["65536", "--context", "65536"]].concat(), 1).contains("takes 17179869184 bytes"));
    assert!(
        fails(&["plan", "--layers", "0", "--heads", "1", "--head-dim", "1"], 1)
            .contains("num_layers must be at least 1")
    );
    assert!(
        fails(&[&sizes[..], &["1", "--format", "q9"]].concat(), 2).contains("a format must be one of f32, f16, bf16")
    );
    assert!(fails(&["plan", "/nonexistent.json"], 1).contains("/nonexistent.json: No such file"));
}

#[test]
fn help_tells_a_newcomer() {
    let help = passes(&["--help"]);
    for word in ["demo", "verify", "adapters", "plan", "bench", "replay", "Without a subcommand it runs `demo`"] {
        assert!(help.contains(word), "{word:?} is not in\n{help}");
    }
    assert!(passes(&["verify", "--help"]).contains("layers.{i}.keys"));
    assert!(passes(&["plan", "--help"]).contains("config.json"));
    assert!(passes(&["--version"]).starts_with("kv-cache "));
}
