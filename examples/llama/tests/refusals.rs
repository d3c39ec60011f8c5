//! Files and arguments that are refused, each by an error that names the rule and what broke it. No device is needed.

#[path = "gpu/tiny.rs"]
#[allow(dead_code, reason = "the model on the CPU serves other tests")]
mod tiny;

use std::{path::PathBuf, process::Command};

use gguf_rs_lib::prelude::{GGUFTensorType, MetadataValue};
use llama::file::ModelFile;

use crate::tiny::Tiny;

/// The refusal of a file with these bytes.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    ModelFile::open(&path).expect_err("it is refused").to_string()
}

fn bytes(tiny: &Tiny, change: impl FnOnce(&mut std::collections::BTreeMap<String, MetadataValue>)) -> Vec<u8> {
    tiny.builder(change).build_to_bytes().unwrap().0
}

fn tiny() -> Tiny {
    Tiny::new(GGUFTensorType::Q4_0)
}

#[test]
fn a_file_that_is_none() {
    let missing = ModelFile::open(PathBuf::from("/none/model.gguf")).expect_err("there is none").to_string();
    assert!(missing.starts_with("/none/model.gguf: "), "{missing}");
    assert!(refusal(b"").ends_with("not a GGUF file, or cut: it is empty"));
    assert!(refusal(&[7; 4096]).contains("not a GGUF file, or cut: Invalid GGUF magic number"));
}

#[test]
fn a_file_that_is_cut_anywhere() {
    let whole = bytes(&tiny(), |_| {});
    for length in (1..whole.len()).step_by(1501).chain([whole.len() - 1]) {
        let refused = refusal(&whole[..length]);
        assert!(refused.contains("not a GGUF file, or cut: "), "{length} of {}: {refused}", whole.len());
    }
}

#[test]
fn another_architecture() {
    let other = bytes(&tiny(), |metadata| {
        metadata.insert("general.architecture".to_owned(), MetadataValue::String("gemma3".to_owned()));
    });
    assert_eq!(refusal(&other), "the architecture is \"gemma3\", but this engine reads \"llama\" alone");
}

#[test]
fn metadata_that_is_missing_or_wrong() {
    let missing = bytes(&tiny(), |metadata| drop(metadata.remove("llama.block_count")));
    assert_eq!(refusal(&missing), "the file has no llama.block_count of the right kind");
    for (key, number, rule) in [
        ("llama.block_count", 0, "llama.block_count is 0, but must be at least 1"),
        ("llama.attention.head_count", 0, "llama.attention.head_count is 0, but must be at least 1"),
        (
            "llama.attention.head_count_kv",
            5,
            "llama.attention.head_count_kv is 5, but must divide attention.head_count",
        ),
        (
            "llama.rope.dimension_count",
            18,
            "llama.rope.dimension_count is 18, but must be even and at most the head size",
        ),
        (
            "llama.attention.key_length",
            u32::MAX,
            "llama.attention.key_length is 4294967295, but must be a multiple of 4",
        ),
    ] {
        let wrong = bytes(&tiny(), |metadata| drop(metadata.insert(key.to_owned(), MetadataValue::U32(number))));
        assert_eq!(refusal(&wrong), rule);
    }
    let scaled = bytes(&tiny(), |metadata| {
        metadata.insert("llama.rope.scaling.type".to_owned(), MetadataValue::String("yarn".to_owned()));
    });
    assert!(refusal(&scaled).starts_with("llama.rope.scaling.type is yarn, but scaled rotations are read from"));
}

