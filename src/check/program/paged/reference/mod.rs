//! [`PagedReference`]: the contract of a paged cache on the CPU. A sequence is a list of tokens, whose rows follow from
//! them; pages are lists of what has them. It hashes nothing, and searches where the cache looks up.

use std::collections::BTreeMap;

mod steps;

use super::rows::number;
use crate::{PageError, PagedConfig, Placement, RangeError, Result, SequenceError};

/// All that decides which rows a page holds: a namespace, and the tokens up to its end.
type Prefix = (Option<String>, Vec<u32>);

#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub tokens: Vec<u32>,
    /// What the rows of each token begin with.
    pub bases: Vec<u32>,
    /// Of each group; none in the place of a page that was returned.
    pub pages: Vec<Vec<Option<u32>>>,
    namespace: Option<String>,
    /// Full pages of it that were offered.
    offered: usize,
    drafts: usize,
    unshared: bool,
}

/// What others may find in a page: its prefix, its group, when it was offered, and what its rows begin with.
#[derive(Clone, Debug)]
struct Key {
    prefix: Prefix,
    group: usize,
    when: u64,
    bases: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Page {
    references: usize,
    /// Rows written by any sequence.
    filled: usize,
    key: Option<Key>,
}

/// Sequences by name, and pages.
#[derive(Clone, Debug)]
pub(super) struct PagedReference {
    size: usize,
    most_sequences: u32,
    max_seq_len: u32,
    share: bool,
    groups: Vec<Placement>,
    pub sequences: BTreeMap<String, Held>,
    pages: Vec<Page>,
    /// Pages without references, in the order in which they are taken.
    free: Vec<u32>,
    offers: u64,
    /// Tokens of the prefixes of pages that lost their key, in order.
    pub evicted: Vec<u32>,
}

/// Whether a query reads a position before its own.
fn reads(placement: Placement, query: usize, position: usize) -> bool {
    match placement {
        Placement::Linear => true,
        Placement::Ring { window, sinks, .. } => position < sinks as usize || position + window as usize > query,
    }
}

impl PagedReference {
    pub fn new(config: &PagedConfig) -> Self {
        let first = config.layers[0];
        PagedReference {
            size: config.page_size as usize,
            most_sequences: first.max_batch_size,
            max_seq_len: first.max_seq_len,
            share: config.share_prefixes,
            groups: config.groups().1,
            sequences: BTreeMap::new(),
            pages: vec![Page::default(); config.pages as usize],
            free: (0..config.pages).collect(),
            offers: 0,
            evicted: Vec::new(),
        }
    }

    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    pub fn cached_pages(&self) -> usize {
        self.pages.iter().filter(|page| page.key.is_some()).count()
    }

    /// The page of a group that was offered first with a prefix.
    fn offered(&self, prefix: &Prefix, group: usize) -> Option<u32> {
        let offered = |page: u32| self.pages[page as usize].key.as_ref().filter(|key| &key.prefix == prefix);
        let with_key =
            (0..number(self.pages.len())).filter(|&page| offered(page).is_some_and(|key| key.group == group));
        with_key.min_by_key(|&page| offered(page).map(|key| key.when))
    }

    /// Whether a page has a position that a query reads.
    fn is_read(&self, group: usize, index: usize, query: usize) -> bool {
        (index * self.size..(index + 1) * self.size).any(|position| reads(self.groups[group], query, position))
    }

    /// Pages of each group after the longest prefix of some tokens, with one token less at most, of which all are there
    /// that the next query reads.
    fn found(&self, tokens: &[u32], namespace: Option<&str>) -> Vec<Vec<Option<u32>>> {
        let most = if self.share { tokens.len().saturating_sub(1) / self.size } else { 0 };
        let prefix = |index: usize| (namespace.map(str::to_owned), tokens[..(index + 1) * self.size].to_vec());
        let offered = |group| (0..most).map(|index| self.offered(&prefix(index), group)).collect::<Vec<_>>();
        let offered: Vec<_> = (0..self.groups.len()).map(offered).collect();
        for count in (1..=most).rev() {
            let of_group = |group: usize| {
                // At least the last page of each group is there.
                let is_read = |index| index + 1 == count || self.is_read(group, index, count * self.size);
                let page = |index| match (is_read(index), offered[group][index]) {
                    (true, None) => None,
                    (read, page) => Some(page.filter(|_| read)),
                };
                (0..count).map(page).collect::<Option<Vec<_>>>()
            };
            if let Some(found) = (0..self.groups.len()).map(of_group).collect() {
                return found;
            }
        }
        vec![Vec::new(); self.groups.len()]
    }

