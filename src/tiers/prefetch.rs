//! [`Prefetch`]: pages on their way from the store to host memory.

use std::{
    sync::{Arc, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use super::{inner::Inner, request::Request};

/// Pages of a prompt on their way from the store to host memory, where they stay until this is dropped, which also ends
/// what is not done yet.
#[derive(Debug)]
pub struct Prefetch {
    request: Arc<Request>,
    inner: Arc<Inner>,
}

impl Prefetch {
    pub(super) const fn new(request: Arc<Request>, inner: Arc<Inner>) -> Self {
        Prefetch { request, inner }
    }

    /// Whether all that the store has is in host memory.
    pub fn is_ready(&self) -> bool {
        self.request.progress().found.is_some()
    }

    /// The tokens that will be found from the beginning, on the device or in host memory, once that is known. An
    /// eviction from the device may make it less.
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
            if !progress.wakers.iter().any(|waker| waker.will_wake(task.waker())) {
                progress.wakers.push(task.waker().clone());
            }
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
