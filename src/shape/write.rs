//! [`Write`]: how many tokens an update has, and where they go.

/// How many tokens an update brings for each sequence, and at which positions.
///
/// The source always holds `tokens` rows for every sequence and head. A sequence's count says how many of
/// them are real (right-padded prompts): padding is never written, and a count of 0 leaves the sequence alone.
/// Afterwards a sequence's length is the end of what was just written to it. So a write before the end rewinds,
/// and a write after the end leaves a gap whose rows read as zero.
///
/// ```
/// use wgpu_kv_cache::Write;
/// Write::append(1);                                // one token after each sequence's own length
/// Write::append(64).counts(&[64, 17, 0]);          // prompts of different lengths
/// Write::at(12, 4);                                // four tokens at position 12 of every sequence
/// Write::at_each(&[12, 5, 9], 1);                  // one token at a position of each sequence's own
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    pub(crate) tokens: u32,
    pub(crate) positions: Positions<'a>,
    pub(crate) counts: Option<&'a [u32]>,
    /// Every row of it must be stored afterwards.
    pub(crate) whole: bool,
    /// What its rows see as queries must be stored afterwards.
    pub(crate) attended: bool,
}

/// Where the tokens of a [`Write`] go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions<'a> {
    Append,
    At(u32),
    Each(&'a [u32]),
}

/// One number for all sequences, or one for each.
///
/// ```
/// use wgpu_kv_cache::PerSequence;
/// assert_eq!(PerSequence::from(7), PerSequence::All(7));
/// assert_eq!(PerSequence::from(&[3, 5]), PerSequence::Each(&[3, 5]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerSequence<'a> {
    /// The same for every sequence.
    All(u32),
    /// `[batch]`.
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
    /// `tokens` rows after each sequence's own length.
    pub const fn append(tokens: u32) -> Self {
        Write { tokens, positions: Positions::Append, counts: None, whole: false, attended: false }
    }

    /// `tokens` rows from one position on, the same for all sequences.
    pub const fn at(position: u32, tokens: u32) -> Self {
        Write { tokens, positions: Positions::At(position), counts: None, whole: false, attended: false }
    }

    /// `tokens` rows from one position per sequence on, as ONNX `TensorScatter` (opset 24) writes them.
    pub const fn at_each(positions: &'a [u32], tokens: u32) -> Self {
        Write { tokens, positions: Positions::Each(positions), counts: None, whole: false, attended: false }
    }

    /// How many of the tokens each sequence takes, `0..=tokens`, instead of all.
    #[must_use]
    pub const fn counts(mut self, counts: &'a [u32]) -> Self {
        self.counts = Some(counts);
        self
    }

    /// Refuses what a ring would keep only the end of: more tokens than it has rows beyond the sinks. Linear placement
    /// always keeps every row.
    ///
    /// ONNX `TensorScatter` (opset 24) in mode `circular` is `Write::at_each(write_indices, tokens).whole()`: it
    /// refuses an update that is longer than the cache.
    #[must_use]
    pub const fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Refuses what a ring could not be attended after: a write of which some row, as a query at its own position,
    /// would see a position of its window that a later row has overwritten. Once it has wrapped, a ring takes `slack +
    /// 1` tokens at once so; an empty one takes as many as it has slots. Linear placement always keeps every row.
    ///
    /// ```
    /// use wgpu_kv_cache::{CacheConfig, Error, Placement, RangeError, ReferenceCache, Write};
    ///
    /// let ring = Placement::Ring { window: 4, sinks: 1, slack: 2 };
    /// let mut cache = ReferenceCache::new(CacheConfig::new(1, 1, 1, 0).placement(ring))?;
    /// cache.update(&[0.5f32; 9][..], &[0.5f32; 9][..], Write::append(9))?;
    /// // The query at position 9 sees 6 to 9, and the row at 13 would take the slot of 6 + 1.
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

    /// Rows that the source holds for every sequence and head.
    pub const fn tokens(&self) -> u32 {
        self.tokens
    }
}
