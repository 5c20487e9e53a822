//! Limits how often a backend requests a worker for an index, and seals it itself after a failure.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::failpoint;
use crate::pg::relation::Rel;

/// Minimum interval between two requests of a worker by one backend for one index.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a backend failed to seal or compact an index.
const FAILURE_BACKOFF: Duration = Duration::from_secs(10);

/// Actions that a backend performs for an index at most once per interval.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateLimited {
    /// Requesting a worker.
    RequestWorker,
    /// Sealing in the backend itself, after a failure.
    RetrySeal,
}

impl RateLimited {
    fn pause(self) -> Duration {
        match self {
            RateLimited::RequestWorker => failpoint::pause(REQUEST_INTERVAL),
            RateLimited::RetrySeal => FAILURE_BACKOFF,
        }
    }
}

thread_local! {
    static LAST_ATTEMPTS: RefCell<HashMap<(RateLimited, u32), Instant>> = RefCell::default();
}

/// Whether the interval since the last mark has passed.
pub fn is_time_to(action: RateLimited, index: Rel) -> bool {
    LAST_ATTEMPTS.with_borrow_mut(|marked| {
        marked.retain(|(action, _), when| when.elapsed() < action.pause());
        !marked.contains_key(&(action, index.oid().to_u32()))
    })
}

pub fn note_attempt(action: RateLimited, index: Rel) {
    LAST_ATTEMPTS.with_borrow_mut(|marked| marked.insert((action, index.oid().to_u32()), Instant::now()));
}
