//! Planner statistics: what ANALYZE stores for a column.

use std::ffi::c_int;

use pgrx::datum::Internal;
use pgrx::{pg_extern, pg_guard, pg_sys, varlena};

use super::error::null_argument;
use crate::pg::callback;

/// Larger values are not stored in the statistics, as most common values or histogram bounds; null fraction, width,
/// number of distinct values and correlation remain. PostgreSQL itself leaves out values above 1024 bytes
/// (WIDTH_THRESHOLD of src/backend/commands/analyze.c). But up to 200 values of that size would be read whenever a
/// query on the column is planned, and embeddings are neither common nor compared with bounds.
const MAX_STORED_VALUE_BYTES: usize = 128;

/// PostgreSQL's own functions for a type with a btree order; ours replaces one and calls it.
struct Standard {
    compute_stats: pg_sys::AnalyzeAttrComputeStatsFunc,
    extra_data: *mut std::ffi::c_void,
}

/// `vector_typanalyze(internal) -> boolean`
#[pg_extern]
fn vector_typanalyze(stats: Internal) -> bool {
    let Some(stats) = stats.unwrap() else { null_argument() };
    let stats: *mut pg_sys::VacAttrStats = stats.cast_mut_ptr();
    // SAFETY: PostgreSQL passes ANALYZE functions a VacAttrStats (`internal` cannot come from SQL).
    if !unsafe { pg_sys::std_typanalyze(stats) } {
        return false;
    }
    // SAFETY: what PostgreSQL passed, and nobody else uses during the call.
    let stats = unsafe { &mut *stats };
    // SAFETY: raises an error where there is no memory. It lies in the memory context for this ANALYZE, as what
    // std_typanalyze leaves there.
    let standard: *mut Standard = unsafe { pg_sys::palloc(size_of::<Standard>()) }.cast();
    // SAFETY: room for one, which was just allocated.
    unsafe { standard.write(Standard { compute_stats: stats.compute_stats, extra_data: stats.extra_data }) };
    stats.compute_stats = Some(compute_stats);
    stats.extra_data = standard.cast();
    true
}

/// # Safety
/// PostgreSQL calls it with what [`vector_typanalyze`] prepared.
#[pg_guard]
unsafe extern "C-unwind" fn compute_stats(
    stats: pg_sys::VacAttrStatsP,
    fetch: pg_sys::AnalyzeAttrFetchFunc,
    sample_rows: c_int,
    total_rows: f64,
) {
    // SAFETY: what PostgreSQL passed.
    let ours = unsafe { (*stats).extra_data };
    // SAFETY: what `vector_typanalyze` put there.
    let standard = unsafe { &*ours.cast::<Standard>() };
    // The standard function, which may raise errors, gets back the data that belong to it.
    // SAFETY: what PostgreSQL passed.
    unsafe { (*stats).extra_data = standard.extra_data };
    if let Some(compute) = standard.compute_stats {
        // SAFETY: PostgreSQL's own arguments, for the function that it would have called.
        unsafe { callback::call(compute, (stats, fetch, sample_rows, total_rows)) };
    }
    // SAFETY: what PostgreSQL passed, and nobody else uses from now on.
    let stats = unsafe { &mut *stats };
    stats.extra_data = ours;
    // SAFETY: the standard function has filled the slots.
    unsafe { forget_wide_values(stats) };
}

/// Empties the slots whose values are too wide.
///
/// # Safety
/// The slots are as the standard function left them.
unsafe fn forget_wide_values(stats: &mut pg_sys::VacAttrStats) {
    for slot in 0..stats.stakind.len() {
        let Ok(values @ 1..) = usize::try_from(stats.numvalues[slot]) else { continue };
        // SAFETY: the slot points to that many values.
        let values = unsafe { std::slice::from_raw_parts(stats.stavalues[slot], values) };
        // SAFETY: vectors, detoasted.
        let bytes = |value: &pg_sys::Datum| unsafe { varlena::varsize_any(value.cast_mut_ptr()) };
        if values.iter().any(|value| bytes(value) > MAX_STORED_VALUE_BYTES) {
            stats.stakind[slot] = 0;
            stats.staop[slot] = pg_sys::InvalidOid;
            stats.stacoll[slot] = pg_sys::InvalidOid;
            stats.numnumbers[slot] = 0;
            stats.numvalues[slot] = 0;
        }
    }
}