#[test]
fn tensors_that_are_missing_or_wrong() {
    let mut missing = tiny();
    missing.tensors.remove("blk.1.ffn_up.weight");
    assert_eq!(refusal(&bytes(&missing, |_| {})), "the tensor blk.1.ffn_up.weight is missing");

    let mut other = tiny();
    let kind = other.tensors.get_mut("blk.0.attn_q.weight").unwrap();
    // 192 × 192 weights of 22 bytes a block.
    (kind.1, kind.2) = (GGUFTensorType::Q5_0, vec![0; 192 * 192 / 32 * 22]);
    assert_eq!(
        refusal(&bytes(&other, |_| {})),
        "the tensor blk.0.attn_q.weight is of type Q5_0, but types that are read are F32, F16, Q8_0, Q4_0 and Q4_1"
    );

    let mut shape = tiny();
    shape.tensors.get_mut("blk.0.attn_q.weight").unwrap().0 = vec![384, 96];
    assert_eq!(
        refusal(&bytes(&shape, |_| {})),
        "the tensor blk.0.attn_q.weight has the shape [384, 96], but should have [192, 192]"
    );

    let mut more = tiny();
    let gains = more.tensors["output_norm.weight"].clone();
    more.tensors.insert("blk.0.attn_q.bias".to_owned(), gains);
    assert_eq!(
        refusal(&bytes(&more, |_| {})),
        "the tensor blk.0.attn_q.bias is none that this engine applies, so its results would be wrong"
    );
}

/// What the program says to standard error; it must end with status 1, or 2 where clap refuses.
fn said(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_llama")).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn arguments() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny().write(&path);
    let model = path.to_str().unwrap();
    let refused = |more: &[&str]| said(&[&["generate", "--model", model], more].concat());
    assert!(said(&["generate", "--model", "/none.gguf"]).starts_with("llama: /none.gguf: "));
    assert!(refused(&["--format", "q5_0"]).contains("\"q5_0\" is none of f32, "));
    assert!(refused(&["--prompt-ids", "1,x"]).contains("invalid value 'x'"));
    assert!(refused(&["--rows", "0"]).contains("0 is not in 1..=1024"));
    assert!(refused(&["--store", "folder"]).contains("--chat"));
    assert!(refused(&["--draft", "8", "--rows", "8"]).starts_with("llama: --draft 8: a step has room for 8 rows"));
    let perplexity = |more: &[&str]| said(&[&["perplexity", "--model", model, "/none"], more].concat());
    let most = tiny::CONTEXT;
    let (within, above) = (most.to_string(), (most + 1).to_string());
    assert!(perplexity(&["--cut", &within]).starts_with("llama: /none: "));
    let rule = format!("llama: --cut {above}: the model has no more than {most} positions");
    assert!(perplexity(&["--cut", &above]).starts_with(&rule));
    assert!(perplexity(&["--placement", "ring"]).contains("unexpected argument '--placement'"));
}

/// What earlier runs of `perplexity` printed is not measured again, if it is of the same tokens.
#[test]
fn earlier_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let row = |format: &str, tokens: u32| {
        serde_json::json!({
            "keys": format, "values": format, "bits": 8.0, "bytes_per_token": 64, "tokens": tokens, "perplexity": 9.5,
            "same_best": 0.5, "divergence": 0.25,
        })
    };
    for (name, rows) in
        [("a", vec![row("f32", 7), row("f16", 7)]), ("b", vec![row("f16", 8)]), ("c", vec![row("bf16", 8)])]
    {
        std::fs::write(path(name), serde_json::Value::from(rows).to_string()).unwrap();
    }
    std::fs::write(path("none"), "[{}]").unwrap();
    let run = |formats: &str, with: String| {
        let program = env!("CARGO_BIN_EXE_llama");
        let arguments = ["perplexity", "--json", "--model", "/none", "--formats", formats, "--with", &with, "/none"];
        Command::new(program).args(arguments).output().unwrap()
    };
    // Of a format that is there twice, the first counts. There is nothing to measure, so no model is opened.
    let output = run("f32,f16", format!("{},{}", path("a"), path("b")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows, serde_json::Value::from(vec![row("f32", 7), row("f16", 7)]));
    let told = |formats: &str, with: String| String::from_utf8(run(formats, with).stderr).unwrap();
    assert!(told("f16,q8_0", path("a")).contains("/none"));
    assert!(told("f16", format!("{},{}", path("a"), path("c"))).contains("some have 7, others 8"));
    assert!(told("f16", path("none")).contains("it must be what --json printed"));
    assert!(told("f16", path("missing")).contains("missing: "));
}

#[test]
fn no_network() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("scripts/fetch_model")
        .arg(folder.path().join("model.gguf"))
        .env("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        .env("PIP_RETRIES", "0")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("pass a GGUF file of Llama's architecture in its place:"), "{said}");
}
