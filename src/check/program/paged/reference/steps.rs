//! Steps of a [`PagedReference`].

use super::{Key, PagedReference};
use crate::{Placement, Result};

impl PagedReference {
    /// Appends tokens to sequences, the last `drafts` of which are drafts, in one step; or takes the step back, as if
    /// its commands had never run.
    pub fn step(&mut self, appends: &[(String, Vec<u32>, u32)], bases: &[u32], dropped: bool) -> Result<()> {
        // What it returns counts as free.
        let before = self.clone();
        for (name, tokens, _) in appends {
            self.check_length(self.sequences[name].tokens.len() + tokens.len())?;
        }
        appends.iter().filter(|(_, tokens, _)| !tokens.is_empty()).for_each(|(name, ..)| self.return_pages(name));
        // All that can be refused comes first. A page is written in place by one sequence of a step.
        let (mut needed, mut claimed) = (0, Vec::new());
        let mut copies = Vec::new();
        for (name, tokens, _) in appends {
            let held = &self.sequences[name];
            for pages in &held.pages {
                needed += (held.tokens.len() + tokens.len()).div_ceil(self.size).saturating_sub(pages.len());
                let at = held.tokens.len() % self.size;
                let tail = pages.last().copied().flatten().filter(|_| at > 0 && !tokens.is_empty());
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
        }
        if needed > self.free.len() {
            let error = self.out_of_pages(needed);
            *self = before;
            return Err(error.into());
        }
        let (mut replaced, mut bases, mut copies) = (Vec::new(), bases.iter().copied(), copies.into_iter());
        for (name, tokens, drafts) in appends {
            let mut held = self.sequences[name].clone();
            let start = held.tokens.len();
            held.tokens.extend(tokens);
            held.bases.extend(bases.by_ref().take(tokens.len()));
            held.drafts = *drafts as usize;
            for pages in &mut held.pages {
                if copies.next() == Some(true) {
                    let taken = self.take();
                    replaced.push((name, pages.pop().flatten().expect("it has a tail")));
                    pages.push(Some(taken));
                }
                while pages.len() < held.tokens.len().div_ceil(self.size) {
                    pages.push(Some(self.take()));
                }
                for index in (start / self.size..pages.len()).filter(|_| !tokens.is_empty()) {
                    let page = pages[index].expect("it is written") as usize;
                    self.pages[page].filled = (held.tokens.len() - index * self.size).min(self.size);
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
            let of_name = replaced.iter().filter(|(of, _)| *of == name).map(|(_, page)| *page);
            of_name.collect::<Vec<_>>().into_iter().for_each(|page| self.release(page));
        }
        appends.iter().for_each(|(name, ..)| self.settle(name));
        Ok(())
    }

    /// Returns the pages of a sequence of which no position is read from its end on, nor after it is cut by the slack.
    fn return_pages(&mut self, name: &str) {
        let held = self.sequences[name].clone();
        for (group, pages) in held.pages.iter().enumerate() {
            let Placement::Ring { slack, .. } = self.groups[group] else { continue };
            let query = held.tokens.len().saturating_sub(slack as usize);
            for index in (0..pages.len()).rev() {
                let Some(page) = pages[index].filter(|_| !self.is_read(group, index, query)) else { continue };
                self.release(page);
                self.sequences.get_mut(name).expect("it is there").pages[group][index] = None;
            }
        }
    }

    /// Goes back from a step that was dropped: pages that it took are free again, at the front, without a key, and
    /// those that it returned are not.
    fn undo(&mut self, after: &PagedReference, appends: &[(String, Vec<u32>, u32)]) {
        self.evicted.clone_from(&after.evicted);
        self.free.clone_from(&after.free);
        for (page, own) in self.pages.iter_mut().enumerate() {
            own.key = own.key.take().filter(|_| after.pages[page].key.is_some());
        }
        let groups = 0..self.groups.len();
        for ((name, _, _), group) in
            appends.iter().rev().flat_map(|append| groups.clone().rev().map(move |group| (append, group)))
        {
            let (was, is) = (&self.sequences[name].pages[group], &after.sequences[name].pages[group]);
            let taken: Vec<u32> = is.iter().copied().skip(was.len()).rev().flatten().collect();
            let last = was.len().saturating_sub(1);
            let copied = was.get(last).zip(is.get(last)).filter(|(was, is)| was != is).and_then(|(_, is)| *is);
            taken.into_iter().chain(copied).for_each(|page| self.free.insert(0, page));
        }
        let held: Vec<u32> =
            self.sequences.values().flat_map(|held| held.pages.iter().flatten().flatten().copied()).collect();
        self.free.retain(|page| !held.contains(page));
        for &page in &self.free {
            let own = &mut self.pages[page as usize];
            own.filled = if own.key.is_some() { own.filled } else { 0 };
        }
    }

    /// Offers the full pages of a sequence, drafts apart.
    pub(super) fn settle(&mut self, name: &str) {
        let held = self.sequences[name].clone();
        let full = (held.tokens.len() - held.drafts) / self.size;
        if !self.share || held.unshared || full <= held.offered {
            return;
        }
        for index in held.offered..full {
            for (group, pages) in held.pages.iter().enumerate() {
                let Some(own) = pages[index].map(|page| &mut self.pages[page as usize]) else { continue };
                if own.key.is_none() {
                    let prefix = (held.namespace.clone(), held.tokens[..(index + 1) * self.size].to_vec());
                    let bases = held.bases[index * self.size..(index + 1) * self.size].to_vec();
                    own.key = Some(Key { prefix, group, when: self.offers, bases });
                    self.offers += 1;
                }
            }
        }
        self.sequences.get_mut(name).expect("it is there").offered = full;
    }
}
