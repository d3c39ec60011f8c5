//! [`WgslError`].

/// Names or bindings for generated WGSL are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WgslError {
    /// A prefix that cannot begin a name in WGSL.
    #[error("a prefix of names must be a letter and then letters, digits and underscores, but is \"{prefix}\"")]
    WgslPrefix {
        /// The prefix given.
        prefix: String,
    },
    /// A list of bindings for a shader has another number of entries.
    #[error("reading this layer takes {expected} bindings, but {actual} are given")]
    WgslBindings {
        /// Lengths, and keys and values of each segment.
        expected: u32,
        /// The entries given.
        actual: usize,
    },
    /// Two buffers would have one binding.
    #[error("every buffer must have a binding of its own, but {binding} is given twice")]
    WgslBindingTwice {
        /// The binding.
        binding: u32,
    },
}
