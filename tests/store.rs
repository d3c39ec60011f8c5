//! Processes that use one folder and are killed at any moment.

use std::{
    env, fs,
    process::{Child, Command},
    thread::sleep,
    time::Duration,
};

use wgpu_kv_cache::{
    pages::PageKey,
    store::{FolderStore, Object, ObjectKey, Scope, Store},
};

/// Keys that all processes use.
const KEYS: u32 = 50;
const BUDGET: u64 = 1 << 20;

fn key(number: u32) -> ObjectKey {
    ObjectKey::new(&Scope::new("model", "shape", 16), &PageKey::root().child(&[number], None), 0)
}

fn rows(number: u32) -> Vec<u8> {
    (0..40_000u32).map(|at| (at * 31 + number) as u8).collect()
}

/// Not a test alone: a process that the test below starts, which reads and writes until it is killed.
#[test]
fn process() {
    let Ok(folder) = env::var("KV_CACHE_STORE_FOLDER") else { return };
    let store = FolderStore::open(folder, BUDGET).unwrap();
    let mut random = fastrand::Rng::with_seed(u64::from(std::process::id()));
    loop {
        let number = random.u32(..KEYS);
        if random.bool() {
            store.put(&key(number), &Object::encode(&key(number), &rows(number))).unwrap();
        } else if let Some(bytes) = store.get(&key(number)).unwrap() {
            assert_eq!(Object::decode(&key(number), &bytes), Some(&rows(number)[..]), "object {number}");
        }
    }
}

fn start(folder: &std::path::Path) -> Child {
    let program = env::current_exe().unwrap();
    Command::new(program).args(["--exact", "process"]).env("KV_CACHE_STORE_FOLDER", folder).spawn().unwrap()
}

#[test]
fn processes_that_are_killed_leave_whole_objects() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..12 {
        let mut processes: Vec<Child> = (0..3).map(|_| start(folder.path())).collect();
        for process in &mut processes {
            sleep(Duration::from_millis(random.u64(30..200)));
            assert!(process.try_wait().unwrap().is_none(), "it reads and writes without an error until it is killed");
            process.kill().unwrap();
            process.wait().unwrap();
        }
        let store = FolderStore::open(folder.path(), BUDGET).unwrap();
        // The processes did not know what the others put meanwhile. Who puts next makes room.
        store.put(&key(0), &Object::encode(&key(0), &rows(0))).unwrap();
        let there: Vec<u32> = (0..KEYS).filter(|&number| store.exists(&[key(number)]).unwrap()[0]).collect();
        assert!(!there.is_empty() && store.bytes() <= BUDGET, "{there:?}");
        for number in there {
            let bytes = store.get(&key(number)).unwrap().unwrap();
            assert_eq!(Object::decode(&key(number), &bytes), Some(&rows(number)[..]), "object {number}");
        }
    }
    // What was being written is not an object. It goes an hour later.
    let left = fs::read_dir(folder.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count();
    assert!(left <= 36, "{left} files");
}
