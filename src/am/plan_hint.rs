//! How `knn()` tells the planner and the scan below it which index it means, and how many rows it wants.
//!
//! `knn()` runs an ordinary query, so that privileges, row-level security and visibility are PostgreSQL's own. While
//! that query runs, the hint makes the named index (or, for a partitioned one, those of its partitions) cost nothing.

use std::cell::RefCell;

use pgrx::pg_sys::Oid;

struct Hint {
    indexes: Vec<Oid>,
    wanted_rows: usize,
}

thread_local! {
    static HINTS: RefCell<Vec<Hint>> = const { RefCell::new(Vec::new()) };
}

/// Runs `query` under a hint. Queries inside it may set hints of their own.
pub fn with<R>(indexes: Vec<Oid>, wanted_rows: usize, query: impl FnOnce() -> R) -> R {
    /// Takes the hint back, also when an error unwinds.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            HINTS.with_borrow_mut(|hints| drop(hints.pop()));
        }
    }
    HINTS.with_borrow_mut(|hints| hints.push(Hint { indexes, wanted_rows }));
    let _restore = Restore;
    query()
}

/// The number of rows wanted of `index`, if it is the one that is meant.
pub fn wanted_rows(index: Oid) -> Option<usize> {
    HINTS.with_borrow(|hints| {
        hints.last().filter(|hint| hint.indexes.contains(&index)).map(|hint| hint.wanted_rows)
    })
}
