//! How `knn()` tells the planner and the scan below it which index it means, and what it asks of it.
//!
//! `knn()` runs an ordinary query, so that privileges, row-level security and visibility are PostgreSQL's own. While
//! that query runs, the hint makes the named index (or, for a partitioned one, those of its partitions) cost nothing.

use std::cell::RefCell;

use pgrx::pg_sys::{Datum, Oid};

use crate::index::search::Request;

struct Hint {
    indexes: Vec<Oid>,
    /// The query vector, as the value that is passed to the query: it tells its scan from those of other queries over
    /// the same index, which run inside it where a filter calls a function.
    query: usize,
    request: Request,
}

thread_local! {
    static HINTS: RefCell<Vec<Hint>> = const { RefCell::new(Vec::new()) };
}

/// Runs `query` under a hint. Queries inside it may set hints of their own.
pub fn with<R>(indexes: Vec<Oid>, vector: Datum, request: Request, query: impl FnOnce() -> R) -> R {
    /// Takes the hint back, also when an error unwinds.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            HINTS.with_borrow_mut(|hints| drop(hints.pop()));
        }
    }
    HINTS.with_borrow_mut(|hints| hints.push(Hint { indexes, query: vector.value(), request }));
    let _restore = Restore;
    query()
}

/// Whether `index` is the one that is meant.
pub fn is_meant(index: Oid) -> bool {
    meant(index, |_| ()).is_some()
}

/// Whether `index` is the one that is meant, and is asked for certain rows only: it then need not be weighed against
/// other ways to them.
pub fn is_only_way(index: Oid) -> bool {
    meant(index, |hint| hint.request.candidates.is_some() || hint.request.radius.is_some()).unwrap_or(false)
}

/// What is asked of `index` by a scan for the neighbours of `vector`, if it is the one that is meant.
pub fn request(index: Oid, vector: Datum) -> Option<Request> {
    meant(index, |hint| {
        let mut request = hint.request.clone();
        if hint.query != vector.value() {
            // All rows are to be found by a scan of another query.
            (request.candidates, request.radius) = (None, None);
        }
        request
    })
}

fn meant<R>(index: Oid, read: impl FnOnce(&Hint) -> R) -> Option<R> {
    HINTS.with_borrow(|hints| hints.last().filter(|hint| hint.indexes.contains(&index)).map(read))
}
