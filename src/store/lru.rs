//! [`Lru`]: values by key up to a number of bytes, of which those used longest ago go.

use std::collections::{BTreeMap, HashMap};

use super::ObjectKey;

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    /// When it was used, by a counter. A key is in the order of uses unless it is pinned.
    used: u64,
    pins: u32,
}

/// Values by key. Those that are pinned stay.
#[derive(Debug)]
pub(crate) struct Lru<V> {
    budget: u64,
    bytes: u64,
    pinned_bytes: u64,
    by_key: HashMap<ObjectKey, Entry<V>>,
    by_use: BTreeMap<u64, ObjectKey>,
    uses: u64,
}

impl<V> Lru<V> {
    pub fn new(budget: u64) -> Self {
        Lru { budget, bytes: 0, pinned_bytes: 0, by_key: HashMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }

    /// Most bytes of all values.
    pub const fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes of all values.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// A value, without using it.
    pub fn peek(&self, key: &ObjectKey) -> Option<&V> {
        self.by_key.get(key).map(|entry| &entry.value)
    }

    pub fn peek_mut(&mut self, key: &ObjectKey) -> Option<&mut V> {
        self.by_key.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Uses a value.
    pub fn get(&mut self, key: &ObjectKey) -> Option<&mut V> {
        let entry = self.by_key.get_mut(key)?;
        self.uses = self.uses.saturating_add(1);
        if entry.pins == 0 {
            self.by_use.remove(&entry.used);
            self.by_use.insert(self.uses, *key);
        }
        entry.used = self.uses;
        Some(&mut entry.value)
    }

    /// Keeps a value, in the place of the one with its key unless that is pinned, and returns those that had to go.
    /// Gives it back if what is pinned leaves no room for it.
    pub fn insert(&mut self, key: ObjectKey, value: V, bytes: u64) -> Result<Vec<(ObjectKey, V)>, V> {
        // An object never changes, so the one that is pinned is as good.
        if self.by_key.get(&key).is_some_and(|entry| entry.pins > 0) {
            return Ok(Vec::new());
        }
        if self.pinned_bytes.saturating_add(bytes) > self.budget {
            return Err(value);
        }
        self.remove(&key);
        let mut gone = Vec::new();
        while self.bytes.saturating_add(bytes) > self.budget {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            gone.extend(self.remove(&oldest).map(|value| (oldest, value)));
        }
        self.uses = self.uses.saturating_add(1);
        self.by_use.insert(self.uses, key);
        self.bytes = self.bytes.saturating_add(bytes);
        self.by_key.insert(key, Entry { value, bytes, used: self.uses, pins: 0 });
        Ok(gone)
    }

    /// Forgets a value, pinned or not.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<V> {
        let entry = self.by_key.remove(key)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if entry.pins == 0 {
            self.by_use.remove(&entry.used);
        } else {
            self.pinned_bytes = self.pinned_bytes.saturating_sub(entry.bytes);
        }
        Some(entry.value)
    }

    /// Keeps a value from going until it is unpinned as often as it was pinned. Whether it is there.
    pub fn pin(&mut self, key: &ObjectKey) -> bool {
        let Some(entry) = self.by_key.get_mut(key) else { return false };
        entry.pins = entry.pins.saturating_add(1);
        if entry.pins == 1 {
            self.by_use.remove(&entry.used);
            self.pinned_bytes = self.pinned_bytes.saturating_add(entry.bytes);
        }
        true
    }

    pub fn unpin(&mut self, key: &ObjectKey) {
        let Some(entry) = self.by_key.get_mut(key).filter(|entry| entry.pins > 0) else { return };
        entry.pins = entry.pins.saturating_sub(1);
        if entry.pins == 0 {
            self.by_use.insert(entry.used, *key);
            self.pinned_bytes = self.pinned_bytes.saturating_sub(entry.bytes);
        }
    }

    /// All values, those used longest ago first.
    pub fn by_use(&self) -> impl Iterator<Item = (&ObjectKey, &V)> {
        let mut all: Vec<_> = self.by_key.iter().collect();
        all.sort_unstable_by_key(|(_, entry)| entry.used);
        all.into_iter().map(|(key, entry)| (key, &entry.value))
    }
}
