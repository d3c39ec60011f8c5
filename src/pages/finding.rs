//! What a pool holds of a prompt: found, and taken by a new sequence.

use std::sync::Arc;

use super::{
    group::Group,
    held::{Held, RETURNED, length_of},
    id::SequenceId,
    key::PageKey,
    prefixes::{Content, Prefix},
    sequences::{PagedSequences, Sequence},
    step::StepKind,
};
use crate::{PageError, Result};

/// A new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its handle.
    pub sequence: SequenceId,
    /// How many of the tokens have rows already. The sequence begins with these; the others are to be appended.
    pub cached: u32,
}

impl PagedSequences {
    /// The keys of every full page of some tokens.
    pub fn keys<'a>(&'a self, tokens: &'a [u32], namespace: Option<&'a str>) -> impl Iterator<Item = PageKey> + 'a {
        self.contents(tokens, namespace, &[]).map(|content| content.key)
    }

    /// Of each full page of some tokens; what comes before it is not filled in. The first `keys` are known.
    pub(super) fn contents<'a>(
        &'a self,
        tokens: &'a [u32],
        namespace: Option<&'a str>,
        keys: &'a [PageKey],
    ) -> impl Iterator<Item = Content<'a>> + 'a {
        let (mut parent, mut length, mut keys) = (self.root, 0u32, keys.iter().copied());
        tokens.chunks_exact(self.config.page_size as usize).map(move |tokens| {
            let namespace = namespace.filter(|_| length == 0);
            length = length.saturating_add(length_of(tokens));
            let key = keys.next().unwrap_or_else(|| (self.key_of)(&parent, tokens, namespace));
            parent = key;
            Content { key, before: None, tokens, namespace, length }
        })
    }

    /// The longest prefix of some tokens of which every group has the pages that its queries read, and the number of
    /// pages that were looked for.
    fn found(&self, tokens: &[u32], namespace: Option<&str>, keys: &[PageKey]) -> (Vec<Prefix>, u32) {
        if !self.config.share_prefixes {
            return (Vec::new(), 0);
        }
        // One token at least is left to compute.
        let tokens = &tokens[..tokens.len().saturating_sub(1)];
        let looked = length_of(tokens).checked_div(self.config.page_size).unwrap_or(0);
        let mut prefixes = Vec::new();
        // Of each group, the number of pages up to here that are there without a hole, and whether a sink is missing.
        let mut runs = vec![(0u32, false); self.config.groups.len()];
        let mut longest = 0;
        for content in self.contents(tokens, namespace, keys) {
            let Some(prefix) = self.pool.prefixes.find(&Content { before: prefixes.last().copied(), ..content }) else {
                break;
            };
            let index = length_of(&prefixes);
            prefixes.push(prefix);
            let end = index.saturating_add(1);
            let mut whole = true;
            for (group, own) in self.groups.iter().enumerate() {
                let (run, without_sink) = &mut runs[group];
                let there = self.pool.prefixes.page(prefix, group).is_some();
                *run = if there { run.saturating_add(1) } else { 0 };
                *without_sink |= !there && index < own.sink_pages();
                whole &= !*without_sink && *run >= end.saturating_sub(own.first_hit(end));
            }
            if whole {
                longest = prefixes.len();
            } else if runs.iter().any(|(_, without_sink)| *without_sink) {
                break;
            }
        }
        prefixes.truncate(longest);
        (prefixes, looked)
    }

    /// The pages of a prefix that a group reads after it, by their index.
    fn read_after<'a>(&'a self, prefixes: &'a [Prefix], group: usize) -> impl Iterator<Item = (usize, u32)> + 'a {
        let (own, count) = (self.groups[group], length_of(prefixes));
        let first = own.first_hit(count) as usize;
        let sinks = own.sink_pages() as usize;
        let read = prefixes.iter().enumerate().filter(move |&(index, _)| index < sinks || index >= first);
        read.filter_map(move |(index, &prefix)| Some((index, self.pool.prefixes.page(prefix, group)?)))
    }

    /// How many of these tokens [`add`](Self::add) would find: whole pages, and one token less than all at most.
    pub fn matched(&self, tokens: &[u32], namespace: Option<&str>) -> u32 {
        self.matched_by(tokens, namespace, &[])
    }

    /// As [`matched`](Self::matched), where the keys of the first pages are known.
    pub(crate) fn matched_by(&self, tokens: &[u32], namespace: Option<&str>, keys: &[PageKey]) -> u32 {
        length_of(&self.found(tokens, namespace, keys).0).saturating_mul(self.config.page_size)
    }

    /// Checks that a sequence of these tokens could be [added](Self::add) now, and that there would be pages to append
    /// those that are not found, in one step. Layers with windows need less where a prompt is appended in parts,
    /// because pages go back in between.
    ///
    /// # Errors
    /// [`PageError::TooManyTokens`], [`PageError::TooManySequences`], [`PageError::OutOfPages`].
    pub fn check_room(&self, tokens: &[u32], namespace: Option<&str>) -> Result<()> {
        self.check_room_of(tokens, namespace, &[], StepKind::Append)
    }

    /// As [`check_room`](Self::check_room), for a step of a kind, where the keys of the first pages are known.
    pub(crate) fn check_room_of(
        &self,
        tokens: &[u32],
        namespace: Option<&str>,
        keys: &[PageKey],
        kind: StepKind,
    ) -> Result<()> {
        self.check_length(tokens.len())?;
        self.vacant_slot()?;
        let (found, _) = self.found(tokens, namespace, keys);
        let (before, length) = (length_of(&found), length_of(tokens));
        let of_group = |own: &Group| u64::from(own.taken(before..own.pages(length), length, kind));
        let needed = self.groups.iter().map(of_group).fold(0, u64::saturating_add);
        // Pages that are found could not be taken.
        let read = |group| self.read_after(&found, group).map(|(_, page)| page);
        let pages: Vec<u32> = (0..self.config.groups.len()).flat_map(read).collect();
        let taken = length_of(&pages).saturating_sub(self.pool.referenced(pages.iter().copied()));
        let (free, evictable) = (self.pool.free().saturating_sub(taken), self.pool.evictable().saturating_sub(taken));
        if needed > free.into() {
            return Err(PageError::OutOfPages { needed, free: free.saturating_sub(evictable), evictable }.into());
        }
        Ok(())
    }

    /// Adds a sequence that begins with those of the tokens whose pages the pool has already. The others are to be
    /// appended. Prefixes are found in the same namespace only.
    ///
    /// # Errors
    /// [`PageError::TooManySequences`], [`PageError::TooManyTokens`].
    pub fn add(&mut self, tokens: &[u32], namespace: Option<&str>) -> Result<Added> {
        self.add_by(tokens, namespace, &[])
    }

    /// As [`add`](Self::add), where the keys of the first pages are known.
    pub(crate) fn add_by(&mut self, tokens: &[u32], namespace: Option<&str>, keys: &[PageKey]) -> Result<Added> {
        self.check_length(tokens.len())?;
        let slot = self.vacant_slot()?;
        let (prefixes, looked) = self.found(tokens, namespace, keys);
        self.queried = self.queried.saturating_add(looked.into());
        self.hits = self.hits.saturating_add(prefixes.len() as u64);
        let cached = prefixes.len().saturating_mul(self.config.page_size as usize);
        let mut held = Vec::with_capacity(self.config.groups.len());
        for (group, own) in self.groups.iter().enumerate() {
            let mut pages = vec![RETURNED; prefixes.len()];
            self.read_after(&prefixes, group).for_each(|(index, page)| pages[index] = page);
            let first = own.first_hit(length_of(&prefixes));
            held.push(Held { pages, first, ..Held::default() });
        }
        held.iter().flat_map(Held::there).for_each(|page| self.pool.refer(page));
        prefixes.iter().for_each(|&prefix| self.pool.prefixes.refer(prefix));
        let (tokens, rest) = (tokens[..cached].to_vec(), length_of(&tokens[cached..]));
        let sequence = Sequence { tokens, held, prefixes, namespace: namespace.map(Arc::from), ..Sequence::default() };
        Ok(Added { sequence: self.occupy(slot, sequence, rest), cached: u32::try_from(cached).unwrap_or(u32::MAX) })
    }
}
