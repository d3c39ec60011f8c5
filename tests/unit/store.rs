//! Stores: what is put is what comes back, or a miss.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime},
};

use super::*;
use crate::{Error, StoreError, pages::PageKey};

fn key(number: u32) -> ObjectKey {
    let scope = Scope::new("model", "shape", 16);
    ObjectKey::new(&scope, &PageKey::root().child(&[number], None), 0)
}

fn object(number: u32, bytes: usize) -> Vec<u8> {
    Object::encode(&key(number), &vec![number as u8; bytes])
}

#[test]
fn keys_tell_all_apart_that_rows_depend_on() {
    let page = PageKey::root().child(&[1, 2], None);
    let of =
        |identity, shape, size, page: &PageKey, group| ObjectKey::new(&Scope::new(identity, shape, size), page, group);
    let keys = [
        of("model", "shape", 16, &page, 0),
        of("model, revision 2", "shape", 16, &page, 0),
        of("model", "shape in q8_0", 16, &page, 0),
        of("model", "shape", 32, &page, 0),
        of("model", "shape", 16, &page, 1),
        of("model", "shape", 16, &PageKey::root().child(&[1, 2], Some("salt")), 0),
        of("model", "shape", 16, &page.child(&[1, 2], None), 0),
        // Texts do not run into each other.
        of("models", "hape", 16, &page, 0),
    ];
    for (index, one) in keys.iter().enumerate() {
        assert!(keys[..index].iter().all(|other| other != one), "{index}");
    }
    assert_eq!(keys[0], of("model", "shape", 16, &page, 0));
}

#[test]
fn an_object_is_what_was_put_or_nothing() {
    let bytes = object(7, 40);
    assert_eq!(Object::decode(&key(7), &bytes), Some(&[7; 40][..]));
    assert_eq!(Object::decode(&key(8), &bytes), None, "of another");
    assert_eq!(Object::decode(&key(7), &[]), None, "empty");
    (0..bytes.len()).for_each(|length| assert_eq!(Object::decode(&key(7), &bytes[..length]), None, "cut to {length}"));
    assert_eq!(Object::decode(&key(7), &[&bytes[..], &[0]].concat()), None, "longer");
    for bit in 0..8 * bytes.len() {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Object::decode(&key(7), &flipped), None, "bit {bit}");
    }
    assert_eq!(Object::decode(&key(7), &Object::encode(&key(7), b"")), Some(&b""[..]), "no rows are rows too");
}

/// Random calls, against a map.
fn agrees_with_a_map(store: &dyn Store, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut map: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for _ in 0..300 {
        let number = random.u32(..12);
        match random.u32(..5) {
            0 | 1 => {
                let bytes = object(number, 10 + number as usize);
                store.put(&key(number), &bytes).unwrap();
                map.insert(number, bytes);
            }
            2 => {
                store.remove(&key(number)).unwrap();
                map.remove(&number);
            }
            3 => assert_eq!(store.get(&key(number)).unwrap().as_ref(), map.get(&number)),
            _ => {
                let keys: Vec<_> = (0..12).map(key).collect();
                let expected: Vec<_> = (0..12).map(|number| map.contains_key(&number)).collect();
                assert_eq!(store.exists(&keys).unwrap(), expected);
            }
        }
    }
}

#[test]
fn stores_agree_with_a_map() {
    for seed in 0..20 {
        agrees_with_a_map(&MemoryStore::new(1 << 20).unwrap(), seed);
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path(), 1 << 20).unwrap();
        agrees_with_a_map(&store, seed);
        // Its count is that of the files, also after a restart.
        assert_eq!(FolderStore::open(folder.path(), 1 << 20).unwrap().bytes(), store.bytes());
    }
}

#[test]
fn memory_forgets_what_was_used_longest_ago() {
    let size = object(0, 100).len() as u64;
    let store = MemoryStore::new(3 * size).unwrap();
    for number in 0..3 {
        store.put(&key(number), &object(number, 100)).unwrap();
    }
    assert!(store.get(&key(0)).unwrap().is_some()); // used again
    store.put(&key(3), &object(3, 100)).unwrap();
    assert_eq!(store.exists(&[key(0), key(1), key(2), key(3)]).unwrap(), [true, false, true, true]);
    assert_eq!(store.bytes(), 3 * size);
    // One that would not fit alone changes nothing else.
    assert!(store.put(&key(4), &object(4, 1000)).is_err());
    assert_eq!(store.exists(&[key(0), key(2), key(3), key(4)]).unwrap(), [true, true, true, false]);
    assert_eq!(MemoryStore::new(0).unwrap_err(), Error::Store(StoreError::NoBudget));
}

#[test]
fn a_folder_forgets_what_was_used_longest_ago() {
    let folder = tempfile::tempdir().unwrap();
    let size = object(0, 1000).len() as u64;
    let store = FolderStore::open(folder.path(), 10 * size).unwrap();
    let mut used = SystemTime::now() - Duration::from_secs(1000);
    for number in 0..10 {
        store.put(&key(number), &object(number, 1000)).unwrap();
        let name = key(number).to_string();
        let path = folder.path().join(&name[..2]).join(name + ".kv");
        fs::File::options().write(true).open(path).unwrap().set_modified(used).unwrap();
        used += Duration::from_secs(1);
    }
    assert!(store.get(&key(0)).unwrap().is_some()); // used again
    store.put(&key(10), &object(10, 1000)).unwrap();
    let there = store.exists(&(0..11).map(key).collect::<Vec<_>>()).unwrap();
    assert_eq!(there, [true, false, false, true, true, true, true, true, true, true, true]);
    assert_eq!(store.bytes(), 9 * size);
    // A smaller budget takes effect with the next object: nobody's pages go because a folder was opened.
    let store = FolderStore::open(folder.path(), 2 * size).unwrap();
    assert_eq!((store.bytes(), store.exists(&[key(0), key(10)]).unwrap()), (9 * size, vec![true, true]));
    store.put(&key(11), &object(11, 1000)).unwrap();
    assert_eq!((store.bytes(), store.exists(&[key(10), key(11)]).unwrap()), (size, vec![false, true]));
    assert!(store.put(&key(20), &object(20, 3000)).is_err(), "larger than all");
    // What was put last stays, even if it alone is more than nine tenths.
    let small = tempfile::tempdir().unwrap();
    let store = FolderStore::open(small.path(), size + 10).unwrap();
    (1..3).for_each(|number| store.put(&key(number), &object(number, 1000)).unwrap());
    assert_eq!(store.exists(&[key(1), key(2)]).unwrap(), [false, true]);
}

