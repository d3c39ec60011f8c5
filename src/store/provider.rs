//! The provider of cryptography that TLS uses.

/// Makes sure that this process has a provider: the one that it has, or ring. rustls has one for all of a process, and
/// refuses to choose where several are compiled in.
pub(super) fn install() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been first. Then there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
