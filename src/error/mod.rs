//! The crate's errors, grouped by what the caller got wrong. Every variant names the rule and the numbers that broke
//! it.

mod attention;
mod buffer;
mod config;
mod device;
mod page;
mod range;
mod row;
#[cfg(feature = "save")]
mod save;
mod sequence;
mod step;
#[cfg(feature = "store")]
mod store;
mod wgsl;
mod write;

#[cfg(feature = "save")]
pub use self::save::SaveError;
#[cfg(feature = "store")]
pub use self::store::StoreError;
pub use self::{
    attention::AttentionError, buffer::BufferError, config::ConfigError, device::DeviceError, page::PageError,
    range::RangeError, row::RowError, sequence::SequenceError, step::StepError, wgsl::WgslError, write::WriteError,
};

/// Why an operation was refused. The state and the bytes of the cache are as they were before the call.
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, Context, Error, KvCache, Write, WriteError};
///
/// # let (device, queue) = wgpu::Device::noop(&wgpu::DeviceDescriptor::default());
/// # let context = Context::new(&device, &queue);
/// let mut cache = KvCache::new(&context, CacheConfig::new(1, 1, 1, 8))?;
/// match cache.update(&[0.5f32; 9][..], &[0.5f32; 9][..], Write::append(9)) {
///     Err(Error::Write(WriteError::WriteBeyondCapacity { sequence: 0, count: 9, max_seq_len: 8, .. })) => {}
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The device lacks something, or refused a request.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Rows or positions of a write are invalid.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A sequence, a layer, or a length is invalid.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A range to read is invalid.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A buffer of the caller is unsuitable.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// An object or a call does not belong to this cache, or to its current step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Options or tensors of an attention are invalid.
    #[error(transparent)]
    Attention(#[from] AttentionError),
    /// Names or bindings for generated WGSL are invalid.
    #[error(transparent)]
    Wgsl(#[from] WgslError),
    /// Rows on the host are invalid.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A sequence of a pool of pages, or what it asks for, is invalid.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A saved sequence is invalid, or cannot be written.
    #[cfg(feature = "save")]
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A store of pages cannot be opened.
    #[cfg(feature = "store")]
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The rule's stable name, such as `write_beyond_capacity`: the variant's in lower case.
    ///
    /// ```
    /// use wgpu_kv_cache::{Error, RangeError, WriteError};
    /// assert_eq!(Error::from(WriteError::NoTokens).kind(), "no_tokens");
    /// assert_eq!(Error::from(RangeError::RangeReversed { start: 2, end: 1 }).kind(), "range_reversed");
    /// ```
    #[must_use]
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        // The group, and in it the rule.
        let name = text.split(|letter: char| !letter.is_alphanumeric()).nth(1).unwrap_or_default();
        let mut kind = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !kind.is_empty() {
                kind.push('_');
            }
            kind.extend(letter.to_lowercase());
        }
        kind
    }
}
