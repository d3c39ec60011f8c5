//! Reading a layer in place: the text for shaders, and attention made of it.

#[cfg(feature = "attention")]
pub mod attention;
pub(crate) mod include;
pub(crate) mod layer;
#[cfg(feature = "pages")]
mod paged;
pub(crate) mod readable;
