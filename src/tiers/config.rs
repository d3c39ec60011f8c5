//! [`TiersConfig`]: what is below a pool of pages.

use std::{fmt, sync::Arc};

use crate::store::Store;

/// Bytes that are copied from the device at a time, unless it is said otherwise.
const IN_FLIGHT_BYTES: u64 = 256 << 20;

/// What is below the pages of a cache.
#[derive(Clone)]
pub struct TiersConfig {
    /// All that makes rows not interchangeable with others of the same shape: the model, its revision, the rotary
    /// embedding, an adapter, the rank of a part of the model.
    pub identity: String,
    /// Bytes of host memory for pages.
    pub host_bytes: u64,
    /// What is below host memory.
    pub store: Option<Arc<dyn Store>>,
    /// Whether a page that leaves the device goes to the store at once, and not only when host memory has no room for
    /// it. The default is false.
    pub write_through: bool,
    /// Bytes of evicted pages that may be on their way from the device to host memory. While there are more, pages that
    /// are evicted are lost. The default is 256 MiB.
    pub in_flight_bytes: u64,
}

impl fmt::Debug for TiersConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TiersConfig { identity, host_bytes, store, write_through, in_flight_bytes } = self;
        f.debug_struct("TiersConfig")
            .field("identity", identity)
            .field("host_bytes", host_bytes)
            .field("has_store", &store.is_some())
            .field("write_through", write_through)
            .field("in_flight_bytes", in_flight_bytes)
            .finish()
    }
}

impl TiersConfig {
    /// Host memory alone.
    #[must_use]
    pub fn new(identity: impl Into<String>, host_bytes: u64) -> Self {
        let identity = identity.into();
        TiersConfig { identity, host_bytes, store: None, write_through: false, in_flight_bytes: IN_FLIGHT_BYTES }
    }

    /// With a store below host memory.
    #[must_use]
    pub fn store(self, store: Arc<dyn Store>) -> Self {
        TiersConfig { store: Some(store), ..self }
    }

    /// Pages that leave the device go to the store at once.
    #[must_use]
    pub fn write_through(self, write_through: bool) -> Self {
        TiersConfig { write_through, ..self }
    }
}