#[test]
fn a_folder_is_found_again_and_shared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new").join("pages");
    let first = FolderStore::open(&path, 1 << 20).unwrap();
    let second = FolderStore::open(&path, 1 << 20).unwrap();
    first.put(&key(1), &object(1, 10)).unwrap();
    assert_eq!(second.get(&key(1)).unwrap(), Some(object(1, 10)));
    second.remove(&key(1)).unwrap();
    assert_eq!(first.get(&key(1)).unwrap(), None);
    first.remove(&key(1)).unwrap();
    // What was left behind goes, and what is being written stays.
    for (name, age) in [(".storing-old", 7200), (".storing-new", 60)] {
        let file = fs::File::create(path.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    fs::write(path.join("other.txt"), "not ours").unwrap();
    drop(FolderStore::open(&path, 1).unwrap());
    let there = |name: &str| path.join(name).exists();
    assert_eq!((there(".storing-old"), there(".storing-new"), there("other.txt")), (false, true, true));
    // A folder that cannot be one.
    for wrong in [path.join("other.txt"), "/proc/none".into()] {
        let refused = FolderStore::open(&wrong, 1).unwrap_err();
        assert!(matches!(&refused, Error::Store(StoreError::Open { path, .. }) if **path == *wrong.to_str().unwrap()));
    }
    assert_eq!(FolderStore::open(&path, 0).unwrap_err(), Error::Store(StoreError::NoBudget));
}

/// Threads that put, get and remove the same keys see whole objects or none.
#[test]
fn a_folder_shows_whole_objects_to_all_threads() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let path = folder.path();
            scope.spawn(move || {
                // As other processes, each has a store of its own; it is small, so that objects go all the time.
                let store = FolderStore::open(path, 60_000).unwrap();
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..500 {
                    let number = random.u32(..8);
                    match random.u32(..4) {
                        0 => store.remove(&key(number)).unwrap(),
                        1 => store.put(&key(number), &object(number, 10_000)).unwrap(),
                        _ => {
                            if let Some(bytes) = store.get(&key(number)).unwrap() {
                                assert!(Object::decode(&key(number), &bytes).is_some(), "half an object");
                            }
                        }
                    }
                }
            });
        }
    });
    let unfinished = fs::read_dir(folder.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file());
    assert_eq!(unfinished.count(), 0);
}

/// Random calls of an [`Lru`](lru::Lru), against a list in the order of uses.
#[test]
fn what_is_pinned_stays_and_the_rest_goes_by_use() {
    let random = &mut fastrand::Rng::with_seed(9);
    for budget in [1, 7, 30, 100] {
        let mut lru = lru::Lru::new(budget);
        // Key, value, bytes, pins: the one that was used last is last.
        let mut model: Vec<(u32, u32, u64, u32)> = Vec::new();
        for value in 0..4000 {
            let number = random.u32(..12);
            let at = model.iter().position(|entry| entry.0 == number);
            match random.u32(..6) {
                0..3 => {
                    let bytes = random.u64(..12);
                    let gone = lru.insert(key(number), value, bytes);
                    if at.is_some_and(|at| model[at].3 > 0) {
                        assert_eq!(gone, Ok(vec![]));
                        continue;
                    }
                    let pinned: u64 = model.iter().filter(|entry| entry.3 > 0).map(|entry| entry.2).sum();
                    if pinned + bytes > budget {
                        assert_eq!(gone, Err(value));
                        continue;
                    }
                    at.map(|at| model.remove(at));
                    let mut expected = Vec::new();
                    while model.iter().map(|entry| entry.2).sum::<u64>() + bytes > budget {
                        let oldest = model.iter().position(|entry| entry.3 == 0).unwrap();
                        let (number, value, ..) = model.remove(oldest);
                        expected.push((key(number), value));
                    }
                    model.push((number, value, bytes, 0));
                    assert_eq!(gone, Ok(expected));
                }
                3 => {
                    let used = at.map(|at| model.remove(at));
                    assert_eq!(lru.get(&key(number)).copied(), used.map(|entry| entry.1));
                    model.extend(used);
                }
                4 => {
                    assert_eq!(lru.pin(&key(number)), at.is_some());
                    at.into_iter().for_each(|at| model[at].3 += 1);
                }
                _ if random.u32(..4) == 0 => {
                    assert_eq!(lru.remove(&key(number)), at.map(|at| model.remove(at).1));
                }
                _ => {
                    lru.unpin(&key(number));
                    at.into_iter().for_each(|at| model[at].3 = model[at].3.saturating_sub(1));
                }
            }
            let kept: Vec<_> = lru.by_use().map(|(key, value)| (*key, *value)).collect();
            let expected: Vec<_> = model.iter().map(|entry| (key(entry.0), entry.1)).collect();
            assert_eq!(
                (kept, lru.bytes(), lru.len()),
                (expected, model.iter().map(|entry| entry.2).sum(), model.len())
            );
        }
    }
}
