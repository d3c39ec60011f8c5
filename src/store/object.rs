//! [`Object`]: the form in which a store keeps a page, and [`ObjectKey`]: its name.

use std::fmt;

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

use crate::pages::PageKey;

/// What objects begin with: a name and a version of their form.
const MAGIC: [u8; 8] = *b"KVPAGE\0\x03";
/// Bytes of the checksum, the canonical form of a 128-bit XXH3.
const CHECKSUM: usize = 16;
/// Bytes before the rows: the magic, the key, the number of bytes, and the checksum of all of these and the rows.
const HEADER: usize = 8 + 32 + 8 + CHECKSUM;

/// All that the rows of a page depend on, beside its tokens. Machines share pages if they agree on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope([u8; 32]);

/// Hashes texts so that no two lists of texts are alike.
fn hash_texts(texts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

impl Scope {
    /// `identity` is the caller's: the model, its revision, the rotary embedding, an adapter. `shape` names the shape
    /// and formats of all layers, and `page_size` is the number of tokens of a page.
    #[must_use]
    pub fn new(identity: &str, shape: &str, page_size: u32) -> Self {
        Scope(hash_texts(&[identity.as_bytes(), shape.as_bytes(), &page_size.to_le_bytes()]))
    }
}

/// The name of a page in a store: the SHA-256 of its [`Scope`], its [`PageKey`], which has its tokens, those before it
/// and its namespace, and its group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(pub [u8; 32]);

impl ObjectKey {
    /// Of a page of a group of layers.
    #[must_use]
    pub fn new(scope: &Scope, page: &PageKey, group: u32) -> Self {
        ObjectKey(hash_texts(&[&scope.0, &page.0, &group.to_le_bytes()]))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectKey({self})")
    }
}

/// The form in which a store keeps rows.
#[derive(Clone, Copy, Debug)]
pub struct Object;

impl Object {
    /// Bytes of an object with so many bytes of rows.
    pub(crate) const fn bytes(rows: usize) -> usize {
        HEADER.saturating_add(rows)
    }

    /// The rows of a page with a header that says what they are.
    #[must_use]
    pub fn encode(key: &ObjectKey, rows: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER.saturating_add(rows.len()));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&key.0);
        bytes.extend_from_slice(&(rows.len() as u64).to_le_bytes());
        let checksum = Self::checksum(&bytes, rows);
        bytes.extend_from_slice(&checksum);
        bytes.extend_from_slice(rows);
        bytes
    }

    /// The rows, if the bytes are those of this object: none if they are empty, cut, changed, of another version, or
    /// those of another object.
    #[must_use]
    pub fn decode<'a>(key: &ObjectKey, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (header, rows) = bytes.split_at_checked(HEADER)?;
        let (known, checksum) = header.split_at_checked(HEADER.saturating_sub(CHECKSUM))?;
        let mut expected = MAGIC.to_vec();
        expected.extend_from_slice(&key.0);
        expected.extend_from_slice(&(rows.len() as u64).to_le_bytes());
        (known == expected && checksum == Self::checksum(known, rows)).then_some(rows)
    }

    fn checksum(header: &[u8], rows: &[u8]) -> [u8; CHECKSUM] {
        let mut hash = Xxh3Default::new();
        hash.update(header);
        hash.update(rows);
        hash.digest128().to_be_bytes()
    }
}
