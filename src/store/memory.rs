//! [`MemoryStore`]: objects in memory of the host.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Mutex, PoisonError},
};

use super::{ObjectKey, Store};
use crate::{Result, StoreError};

/// Keeps objects in memory, up to a number of bytes. Beyond it, those that were used longest ago go.
#[derive(Debug)]
pub struct MemoryStore {
    objects: Mutex<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    budget: u64,
    bytes: u64,
    /// The bytes of each object, and when it was used.
    by_key: HashMap<ObjectKey, (Vec<u8>, u64)>,
    by_use: BTreeMap<u64, ObjectKey>,
    uses: u64,
}

impl Objects {
    fn touch(&mut self, key: &ObjectKey) {
        let Some((_, used)) = self.by_key.get_mut(key) else { return };
        self.by_use.remove(used);
        self.uses = self.uses.saturating_add(1);
        *used = self.uses;
        self.by_use.insert(self.uses, *key);
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some((bytes, used)) = self.by_key.remove(key) {
            self.bytes = self.bytes.saturating_sub(bytes.len() as u64);
            self.by_use.remove(&used);
        }
    }
}

impl MemoryStore {
    /// An empty store for up to so many bytes.
    ///
    /// # Errors
    /// [`StoreError::NoBudget`].
    pub fn new(budget: u64) -> Result<Self> {
        if budget == 0 {
            return Err(StoreError::NoBudget.into());
        }
        Ok(MemoryStore { objects: Mutex::new(Objects { budget, ..Objects::default() }) })
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        let mut objects = self.lock();
        objects.touch(key);
        Ok(objects.by_key.get(key).map(|(bytes, _)| bytes.clone()))
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        let mut objects = self.lock();
        objects.remove(key);
        let added = bytes.len() as u64;
        if added > objects.budget {
            return Err(io::ErrorKind::StorageFull.into());
        }
        while objects.bytes.saturating_add(added) > objects.budget {
            let Some((_, oldest)) = objects.by_use.first_key_value() else { break };
            let oldest = *oldest;
            objects.remove(&oldest);
        }
        objects.bytes = objects.bytes.saturating_add(added);
        objects.by_key.insert(*key, (bytes.to_vec(), 0));
        objects.touch(key);
        Ok(())
    }

    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        let objects = self.lock();
        Ok(keys.iter().map(|key| objects.by_key.contains_key(key)).collect())
    }

    fn remove(&self, key: &ObjectKey) -> io::Result<()> {
        self.lock().remove(key);
        Ok(())
    }
}
