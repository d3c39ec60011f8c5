//! [`ConfigError`].

use crate::{Format, Scale, Side};

/// The configuration is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A dimension of the configuration is zero.
    #[error("{name} must be at least 1, but is 0")]
    ZeroDimension {
        /// The field of [`CacheConfig`](crate::CacheConfig), or `num_layers`.
        name: &'static str,
    },
    /// A scale that is zero, negative or not finite.
    #[error("a scale must be positive and finite, but is {scale}")]
    Scale {
        /// The scale given.
        scale: Scale,
    },
    /// A product of dimensions does not fit its integer.
    #[error("{what} must fit {bits} bits, but {factors} does not")]
    SizeOverflow {
        /// The size that was computed.
        what: &'static str,
        /// The factors of the product.
        factors: String,
        /// The width that the product must fit.
        bits: u32,
    },
    /// One plane, `[slots, head_dim]`, is larger than any binding.
    #[error(
        "one plane of {side} ([slots, head_dim]) takes {plane_bytes} bytes, but a binding holds at most \
         {limit_bytes} here; make max_seq_len (of a ring, the window) or the head size smaller, or, if the adapter allows more, ask for \
         max_storage_buffer_binding_size and max_buffer_size of {plane_bytes} with CacheConfig::required_limits"
    )]
    PlaneTooLarge {
        /// Keys or values.
        side: Side,
        /// Size of one plane.
        plane_bytes: u64,
        /// The smaller of the binding limit, the buffer limit, and 2^31 − 4.
        limit_bytes: u64,
    },
    /// More layers than a cache has.
    #[error("num_layers must be at most {most}, but is {num_layers}")]
    TooManyLayers {
        /// The layers asked for.
        num_layers: usize,
        /// [`BatchedKvCache::MAX_LAYERS`](crate::BatchedKvCache::MAX_LAYERS).
        most: usize,
    },
    /// Layers of one cache with other sequences than the first.
    #[error("{name} of all layers must be {first}, as of layer 0, but of layer {layer} it is {actual}")]
    LayersDiffer {
        /// The layer.
        layer: usize,
        /// `batch_size` or `max_batch_size`.
        name: &'static str,
        /// That of layer 0.
        first: u32,
        /// That of this layer.
        actual: u32,
    },
    /// A name that is no number format.
    #[error("a format must be one of {}, but is \"{name}\"", Format::NAMES.join(", "))]
    UnknownFormat {
        /// The name given.
        name: String,
    },
}
