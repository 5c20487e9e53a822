//! How `knn()` tells the planner and the scan below it which index it means, and what it asks of it.
//!
//! `knn()` runs an ordinary query, so that privileges, row-level security and visibility are PostgreSQL's own. While
//! that query runs, the hint makes the named index (or, for a partitioned one, those of its partitions) cost nothing.
//!
//! Functions in a filter, a policy or an expression run queries of their own meanwhile, over the same index and for the
//! same vector perhaps, and keep their plans. The hint is not for them: its query is told by the name of a column in
//! its result, its scan by a mark in the vector that it is given. Both stay what they are in a plan of any kind.

use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys::{self, Datum, Oid};

use super::batch::Batch;
use crate::index::search::{FirstRounds, Request};
use crate::pg::list::references;
use crate::vector::is_marked;

/// Name of a column in the result of a query that a hint is for, in the part of it that orders by distance.
pub const COLUMN: &str = "vekter neighbours";

/// What the planner and a scan are told.
pub struct Hint {
    pub indexes: Vec<Oid>,
    pub request: Request,
    /// Whether the query has a condition to be looked at before the search (`filtered_scan`).
    pub is_filtered: bool,
    /// Whether the planner may take nothing else.
    pub is_forced: bool,
    /// Of a query that makes many searches: those whose first round is over.
    pub batch: Option<Rc<Batch>>,
}

impl Hint {
    pub fn new(indexes: Vec<Oid>, request: Request) -> Self {
        Hint { indexes, request, is_filtered: false, is_forced: false, batch: None }
    }
}

thread_local! {
    static HINTS: RefCell<Vec<Hint>> = const { RefCell::new(Vec::new()) };
}

/// Runs `query` under a hint: one with a column `COLUMN`, for the neighbours of a marked vector. Queries inside it may
/// set hints of their own.
pub fn with<R>(hint: Hint, query: impl FnOnce() -> R) -> R {
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

/// Share of the rows for which the planner is to charge a scan of `index` that costs nothing by itself; None where no
/// hint means this scan.
///
/// # Safety
/// `root` is a valid planner's state.
pub unsafe fn selectivity(root: *const pg_sys::PlannerInfo, index: Oid) -> Option<f64> {
    // SAFETY: the caller's promise.
    if !unsafe { is_hinted(root) } {
        return None;
    }
    // Selectivity 0 makes heap fetch and filter cost zero, so no other path can win.
    meant(index, |hint| if hint.is_forced { 0.0 } else { 1.0 })
}

/// What a hint says of a scan of `index` that looks at conditions: whether it is meant. None where no hint means the
/// index.
///
/// # Safety
/// `root` is a valid planner's state.
pub unsafe fn is_filtered(root: *const pg_sys::PlannerInfo, index: Oid) -> Option<bool> {
    // SAFETY: the caller's promise.
    if unsafe { is_hinted(root) } { meant(index, |hint| hint.is_filtered) } else { None }
}

/// # Safety
/// `root` is a valid planner's state.
unsafe fn is_hinted(root: *const pg_sys::PlannerInfo) -> bool {
    // SAFETY: the caller's promise.
    let query = unsafe { (*root).parse };
    // SAFETY: the planner has a query.
    let columns = unsafe { (*query).targetList };
    // SAFETY: a query's target list holds TargetEntry nodes.
    let mut names = unsafe { references::<pg_sys::TargetEntry>(columns) }.map(|column| column.resname);
    // SAFETY: a name is a C string.
    names.any(|name| !name.is_null() && unsafe { CStr::from_ptr(name) }.to_bytes() == COLUMN.as_bytes())
}

/// What is asked of `index` by a scan for the neighbours of `vector`, if a hint means it.
///
/// # Safety
/// `vector` is a non-null datum of a varlena type.
pub unsafe fn request(index: Oid, vector: Datum) -> Option<Request> {
    // SAFETY: the caller's promise.
    if unsafe { is_marked(vector) } { meant(index, |hint| hint.request.clone()) } else { None }
}

/// The first rounds of searches of `index` under `snapshot` for marked vectors, where there are some.
pub fn first_rounds(index: Oid, snapshot: pg_sys::Snapshot) -> Option<Rc<FirstRounds>> {
    HINTS.with_borrow(|hints| hints.last()?.batch.as_ref()?.first_rounds(index, snapshot))
}

fn meant<R>(index: Oid, read: impl FnOnce(&Hint) -> R) -> Option<R> {
    HINTS.with_borrow(|hints| hints.last().filter(|hint| hint.indexes.contains(&index)).map(read))
}
