//! `kv-cache adapters`, and the choice of an adapter.

use std::process::Command;

use crate::{fails, json, passes, text};

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
