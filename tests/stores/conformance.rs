//! What every store does, in one function.

use std::{sync::Arc, thread};

use wgpu_kv_cache::{
    pages::PageKey,
    store::{Object, ObjectKey, Scope, Store},
};

/// A key of an object that nobody else has.
pub fn key(number: u32) -> ObjectKey {
    ObjectKey::new(&Scope::new("model", "shape", 16), &PageKey::root().child(&[number], None), 0)
}

/// An object of so many bytes of rows, with all that protocols give a meaning.
pub fn object(key: &ObjectKey, bytes: usize) -> Vec<u8> {
    let seed = u64::from_le_bytes(key.0[..8].try_into().unwrap());
    let mut random = fastrand::Rng::with_seed(seed);
    let rows: Vec<u8> =
        b"\r\n$-1\r\n\0\xff".iter().copied().chain((0..bytes).map(|_| random.u8(..))).take(bytes).collect();
    Object::encode(key, &rows)
}

/// Checks a store, which `open` opens, again and again: all that it returns share what is in it.
pub fn conforms(open: &dyn Fn() -> Arc<dyn Store>) {
    let [store, other] = [open(), open()];
    // Absent.
    let absent = key(0);
    assert_eq!(store.get(&absent).unwrap(), None);
    assert_eq!(store.exists(&[absent]).unwrap(), [false]);
    store.remove(&absent).unwrap();
    // Nothing is asked for.
    assert!(store.exists(&[]).unwrap().is_empty() && store.get_many(&[]).unwrap().is_empty());
    store.put_many(&[]).unwrap();
    // Of every size, and seen by the other.
    for (number, bytes) in [(1, 0), (2, 1), (3, 9), (4, 100_000), (5, 3_000_000)] {
        let (key, object) = (key(number), object(&key(number), bytes));
        store.put(&key, &object).unwrap();
        for store in [&store, &other] {
            assert_eq!(store.exists(&[key]).unwrap(), [true], "{bytes}");
            let found = store.get(&key).unwrap().unwrap();
            assert_eq!(found, object, "{bytes}");
            assert_eq!(Object::decode(&key, &found).unwrap().len(), bytes);
        }
    }
    // Over what is there. What is no object is what it is: empty, cut, another's.
    let (key6, whole) = (key(6), object(&key(6), 1000));
    let foreign = object(&key(7), 1000);
    for spoilt in [&[][..], &whole[..1], &whole[..79], &whole[..whole.len() - 1], &foreign[..], b"not found"] {
        store.put(&key6, spoilt).unwrap();
        let found = other.get(&key6).unwrap().unwrap();
        assert_eq!((&found[..], Object::decode(&key6, &found)), (spoilt, None));
        assert_eq!(store.exists(&[key6]).unwrap(), [true]);
        store.put(&key6, &whole).unwrap();
        assert_eq!(Object::decode(&key6, &other.get(&key6).unwrap().unwrap()), Some(&whole[64..]));
    }
    // Many at once, in their order, some twice, some absent.
    let objects: Vec<_> = (100..150).map(|number| (key(number), object(&key(number), number as usize))).collect();
    store.put_many(&objects).unwrap();
    let asked: Vec<u32> = (90..160).chain([100, 100, 90]).collect();
    let keys: Vec<ObjectKey> = asked.iter().map(|&number| key(number)).collect();
    let there: Vec<bool> = asked.iter().map(|number| (100..150).contains(number)).collect();
    assert_eq!(other.exists(&keys).unwrap(), there);
    let expected: Vec<Option<Vec<u8>>> =
        asked.iter().zip(&there).map(|(&number, there)| there.then(|| object(&key(number), number as usize))).collect();
    assert!(other.get_many(&keys).unwrap() == expected, "objects come in the order of their keys");
    // Removed, for everybody.
    other.remove(&key6).unwrap();
    for store in [&store, &other] {
        assert_eq!((store.get(&key6).unwrap(), store.exists(&[key6]).unwrap()), (None, vec![false]));
    }
    other.remove(&key6).unwrap();
    // From several threads, through one store and another.
    thread::scope(|scope| {
        for worker in 0..6u32 {
            let store = if worker % 2 == 0 { &store } else { &other };
            scope.spawn(move || {
                for round in 0..10 {
                    let (own, all) = (key(1000 + worker * 100 + round), key(500));
                    store.put(&own, &object(&own, 500)).unwrap();
                    store.put(&all, &object(&all, 2000)).unwrap();
                    assert_eq!(store.get(&own).unwrap().unwrap(), object(&own, 500));
                    assert_eq!(store.get(&all).unwrap().unwrap(), object(&all, 2000));
                    store.remove(&own).unwrap();
                    assert_eq!(store.exists(&[own, all]).unwrap(), [false, true]);
                }
            });
        }
    });
}
