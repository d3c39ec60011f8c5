//! Output into a closed pipe and to a full disk.

use std::{
    fs::File,
    process::{Command, Output, Stdio},
};

use crate::{file, safetensors, text};

/// A pipe whose read end is closed.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn run(arguments: &[&str], out: Stdio, err: Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kv-cache")).args(arguments).stdout(out).stderr(err).output().unwrap()
}

/// A closed pipe ends the program silently, and a full disk is an error.
pub fn stops_where_nothing_can_be_written(arguments: &[&str]) {
    let output = run(arguments, closed(), Stdio::piped());
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{arguments:?} | true");
    if cfg!(target_os = "linux") {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = run(arguments, full.into(), Stdio::piped());
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} > /dev/full: {told}");
        assert!(told.starts_with("error: standard output: No space left on device"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

const SIZES: [&str; 7] = ["plan", "--layers", "1", "--heads", "1", "--head-dim", "64"];

#[test]
fn plans_stop() {
    stops_where_nothing_can_be_written(&SIZES);
    stops_where_nothing_can_be_written(&[&SIZES[..], &["--json"]].concat());
}

#[test]
fn help_stops() {
    for command in ["demo", "verify", "adapters", "plan", "bench", "replay", "quality"] {
        stops_where_nothing_can_be_written(&[command, "--help"]);
    }
    stops_where_nothing_can_be_written(&["--help"]);
    stops_where_nothing_can_be_written(&["--version"]);
}

#[test]
fn lists_of_adapters_stop() {
    stops_where_nothing_can_be_written(&["adapters"]);
    stops_where_nothing_can_be_written(&["adapters", "--json"]);
}

#[test]
fn what_runs_on_an_adapter_stops() {
    let replay = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/replay.json");
    let tensors: [(&str, &str, &[usize], usize); 2] =
        [("layers.0.keys", "F32", &[1, 1, 2, 4], 4), ("layers.0.values", "F32", &[1, 1, 2, 4], 4)];
    let trace = file("unread.safetensors", &safetensors(&tensors));
    let commands: [&[&str]; 9] = [
        &["demo"],
        &["verify", &trace],
        &["verify", &trace, "--json"],
        &["verify", "--random", "1"],
        &["verify", "--random", "1", "--json"],
        &["replay", replay],
        &["replay", replay, "--json"],
        &["quality", &trace],
        &["quality", &trace, "--json"],
    ];
    for command in commands {
        stops_where_nothing_can_be_written(&[command, &["--adapter", "0"]].concat());
    }
}

#[test]
fn an_error_nobody_reads_is_still_an_error() {
    let config = file("unread.json", b"{");
    assert_eq!(run(&["plan", &config], Stdio::piped(), closed()).status.code(), Some(1));
    assert_eq!(run(&["plan", &config], closed(), closed()).status.code(), Some(1));
    assert_eq!(run(&["plan", "--no-such-flag"], closed(), closed()).status.code(), Some(2));
}
