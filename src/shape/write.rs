//! [`Write`]: how many tokens an update has, and where they go.

/// Describes an update: how many tokens it writes to each sequence, and at which positions.
///
/// The source always holds `tokens` rows for every sequence and head. The count of a sequence says how many of them are
/// real tokens (for right-padded prompts). Padding is never written, and a count of 0 leaves the sequence unchanged.
/// After the update, the length of a sequence is the end of the rows just written to it. A write before the end
/// therefore rewinds the sequence, and a write past the end leaves a gap whose rows read as zero.
///
/// ```
/// use wgpu_kv_cache::Write;
/// Write::append(1);                                // one token after each sequence's own length
/// Write::append(64).counts(&[64, 17, 0]);          // prompts of different lengths
/// Write::at(12, 4);                                // four tokens at position 12 of every sequence
/// Write::at_each(&[12, 5, 9], 1);                  // one token, at a different position in each sequence
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    pub(crate) tokens: u32,
    pub(crate) positions: Positions<'a>,
    pub(crate) counts: Option<&'a [u32]>,
    /// Whether every row of the write must be stored afterwards.
    pub(crate) whole: bool,
    /// Whether every position that the rows attend to as queries must be stored afterwards.
    pub(crate) attended: bool,
}

/// Where the tokens of a [`Write`] go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions<'a> {
    Append,
    At(u32),
    Each(&'a [u32]),
}

/// One number for all sequences, or one number per sequence.
///
/// ```
/// use wgpu_kv_cache::PerSequence;
/// assert_eq!(PerSequence::from(7), PerSequence::All(7));
/// assert_eq!(PerSequence::from(&[3, 5]), PerSequence::Each(&[3, 5]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerSequence<'a> {
    /// The same number for every sequence.
    All(u32),
    /// One number for each sequence, `[batch]`.
    Each(&'a [u32]),
}

impl From<u32> for PerSequence<'_> {
    fn from(all: u32) -> Self {
        PerSequence::All(all)
    }
}

impl<'a> From<&'a [u32]> for PerSequence<'a> {
    fn from(each: &'a [u32]) -> Self {
        PerSequence::Each(each)
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for PerSequence<'a> {
    fn from(each: &'a [u32; N]) -> Self {
        PerSequence::Each(each)
    }
}

impl<'a> From<&'a Vec<u32>> for PerSequence<'a> {
    fn from(each: &'a Vec<u32>) -> Self {
        PerSequence::Each(each)
    }
}

impl<'a> Write<'a> {
    /// Writes `tokens` rows at the end of each sequence.
    pub const fn append(tokens: u32) -> Self {
        Write { tokens, positions: Positions::Append, counts: None, whole: false, attended: false }
    }

    /// Writes `tokens` rows to every sequence, from `position` on.
    pub const fn at(position: u32, tokens: u32) -> Self {
        Write { tokens, positions: Positions::At(position), counts: None, whole: false, attended: false }
    }

    /// Writes `tokens` rows to each sequence, from its own position on, like ONNX `TensorScatter` (opset 24).
    pub const fn at_each(positions: &'a [u32], tokens: u32) -> Self {
        Write { tokens, positions: Positions::Each(positions), counts: None, whole: false, attended: false }
    }

    /// Sets how many of the tokens each sequence takes, `0..=tokens`. Without it, each takes all.
    #[must_use]
    pub const fn counts(mut self, counts: &'a [u32]) -> Self {
        self.counts = Some(counts);
        self
    }

    /// Refuses a write of more tokens than a ring has rows beyond its sinks, of which the ring would keep only the end.
    /// Linear placement always keeps every row.
    ///
    /// ONNX `TensorScatter` (opset 24) in mode `circular` is `Write::at_each(write_indices, tokens).whole()`: it
    /// refuses an update that is longer than the cache.
    #[must_use]
    pub const fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Refuses a write after which a ring could not serve its queries: some row of the write, as a query at its own
    /// position, would attend to a position that a later row of the same write has overwritten. A wrapped ring accepts
    /// up to `slack + 1` tokens at once; an empty ring accepts as many as it has slots. Linear placement always keeps
    /// every row.
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Error, Placement, RangeError, ReferenceCache, Write};
    ///
    /// let ring = Placement::Ring { window: 4, sinks: 1, slack: 2 };
    /// let mut cache = ReferenceCache::new(CacheConfig::new(1, 1, 1, 0).placement(ring))?;
    /// cache.update(&[0.5f32; 9][..], &[0.5f32; 9][..], Write::append(9))?;
    /// // The query at position 9 attends to 6 to 9, but the rows at 12 and 13 would overwrite 6 and 7.
    /// let refused = cache.update(&[0.5f32; 5][..], &[0.5f32; 5][..], Write::append(5).attended());
    /// assert_eq!(refused, Err(RangeError::Evicted { sequence: 0, position: 6, oldest: 8 }.into()));
    /// cache.update(&[0.5f32; 3][..], &[0.5f32; 3][..], Write::append(3).attended())?;
    /// # Ok::<(), Error>(())
    /// ```
    #[must_use]
    pub const fn attended(mut self) -> Self {
        self.attended = true;
        self
    }

    /// Number of rows that the source holds for every sequence and head.
    pub const fn tokens(&self) -> u32 {
        self.tokens
    }
}
