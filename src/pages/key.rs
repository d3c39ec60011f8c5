//! [`PageKey`]: the name of what a page holds, by its tokens and all before them.

use std::fmt;

use minicbor::{Encoder, encode::Write};
use sha2::{Digest, Sha256};

/// The key of a full page: the SHA-256 of the canonical CBOR of `[parent key, tokens, extra]`, that of vLLM's
/// `sha256_cbor`, so that routers and stores that know those keys find ours.
///
/// The parent of the first page is [`PageKey::ROOT_TEXT`], hashed likewise. With a namespace, the extra of the first
/// page is `[["cache_salt", namespace]]`; it is null everywhere else.
///
/// ```
/// use wgpu_kv_cache::pages::PageKey;
/// let key = PageKey::root().child(&[0, 1, 2, 3], None);
/// assert_eq!(key.to_string(), "c49ab11fb576db6f376aef58c24f728a0ba1807e8cac5f940f1a5c4c20741898");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey(pub [u8; 32]);

/// Hashes what is encoded.
struct Hashed(Sha256);

impl Write for Hashed {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.update(bytes);
        Ok(())
    }
}

type Encoded = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn hashed(encode: impl FnOnce(&mut Encoder<Hashed>) -> Encoded) -> PageKey {
    let mut encoder = Encoder::new(Hashed(Sha256::new()));
    // A hash takes all bytes, and no item has an encoding of its own that could fail.
    let written = encode(&mut encoder);
    debug_assert!(written.is_ok(), "{written:?}");
    PageKey(encoder.into_writer().0.finalize().into())
}

impl PageKey {
    /// What the parent of a first page is the hash of.
    pub const ROOT_TEXT: &str = "vllm-none-hash";

    /// The parent of a first page.
    #[must_use]
    pub fn root() -> Self {
        hashed(|encoder| encoder.str(Self::ROOT_TEXT).map(drop))
    }

    /// The key of the page with these tokens that follows this one. Only a first page has a namespace.
    #[must_use]
    pub fn child(&self, tokens: &[u32], namespace: Option<&str>) -> Self {
        hashed(|encoder| {
            encoder.array(3)?.bytes(&self.0)?.array(tokens.len() as u64)?;
            for &token in tokens {
                encoder.u32(token)?;
            }
            match namespace {
                Some(namespace) => encoder.array(1)?.array(2)?.str("cache_salt")?.str(namespace).map(drop),
                None => encoder.null().map(drop),
            }
        })
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageKey({self})")
    }
}
