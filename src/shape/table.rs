//! [`TableLayout`]: where a block table and the numbers beside it lie in their buffer.

/// Words to which each list of numbers is padded, so that it can be bound: by WebGPU's limits the alignment of a
/// storage buffer is 256 bytes at most.
const ALIGNMENT: u32 = 64;

/// Words of the buffer that tells a device which page holds which positions of which sequence. First come three numbers
/// for each sequence of the last step, in its order, each list padded: the lengths, then the starts (positions of the
/// first rows just written), then the rows of the table that the sequences have. Then come the tables, `[group, row,
/// page]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableLayout {
    /// Rows of the table, one for each sequence that there may be.
    pub rows: u32,
    /// Entries of a row.
    pub width: u32,
    /// Tokens of a page.
    pub page_size: u32,
    /// Number of tables, one for each group of layers.
    pub groups: u32,
    /// The one that is meant.
    pub group: u32,
}

#[cfg_attr(not(feature = "pages"), allow(dead_code, reason = "pages alone have a table"))]
impl TableLayout {
    /// Words that each list of numbers takes.
    pub const fn room(&self) -> u32 {
        self.rows.div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT)
    }

    /// Index of the length of a sequence of the step.
    pub const fn length(&self, index: u32) -> u32 {
        index
    }

    /// Index of the start of a sequence of the step.
    pub const fn start(&self, index: u32) -> u32 {
        self.room().saturating_add(index)
    }

    /// Index of the row of a sequence of the step.
    pub const fn row(&self, index: u32) -> u32 {
        self.room().saturating_mul(2).saturating_add(index)
    }

    /// Index of an entry of the table.
    pub const fn entry(&self, row: u32, page: u32) -> u32 {
        let row = self.group.saturating_mul(self.rows).saturating_add(row);
        self.room().saturating_mul(3).saturating_add(row.saturating_mul(self.width)).saturating_add(page)
    }

    /// With the table of a group.
    pub const fn of(self, group: u32) -> Self {
        TableLayout { group, ..self }
    }

    /// Bytes of the whole.
    pub const fn bytes(&self) -> u64 {
        let numbers = (self.room() as u64).saturating_mul(3);
        let table = (self.rows as u64).saturating_mul(self.width as u64).saturating_mul(self.groups as u64);
        numbers.saturating_add(table).saturating_mul(4)
    }
}
