//! [`StoreError`].

use std::time::Duration;

/// A store of pages cannot be opened. Once it is open, whatever goes wrong with it is a miss.
///
/// A store that has a URL is named by its scheme, host, port and path: user info and query, which may have secrets, are
/// in no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system or a server refused to open a store, or could not be reached.
    #[error("opening {path} failed: {reason}")]
    Open {
        /// The folder, or the URL without its secrets.
        path: Box<str>,
        /// The system's words.
        reason: Box<str>,
    },
    /// A budget for pages that does not hold the largest of them.
    #[error("{tier} must have room for at least one page, of {page_bytes} bytes, but has {bytes}")]
    BudgetTooSmall {
        /// Whose budget: host memory or the store.
        tier: &'static str,
        /// The budget.
        bytes: u64,
        /// Bytes of the largest page there.
        page_bytes: u64,
    },
    /// The tiers are not those of the cache.
    #[error(
        "these tiers are not attached to this cache: it is another one, has others by now, or its prefixes were cleared"
    )]
    Detached,
    /// The system has no thread for the tiers.
    #[error("starting a thread failed: {reason}")]
    Thread {
        /// The system's words.
        reason: Box<str>,
    },
    /// A server does not take the credentials, or takes them and permits nothing.
    #[error("no access to {path}: {reason}")]
    Denied {
        /// The URL without its secrets.
        path: Box<str>,
        /// The server's code.
        reason: Box<str>,
    },
    /// There is no bucket or container of this name.
    #[error("there is no bucket or container at {path}")]
    NoBucket {
        /// The URL without its secrets.
        path: Box<str>,
    },
    /// A budget that holds nothing.
    #[error("a store must have room for at least one byte, but has none")]
    NoBudget,
    /// A text that names no store. It may have a password, so it is not repeated.
    #[error("a store is named by a folder or a URL, but this names none: {reason}")]
    Url {
        /// What is wrong with it.
        reason: Box<str>,
    },
    /// A URL of a scheme that no store has.
    #[error("there is no store for {scheme}://; there are a folder, {known}")]
    Scheme {
        /// The scheme of the URL.
        scheme: Box<str>,
        /// The schemes that there are.
        known: &'static str,
    },
    /// A URL of a store that this build of the crate does not have.
    #[error("{scheme}:// needs the feature {feature} of this crate, which is not compiled in")]
    Feature {
        /// The scheme of the URL.
        scheme: Box<str>,
        /// The feature of the crate.
        feature: &'static str,
    },
    /// An option that a kind of store does not have.
    #[error("{store} takes no {option}: {instead}")]
    Option {
        /// The kind of store.
        store: &'static str,
        /// The option.
        option: &'static str,
        /// What decides in its place.
        instead: &'static str,
    },
    /// Objects that would expire at once.
    #[error("objects must live for at least one millisecond, but would for {ttl:?}")]
    Ttl {
        /// How long objects would live.
        ttl: Duration,
    },
    /// A timeout that every call would exceed.
    #[error("the {timeout} timeout of a store must be longer than zero")]
    Timeout {
        /// Which: connect, response or call.
        timeout: &'static str,
    },
}
