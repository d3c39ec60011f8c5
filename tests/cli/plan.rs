//! `kv-cache plan`.

use crate::{fails, file, json, passes};

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
    // q8_0: 128 one-byte codes and 4 two-byte scales. q4_0: 64 bytes of codes and the scales.
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
    // GPT-2's field names, no grouping, and a head size that has to be computed.
    let gpt2 = plan("gpt2.json", r#"{"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}"#, &[]);
    assert_eq!(
        (&gpt2[0]["num_heads"], &gpt2[0]["head_dim"], &gpt2[0]["context"]),
        (&12.into(), &64.into(), &1024.into())
    );
    // The language model inside a multimodal one. Flags override the file.
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
    assert!(passes(&["plan", &window]).contains("a sliding window of 4 096 tokens. The plan treats them as full"));
}

#[test]
fn broken_plans_are_refused() {
    let refused = |config: &str, words: &str| {
        let path = file(&format!("refused-{}.json", words.len()), config.as_bytes());
        let error = fails(&["plan", &path], 1);
        assert!(error.contains(words), "{error}");
    };
    refused("{", "not a JSON object");
    refused("[1]", "the file contains another kind of value");
    refused(r#"{"num_hidden_layers": 2}"#, "does not contain the value: pass --heads");
    refused(r#"{"num_hidden_layers": -2}"#, "num_hidden_layers must be a whole number from 1 to 4294967295, but is -2");
    refused(r#"{"num_hidden_layers": 2, "num_attention_heads": 3, "hidden_size": 64}"#, "pass --head-dim");
    assert!(fails(&["plan"], 1).contains("pass a config.json, or --layers and the other sizes"));
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
fn a_pool_of_a_hybrid_model_needs_less() {
    let model = |types: &str| {
        let text = format!(
            r#"{{"num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 64, "sliding_window": 128, {types}}}"#
        );
        let path = file("hybrid.json", text.as_bytes());
        json(&["plan", &path, "--context", "8192", "--format", "f16", "--pool", "1GiB", "--json"])["pools"][0].clone()
    };
    // Two groups of two layers: a page has the rows of two, and a sequence 512 pages and 9.
    let hybrid =
        model(r#""layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]"#);
    assert_eq!((&hybrid["groups"], &hybrid["page_bytes"]), (&2.into(), &(2 * 16 * 8 * 64 * 2 * 2).into()));
    assert_eq!(hybrid["sequences"][0]["sequences"], 16_384 / (512 + 9));
    // One of four keeps all.
    let pattern = model(r#""sliding_window_pattern": 4"#);
    assert_eq!((&pattern["groups"], &pattern["sequences"][0]["sequences"]), (&4.into(), &(32_768 / (512 + 27)).into()));
    let (all, none) = (model(r#""other": 1"#), model(r#""use_sliding_window": false"#));
    assert_eq!((&all["groups"], &all["sequences"][0]["sequences"]), (&1.into(), &(8192 / 9).into()));
    assert_eq!((&none["groups"], &none["sequences"][0]["sequences"]), (&1.into(), &(8192 / 512).into()));
}

#[test]
fn a_pool_holds_what_its_bytes_hold() {
    let sizes = ["plan", "--layers", "32", "--heads", "8", "--head-dim", "128", "--context", "1000,8192"];
    let plan = json(&[&sizes[..], &["--format", "f16,q4_0", "--pool", "4GiB", "--json"]].concat());
    let f16 = &plan["pools"][0];
    assert_eq!((&f16["page_bytes"], &f16["pages"], &f16["tokens"]), (&(2 << 20).into(), &2048.into(), &32_768.into()));
    assert_eq!((&f16["sequences"][0]["sequences"], &f16["sequences"][1]["sequences"]), (&32.into(), &4.into()));
    // 72 bytes a row.
    assert_eq!(plan["pools"][1]["page_bytes"], 32 * 16 * 8 * 2 * 72);
    assert_eq!(plan["dense"].as_array().unwrap().len(), 4);
    let told = passes(&[&sizes[..], &["--pool", "1GiB", "--page-size", "64"]].concat());
    assert!(told.contains("A pool of pages of 64 tokens"), "{told}");
    for (wrong, words) in
        [("12 apples", "the unit must be"), ("99999999999TiB", "more than 64 bits"), ("GiB", "no whole number")]
    {
        assert!(fails(&[&sizes[..], &["--pool", wrong]].concat(), 2).contains(words), "{wrong}");
    }
    let small = fails(&[&sizes[..], &["--pool", "1KiB"]].concat(), 1);
    assert!(small.contains("at least one page, of 4194304 bytes, but has 1024 bytes"), "{small}");
    assert!(fails(&[&sizes[..], &["--pool", "1GiB", "--page-size", "24"]].concat(), 1).contains("power of two"));
}