    pub fn matched(&self, tokens: &[u32], namespace: Option<&str>) -> u32 {
        number(self.found(tokens, namespace)[0].len() * self.size)
    }

    fn check_vacant(&self) -> Result<()> {
        let most = self.most_sequences;
        if self.sequences.len() < most as usize { Ok(()) } else { Err(PageError::TooManySequences { most }.into()) }
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        let (tokens, most) = (tokens as u64, self.max_seq_len);
        if tokens > most.into() { Err(PageError::TooManyTokens { tokens, most }.into()) } else { Ok(()) }
    }

    fn out_of_pages(&self, needed: usize) -> PageError {
        let keyed = self.free.iter().filter(|&&page| self.pages[page as usize].key.is_some());
        let evictable = number(keyed.count());
        PageError::OutOfPages { needed: needed as u64, free: number(self.free.len()) - evictable, evictable }
    }

    /// Adds a sequence that begins with what is found of the tokens.
    pub fn add(&mut self, name: &str, tokens: &[u32], namespace: Option<&str>) -> Result<u32> {
        let pages = self.found(tokens, namespace);
        for &page in pages.iter().flatten().flatten() {
            self.pages[page as usize].references += 1;
            self.free.retain(|&other| other != page);
        }
        let (offered, cached) = (pages[0].len(), pages[0].len() * self.size);
        let (tokens, namespace) = (tokens[..cached].to_vec(), namespace.map(str::to_owned));
        // Rows that no group has are as good as any.
        let bases_of = |index: usize| {
            let page = pages.iter().find_map(|pages| pages[index]);
            let key = page.and_then(|page| self.pages[page as usize].key.as_ref());
            key.map_or_else(|| vec![0; self.size], |key| key.bases.clone())
        };
        let bases = (0..offered).flat_map(bases_of).collect();
        let held = Held { tokens, bases, pages, namespace, offered, ..Held::default() };
        self.sequences.insert(name.to_owned(), held);
        Ok(number(cached))
    }

    /// Whether a sequence of all of the tokens can be added.
    pub fn check_room(&self, tokens: &[u32], namespace: Option<&str>) -> Result<()> {
        self.check_length(tokens.len())?;
        self.check_vacant()?;
        let found = self.found(tokens, namespace);
        let needed = (tokens.len().div_ceil(self.size) - found[0].len()) * self.groups.len();
        let mut without = self.clone();
        without.free.retain(|page| !found.iter().flatten().any(|found| *found == Some(*page)));
        if needed > without.free.len() { Err(without.out_of_pages(needed).into()) } else { Ok(()) }
    }

    fn take(&mut self) -> u32 {
        let page = self.free.remove(0);
        if let Some(Key { prefix: (_, tokens), .. }) = self.pages[page as usize].key.take() {
            self.evicted.push(number(tokens.len()));
        }
        self.pages[page as usize] = Page { references: 1, ..Page::default() };
        page
    }

    fn release(&mut self, page: u32) {
        let own = &mut self.pages[page as usize];
        own.references -= 1;
        match (own.references, &own.key) {
            (0, Some(_)) => self.free.push(page),
            (0, None) => self.free.insert(0, page),
            _ => {}
        }
    }

