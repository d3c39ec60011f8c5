//! [`Options`]: how a store is opened by its URL.

use std::{fmt, time::Duration};

use crate::StoreError;

/// How a store is opened: [`open`](super::open()). What is not set has the default of the store.
///
/// | option | folder | Redis | S3, GCS, Azure |
/// |---|---|---|---|
/// | [`budget`](Self::budget) | 1 GiB | refused: `maxmemory` of the server | refused: lifecycle rules of the bucket |
/// | [`ttl`](Self::ttl) | refused: the budget | none | refused: lifecycle rules of the bucket |
/// | [`prefix`](Self::prefix) | refused: the path of the folder | `kv-cache:` | none, after the path of the URL |
/// | [`connect_timeout`](Self::connect_timeout) | not used | 1 s | 1 s |
/// | [`response_timeout`](Self::response_timeout) | not used | 1 s | 3 s |
/// | [`call_timeout`](Self::call_timeout) | not used | 10 s | 10 s |
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub(super) budget: Option<u64>,
    pub(super) ttl: Option<Duration>,
    pub(super) prefix: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) response_timeout: Option<Duration>,
    pub(super) call_timeout: Option<Duration>,
    pub(super) settings: Vec<(String, String)>,
}

/// Settings are named without their values, which may be secret.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { budget, ttl, prefix, connect_timeout, response_timeout, call_timeout, settings } = self;
        f.debug_struct("Options")
            .field("budget", budget)
            .field("ttl", ttl)
            .field("prefix", prefix)
            .field("connect_timeout", connect_timeout)
            .field("response_timeout", response_timeout)
            .field("call_timeout", call_timeout)
            .field("settings", &settings.iter().map(|(key, _)| key).collect::<Vec<_>>())
            .finish()
    }
}

impl Options {
    /// Every option as the store has it by default.
    #[must_use]
    pub fn new() -> Self {
        Options::default()
    }

    /// Bytes that a folder may hold.
    #[must_use]
    pub const fn budget(mut self, bytes: u64) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// How long an object lives after it was last used: put, read, or found to be there.
    #[must_use]
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// What the names of objects begin with. An empty prefix is none.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long connecting to a server may take, greeting and password included.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// How long a server may be silent while it is waited for.
    #[must_use]
    pub const fn response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = Some(timeout);
        self
    }

    /// How long a whole call may take, however many objects it has and whatever the server does.
    #[must_use]
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = Some(timeout);
        self
    }

    /// A setting of S3, GCS or Azure by the name that it has as an environment variable, before which it goes:
    /// `AWS_ENDPOINT`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME` and
    /// the others that the crate `object_store` has.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Refuses what no store can do.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.budget == Some(0) {
            return Err(StoreError::NoBudget);
        }
        if let Some(ttl) = self.ttl.filter(|ttl| ttl.as_millis() == 0) {
            return Err(StoreError::Ttl { ttl });
        }
        for (timeout, given) in
            [("connect", self.connect_timeout), ("response", self.response_timeout), ("call", self.call_timeout)]
        {
            if given == Some(Duration::ZERO) {
                return Err(StoreError::Timeout { timeout });
            }
        }
        Ok(())
    }

    /// Refuses options that a kind of store does not have, of those that are given.
    pub(super) fn refuse(
        &self,
        store: &'static str,
        options: &[(&'static str, bool, &'static str)],
    ) -> Result<(), StoreError> {
        match options.iter().find(|(_, given, _)| *given) {
            Some(&(option, _, instead)) => Err(StoreError::Option { store, option, instead }),
            None => Ok(()),
        }
    }
}
