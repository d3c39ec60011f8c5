//! `kv-cache share`.

use crate::{fails, json, passes};

#[test]
fn a_second_process_finds_what_the_first_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().to_str().unwrap();
    let adapters = json(&["adapters", "--json"]).as_array().unwrap().len();
    let first = json(&["share", "--store", store, "--json"]);
    assert_eq!(
        (&first["fetched_tokens"], &first["written_tokens"], &first["put_pages"]),
        (&0.into(), &96.into(), &6.into())
    );
    // 5 pages of 16: the last token is left to compute. On the last adapter, whichever it is.
    let second = json(&["share", "--store", store, "--json", "--adapter", &(adapters - 1).to_string()]);
    assert_eq!((&second["fetched_tokens"], &second["written_tokens"]), (&80.into(), &16.into()));
    assert_eq!((&second["put_pages"], &second["verified"]), (&0.into(), &true.into()));
    // A budget that holds no page removes none.
    for budget in ["1", "2 KiB"] {
        let told = fails(&["share", "--store", store, "--budget", budget], 1);
        assert!(told.contains("the store must have room for at least one page"), "{told}");
    }
    let third = json(&["share", "--store", store, "--json", "--budget", "1 GiB", "--host-bytes", "100MiB"]);
    assert_eq!((&third["fetched_tokens"], &third["put_pages"]), (&80.into(), &0.into()));
    // Other pages are others.
    assert_eq!(json(&["share", "--store", store, "--json", "--page-size", "32"])["fetched_tokens"], 0);
    // A damaged page is a miss, and is put again where it was found to be damaged: the last page is not asked for.
    let files = walk(folder.path());
    for file in &files {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }
    let damaged = json(&["share", "--store", store, "--json"]);
    assert_eq!((&damaged["fetched_tokens"], &damaged["put_pages"]), (&0.into(), &5.into()), "{damaged}");
    assert!(passes(&["share", "--store", store]).contains("every byte is that of the recording"));
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    folders.flat_map(|path| std::fs::read_dir(path).unwrap().flatten().map(|entry| entry.path())).collect()
}

#[test]
fn stores_that_are_not_there_are_refused() {
    let told = fails(&["share", "--store", "ftp://user:secret@host:1/0"], 1);
    assert!(told.contains("there is no store for ftp://") && !told.contains("secret"), "{told}");
    let told = fails(&["share", "--store", "user:secret@host:1"], 1);
    assert!(told.contains("no scheme") && !told.contains("secret"), "{told}");
    if !cfg!(feature = "object-store") {
        let told = fails(&["share", "--store", "s3://bucket"], 1);
        assert!(told.contains("s3:// needs the feature object-store"), "{told}");
    }
    if !cfg!(feature = "redis") {
        let told = fails(&["share", "--store", "redis://user:secret@host:1/0"], 1);
        assert!(told.contains("redis:// needs the feature redis") && !told.contains("secret"), "{told}");
    }
    assert!(fails(&["share", "--store", "/proc/none"], 1).contains("opening /proc/none failed"));
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().to_str().unwrap();
    assert!(fails(&["share", "--store", store, "--budget", "0"], 1).contains("at least one byte"));
    assert!(fails(&["share", "--store", store, "--ttl", "1h"], 1).contains("a folder takes no ttl"));
    assert!(fails(&["share", "--store", store, "--prefix", "a"], 1).contains("a folder takes no prefix"));
    assert!(fails(&["share", "--store", store, "--ttl", "soon"], 2).contains("--ttl"));
    assert!(fails(&["share", "--store", store, "--budget", "much"], 2).contains("--budget"));
    assert!(fails(&["share", "--store", store, "--host-bytes", "1"], 1).contains("host memory must have room"));
    assert!(fails(&["share", "--store", "cache.internal:6379"], 1).contains("a port, but no scheme"));
    assert!(fails(&["share", "--store", store, "--page-size", "3"], 1).contains("power of two"));
    assert!(fails(&["share"], 2).contains("--store"));
}
