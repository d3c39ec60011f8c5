//! [`open`]: a store by its URL.

use std::sync::Arc;

use super::{
    FolderStore, Options, Store,
    kind::{Kind, kind},
};
use crate::{Result, StoreError};

/// Bytes that a folder may hold if nobody says.
const FOLDER_BUDGET: u64 = 1 << 30;

/// Opens a store by the path of a folder or by a URL. Environment variables are those of the crate `object_store`.
///
/// | URL | store | feature |
/// |---|---|---|
/// | the path of a folder | [`FolderStore`] | |
/// | `redis://[user:password@]host[:port][/database]`, `valkey://…`, `redis+unix:///path` | `RedisStore` | `redis` |
/// | `rediss://…`, `valkeys://…` | `RedisStore` over TLS | `redis-tls` |
/// | `s3://bucket[/prefix]`, `https://bucket.s3.region.amazonaws.com` | `ObjectStore`, by `AWS_…` | `object-store` |
/// | `gs://bucket[/prefix]` | `ObjectStore`, by `GOOGLE_…` | `object-store` |
/// | `az://container[/prefix]`, `abfss://…`, `https://account.blob.core.windows.net/container` | `ObjectStore`, by `AZURE_…` | `object-store` |
///
/// ```
/// use wgpu_kv_cache::store::{self, Options};
///
/// let folder = std::env::temp_dir().join("prefixes");
/// # let name = format!("prefixes-{}", std::process::id());
/// # let folder = folder.with_file_name(name);
/// let store = store::open(folder.to_str().unwrap(), &Options::new().budget(8 << 30))?;
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), wgpu_kv_cache::Error>(())
/// ```
///
/// # Errors
/// [`StoreError`]: the text is no URL, or one of an unknown scheme or of a feature that is not compiled in; an option
/// is not one of this store, or zero; the server cannot be reached, refuses the credentials, or has no such bucket.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn Store>> {
    let (kind, scheme) = kind(url)?;
    options.check()?;
    match kind {
        Kind::Folder => {
            let refused = [
                ("ttl", options.ttl.is_some(), "its budget decides what goes"),
                ("prefix", options.prefix.is_some(), "its path names it"),
                ("settings", !options.settings.is_empty(), "they are those of S3, GCS and Azure"),
            ];
            options.refuse("a folder", &refused)?;
            Ok(Arc::new(FolderStore::open(url, options.budget.unwrap_or(FOLDER_BUDGET))?))
        }
        #[cfg(feature = "redis")]
        Kind::Redis => Ok(Arc::new(super::RedisStore::open(url, options)?)),
        #[cfg(feature = "object-store")]
        Kind::Objects => Ok(Arc::new(super::ObjectStore::open(url, options)?)),
        #[allow(unreachable_patterns, reason = "reached where a feature is not compiled in")]
        Kind::Redis => Err(StoreError::Feature { scheme: scheme.into(), feature: "redis" }.into()),
        #[allow(unreachable_patterns, reason = "reached where a feature is not compiled in")]
        Kind::Objects => Err(StoreError::Feature { scheme: scheme.into(), feature: "object-store" }.into()),
    }
}
