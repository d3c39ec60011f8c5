//! [`PagesConfig`]: a pool of pages, and how its sequences use it.

use super::group::Group;
use crate::{PageError, Placement, Result};

/// A pool of pages, and how its sequences use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagesConfig {
    /// Tokens of a page, a power of two.
    pub page_size: u32,
    /// Number of pages.
    pub count: u32,
    /// The most sequences at a time.
    pub max_sequences: u32,
    /// The most tokens of a sequence. The default is 4 294 967 294.
    pub max_seq_len: u32,
    /// Whether sequences with the same beginning share pages. The default is true.
    pub share_prefixes: bool,
    /// The positions that each group of layers keeps. A sequence has pages of its own for each group; a page holds rows
    /// of one group. The default is one group with linear placement, which keeps all positions.
    pub groups: Vec<Placement>,
}

impl PagesConfig {
    /// For example `PagesConfig::new(16, 1024, 64)`: pages of 16 tokens, 1024 of them, for up to 64 sequences, which
    /// share prefixes.
    #[must_use]
    pub fn new(page_size: u32, count: u32, max_sequences: u32) -> Self {
        let groups = vec![Placement::Linear];
        PagesConfig { page_size, count, max_sequences, max_seq_len: u32::MAX - 1, share_prefixes: true, groups }
    }

    /// With these groups.
    #[must_use]
    pub fn groups(self, groups: Vec<Placement>) -> Self {
        PagesConfig { groups, ..self }
    }

    /// The most pages that a sequence has, in all groups together, while it grows token by token up to a length.
    #[must_use]
    pub fn most_pages(&self, length: u32) -> u64 {
        let of_group = |&placement: &Placement| u64::from(Group::new(placement, self.page_size).most_pages(length));
        self.groups.iter().map(of_group).fold(0, u64::saturating_add)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`PageError::PageSize`] if it is no power of two; [`PageError::NoPages`] if a number is zero;
    /// [`ConfigError::ZeroDimension`](crate::ConfigError::ZeroDimension) if a window is zero;
    /// [`ConfigError::SizeOverflow`](crate::ConfigError::SizeOverflow) if the sum of window, sinks and
    /// slack exceeds 32 bits.
    pub fn validate(&self) -> Result<()> {
        let &PagesConfig { page_size, count, max_sequences, max_seq_len, ref groups, .. } = self;
        if !page_size.is_power_of_two() {
            return Err(PageError::PageSize { page_size }.into());
        }
        let groups_count = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        for (name, number) in
            [("pages", count), ("sequences", max_sequences), ("positions", max_seq_len), ("groups", groups_count)]
        {
            if number == 0 || number == u32::MAX {
                return Err(PageError::NoPages { name, number }.into());
            }
        }
        groups.iter().try_for_each(Placement::check)
    }
}
