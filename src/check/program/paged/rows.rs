//! [`TokenRows`]: rows that follow from tokens, and how they are stored.

use std::collections::HashMap;

use super::super::data::mix;
use crate::{CacheConfig, Format, Side, check::reference::rows::stored_row};

/// What the rows of a token are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenRows {
    /// Of token `t` at position `p` of layer `l`, head `h`, element `i`: `(31 t + 7 p + 3 l + 5 h + i) mod 251` for keys,
    /// and its negative for values.
    Formula,
    /// Likewise, with a hash of all tokens up to `p` in place of `31 t + 7 p`: rows tell prefixes apart.
    Prefix,
}

/// A number of tokens, pages or sequences, all of which are counted in 32 bits.
pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a program is small")
}

/// Numbers repeat after as many.
const PERIOD: u32 = 251;

impl TokenRows {
    /// What the rows of each of some tokens begin with, below [`PERIOD`].
    pub(super) fn bases(self, tokens: &[u32]) -> Vec<u32> {
        let mut hash = 1u64;
        let base = |(position, &token): (u64, &u32)| {
            let number = match self {
                TokenRows::Formula => 31 * u64::from(token) + 7 * position,
                TokenRows::Prefix => {
                    hash = mix(hash ^ mix(u64::from(token)));
                    hash >> 8
                }
            };
            u32::try_from(number % u64::from(PERIOD)).expect("it is below a period")
        };
        (0..).zip(tokens).map(base).collect()
    }

    /// A row in f32.
    pub(super) fn row(side: Side, dim: u32, base: u32, layer: usize, head: u32) -> impl Iterator<Item = f32> {
        let first = base as usize + 3 * layer + 5 * head as usize;
        (0..dim as usize).map(move |i| {
            let number = ((first + i) % PERIOD as usize) as f32;
            if side == Side::Keys { number } else { -number }
        })
    }

    /// Rows of tokens with these bases, packed `[token, head, dim]`.
    pub(super) fn packed(config: &CacheConfig, side: Side, layer: usize, bases: &[u32]) -> Vec<f32> {
        let of_head = |base, head| Self::row(side, config.dim(side), base, layer, head);
        bases.iter().flat_map(|&base| (0..config.num_heads).flat_map(move |head| of_head(base, head))).collect()
    }
}

/// Stored bytes of rows, each made once.
#[derive(Debug, Default)]
pub(super) struct Stored(HashMap<(bool, usize, u32, u32), Vec<u8>>);

impl Stored {
    pub fn row(&mut self, config: &CacheConfig, side: Side, layer: usize, head: u32, base: u32) -> &[u8] {
        self.0.entry((side == Side::Keys, layer, head, base)).or_insert_with(|| {
            let row = TokenRows::row(side, config.dim(side), base, layer, head).map(f32::to_bits).collect();
            let width = config.format(side).unit_bytes() as usize;
            let bits = stored_row(config, side, Format::F32, row);
            bits.into_iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(width)).collect()
        })
    }
}
