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

/// Calls a store. After some failures in a row it is left alone for a while, so that a dead one costs nothing.
pub(super) struct Guard {
    store: Option<Arc<dyn Store>>,
    breaker: Mutex<Breaker>,
}

#[derive(Debug, Default)]
struct Breaker {
    in_a_row: u32,
    rests_until: Option<Instant>,
    failures: u64,
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

    /// Whether the store is left alone.
    pub fn rests(&self) -> bool {
        self.breaker().rests_until.is_some_and(|until| Instant::now() < until)
    }

    /// Calls that failed.
    pub fn failures(&self) -> u64 {
        self.breaker().failures
    }

    /// Calls the store, unless it is left alone, and tells how long that took. What fails is counted and told in the log.
    pub fn call<T>(&self, call: impl FnOnce(&dyn Store) -> io::Result<T>) -> Option<(T, Duration)> {
        let store = self.store.as_ref().filter(|_| !self.rests())?;
        let start = Instant::now();
        // A store is anybody's code. Its panic is a failure as any other.
        let done = catch_unwind(AssertUnwindSafe(|| call(&**store)));
        let kind = match done {
            Ok(Ok(done)) => {
                let mut breaker = self.breaker();
                (breaker.in_a_row, breaker.rests_until) = (0, None);
                return Some((done, start.elapsed()));
            }
            Ok(Err(error)) => error.kind().to_string(),
            Err(_) => "a panic".to_owned(),
        };
        // The text of an error may have an address with a password.
        log::warn!("a store of pages failed: {kind}");
        let mut breaker = self.breaker();
        breaker.failures = breaker.failures.saturating_add(1);
        breaker.in_a_row = breaker.in_a_row.saturating_add(1);
        if breaker.in_a_row >= MOST_FAILURES {
            breaker.rests_until = Instant::now().checked_add(REST);
        }
        None
    }
}
