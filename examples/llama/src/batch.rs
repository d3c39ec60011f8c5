//! [`run`]: many prompts with shared beginnings by continuous batching over pages. A step mixes prompts and single
//! tokens; where pages run out, the request that came last waits again.

use std::collections::VecDeque;

use wgpu_kv_cache::PageError;

use crate::{
    Error, Result,
    cache::{Chunk, Place, Sequence},
    engine::Engine,
    generate::Wanted,
};

/// A request that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its place among the prompts.
    pub index: usize,
    pub prompt: Vec<u32>,
    pub tokens: Vec<u32>,
    /// Tokens that the cache had when it was admitted, the last time.
    pub cached: u32,
    /// How often it lost its pages to others.
    pub preempted: u32,
}

/// What all requests took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub steps: u32,
    pub most_at_once: usize,
    /// Tokens that were computed, and those that were found.
    pub computed: u64,
    pub found: u64,
    pub preempted: u32,
}

#[derive(Debug)]
struct Request {
    done: Done,
    sequence: Option<Sequence>,
}

impl Request {
    fn known(&self) -> Vec<u32> {
        [&self.done.prompt[..], &self.done.tokens].concat()
    }

    fn sequence(&self) -> Sequence {
        self.sequence.expect("a request that runs has a sequence")
    }
}

/// Runs prompts to their ends. `each` gets every request as soon as it is done.
pub fn run(
    engine: &mut Engine,
    prompts: &[Vec<u32>],
    wanted: &Wanted,
    mut each: impl FnMut(&Done) -> Result<()>,
) -> Result<Figures> {
    let Place::Pages { sequences: most_running, .. } = engine.cache.options().place else {
        return Err(Error::NeedsPages { operation: "a batch" });
    };
    let positions = engine.model.sizes.positions;
    for prompt in prompts {
        let tokens = prompt.len() + wanted.tokens;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if tokens > positions as usize {
            return Err(Error::ContextFull { tokens, context: positions });
        }
    }
    let request = |(index, prompt): (usize, &Vec<u32>)| Request {
        done: Done { index, prompt: prompt.clone(), tokens: Vec::new(), cached: 0, preempted: 0 },
        sequence: None,
    };
    let mut waiting: VecDeque<Request> = prompts.iter().enumerate().map(request).collect();
    let (mut running, mut figures): (Vec<Request>, _) = (Vec::new(), Figures::default());
    let mut admits = true;
    while !(waiting.is_empty() && running.is_empty()) {
        // No more than a step computes: who is admitted later may find what the others have computed.
        let mut pending = 0;
        for request in &running {
            pending += request.known().len() - engine.cache.length(request.sequence())? as usize;
        }
        while admits && running.len() < most_running as usize && pending < engine.rows as usize {
            let Some(next) = waiting.front() else { break };
            let known = next.known();
            let room = engine.cache.pages("a batch")?.sequences().check_room(&known, None);
            match room {
                Ok(()) => {}
                // Alone, it has all pages there are.
                Err(error) if running.is_empty() => return Err(error.into()),
                Err(_) => break,
            }
            let mut request = waiting.pop_front().expect("it is at the front");
            let (sequence, cached) = engine.cache.add(&known)?;
            (request.sequence, request.done.cached) = (Some(sequence), cached);
            figures.found += u64::from(cached);
            pending += known.len() - cached as usize;
            running.push(request);
        }
        admits = true;
        figures.most_at_once = figures.most_at_once.max(running.len());
        if let Some(parts) = step(engine, &running)? {
            figures.steps += 1;
            figures.computed += parts.iter().map(|(tokens, _)| *tokens as u64).sum::<u64>();
            let mut still = Vec::new();
            for (mut request, (_, next)) in running.into_iter().zip(parts) {
                request.done.tokens.extend(next);
                let ended = next.is_some_and(|next| wanted.stops.contains(&next));
                if ended || request.done.tokens.len() >= wanted.tokens {
                    engine.cache.free(request.sequence())?;
                    each(&request.done)?;
                } else {
                    still.push(request);
                }
            }
            running = still;
        } else {
            // What it computed may still be found later.
            let mut last = running.pop().expect("a step without sequences needs no pages");
            engine.cache.free(last.sequence())?;
            if running.is_empty() {
                return Err(Error::Argument {
                    argument: "--pages".to_owned(),
                    rule: format!("request {} alone needs more pages than there are", last.done.index),
                });
            }
            last.sequence = None;
            last.done.preempted += 1;
            figures.preempted += 1;
            waiting.push_front(last);
            admits = false;
        }
    }
    Ok(figures)
}

/// What a request got of a step: how many of its tokens were computed, and the next one if that were all.
type Part = (usize, Option<u32>);

/// A step of all running requests, as far as rows suffice. `None` where there are not enough pages.
fn step(engine: &mut Engine, running: &[Request]) -> Result<Option<Vec<Part>>> {
    let mut budget = engine.rows.clamp(1, engine.model.sizes.rows) as usize;
    // Of each request, the tokens of this step.
    let mut parts = Vec::new();
    for (index, request) in running.iter().enumerate() {
        let mut known = request.known();
        let length = engine.cache.length(request.sequence())? as usize;
        // One row at least is left to each of those behind.
        let behind = running.len() - index - 1;
        let count = (known.len() - length).min(budget.saturating_sub(behind));
        budget -= count;
        let is_whole = length + count == known.len();
        known.truncate(length + count);
        parts.push((request.sequence(), known.split_off(length), is_whole));
    }
    let chunks: Vec<_> = parts
        .iter()
        .filter(|(_, tokens, _)| !tokens.is_empty())
        .map(|(sequence, tokens, is_whole)| Chunk { wanted: u32::from(*is_whole), ..Chunk::new(*sequence, tokens) })
        .collect();
    let mut next = match engine.step(&chunks) {
        Ok(next) => next.into_iter(),
        Err(Error::Cache(wgpu_kv_cache::Error::Page(PageError::OutOfPages { .. }))) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut next_of = |tokens: &[u32]| if tokens.is_empty() { None } else { next.next()?.first().copied() };
    Ok(Some(parts.iter().map(|(_, tokens, _)| (tokens.len(), next_of(tokens))).collect()))
}
