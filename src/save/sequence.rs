//! [`SaveSequence`]: what caches save and load.

use std::io::{Read, Seek, Write};
#[cfg(not(target_family = "wasm"))]
use std::path::Path;

#[cfg(not(target_family = "wasm"))]
use super::file;
use super::{header::Saved, reader::Reader, writer::Writer};
use crate::{CacheConfig, Context, GpuTensor, Pair, Result, SaveError, Side, device::wait::block_on};

pub(super) mod sealed {
    use super::*;

    /// What saving needs of a cache.
    pub trait Stored {
        /// What names a sequence.
        type Sequence: Copy;
        /// Where a loaded sequence goes.
        type Place<'a>: Copy;

        fn device_context(&self) -> &Context;
        fn layer_configs(&self) -> Vec<CacheConfig>;
        /// The length of a sequence, and its tokens if the cache knows them.
        fn described(&self, sequence: Self::Sequence) -> Result<(u32, Option<&[u32]>)>;
        /// The valid rows of a sequence in a layer, in order.
        fn rows_of(&self, layer: usize, sequence: Self::Sequence) -> Result<Pair<GpuTensor>>;
        /// Checks that a sequence can be loaded to a place.
        fn check_place(&self, place: Self::Place<'_>, saved: &Saved) -> Result<()>;
        /// Adds a sequence with these rows, or changes nothing.
        fn place(&mut self, place: Self::Place<'_>, saved: &Saved, rows: &[Pair<GpuTensor>]) -> Result<Self::Sequence>;
    }
}

/// What a sequence is saved with.
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// All that makes its rows not interchangeable with others of the same shape: the model, its revision, the rotary
    /// embedding, an adapter, a namespace.
    pub identity: &'a str,
    /// Its tokens, or none. A paged cache knows them.
    pub tokens: &'a [u32],
}

/// A sequence that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<S> {
    /// What names it: an index, or a handle.
    pub sequence: S,
    /// Its tokens, if it was saved with them.
    pub tokens: Vec<u32>,
}

/// Saves and loads sequences of a [`KvCache`](crate::KvCache), of a [`BatchedKvCache`](crate::BatchedKvCache), or of a
/// [`PagedKvCache`](crate::PagedKvCache), which name them by an index or by a handle. A sequence that was saved from
/// one can be loaded into another whose layers have the same shape, formats and windows.
///
/// The trait is sealed.
pub trait SaveSequence: sealed::Stored {
    /// Saves a sequence to a file. The file is written beside and renamed: a crash leaves the old file or none.
    ///
    /// # Errors
    /// Those of [`save_to`](Self::save_to).
    #[cfg(not(target_family = "wasm"))]
    fn save(&self, sequence: Self::Sequence, path: impl AsRef<Path>, label: &Label<'_>) -> Result<()> {
        file::write(path.as_ref(), |writer| self.save_to(sequence, writer, label).map(drop))
    }

    /// Writes a sequence to anything that takes bytes, layer by layer, and gives it back.
    ///
    /// # Errors
    /// [`SaveError::Empty`]; [`SaveError::TokenCount`]; [`SaveError::Io`]; an index or a handle that names no sequence;
    /// those of reading back a sequence's rows, which must fit a binding in each layer.
    ///
    /// # Performance
    /// Reads back the rows of one layer at a time.
    fn save_to<W: Write>(&self, sequence: Self::Sequence, writer: W, label: &Label<'_>) -> Result<W> {
        block_on(Some(self.device_context().device()), "saving", self.save_to_async(sequence, writer, label))
    }

    /// Does [`save_to`](Self::save_to) without blocking for the device; see [`GpuTensor::read_async`].
    ///
    /// # Errors
    /// Those of [`save_to`](Self::save_to).
    fn save_to_async<W: Write>(
        &self,
        sequence: Self::Sequence,
        writer: W,
        label: &Label<'_>,
    ) -> impl Future<Output = Result<W>> {
        async move {
            let (length, known) = self.described(sequence)?;
            if length == 0 {
                return Err(SaveError::Empty.into());
            }
            let given = label.tokens.len();
            if given > 0 && (given as u64 != u64::from(length) || known.is_some_and(|known| known != label.tokens)) {
                return Err(SaveError::TokenCount { length, tokens: given }.into());
            }
            let tokens = known.or((given > 0).then_some(label.tokens));
            let layers = self.layer_configs();
            let mut writer = Writer::new(writer, &Saved::new(&layers, length, label.identity, tokens))?;
            for layer in 0..layers.len() {
                let rows = self.rows_of(layer, sequence)?;
                for side in Side::BOTH {
                    writer.part(rows.side(side).read_async().await?.bytes())?;
                }
            }
            writer.finish()
        }
    }

    /// Loads a sequence from a file. See [`load_from`](Self::load_from).
    ///
    /// # Errors
    /// Those of [`load_from`](Self::load_from).
    #[cfg(not(target_family = "wasm"))]
    fn load(
        &mut self,
        place: Self::Place<'_>,
        path: impl AsRef<Path>,
        identity: &str,
    ) -> Result<Loaded<Self::Sequence>> {
        self.load_from(place, file::open(path.as_ref())?, identity)
    }

    /// Loads a sequence from anything that bytes are read from. `place` is the index of an empty sequence, or the
    /// number of sequences, which appends one; of a paged cache it is the namespace, and pages of a prefix that is
    /// cached are taken as they are. The sequence goes on as the saved one would have.
    ///
    /// It does not wait for the device, so it needs no asynchronous form.
    ///
    /// # Errors
    /// [`SaveError::Io`], [`SaveError::Malformed`], [`SaveError::Cut`], [`SaveError::Checksum`]; [`SaveError::Differs`]
    /// if it is of another identity, or its layers are of another shape, format, scale or window;
    /// [`SaveError::Occupied`]; [`SaveError::NoTokens`]; those of
    /// [`BatchedKvCache::insert`](crate::BatchedKvCache::insert) or of
    /// [`PagedKvCache::insert`](crate::PagedKvCache::insert). Nothing is changed then.
    ///
    /// # Performance
    /// Holds two tensors in host memory: one is read while the other is checked and goes to the device. The device
    /// holds all rows twice until they are placed.
    fn load_from(
        &mut self,
        place: Self::Place<'_>,
        reader: impl Read + Seek,
        identity: &str,
    ) -> Result<Loaded<Self::Sequence>> {
        let reader = Reader::new(reader)?;
        let configs = self.layer_configs();
        reader.saved.check(&configs, identity)?;
        self.check_place(place, &reader.saved)?;
        let counts: Vec<u32> = reader.saved.layers.iter().map(|layer| layer.rows(reader.saved.length)).collect();
        let context = self.device_context();
        let (saved, tensors) = reader.each(|index, bytes| {
            let (layer, side) = (index / 2, Side::BOTH[index % 2]);
            let config = &configs[layer];
            let shape = [1, config.num_heads, counts[layer], config.dim(side)];
            GpuTensor::filled(context, shape, config.format(side), config.scale(side), bytes)
        })?;
        let mut tensors = tensors.into_iter();
        let rows: Vec<Pair<GpuTensor>> = std::iter::from_fn(|| {
            let (keys, values) = (tensors.next()?, tensors.next()?);
            Some(Pair { keys, values })
        })
        .collect();
        let sequence = self.place(place, &saved, &rows)?;
        Ok(Loaded { sequence, tokens: saved.tokens.unwrap_or_default() })
    }
}

impl<S: sealed::Stored> SaveSequence for S {}
