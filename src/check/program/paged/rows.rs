//! [`TokenRows`]: rows that follow from tokens, [`Given`]: others, and how both are stored.

use std::collections::HashMap;

use super::super::data::mix;
use crate::{CacheConfig, Format, Pair, Result, Side, WriteError, check::reference::rows::stored_row};

/// What the rows of a token are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenRows {
    /// Of token `t` at position `p` of layer `l`, head `h`, element `i`: `(31 t + 7 p + 3 l + 5 h + i) mod 251` for
    /// keys, and its negative for values.
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
    /// What names the rows of each of some tokens, and they begin with: below [`PERIOD`].
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
}

/// Rows that tokens were given, keys and values of all layers: `[layer, head, dim]` of each.
#[derive(Debug, Default)]
pub(super) struct Given(Vec<Pair<Vec<f32>>>);

impl Given {
    /// Notes the rows of tokens, `[layer, token, head, dim]`, and tells what names them.
    ///
    /// # Errors
    /// [`WriteError::SliceLength`] if they are those of another number of tokens.
    pub fn add(&mut self, layers: &[CacheConfig], tokens: usize, rows: &Pair<Vec<f32>>) -> Result<Vec<u32>> {
        let first = self.0.len();
        for side in Side::BOTH {
            let of_token =
                layers.iter().map(|layer| u64::from(layer.num_heads) * u64::from(layer.dim(side))).sum::<u64>();
            let (expected, actual) = (of_token * tokens as u64, rows.side(side).len() as u64);
            if expected != actual {
                return Err(WriteError::SliceLength { side, expected, actual }.into());
            }
        }
        for token in 0..tokens {
            let of = |side: Side| {
                let mut layer_start = 0;
                let mut own = Vec::new();
                for layer in layers {
                    let row = (layer.num_heads * layer.dim(side)) as usize;
                    own.extend_from_slice(&rows.side(side)[layer_start + token * row..][..row]);
                    layer_start += tokens * row;
                }
                own
            };
            self.0.push(Pair { keys: of(Side::Keys), values: of(Side::Values) });
        }
        Ok((first..self.0.len()).map(|index| PERIOD + number(index)).collect())
    }

    /// A row in f32: of a formula, or as it was given.
    pub fn row(&self, layers: &[CacheConfig], side: Side, base: u32, layer: usize, head: u32) -> Vec<f32> {
        let config = &layers[layer];
        let dim = config.dim(side) as usize;
        let Some(given) = base.checked_sub(PERIOD) else {
            let first = base as usize + 3 * layer + 5 * head as usize;
            let numbers = (0..dim).map(|i| ((first + i) % PERIOD as usize) as f32);
            return numbers.map(|number| if side == Side::Keys { number } else { -number }).collect();
        };
        let before = layers[..layer].iter().map(|layer| (layer.num_heads * layer.dim(side)) as usize).sum::<usize>();
        self.0[given as usize].side(side)[before + head as usize * dim..][..dim].to_vec()
    }

    /// Rows of tokens with these names, packed `[token, head, dim]`.
    pub fn packed(&self, layers: &[CacheConfig], side: Side, layer: usize, bases: &[u32]) -> Vec<f32> {
        let heads = 0..layers[layer].num_heads;
        let of_token = |&base| heads.clone().flat_map(move |head| self.row(layers, side, base, layer, head));
        bases.iter().flat_map(of_token).collect()
    }
}

/// Stored bytes of rows, each made once.
#[derive(Debug, Default)]
pub(super) struct Stored(HashMap<(bool, usize, u32, u32), Vec<u8>>);

impl Stored {
    pub fn row(
        &mut self,
        (given, layers): (&Given, &[CacheConfig]),
        side: Side,
        layer: usize,
        head: u32,
        base: u32,
    ) -> &[u8] {
        self.0.entry((side == Side::Keys, layer, head, base)).or_insert_with(|| {
            let config = &layers[layer];
            let row = given.row(layers, side, base, layer, head).into_iter().map(f32::to_bits).collect();
            let width = config.format(side).unit_bytes() as usize;
            let bits = stored_row(config, side, Format::F32, row);
            bits.into_iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(width)).collect()
        })
    }
}
