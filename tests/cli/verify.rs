//! `kv-cache verify`.

use crate::{TRACE, fails, file, json, passes, safetensors};

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
    // All tokens at once, and a trace of a single token.
    passes(&["verify", &own, "--prefill", "7", "--adapter", "0"]);
    let single = file(
        "single.safetensors",
        &safetensors(&[("layers.0.keys", "F32", &[1, 1, 1, 1], 4), ("layers.0.values", "F32", &[1, 1, 1, 1], 4)]),
    );
    passes(&["verify", &single, "--adapter", "0"]);
    assert!(fails(&["verify", &own, "--prefill", "8"], 1).contains("--prefill must be from 1 to the trace's 7 tokens"));
    assert!(fails(&["verify", &own, "--prefill", "0"], 1).contains("but is 0"));
}

#[test]
fn broken_traces_are_refused() {
    let whole = std::fs::read(TRACE).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        let cut = file(&format!("cut-{length}.safetensors"), &whole[..length]);
        let error = fails(&["verify", &cut], 1);
        assert!(error.contains("not a safetensors file, or truncated"), "{error}");
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
            "must contain layers.0.keys and layers.0.values, but begins with: weights",
        ),
        ("no-values", &[keys], "the file has layers.0.keys, but no layers.0.values"),
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
    assert!(
        passes(&["verify", "--random", "3", "--adapter", "0"])
            .contains("3 programs, and as many of paged caches, from seed")
    );
    assert!(fails(&["verify", "--random", "0"], 1).contains("--random must be at least 1"));
    assert!(fails(&["verify"], 2).contains("Usage"));
    assert!(fails(&["verify", TRACE, "--random", "3"], 2).contains("cannot be used with"));
    assert!(fails(&["verify", TRACE, "--seed", "3"], 2).contains("cannot be used with '--seed <S>'"));
}
