//! [`Guard`]: a store that may fail in any way.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::store::Store;

/// Failures of a store in a row after which it is left alone.
const MOST_FAILURES: u32 = 3;
/// For how long.
const REST: Duration = Duration::from_secs(10);

/// Calls a store. After some failures in a row it is left alone for a while, so that a dead one costs nothing. One that
/// only refuses to write, as a full disk does, is still read.
pub(super) struct Guard {
    store: Option<Arc<dyn Store>>,
    breaker: Mutex<Breaker>,
}

/// What a call does to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

#[derive(Debug, Default)]
struct Breaker {
    reads: Streak,
    writes: Streak,
    failures: u64,
    failure: Option<io::ErrorKind>,
}

/// Failures in a row. Those of any call count for both accesses; a read that succeeds says nothing about writes.
#[derive(Debug, Default)]
struct Streak {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Streak {
    fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| Instant::now() < until)
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= MOST_FAILURES {
            self.rests_until = Instant::now().checked_add(REST);
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}

impl Guard {
    pub fn new(store: Option<Arc<dyn Store>>) -> Self {
        Guard { store, breaker: Mutex::default() }
    }

    pub const fn has_store(&self) -> bool {
        self.store.is_some()
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store is left alone, for an access.
    pub fn rests(&self, access: Access) -> bool {
        let breaker = self.breaker();
        match access {
            Access::Read => breaker.reads.rests(),
            Access::Write => breaker.writes.rests(),
        }
    }

    /// How many calls failed, and how the last one did.
    pub fn failures(&self) -> (u64, Option<io::ErrorKind>) {
        let breaker = self.breaker();
        (breaker.failures, breaker.failure)
    }

    /// Calls the store, unless it is left alone, and tells how long that took. What fails is counted and told in the
    /// log.
    pub fn call<T>(&self, access: Access, call: impl FnOnce(&dyn Store) -> io::Result<T>) -> Option<(T, Duration)> {
        let store = self.store.as_ref().filter(|_| !self.rests(access))?;
        let start = Instant::now();
        // A store is anybody's code. Its panic is a failure as any other.
        let done = catch_unwind(AssertUnwindSafe(|| call(&**store)));
        let kind = match done {
            Ok(Ok(done)) => {
                let mut breaker = self.breaker();
                breaker.reads = Streak::default();
                if access == Access::Write {
                    breaker.writes = Streak::default();
                }
                return Some((done, start.elapsed()));
            }
            Ok(Err(error)) => error.kind(),
            Err(_) => io::ErrorKind::Other,
        };
        // The text of an error may have an address with a password.
        log::warn!("a store of pages failed: {kind}");
        let mut breaker = self.breaker();
        (breaker.failures, breaker.failure) = (breaker.failures.saturating_add(1), Some(kind));
        breaker.reads.fail();
        breaker.writes.fail();
        None
    }
}
