//! What the node costs, in the planner's units.

use pgrx::pg_sys;

use super::run::is_worth_a_bitmap;
use crate::am::cost::About;
use crate::index::search::FIRST_ROUND_ROWS;
use crate::pg::settings;

/// Rows that are reckoned to lie within a radius: PostgreSQL takes a third of the table, whatever the radius.
const ROWS_WITHIN_A_RADIUS: f64 = 1000.0;

/// Pages whose cost equals that of planning the node and opening its index. Measured: about 0.1 ms, which matters if
/// sorting a few rows takes three times that.
const SETUP_PAGES: f64 = 10.0;

/// What is to be weighed.
pub struct Work {
    pub root: *mut pg_sys::PlannerInfo,
    pub table: *mut pg_sys::RelOptInfo,
    pub index: *mut pg_sys::IndexOptInfo,
    pub bitmap: Option<*mut pg_sys::BitmapHeapPath>,
    pub has_radius: bool,
}

/// The costs up to the first row, which comes when as many are collected as the LIMIT wants, and up to the last.
///
/// # Safety
/// Everything belongs to the query that is being planned.
pub unsafe fn of(work: &Work) -> (f64, f64) {
    // SAFETY: the caller's promise.
    let table = unsafe { &*work.table };
    // SAFETY: the caller's promise.
    let index = unsafe { &*work.index };
    let rows = table.tuples.max(1.0);
    let passing = (table.rows / rows).clamp(1.0 / rows, 1.0);
    // SAFETY: the caller's promise.
    let limit = unsafe { (*work.root).limit_tuples };
    let wanted = if limit > 0.0 { limit } else { FIRST_ROUND_ROWS as f64 };
    let about = About::of(index.indexoid);
    let mut page_cost = 0.0;
    // SAFETY: looks a catalogue row up by its oid.
    unsafe { pg_sys::get_tablespace_page_costs(table.reltablespace, &mut page_cost, core::ptr::null_mut()) };
    // Rows that are fetched: their pages, their conditions and their distances.
    let per_row = settings::cpu_tuple_cost() + table.baserestrictcost.per_tuple + about.distance_cost();
    let fetch = |rows: f64| {
        // SAFETY: the caller's promise.
        let pages =
            unsafe { pg_sys::index_pages_fetched(rows, table.pages, f64::from(index.pages), work.root) };
        pages * page_cost + rows * per_row
    };
    let looked_at = (wanted / passing).min(rows);
    let setup = table.baserestrictcost.startup + SETUP_PAGES * page_cost;
    let mut startup = setup + about.search_cost(rows, looked_at) + fetch(looked_at);
    let mut all = setup + about.search_cost(rows, rows) + fetch(rows);
    if let Some(bitmap) = work.bitmap {
        let (mut cost, mut share) = (0.0, 0.0);
        // SAFETY: the caller's promise.
        let tree = unsafe { (*bitmap).bitmapqual };
        // SAFETY: what makes the bitmap of a bitmap scan.
        unsafe { pg_sys::cost_bitmap_tree_node(tree, &mut cost, &mut share) };
        let candidates = (share * rows).max(1.0);
        let ranked = setup + cost + about.ranking_cost(candidates);
        if is_worth_a_bitmap(candidates, wanted, rows) {
            startup = ranked + fetch((wanted / passing * share).min(candidates));
        }
        all = ranked + fetch(candidates);
    }
    if work.has_radius {
        all = all.min(startup + fetch(table.rows.min(ROWS_WITHIN_A_RADIUS)));
    }
    (startup, all.max(startup) + About::sort_cost(table.rows))
}
