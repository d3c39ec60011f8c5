//! The program as a user runs it: exit status, messages and JSON. Most commands need an adapter.
#![cfg(feature = "cli")]

mod adapters;
mod bench;
mod demo;
mod inspect;
mod output;
mod plan;
mod quality;
mod replay;
mod share;
mod verify;

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

/// Returns the standard output of a run that must succeed.
fn passes(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Returns the standard error of a run that must end with the given status.
fn fails(arguments: &[&str], status: i32) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr)
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&passes(arguments)).unwrap()
}

/// Writes a file for one test.
fn file(name: &str, contents: &[u8]) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, contents).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A safetensors file of the given tensors: name, dtype, shape, bytes per element.
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
fn help_tells_a_newcomer() {
    let help = passes(&["--help"]);
    for word in ["demo", "verify", "adapters", "plan", "bench", "replay", "Without a subcommand it runs `demo`"] {
        assert!(help.contains(word), "{word:?} is not in\n{help}");
    }
    assert!(passes(&["verify", "--help"]).contains("layers.{i}.keys"));
    assert!(passes(&["plan", "--help"]).contains("config.json"));
    assert!(passes(&["--version"]).starts_with("kv-cache "));
}
