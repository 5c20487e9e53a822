//! How `knn()` tells the planner and the scan below it which index it means, and what it asks of it.
//!
//! `knn()` runs an ordinary query, so that privileges, row-level security and visibility are PostgreSQL's own. While
//! that query runs, the hint makes the named index (or, for a partitioned one, those of its partitions) cost nothing.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::pg_sys::{self, Datum, Oid};

use super::batch::Batch;
use crate::index::first_round::FirstRounds;
use crate::index::request::Request;

struct Hint {
    indexes: Vec<Oid>,
    /// The query vector, as the value that is passed to the query: it tells its scan from those of other queries over
    /// the same index, which run inside it where a filter calls a function.
    query: usize,
    request: Request,
    /// Of a query that makes many searches: those whose first round is over.
    batch: Option<Rc<Batch>>,
}

thread_local! {
    static HINTS: RefCell<Vec<Hint>> = const { RefCell::new(Vec::new()) };
}

/// Runs `query` under a hint. Queries inside it may set hints of their own.
pub fn with<R>(indexes: Vec<Oid>, vector: Datum, request: Request, query: impl FnOnce() -> R) -> R {
    run(Hint { indexes, query: vector.value(), request, batch: None }, query)
}

/// The same for a query that makes many searches, of which the first rounds are over. `vectors`: the array of them.
pub fn with_batch<R>(
    indexes: Vec<Oid>,
    vectors: Datum,
    request: Request,
    batch: Rc<Batch>,
    query: impl FnOnce() -> R,
) -> R {
    run(Hint { indexes, query: vectors.value(), request, batch: Some(batch) }, query)
}

fn run<R>(hint: Hint, query: impl FnOnce() -> R) -> R {
    /// Takes the hint back, also when an error unwinds.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            HINTS.with_borrow_mut(|hints| drop(hints.pop()));
        }
    }
    HINTS.with_borrow_mut(|hints| hints.push(hint));
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

/// The first rounds of searches of `index` under `snapshot`, where there are some.
pub fn first_rounds(index: Oid, snapshot: pg_sys::Snapshot) -> Option<Rc<FirstRounds>> {
    HINTS.with_borrow(|hints| hints.last()?.batch.as_ref()?.first_rounds(index, snapshot))
}

fn meant<R>(index: Oid, read: impl FnOnce(&Hint) -> R) -> Option<R> {
    HINTS.with_borrow(|hints| hints.last().filter(|hint| hint.indexes.contains(&index)).map(read))
}
