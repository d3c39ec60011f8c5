//! [`Kind`]: which store the path of a folder or a URL names.

use crate::StoreError;

/// The schemes that there are.
pub(super) const KNOWN: &str = "redis, rediss, valkey, valkeys, redis+unix, valkey+unix, s3, s3a, gs, az, azure, adl, \
                                abfs, abfss, and https of Amazon, Cloudflare and Azure";

/// Which store a text names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    Redis,
    Objects,
}

impl Kind {
    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "valkey+unix" => Some(Kind::Redis),
            "s3" | "s3a" | "gs" | "az" | "azure" | "adl" | "abfs" | "abfss" | "https" => Some(Kind::Objects),
            _ => None,
        }
    }
}

/// Which store a text names, and its scheme, without anything that may be secret.
pub(super) fn kind(text: &str) -> Result<(Kind, String), StoreError> {
    let reason = |reason: &str| StoreError::Url { reason: reason.into() };
    if let Some((scheme, _)) = text.split_once("://") {
        let scheme = scheme.to_ascii_lowercase();
        let is_scheme = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
        if !scheme.starts_with(|letter: char| letter.is_ascii_alphabetic()) || !scheme.chars().all(is_scheme) {
            return Err(reason("what is before :// is not a scheme"));
        }
        return match Kind::of_scheme(&scheme) {
            Some(kind) => Ok((kind, scheme)),
            None => Err(StoreError::Scheme { scheme: scheme.into(), known: KNOWN }),
        };
    }
    // Nobody means a folder by these, whose names would keep a password.
    let (before, after) = text.split_once(':').unwrap_or((text, ""));
    if Kind::of_scheme(&before.to_ascii_lowercase()).is_some() {
        return Err(reason("a scheme is followed by ://"));
    }
    if after.contains('@') {
        return Err(reason("it has a password, but no scheme"));
    }
    let port = after.split('/').next().unwrap_or_default();
    if !port.is_empty() && port.bytes().all(|letter| letter.is_ascii_digit()) {
        return Err(reason("it has a port, but no scheme such as redis://"));
    }
    if text.is_empty() {
        return Err(reason("it is empty"));
    }
    Ok((Kind::Folder, String::new()))
}
