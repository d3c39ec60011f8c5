//! Reading a layer in place: the text for shaders, and attention made of it.

#[cfg(feature = "attention")]
pub mod attention;
pub(crate) mod include;
pub(crate) mod layer;
pub(crate) mod names;
pub(crate) mod readable;
