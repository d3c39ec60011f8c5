//! [`Inner`]: host memory and the queues of the threads that move pages.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    figures::Figures,
    form::Form,
    guard::{Access, Guard},
    request::Request,
};
use crate::{
    cache::paged::{Lowered, Outlet},
    pages::Evicted,
    store::{ObjectKey, lru::Lru},
};

/// How much larger than needed a buffer may be that is used again.
const MOST_SPARE: u64 = 4;
/// How many buffers wait to be used again.
const MOST_SPARES: usize = 16;
/// How many pages of the store are known to be there.
const MOST_STORED: u64 = 1 << 18;

/// A page in host memory.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub page: Arc<Vec<u8>>,
    /// It came from the store, and was not read since.
    pub fetched: bool,
}

/// What the engine's thread and the others share.
#[derive(Debug)]
pub(super) struct Inner {
    pub form: Form,
    pub guard: Guard,
    pub write_through: bool,
    in_flight_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub host: Lru<Kept>,
    /// What the store has, as far as this process has seen.
    stored: Lru<()>,
    /// Pages whose rows can be read.
    pub lowered: VecDeque<Lowered>,
    /// Pages that go to the store.
    pub puts: VecDeque<(ObjectKey, Arc<Vec<u8>>)>,
    pub requests: VecDeque<Arc<Request>>,
    /// Bytes on their way from the device.
    lowering: u64,
    /// Buffers that brought pages, to be used again.
    spare: Vec<wgpu::Buffer>,
    /// The thread that writes is at work.
    pub keeping: bool,
    pub stopped: bool,
    pub figures: Figures,
}

impl Inner {
    pub fn new(form: Form, guard: Guard, write_through: bool, bytes: [u64; 2]) -> Self {
        let [host_bytes, in_flight_bytes] = bytes;
        let state = State {
            host: Lru::new(host_bytes),
            stored: Lru::new(MOST_STORED),
            lowered: VecDeque::new(),
            puts: VecDeque::new(),
            requests: VecDeque::new(),
            lowering: 0,
            spare: Vec::new(),
            keeping: false,
            stopped: false,
            figures: Figures::default(),
        };
        Inner { form, guard, write_through, in_flight_bytes, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who waits for a change.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits for a change.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, for some time.
    pub fn wait_for<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// How many pages may be on their way from the device at once.
    pub fn pages_in_flight(&self) -> usize {
        let pages = self.in_flight_bytes.checked_div(self.form.most_bytes() as u64).unwrap_or(1);
        usize::try_from(pages).unwrap_or(usize::MAX).max(1)
    }

    /// The threads end, and nothing is taken any more.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        let lowered = std::mem::take(&mut state.lowered);
        let requests = std::mem::take(&mut state.requests);
        let host = std::mem::replace(&mut state.host, Lru::new(0));
        let spare = std::mem::take(&mut state.spare);
        state.puts.clear();
        drop(state);
        self.notify();
        requests.iter().for_each(|request| request.finish(0));
        drop((lowered, host, spare));
    }

    pub fn figures(&self) -> Figures {
        let state = self.state();
        let (failures, failure) = self.guard.failures();
        Figures {
            failures,
            failure,
            rests: self.guard.rests(Access::Write),
            host_pages: state.host.len() as u64,
            host_bytes: state.host.bytes(),
            lowering_bytes: state.lowering,
            storing_pages: state.puts.len() as u64,
            prefetches: state.requests.len() as u64,
            ..state.figures
        }
    }
}

impl State {
    /// Whether nothing is on its way down.
    pub fn is_settled(&self) -> bool {
        self.lowering == 0 && self.lowered.is_empty() && self.puts.is_empty() && !self.keeping
    }

    /// Whether the store has a page, as far as this process has seen.
    pub fn is_stored(&self, key: &ObjectKey) -> bool {
        self.stored.contains(key)
    }

    /// Notes whether the store has a page.
    pub fn note(&mut self, key: ObjectKey, is_stored: bool) {
        if is_stored {
            // Each takes one of the numbers that there are.
            let _ = self.stored.insert(key, (), 1);
        } else {
            self.stored.remove(&key);
        }
    }

    /// Counts an object that is not what it should be.
    pub fn count_damaged(&mut self) {
        self.figures.damaged = self.figures.damaged.saturating_add(1);
    }

    /// Counts pages that did not come down.
    pub fn lose(&mut self, pages: usize) {
        self.figures.lost = self.figures.lost.saturating_add(pages as u64);
    }

    /// Keeps a page in host memory. What has to go for it, and the page if there is no room, goes to the store if there
    /// is one. Whether it is kept.
    pub fn keep(&mut self, key: ObjectKey, kept: Kept, has_store: bool) -> bool {
        let bytes = kept.page.len() as u64;
        let (gone, is_kept) = match self.host.insert(key, kept, bytes) {
            Ok(gone) => (gone, true),
            Err(kept) => (vec![(key, kept)], false),
        };
        if has_store {
            let not_stored = gone.into_iter().filter(|(key, _)| !self.stored.contains(key));
            self.puts.extend(not_stored.map(|(key, kept)| (key, kept.page)));
        }
        is_kept
    }
}

impl Outlet for Inner {
    fn choose(&self, evicted: &mut Vec<Evicted>, through: bool, bytes: &dyn Fn(usize) -> u64) -> usize {
        let mut guard = self.state();
        let (state, mut refused) = (&mut *guard, 0usize);
        evicted.retain(|page| {
            let key = self.form.key(&page.key, page.group);
            if let Some(kept) = state.host.get(&key) {
                if through && !state.stored.contains(&key) {
                    state.puts.push_back((key, kept.page.clone()));
                }
                return false;
            }
            if through && state.stored.contains(&key) {
                return false;
            }
            let more = state.lowering.saturating_add(bytes(page.group));
            // One page may always be on its way.
            if state.stopped || more > self.in_flight_bytes && state.lowering > 0 {
                refused = refused.saturating_add(1);
                return false;
            }
            state.lowering = more;
            true
        });
        if !through {
            state.lose(refused);
        }
        drop(guard);
        self.notify();
        refused
    }

    fn take(&self, lowered: Lowered) {
        let mut state = self.state();
        if state.stopped {
            drop(state);
            return;
        }
        state.lowered.push_back(lowered);
        drop(state);
        self.notify();
    }

    fn give_back(&self, buffer: wgpu::Buffer) {
        let mut state = self.state();
        if !state.stopped {
            state.spare.push(buffer);
        }
    }

    fn spare(&self, bytes: u64) -> Option<wgpu::Buffer> {
        let mut state = self.state();
        let fits = |buffer: &wgpu::Buffer| (bytes..=bytes.saturating_mul(MOST_SPARE)).contains(&buffer.size());
        let index = state.spare.iter().position(fits);
        let found = index.map(|index| state.spare.swap_remove(index));
        let unused = if state.spare.len() > MOST_SPARES { std::mem::take(&mut state.spare) } else { Vec::new() };
        drop(state);
        drop(unused);
        found.inspect(wgpu::Buffer::unmap)
    }

    fn release(&self, bytes: u64, lost: usize) {
        let mut state = self.state();
        state.lowering = state.lowering.saturating_sub(bytes);
        state.lose(lost);
        drop(state);
        self.notify();
    }
}
