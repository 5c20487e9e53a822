//! How `knn()` tells the planner and the scan below it which index it means, and what it asks of it.
//!
//! `knn()` runs an ordinary query, so that privileges, row-level security and visibility are PostgreSQL's own. While
//! that query runs, the hint makes the named index (or, for a partitioned one, those of its partitions) cost nothing.

use std::cell::RefCell;

use pgrx::pg_sys::Oid;

use crate::index::search::Request;

struct Hint {
    indexes: Vec<Oid>,
    /// None while the query is only planned.
    request: Option<Request>,
}

thread_local! {
    static HINTS: RefCell<Vec<Hint>> = const { RefCell::new(Vec::new()) };
}

/// Runs `query` under a hint. Queries inside it may set hints of their own.
pub fn with<R>(indexes: Vec<Oid>, request: Option<Request>, query: impl FnOnce() -> R) -> R {
    /// Takes the hint back, also when an error unwinds.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            HINTS.with_borrow_mut(|hints| drop(hints.pop()));
        }
    }
    HINTS.with_borrow_mut(|hints| hints.push(Hint { indexes, request }));
    let _restore = Restore;
    query()
}

/// Whether `index` is the one that is meant.
pub fn is_meant(index: Oid) -> bool {
    HINTS.with_borrow(|hints| hints.last().is_some_and(|hint| hint.indexes.contains(&index)))
}

/// What is asked of `index`, if it is the one that is meant.
pub fn request(index: Oid) -> Option<Request> {
    HINTS.with_borrow(|hints| {
        hints.last().filter(|hint| hint.indexes.contains(&index)).and_then(|hint| hint.request.clone())
    })
}
