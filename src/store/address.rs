//! [`Address`]: the URL of a server, printed without what may be secret.

use std::fmt;

use url::Url;

use crate::StoreError;

/// How a password is written.
const ENCODED: &str = "; in a password, %2F, %3F, %23 and %40 stand for / ? # and @";

/// The URL of a store. User info, query and fragment are not printed.
#[derive(Clone)]
pub(super) struct Address(Url);

impl Address {
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        // The words of an error of `url` have nothing of the text.
        let hint = if text.contains('@') { ENCODED } else { "" };
        let address = Url::parse(text).map(Address);
        address.map_err(|error| StoreError::Url { reason: format!("{error}{hint}").into() })
    }

    /// Whether a password that is not encoded ended the authority early. What then passes for host, port and path is
    /// its parts.
    fn is_cut(&self) -> bool {
        let rest = [Some(self.0.path()), self.0.query(), self.0.fragment()];
        rest.into_iter().flatten().any(|part| part.contains('@'))
    }

    /// Refuses an address that is probably cut, where nothing but a password has an `@`.
    #[cfg(feature = "redis")]
    pub fn check_whole(&self) -> Result<(), StoreError> {
        let reason = || format!("there is an @ after its host{ENCODED}").into();
        let is_path = self.scheme().ends_with("+unix");
        if self.is_cut() && !is_path { Err(StoreError::Url { reason: reason() }) } else { Ok(()) }
    }

    pub fn url(&self) -> &Url {
        &self.0
    }

    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.0.scheme())?;
        if self.is_cut() {
            return f.write_str("…");
        }
        f.write_str(self.0.host_str().unwrap_or(""))?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}
