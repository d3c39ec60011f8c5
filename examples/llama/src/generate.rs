//! [`Generation`]: one sequence, token by token, or some drafts at a time.

use std::time::{Duration, Instant};

use crate::{
    Error, Result,
    cache::{Chunk, Sequence},
    draft::look_up,
    engine::Engine,
};

/// How far a sequence is continued.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub tokens: usize,
    /// Tokens after which it ends.
    pub stops: Vec<u32>,
    /// Tokens that are guessed in each step, at most.
    pub drafts: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    pub tokens: Vec<u32>,
    /// Drafts that were computed, and those that were right.
    pub drafted: u32,
    pub accepted: u32,
    /// Time to the first token, and from it to the last.
    pub first: Duration,
    pub others: Duration,
}

/// Continues a sequence. `known` are all of its tokens, of which the cache may have some. The last token that is
/// returned is not yet in the cache.
pub fn generate(
    engine: &mut Engine,
    sequence: Sequence,
    known: &[u32],
    wanted: &Wanted,
    mut each: impl FnMut(u32) -> Result<()>,
) -> Result<Generation> {
    let cached = engine.cache.length(sequence)? as usize;
    if cached >= known.len() {
        return Err(Error::EmptyPrompt);
    }
    let (start, mut made) = (Instant::now(), Generation::default());
    let mut known = known.to_vec();
    let first = engine.prefill(sequence, &known[cached..])?;
    made.first = start.elapsed();
    let (start, mut ended) = (Instant::now(), wanted.tokens == 0);
    let mut take = |made: &mut Generation, known: &mut Vec<u32>, token: u32| -> Result<bool> {
        made.tokens.push(token);
        known.push(token);
        each(token)?;
        Ok(wanted.stops.contains(&token) || made.tokens.len() >= wanted.tokens)
    };
    if !ended {
        ended = take(&mut made, &mut known, first)?;
    }
    while !ended && known.len() <= engine.model.sizes.positions as usize {
        let room = engine.model.sizes.positions as usize - known.len();
        let most = (wanted.tokens - made.tokens.len()).min(wanted.drafts as usize + 1).min(room + 1) - 1;
        let mut tokens = vec![known[known.len() - 1]];
        tokens.extend(look_up(&known, most));
        let drafts = tokens.len() as u32 - 1;
        let chunk = Chunk { sequence, tokens: &tokens, drafts, wanted: drafts + 1 };
        let next = engine.step(&[chunk])?.swap_remove(0);
        // A draft is right if it is what the model would have chosen; the token after the last right one is known too.
        let right = next.iter().zip(&tokens[1..]).take_while(|(next, draft)| next == draft).count();
        engine.cache.accept(sequence, drafts, right as u32)?;
        made.drafted += drafts;
        made.accepted += right as u32;
        for &token in &next[..=right] {
            if !ended {
                ended = take(&mut made, &mut known, token)?;
            }
        }
    }
    made.others = start.elapsed();
    Ok(made)
}
