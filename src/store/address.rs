//! [`Address`]: the URL of a server, printed without what may be secret.

use std::fmt;

use url::Url;

use crate::StoreError;

/// The URL of a store. User info, query and fragment are not printed.
#[derive(Clone)]
pub(super) struct Address(Url);

impl Address {
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        // The words of an error of `url` have nothing of the text.
        Url::parse(text).map(Address).map_err(|error| StoreError::Url { reason: error.to_string().into() })
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
        // A password that is not encoded ends the authority early. What then passes for host, port and path is its parts.
        let rest = [Some(self.0.path()), self.0.query(), self.0.fragment()];
        if rest.into_iter().flatten().any(|part| part.contains('@')) {
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
