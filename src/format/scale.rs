//! [`Scale`]: the factor between codes and the numbers that they stand for.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

/// The factor that codes of [`Format::Fp8E4M3`](crate::Format::Fp8E4M3) are multiplied by. A cache refuses a factor
/// that is not positive and finite. Scales are compared and hashed by their bits.
///
/// ```
/// use wgpu_kv_cache::{CacheConfig, ConfigError, Format, Scale};
///
/// let config = CacheConfig::new(1, 8, 128, 4096).formats(Format::Fp8E4M3, Format::Fp8E4M3);
/// assert_eq!(config.scales(0.5, 2.0).key_scale, Scale::new(0.5));
/// assert_eq!(config.scales(0.0, 2.0).validate(), Err(ConfigError::Scale { scale: Scale::new(0.0) }.into()));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Scale(f32);

impl Scale {
    /// A factor of 1: codes stand for their own numbers.
    pub const ONE: Scale = Scale(1.0);

    /// Creates a scale. The factor is checked where it is used.
    pub const fn new(scale: f32) -> Self {
        Scale(scale)
    }

    /// The factor.
    pub const fn get(self) -> f32 {
        self.0
    }
}

/// Compares bits.
impl PartialEq for Scale {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Scale {}

impl Hash for Scale {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Scale {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f32(self.0)
    }
}