    /// Keeps some of the last rows. `row` is what errors call the sequence.
    pub fn keep(&mut self, name: &str, row: u32, last: u32, indices: &[u32]) -> Result<()> {
        let wrong = |at: usize| indices[at] >= last || at > 0 && indices[at] <= indices[at - 1];
        if let Some(at) = (0..indices.len()).find(|&at| wrong(at)) {
            return Err(SequenceError::KeptIndex { at: number(at), index: indices[at], last }.into());
        }
        let mut held = self.sequences[name].clone();
        let length = number(held.tokens.len());
        if last > length {
            return Err(SequenceError::KeptBeyondLength { sequence: row, last, length }.into());
        }
        let first = (length - last) as usize;
        let kept = |all: &[u32]| indices.iter().map(|&index| all[first + index as usize]).collect::<Vec<_>>();
        let (tokens, bases) = (kept(&held.tokens), kept(&held.bases));
        let stay = (0..indices.len()).take_while(|&at| indices[at] as usize == at).count();
        let (start, end) = (first + stay, first + indices.len());
        self.check_cut(name, row, end)?;
        let before = held.pages.clone();
        if start < end {
            for (group, pages) in before.iter().enumerate() {
                if pages[start / self.size..].contains(&None) {
                    let (position, oldest) = (number(start), self.oldest(group, pages));
                    return Err(RangeError::Evicted { sequence: row, position, oldest }.into());
                }
            }
        }
        let written = if start < end { start / self.size..end.div_ceil(self.size) } else { 0..0 };
        let alone = |page: &Page| page.key.is_none() && page.references == 1;
        let needed = before.iter().flat_map(|pages| &pages[written.clone()]).flatten();
        let needed = needed.filter(|&&page| !alone(&self.pages[page as usize])).count();
        if needed > self.free.len() {
            return Err(self.out_of_pages(needed).into());
        }
        held.tokens.truncate(first);
        held.tokens.extend(tokens);
        held.bases.truncate(first);
        held.bases.extend(bases);
        (held.drafts, held.offered) = (0, held.offered.min(start / self.size));
        for pages in &mut held.pages {
            pages.truncate(end.div_ceil(self.size));
            for index in written.clone() {
                let page = pages[index].expect("it is there");
                let page = if alone(&self.pages[page as usize]) { page } else { self.take() };
                pages[index] = Some(page);
                self.pages[page as usize].filled = (end - index * self.size).min(self.size);
            }
        }
        for (before, pages) in before.iter().zip(&held.pages) {
            for index in (0..before.len()).rev().filter(|&index| pages.get(index) != Some(&before[index])) {
                before[index].into_iter().for_each(|page| self.release(page));
            }
        }
        self.sequences.insert(name.to_owned(), held);
        self.settle(name);
        Ok(())
    }

    /// The first position beyond the sinks that a group has.
    fn oldest(&self, group: usize, pages: &[Option<u32>]) -> u32 {
        let sinks = self.groups[group].sinks();
        let first = (sinks as usize).div_ceil(self.size);
        let missing = pages.get(first..).unwrap_or_default().iter().take_while(|page| page.is_none()).count();
        if missing > 0 { number((first + missing) * self.size) } else { sinks }
    }

    /// Whether a row that is valid in some group is not there: the first of a window after a hit.
    pub fn lacks_rows(&self, name: &str) -> bool {
        let held = &self.sequences[name];
        let lacks = |(placement, pages): (&Placement, &Vec<Option<u32>>)| {
            let valid = placement.valid(number(held.tokens.len())).into_iter().flatten();
            valid.into_iter().any(|position| pages[position as usize / self.size].is_none())
        };
        self.groups.iter().zip(&held.pages).any(lacks)
    }

    /// The first position beyond the sinks that the last `queries` of a sequence read, and the oldest that is there, if
    /// that is not the first.
    #[cfg(feature = "attention")]
    pub fn oldest_read(
        &self,
        name: &str,
        group: usize,
        queries: u32,
        (window, sinks): (u32, u32),
    ) -> Option<(u32, u32)> {
        let held = &self.sequences[name];
        let (length, oldest) = (number(held.tokens.len()), self.oldest(group, &held.pages[group]));
        let query = length.saturating_sub(queries).max(sinks);
        let first = query.saturating_sub(window - 1).max(self.groups[group].sinks()).max(sinks);
        (first < length && first < oldest).then_some((first, oldest))
    }

