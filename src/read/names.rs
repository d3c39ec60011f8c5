//! [`WgslNames`]: what the caller calls the WGSL that reads a layer.

use crate::{Error, Result, WgslError};

/// Prefix, bind group and bindings of the WGSL that [`KvCache::wgsl`](crate::KvCache::wgsl) generates.
///
/// ```
/// use wgpu_kv_cache::WgslNames;
/// let names = WgslNames::new("cache_").group(1).bindings(&[4, 5, 6]);
/// # let _ = names;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WgslNames<'a> {
    pub(super) prefix: &'a str,
    pub(super) group: u32,
    bindings: Option<&'a [u32]>,
    pub(super) halves: bool,
    pub(super) wide: bool,
}

impl<'a> WgslNames<'a> {
    /// All names begin with `prefix`; bindings are numbered from 0 in group 0.
    #[must_use]
    pub const fn new(prefix: &'a str) -> Self {
        WgslNames { prefix, group: 0, bindings: None, halves: false, wide: false }
    }

    /// Sets the bind group.
    #[must_use]
    pub const fn group(mut self, group: u32) -> Self {
        self.group = group;
        self
    }

    /// Sets the bindings, [`KvCache::wgsl_bindings`](crate::KvCache::wgsl_bindings) of them: lengths, then keys and
    /// values of each segment.
    #[must_use]
    pub const fn bindings(mut self, bindings: &'a [u32]) -> Self {
        self.bindings = Some(bindings);
        self
    }

    /// Also generates functions that return f16. The shader must begin with `enable f16;`.
    #[must_use]
    pub const fn halves(mut self) -> Self {
        self.halves = true;
        self
    }

    /// Binds keys and values as `array<vec4<u32>>` where rows consist of whole 16 bytes, so that each unit of 16 bytes
    /// is one load. This is for kernels that read units, or 8 and more elements at once; loads of four elements in f16
    /// and bf16 become two of a word each.
    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    /// The indices of so many bindings.
    pub(super) fn indices(&self, count: u32) -> Result<Vec<u32>> {
        let indices = self.bindings.map_or_else(|| (0..count).collect(), <[u32]>::to_vec);
        if indices.len() != count as usize {
            return Err(Error::Wgsl(WgslError::WgslBindings { expected: count, actual: indices.len() }));
        }
        let twice = (1..indices.len()).find(|&at| indices[..at].contains(&indices[at]));
        match twice {
            Some(at) => Err(Error::Wgsl(WgslError::WgslBindingTwice { binding: indices[at] })),
            None => Ok(indices),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let begins = self.prefix.starts_with(|letter: char| letter.is_ascii_alphabetic());
        let word = self.prefix.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if begins && word { Ok(()) } else { Err(Error::Wgsl(WgslError::WgslPrefix { prefix: self.prefix.to_owned() })) }
    }
}
