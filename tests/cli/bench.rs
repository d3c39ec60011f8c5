//! `kv-cache bench`.

use serde_json::Value;

use crate::{fails, file, json, output::stops_where_nothing_can_be_written, passes};

#[test]
fn the_benchmark_measures_every_form_beside_the_devices_copy() {
    let page = file("bench.html", b"");
    let printed = passes(&["bench", "--quick", "--json", "--adapter", "0", "--report", &page]);
    let bench: Value = serde_json::from_str(&printed).unwrap();
    let figures = bench["figures"].as_array().unwrap();
    for group in ["prefill", "conversion", "decode", "range", "attention"] {
        assert!(figures.iter().any(|figure| figure["group"] == group), "{group}");
    }
    for figure in figures {
        for form in ["kernel", "device_copy"] {
            assert!(figure[form]["gigabytes_per_second"].as_f64().unwrap() > 0.0, "{figure}");
        }
        assert_eq!(figure["device_copy"]["per_cent_of_device_copy"], 100.0);
        // What needs arithmetic cannot be done by copies.
        let computes = figure["group"] == "conversion" || figure["group"] == "attention";
        assert_eq!(figure["copies"].is_null(), computes, "{figure}");
        assert!(figure["chosen"] == "kernel" || !figure["copies"].is_null(), "{figure}");
    }
    assert!(bench["cost_model"]["dispatch_ns"].as_f64().unwrap() > 0.0);
    // The report names the clock, and a reason unless it is the device's.
    assert_eq!(bench["clock"] == "device", bench["clock_reason"] == "", "{bench}");

    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<svg").count(), 6, "two of prefills, one of each other group");
    // No driver on the CPU has a prediction.
    assert_eq!(bench["prediction"].is_null(), bench["device_type"] == "Cpu", "{bench}");
    assert!(html.contains(bench["adapter"].as_str().unwrap()) && html.contains("max_storage_buffer_binding_size"));
    // The page loads nothing from elsewhere. The only URL is the XML namespace of SVG.
    let elsewhere = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!elsewhere.contains("http"), "{:?}", elsewhere.split("http").nth(1));
    for figure in figures {
        assert!(html.contains(figure["case"].as_str().unwrap()), "{figure}");
    }

    // Pretend that every repetition of the first case took the same time, and four times as long in the second report,
    // whatever was measured.
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
    assert!(told.contains("▼") && told.contains("1 more cases are only in A"), "{told}");
    stops_where_nothing_can_be_written(&["bench", "--compare", &before, &after]);
    stops_where_nothing_can_be_written(&["bench", "--compare", &before, &after, "--json"]);
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
