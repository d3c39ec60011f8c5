//! Stores of pages outside of the device: what keeps them longer than a process, or shares them between processes.
//!
//! A [`Store`] maps [`ObjectKey`]s to bytes: memory of the host ([`MemoryStore`]), a folder ([`FolderStore`]), a Redis
//! server (`RedisStore`), a bucket in S3, GCS or Azure (`ObjectStore`); others are a few lines. [`open()`] opens one by
//! its URL. A store may forget, fail or lie at any time: an [`Object`] has its own key and checksum, so that what comes
//! back is either what was put there, or a miss. [`Tiers`](crate::tiers::Tiers) puts the pages of a paged cache there,
//! and adds sequences that begin with what is found.
//!
//! What each store promises:
//!
//! | | [`MemoryStore`] | [`FolderStore`] | `RedisStore` | `ObjectStore` |
//! |---|---|---|---|---|
//! | feature | `store` | `store` | `redis`, `redis-tls` | `object-store` |
//! | opened by | [`MemoryStore::new`] | a path | `redis://`, `valkey://`, `rediss://` | `s3://`, `gs://`, `az://` |
//! | keeps | until the process ends | across restarts | as long as the server; for a time to live after the last use | until rules of the bucket remove it |
//! | shared by | threads | processes of one machine | clients of the server | all who may use the bucket |
//! | evicts | beyond its bytes, the one used longest ago | the same | the server, beyond `maxmemory` | nothing |
//! | a crash of the writer | loses all | leaves each object whole or not at all | the same | the same |
//! | a crash of the server or system | loses all | may leave files that are empty or cut, which are misses | loses what its persistence has not written | loses nothing |
//! | put over an object | replaces it | replaces it at once | the same | the same |
//! | many objects | one after the other | one after the other | one round trip | 32 requests at a time |
//! | a call takes at most | no time | what the disk takes | [`Options::call_timeout`]; [`Options::response_timeout`] of silence | the same |
//! | a connection that is cut | | | is opened again within the call | the same |
//! | threads | wait for each other | do not | a connection each, four stay open | do not |
//!
//! ```
//! use wgpu_kv_cache::{pages::PageKey, store::{MemoryStore, Object, ObjectKey, Scope, Store}};
//!
//! // All that makes rows not interchangeable: the caller's identity, shape and formats, page size.
//! let scope = Scope::new("model, revision 7", "2 layers of 4 × 64 in f16", 16);
//! let key = ObjectKey::new(&scope, &PageKey::root().child(&[1, 2, 3], None), 0);
//! let store = MemoryStore::new(1 << 20)?;
//! store.put(&key, &Object::encode(&key, b"rows"))?;
//! let found = store.get(&key)?.expect("it is there");
//! assert_eq!(Object::decode(&key, &found), Some(&b"rows"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(all(any(feature = "redis", feature = "object-store"), not(target_family = "wasm")))]
mod address;
#[cfg(not(target_family = "wasm"))]
mod folder;
#[cfg(not(target_family = "wasm"))]
mod kind;
pub(crate) mod lru;
mod memory;
mod object;
#[cfg(all(feature = "object-store", not(target_family = "wasm")))]
mod object_store;
#[cfg(not(target_family = "wasm"))]
mod open;
#[cfg(not(target_family = "wasm"))]
mod options;
#[cfg(all(any(feature = "redis-tls", feature = "object-store"), not(target_family = "wasm")))]
mod provider;
#[cfg(all(feature = "redis", not(target_family = "wasm")))]
mod redis;

use std::io;

#[cfg(all(any(feature = "redis", feature = "object-store"), not(target_family = "wasm")))]
use self::address::Address;
#[cfg(all(feature = "object-store", not(target_family = "wasm")))]
pub use self::object_store::ObjectStore;
#[cfg(all(feature = "redis", not(target_family = "wasm")))]
pub use self::redis::RedisStore;
#[cfg(not(target_family = "wasm"))]
pub use self::{folder::FolderStore, open::open, options::Options};
pub use self::{
    memory::MemoryStore,
    object::{Object, ObjectKey, Scope},
};

/// Keeps objects by key. Calls may block; they come from several threads.
pub trait Store: Send + Sync {
    /// The bytes of an object, or none if it is not there.
    ///
    /// # Errors
    /// What the store could not do.
    fn get(&self, key: &ObjectKey) -> io::Result<Option<Vec<u8>>>;

    /// Keeps the bytes of an object. Where the store has the key already, it may keep what it has: an object never
    /// changes.
    ///
    /// # Errors
    /// What the store could not do. The key is then absent, or has what it had.
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> io::Result<()>;

    /// The bytes of objects, or none of those that are not there, in the order of their keys. A store that can be asked
    /// for many at once is.
    ///
    /// # Errors
    /// What the store could not do.
    fn get_many(&self, keys: &[ObjectKey]) -> io::Result<Vec<Option<Vec<u8>>>> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Keeps objects. A store that can be given many at once is.
    ///
    /// # Errors
    /// What the store could not do. Each of the keys is then absent, or has what it had, or has what was given.
    fn put_many(&self, objects: &[(ObjectKey, Vec<u8>)]) -> io::Result<()> {
        objects.iter().try_for_each(|(key, bytes)| self.put(key, bytes))
    }

    /// Whether objects are there, in the order of their keys.
    ///
    /// # Errors
    /// What the store could not do.
    fn exists(&self, keys: &[ObjectKey]) -> io::Result<Vec<bool>>;

    /// Forgets an object.
    ///
    /// # Errors
    /// What the store could not do.
    fn remove(&self, key: &ObjectKey) -> io::Result<()>;

    /// Most bytes of all objects, where the store itself has such a number. Tiers refuse a store that has no room for a
    /// page.
    fn budget(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
#[path = "../../tests/unit/store.rs"]
mod tests;
