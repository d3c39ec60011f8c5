//! [`MemoryStore`]: objects in memory of the host.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{ObjectKey, Store, lru::Lru};
use crate::{Result, StoreError};

/// Keeps objects in memory, up to a number of bytes. Beyond it, those that were used longest ago go.
#[derive(Debug)]
pub struct MemoryStore {
    objects: Mutex<Lru<Vec<u8>>>,
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
        Ok(MemoryStore { objects: Mutex::new(Lru::new(budget)) })
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Lru<Vec<u8>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn budget(&self) -> Option<u64> {
        Some(self.lock().budget())
    }

    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>> {
        Ok(self.lock().get(key).cloned())
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()> {
        let mut objects = self.lock();
        objects.remove(key);
        let kept = objects.insert(*key, bytes.to_vec(), bytes.len() as u64);
        kept.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
    }

    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>> {
        let objects = self.lock();
        Ok(keys.iter().map(|key| objects.contains(key)).collect())
    }

    fn remove(&self, key: &ObjectKey) -> io::Result<()> {
        self.lock().remove(key);
        Ok(())
    }
}