    /// Whether a sequence has what a query reads once it is cut to a length, and the page that the next row goes to.
    fn check_cut(&self, name: &str, row: u32, length: usize) -> Result<()> {
        for (group, pages) in self.sequences[name].pages.iter().enumerate() {
            let there = |position: usize| pages[position / self.size].is_some();
            let placement = self.groups[group];
            let read = (0..length).filter(|&position| reads(placement, length, position)).all(there);
            if let Placement::Ring { window, sinks, .. } = placement
                && (!read || !length.is_multiple_of(self.size) && !there(length))
            {
                let oldest = self.oldest(group, pages);
                let (shortest, length) = (oldest + window - 1, number(length));
                return Err(SequenceError::RollbackEvicted { sequence: row, length, shortest, sinks, oldest }.into());
            }
        }
        Ok(())
    }

    pub fn accept(&mut self, name: &str, accepted: u32) -> Result<()> {
        let held = &self.sequences[name];
        let drafts = held.drafts;
        if accepted as usize > drafts {
            return Err(PageError::MoreAccepted { accepted, drafts: number(drafts) }.into());
        }
        let length = held.tokens.len() - (drafts - accepted as usize);
        self.sequences.get_mut(name).expect("it is there").drafts = 0;
        self.cut(name, length);
        self.settle(name);
        Ok(())
    }

    fn cut(&mut self, name: &str, length: usize) {
        let mut held = self.sequences[name].clone();
        held.tokens.truncate(length);
        held.bases.truncate(length);
        held.offered = held.offered.min(length / self.size);
        for index in (length.div_ceil(self.size)..held.pages[0].len()).rev() {
            held.pages.iter_mut().filter_map(Vec::pop).flatten().for_each(|page| self.release(page));
            debug_assert_eq!(held.pages[0].len(), index);
        }
        self.sequences.insert(name.to_owned(), held);
    }

    pub fn truncate(&mut self, name: &str, row: u32, length: u32) -> Result<()> {
        let end = self.sequences[name].tokens.len();
        if length as usize > end {
            return Err(PageError::BeyondEnd { position: length, length: number(end) }.into());
        }
        self.check_cut(name, row, length as usize)?;
        self.cut(name, length as usize);
        Ok(())
    }

    pub fn fork(&mut self, from: &str, row: u32, to: &str, length: Option<u32>) -> Result<()> {
        let held = self.sequences[from].clone();
        let end = held.tokens.len();
        let length = length.map_or(end, |length| length as usize);
        if length > end {
            return Err(PageError::BeyondEnd { position: number(length), length: number(end) }.into());
        }
        self.check_cut(from, row, length)?;
        self.check_vacant()?;
        let pages: Vec<_> = held.pages.iter().map(|pages| pages[..length.div_ceil(self.size)].to_vec()).collect();
        pages.iter().flatten().flatten().for_each(|&page| self.pages[page as usize].references += 1);
        let (tokens, offered) = (held.tokens[..length].to_vec(), held.offered.min(length / self.size));
        let bases = held.bases[..length].to_vec();
        self.sequences.insert(to.to_owned(), Held { tokens, bases, pages, offered, drafts: 0, ..held });
        Ok(())
    }

    pub fn free(&mut self, name: &str) {
        self.cut(name, 0);
        self.sequences.remove(name);
    }

    pub fn clear_prefixes(&mut self) {
        self.pages.iter_mut().for_each(|page| page.key = None);
        for held in self.sequences.values_mut() {
            (held.unshared, held.offered) = (true, 0);
        }
    }

    /// Checks that every page is free or referred to, as often as sequences have it.
    pub fn check(&self) -> std::result::Result<(), String> {
        for (page, own) in self.pages.iter().enumerate() {
            let at = number(page);
            let of = |held: &Held| held.pages.iter().flatten().filter(|&&other| other == Some(at)).count();
            let references: usize = self.sequences.values().map(of).sum();
            let free = self.free.iter().filter(|&&other| other == at).count();
            if references != own.references || free != usize::from(references == 0) {
                return Err(format!(
                    "page {page} has {references} references, is counted {own:?}, and {free} times free"
                ));
            }
        }
        Ok(())
    }
}
