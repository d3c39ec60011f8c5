//! [`SideVariant`]: the keys or the values, as the kernels that write planes see them.

use crate::{
    Format, Scale, Side,
    format::BLOCK,
    shape::layout::{Layout, SideLayout},
};

/// How a kernel reads one side of a source and writes it to planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SideVariant {
    /// Format of the source; `None` if the kernel reads no source.
    pub source: Option<Format>,
    pub stored: Format,
    pub dim: u32,
    pub slots: u32,
    /// Whether a thread moves whole `vec4<u32>` instead of single words or elements.
    pub wide: bool,
    /// The source's strides between sequences and between heads, in elements, for a step of one token from a source
    /// bound in one piece. An engine decodes from one such layout or a few, so these strides can be pipeline constants.
    /// `None` for other steps, such as prompts: their strides are data.
    pub strides: Option<[u32; 2]>,
    /// Whether the scale of the side is not 1.
    pub scaled: bool,
}

impl SideVariant {
    /// Returns the variant for a side of a source. Packed formats are always narrow: a thread reads a few elements of
    /// the source for each word of codes.
    pub fn new(layout: &Layout, side: Side, source: Option<Format>, aligned: bool) -> Self {
        let &SideLayout { format, dim, scale, .. } = layout.side(side);
        let wide = source.is_some() && aligned && dim.is_multiple_of(8) && !format.is_packed();
        let scaled = scale != Scale::ONE;
        SideVariant { source, stored: format, dim, slots: layout.slots, wide, strides: None, scaled }
    }

    /// Returns the variant for a side whose rows are moved as stored.
    pub fn moved(layout: &Layout, side: Side) -> Self {
        let sizes = layout.side(side);
        let wide = sizes.row_bytes.is_multiple_of(16) && sizes.is_contiguous();
        let (stored, dim, slots) = (sizes.format, sizes.dim, layout.slots);
        SideVariant { source: None, stored, dim, slots, wide, strides: None, scaled: false }
    }

    /// Number of units in `rows` rows. If rows share words, it allows for a run that begins inside a word.
    pub fn units(&self, rows: u32) -> u64 {
        if self.stored.is_packed() {
            return u64::from(rows).saturating_mul(self.row_parts().into());
        }
        let elements = u64::from(rows).saturating_mul(self.dim.into());
        match (self.wide, self.stored.lanes()) {
            (true, _) => elements / 8,
            (false, 2) => (elements / 2).saturating_add(self.shares_words().into()),
            (false, _) => elements,
        }
    }

    /// Number of units in a whole plane that is moved: vectors if `wide`, else words.
    pub fn moved_units(&self) -> u64 {
        let words = plane_words(self.stored, self.dim, self.slots);
        if self.wide { words / 4 } else { words }
    }

    /// Whether the kernel quantises rows to blocks, for which threads cooperate.
    pub fn makes_blocks(&self) -> bool {
        self.quantises() && matches!(self.stored, Format::Q8_0 | Format::Q4_0)
    }

    /// Whether the kernel quantises rows.
    pub fn quantises(&self) -> bool {
        self.stored.is_packed() && self.source.is_some_and(|source| source != self.stored)
    }

    /// Number of threads for a packed row: one per word or, if the kernel makes blocks, one per word of codes, counted
    /// to whole pairs of blocks.
    fn row_parts(&self) -> u32 {
        let pairs = self.stored.scale_words(self.dim);
        match self.stored {
            // There are at most 2^26 pairs, so the products do not saturate.
            Format::Q8_0 if self.makes_blocks() => pairs.saturating_mul(16),
            Format::Q4_0 if self.makes_blocks() => pairs.saturating_mul(8),
            stored => stored.units(self.dim),
        }
    }

    /// Whether a row can end in the word in which the next one begins.
    fn shares_words(&self) -> bool {
        !self.dim.is_multiple_of(self.stored.lanes())
    }

    /// Returns the alternative that a kernel includes for this side; `None` if the choice does not depend on a side.
    pub fn choose(&self, choice: &str) -> Option<&'static str> {
        let same = self.source == Some(self.stored);
        Some(match choice {
            "source" if self.wide => "wide",
            "source" => "narrow",
            "source/row" if self.strides.is_some() => "token",
            "source/row" => "strided",
            "format/decode" => match self.source {
                Some(source) if !same => converted(source),
                _ => "bits",
            },
            "format/encode" if same => "bits",
            "format/encode" => converted(self.stored),
            "planes" if self.stored.is_packed() => "packed",
            "planes" | "permute/units" if self.wide => "wide",
            "planes" | "permute/units" => "narrow",
            "planes/words" if self.shares_words() => "shared",
            "planes/words" => "whole",
            "format/pack" => match self.stored {
                Format::Fp8E4M3 if self.quantises() => "fp8_e4m3",
                Format::Q8_0 if self.quantises() => "q8_0",
                Format::Q4_0 if self.quantises() => "q4_0",
                _ => "words",
            },
            "scatter/stage" if self.makes_blocks() => "blocks",
            "scatter/stage" => "none",
            _ => return None,
        })
    }

    /// Returns the value of an `override` of this side; `None` if a side has no such constant.
    pub fn value(&self, name: &str) -> Option<u64> {
        let SideVariant { stored, dim, slots, .. } = *self;
        let packed = |words: u32| if stored.is_packed() { words } else { 0 };
        let stride = |index: usize| self.strides.map_or(0, |strides| strides[index]);
        Some(match name {
            "DIM" => dim.into(),
            "SLOTS" => slots.into(),
            "LANES" => stored.lanes().into(),
            "LANE_MASK" => lane_mask(stored).into(),
            "PLANE_WORDS" => plane_words(stored, dim, slots),
            "CODE_WORDS" => packed(stored.code_words(dim)).into(),
            "SCALE_WORDS" => packed(stored.scale_words(dim)).into(),
            "ROW_PARTS" => packed(self.row_parts()).into(),
            "CODE_UNITS" => if stored.is_packed() { stored.code_words(dim) } else { dim }.into(),
            "BLOCKS" => dim.div_ceil(BLOCK).into(),
            "ROW_UNITS" => (dim / 8).into(),
            "PLANE_UNITS" => u64::from(dim / 8).saturating_mul(slots.into()),
            "UNIT_VECTORS" => {
                if stored.lanes() == 1 {
                    2
                } else {
                    1
                }
            }
            "ROW_VECTORS" => stored.row_bytes(dim) / 16,
            "SOURCE_LANES" => self.source.map_or(1, Format::lanes).into(),
            "SAME_FORMAT" => (self.source == Some(stored)).into(),
            "SCALED" => self.scaled.into(),
            "SEQUENCE_STRIDE" => stride(0).into(),
            "HEAD_STRIDE" => stride(1).into(),
            _ => return None,
        })
    }
}

/// Name of the folder in `shaders/format/` that converts a format to and from the bits of an f32.
pub(super) const fn converted(format: Format) -> &'static str {
    match format {
        Format::F16 => "f16",
        Format::Bf16 => "bf16",
        _ => "bits",
    }
}

/// Number of words in a plane.
pub(super) fn plane_words(stored: Format, dim: u32, slots: u32) -> u64 {
    let words = u64::from(stored.units(dim)).saturating_mul(slots.into()).div_ceil(stored.lanes().into());
    if stored.is_packed() { words.next_multiple_of(4) } else { words }
}

/// Mask of the bits of one element in the lowest lane of a word.
pub(super) const fn lane_mask(format: Format) -> u32 {
    if format.lanes() == 2 { 0xffff } else { u32::MAX }
}
