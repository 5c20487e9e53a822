//! VACUUM, and CREATE INDEX CONCURRENTLY, which lists the index's TIDs through `ambulkdelete`.

use core::ffi::c_void;

use pgrx::{PgBox, pg_sys};

use super::{item_pointer, maintenance};
use crate::index::format::Tid;
use crate::index::storage::free_pages::Space;
use crate::index::vacuum;
use crate::pg::callback;
use crate::pg::error::OrRaise;
use crate::pg::relation::Rel;

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ambulkdelete(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
    callback: pg_sys::IndexBulkDeleteCallback,
    callback_state: *mut c_void,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: PostgreSQL passes a valid struct.
    let index = unsafe { (*info).index };
    // SAFETY: PostgreSQL keeps the index open and locked.
    let index = unsafe { Rel::new(index) };
    let Some(callback) = callback else { return stats };
    let mut is_dead = |tid: Tid| {
        let mut pointer = item_pointer(tid);
        // SAFETY: PostgreSQL's own callback with its own state.
        unsafe { callback::call(callback, (&raw mut pointer, callback_state)) }
    };
    let vacuumed = vacuum::delete(index, &mut is_dead).or_raise();
    let mut stats = stats_or_new(stats);
    stats.num_index_tuples = vacuumed.rows as f64;
    stats.tuples_removed += vacuumed.removed_rows as f64;
    stats.into_pg()
}

#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn amvacuumcleanup(
    info: *mut pg_sys::IndexVacuumInfo,
    stats: *mut pg_sys::IndexBulkDeleteResult,
) -> *mut pg_sys::IndexBulkDeleteResult {
    // SAFETY: PostgreSQL passes a valid struct.
    let info = unsafe { &*info };
    if info.analyze_only {
        return stats;
    }
    // SAFETY: PostgreSQL keeps the index open and locked.
    let index = unsafe { Rel::new(info.index) };
    let counted_before = !stats.is_null();
    let space = vacuum::clean_up(index).or_raise();
    let mut stats = stats_or_new(stats);
    if !counted_before {
        stats.num_index_tuples = vacuum::count_rows(index).or_raise() as f64;
    }
    stats.num_pages = index.blocks();
    let Space { newly_retired, retired, free } = space;
    stats.pages_newly_deleted += newly_retired;
    stats.pages_deleted = retired;
    stats.pages_free = free;
    maintenance::after_vacuum(index).or_raise();
    maintenance::sweep_cache(index);
    stats.into_pg()
}

fn stats_or_new(stats: *mut pg_sys::IndexBulkDeleteResult) -> PgBox<pg_sys::IndexBulkDeleteResult> {
    if stats.is_null() {
        // SAFETY: a zeroed result is a valid one.
        unsafe { PgBox::<pg_sys::IndexBulkDeleteResult>::alloc0() }.into_pg_boxed()
    } else {
        // SAFETY: made by an earlier call of these functions.
        unsafe { PgBox::from_pg(stats) }
    }
}
