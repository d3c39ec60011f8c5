//! [`PagedReference`]: the contract of a paged cache on the CPU. A sequence is a list of tokens, whose rows follow from
//! them; pages are lists of what has them. It hashes nothing, and searches where the cache looks up.

use std::collections::BTreeMap;

use super::rows::number;
use crate::{PageError, PagedConfig, Result, SequenceError};

/// All that decides which rows a page holds: a namespace, and the tokens up to its end.
type Prefix = (Option<String>, Vec<u32>);

#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub tokens: Vec<u32>,
    /// What the rows of each token begin with.
    pub bases: Vec<u32>,
    pub pages: Vec<u32>,
    namespace: Option<String>,
    /// Full pages of it that were offered.
    offered: usize,
    drafts: usize,
    unshared: bool,
}

/// What others may find in a page: its prefix, when it was offered, and what its rows begin with.
#[derive(Clone, Debug)]
struct Key {
    prefix: Prefix,
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
    pub sequences: BTreeMap<String, Held>,
    pages: Vec<Page>,
    /// Pages without references, in the order in which they are taken.
    free: Vec<u32>,
    offers: u64,
    /// Tokens of the prefixes of pages that lost their key, in order.
    pub evicted: Vec<u32>,
}

impl PagedReference {
    pub fn new(config: &PagedConfig) -> Self {
        let first = config.layers[0];
        PagedReference {
            size: config.page_size as usize,
            most_sequences: first.max_batch_size,
            max_seq_len: first.max_seq_len,
            share: config.share_prefixes,
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

    /// Pages that hold the longest prefix of some tokens, with one token less at most.
    fn found(&self, tokens: &[u32], namespace: Option<&str>) -> Vec<u32> {
        let mut found = Vec::new();
        let most = if self.share { tokens.len().saturating_sub(1) / self.size } else { 0 };
        for end in (1..=most).map(|pages| pages * self.size) {
            let prefix: Prefix = (namespace.map(str::to_owned), tokens[..end].to_vec());
            let offered = |page: u32| self.pages[page as usize].key.as_ref().filter(|key| key.prefix == prefix);
            let with_key = (0..number(self.pages.len())).filter(|&page| offered(page).is_some());
            let Some(first) = with_key.min_by_key(|&page| offered(page).map(|key| key.when)) else { break };
            found.push(first);
        }
        found
    }

    pub fn matched(&self, tokens: &[u32], namespace: Option<&str>) -> u32 {
        number(self.found(tokens, namespace).len() * self.size)
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
        for &page in &pages {
            self.pages[page as usize].references += 1;
            self.free.retain(|&other| other != page);
        }
        let (cached, offered) = (pages.len() * self.size, pages.len());
        let (tokens, namespace) = (tokens[..cached].to_vec(), namespace.map(str::to_owned));
        let keys = pages.iter().filter_map(|&page| self.pages[page as usize].key.as_ref());
        let bases = keys.flat_map(|key| key.bases.clone()).collect();
        let held = Held { tokens, bases, pages, namespace, offered, ..Held::default() };
        self.sequences.insert(name.to_owned(), held);
        Ok(number(cached))
    }

    /// Whether a sequence of all of the tokens can be added.
    pub fn check_room(&self, tokens: &[u32], namespace: Option<&str>) -> Result<()> {
        self.check_length(tokens.len())?;
        self.check_vacant()?;
        let found = self.found(tokens, namespace);
        let needed = tokens.len().div_ceil(self.size) - found.len();
        let mut without = self.clone();
        without.free.retain(|page| !found.contains(page));
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

    /// Appends tokens to sequences, the last `drafts` of which are drafts, in one step; or takes the step back, as if its
    /// commands had never run.
    pub fn step(&mut self, appends: &[(String, Vec<u32>, u32)], bases: &[u32], dropped: bool) -> Result<()> {
        // All that can be refused comes first. A page is written in place by one sequence of a step.
        let (mut needed, mut claimed) = (0, Vec::new());
        let mut copies = Vec::new();
        for (name, tokens, _) in appends {
            let held = &self.sequences[name];
            self.check_length(held.tokens.len() + tokens.len())?;
            needed += (held.tokens.len() + tokens.len()).div_ceil(self.size).saturating_sub(held.pages.len());
            let at = held.tokens.len() % self.size;
            let tail = held.pages.last().copied().filter(|_| at > 0 && !tokens.is_empty());
            let copied = tail.is_some_and(|tail| {
                let page = &self.pages[tail as usize];
                let alone = page.references == 1 || page.filled == at && !claimed.contains(&tail);
                page.key.is_some() || !alone
            });
            match tail {
                Some(_) if copied => needed += 1,
                Some(tail) => claimed.push(tail),
                None => {}
            }
            copies.push(copied);
        }
        if needed > self.free.len() {
            return Err(self.out_of_pages(needed).into());
        }
        let before = self.clone();
        let (mut replaced, mut bases) = (Vec::new(), bases.iter().copied());
        for ((name, tokens, drafts), copied) in appends.iter().zip(copies) {
            let mut held = self.sequences[name].clone();
            if copied {
                let taken = self.take();
                replaced.push((name, held.pages.pop().expect("it has a tail")));
                held.pages.push(taken);
            }
            let start = held.tokens.len();
            held.tokens.extend(tokens);
            held.bases.extend(bases.by_ref().take(tokens.len()));
            held.drafts = *drafts as usize;
            while held.pages.len() < held.tokens.len().div_ceil(self.size) {
                held.pages.push(self.take());
            }
            for page in start / self.size..held.pages.len() {
                if !tokens.is_empty() {
                    self.pages[held.pages[page] as usize].filled =
                        (held.tokens.len() - page * self.size).min(self.size);
                }
            }
            self.sequences.insert(name.clone(), held);
        }
        if dropped {
            // In the opposite order, so that free pages lie as they did; but keys that were lost stay lost.
            let after = std::mem::replace(self, before);
            self.undo(&after, appends);
            return Ok(());
        }
        for (name, _, _) in appends {
            if let Some((_, page)) = replaced.iter().find(|(of, _)| *of == name) {
                self.release(*page);
            }
            self.settle(name);
        }
        Ok(())
    }

    /// Goes back from a step that was dropped: pages that it took are free again, at the front, without a key.
    fn undo(&mut self, after: &PagedReference, appends: &[(String, Vec<u32>, u32)]) {
        self.evicted.clone_from(&after.evicted);
        self.free.clone_from(&after.free);
        for (name, _, _) in appends.iter().rev() {
            let (was, is) = (&self.sequences[name].pages, &after.sequences[name].pages);
            let taken: Vec<u32> = is.iter().copied().skip(was.len()).rev().collect();
            let copied = was.last().zip(is.get(was.len().saturating_sub(1))).filter(|(was, is)| was != is);
            for page in taken.into_iter().chain(copied.map(|(_, &is)| is)) {
                self.free.insert(0, page);
                self.pages[page as usize] = Page::default();
            }
        }
    }

    /// Offers the full pages of a sequence, drafts apart.
    fn settle(&mut self, name: &str) {
        let held = self.sequences[name].clone();
        let full = (held.tokens.len() - held.drafts) / self.size;
        if !self.share || held.unshared || full <= held.offered {
            return;
        }
        for index in held.offered..full {
            let page = &mut self.pages[held.pages[index] as usize];
            if page.key.is_none() {
                let tokens = held.tokens[..(index + 1) * self.size].to_vec();
                let bases = held.bases[index * self.size..(index + 1) * self.size].to_vec();
                page.key = Some(Key { prefix: (held.namespace.clone(), tokens), when: self.offers, bases });
                self.offers += 1;
            }
        }
        self.sequences.get_mut(name).expect("it is there").offered = full;
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
        let before = held.pages.clone();
        let written = if start < end { start / self.size..end.div_ceil(self.size) } else { 0..0 };
        let alone = |page: &Page| page.key.is_none() && page.references == 1;
        let replaced: Vec<usize> =
            written.clone().filter(|&index| !alone(&self.pages[before[index] as usize])).collect();
        if replaced.len() > self.free.len() {
            return Err(self.out_of_pages(replaced.len()).into());
        }
        held.tokens.truncate(first);
        held.tokens.extend(tokens);
        held.bases.truncate(first);
        held.bases.extend(bases);
        held.pages.truncate(end.div_ceil(self.size));
        (held.drafts, held.offered) = (0, held.offered.min(start / self.size));
        replaced.iter().for_each(|&index| held.pages[index] = self.take());
        for index in written {
            self.pages[held.pages[index] as usize].filled = (end - index * self.size).min(self.size);
        }
        for index in (0..before.len()).rev().filter(|&index| held.pages.get(index) != Some(&before[index])) {
            self.release(before[index]);
        }
        self.sequences.insert(name.to_owned(), held);
        self.settle(name);
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
        while held.pages.len() > length.div_ceil(self.size) {
            let page = held.pages.pop().expect("it has pages");
            self.release(page);
        }
        self.sequences.insert(name.to_owned(), held);
    }

    pub fn truncate(&mut self, name: &str, length: u32) -> Result<()> {
        let end = self.sequences[name].tokens.len();
        if length as usize > end {
            return Err(PageError::BeyondEnd { position: length, length: number(end) }.into());
        }
        self.cut(name, length as usize);
        Ok(())
    }

    pub fn fork(&mut self, from: &str, to: &str, length: Option<u32>) -> Result<()> {
        let held = self.sequences[from].clone();
        let end = held.tokens.len();
        let length = length.map_or(end, |length| length as usize);
        if length > end {
            return Err(PageError::BeyondEnd { position: number(length), length: number(end) }.into());
        }
        self.check_vacant()?;
        let pages = held.pages[..length.div_ceil(self.size)].to_vec();
        pages.iter().for_each(|&page| self.pages[page as usize].references += 1);
        let (tokens, offered) = (held.tokens[..length].to_vec(), held.offered.min(length / self.size));
        let bases = held.bases[..length].to_vec();
        self.sequences.insert(to.to_owned(), Held { tokens, bases, pages, offered, drafts: 0, ..held });
        Ok(())
    }

    pub fn free(&mut self, name: &str) {
        let held = self.sequences.remove(name).expect("it is there");
        held.pages.into_iter().rev().for_each(|page| self.release(page));
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
            let of = |held: &Held| held.pages.iter().filter(|&&other| other == at).count();
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
