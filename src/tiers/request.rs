//! [`Request`]: what a prefetch asks for, and how far it is.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use super::{form::Form, prompt::Prompt};
use crate::store::ObjectKey;

/// What a prefetch asks for.
#[derive(Debug)]
pub(super) struct Request {
    /// Full pages of the prompt, and how many the device had.
    pub pages: usize,
    pub first: usize,
    /// Tokens of the full pages.
    pub tokens: Vec<u32>,
    /// Of each page from the first that the device did not have, for each group.
    pub names: Vec<ObjectKey>,
    progress: Mutex<Progress>,
    pub done: Condvar,
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Pages from the beginning that will be found, once that is known.
    pub found: Option<usize>,
    pub wakers: Vec<Waker>,
    pub cancelled: bool,
    /// What was pinned in host memory for it.
    pub pinned: Vec<ObjectKey>,
}

impl Request {
    pub fn new(form: &Form, prompt: &Prompt<'_>) -> Self {
        let (tokens, names) = (prompt.tokens.to_vec(), prompt.names(form).collect());
        let (pages, first) = (prompt.pages(), prompt.first);
        Request { pages, first, tokens, names, progress: Mutex::default(), done: Condvar::new() }
    }

    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_cancelled(&self) -> bool {
        self.progress().cancelled
    }

    /// Notes what was pinned for it; false if nobody wants it any more. The caller holds the lock of host memory.
    pub fn pinned(&self, key: ObjectKey) -> bool {
        let mut progress = self.progress();
        if !progress.cancelled {
            progress.pinned.push(key);
        }
        !progress.cancelled
    }

    /// It is done, with so many pages.
    pub fn finish(&self, found: usize) {
        let mut progress = self.progress();
        if progress.found.is_none() {
            progress.found = Some(found);
        }
        let wakers = std::mem::take(&mut progress.wakers);
        drop(progress);
        self.done.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }
}
