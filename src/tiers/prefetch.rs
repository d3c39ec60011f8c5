//! [`Prefetch`]: pages on their way from the store to host memory.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::inner::Inner;
use crate::store::ObjectKey;

/// Pages of a prompt on their way from the store to host memory, where they stay until this is dropped, which also ends
/// what is not done yet.
#[derive(Debug)]
pub struct Prefetch {
    request: Arc<Request>,
    inner: Arc<Inner>,
}

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
    done: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Pages from the beginning that will be found, once that is known.
    found: Option<usize>,
    wakers: Vec<Waker>,
    cancelled: bool,
    /// What was pinned in host memory for it.
    pinned: Vec<ObjectKey>,
}

impl Request {
    pub fn new(pages: usize, first: usize, tokens: &[u32], names: Vec<ObjectKey>) -> Self {
        let tokens = tokens.to_vec();
        Request { pages, first, tokens, names, progress: Mutex::default(), done: Condvar::new() }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
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

impl Prefetch {
    pub(super) const fn new(request: Arc<Request>, inner: Arc<Inner>) -> Self {
        Prefetch { request, inner }
    }

    /// Whether all that the store has is in host memory.
    pub fn is_ready(&self) -> bool {
        self.request.progress().found.is_some()
    }

    /// The tokens that will be found from the beginning, on the device or in host memory, once that is known. An eviction
    /// from the device may make it less.
    pub fn tokens(&self) -> Option<u32> {
        let pages = self.request.progress().found?;
        u32::try_from(pages).ok()?.checked_mul(self.inner.form.page_size)
    }

    /// Waits until it is ready, for some time. Whether it is.
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        let mut progress = self.request.progress();
        while progress.found.is_none() {
            let left = until.map_or(time, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            progress = self.request.done.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Completes when it is ready.
    pub fn ready(&self) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(|task| {
            let mut progress = self.request.progress();
            if progress.found.is_some() {
                return Poll::Ready(());
            }
            progress.wakers.push(task.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.requests.retain(|request| !Arc::ptr_eq(request, &self.request));
        let mut progress = self.request.progress();
        progress.cancelled = true;
        progress.pinned.drain(..).for_each(|key| state.host.unpin(&key));
    }
}
