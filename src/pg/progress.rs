//! `pg_stat_progress_create_index`.

use core::ffi::CStr;

use pgrx::pg_sys;

/// Phases of a build. The first number is PostgreSQL's (commands/progress.h).
#[derive(Clone, Copy)]
pub enum Phase {
    Initializing = pg_sys::PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE as isize,
    Sampling,
    Training,
    Adding,
    Writing,
}

/// What the view shows behind `building index: `.
pub fn phase_name(number: i64) -> Option<&'static CStr> {
    const NAMES: [(Phase, &CStr); 5] = [
        (Phase::Initializing, c"initializing"),
        (Phase::Sampling, c"sampling rows"),
        (Phase::Training, c"training"),
        (Phase::Adding, c"loading tuples"),
        (Phase::Writing, c"writing segment"),
    ];
    NAMES.iter().find(|(phase, _)| *phase as i64 == number).map(|(_, name)| *name)
}

pub fn phase(phase: Phase) {
    update(pg_sys::PROGRESS_CREATEIDX_SUBPHASE, phase as i64);
}

pub fn blocks(done: u32, total: u32) {
    update(pg_sys::PROGRESS_SCAN_BLOCKS_TOTAL, i64::from(total));
    update(pg_sys::PROGRESS_SCAN_BLOCKS_DONE, i64::from(done));
}

pub fn rows(done: u64, total: u64) {
    update(pg_sys::PROGRESS_CREATEIDX_TUPLES_TOTAL, total as i64);
    update(pg_sys::PROGRESS_CREATEIDX_TUPLES_DONE, done as i64);
}

fn update(parameter: u32, value: i64) {
    // SAFETY: writes to this backend's own status entry.
    unsafe { pg_sys::pgstat_progress_update_param(parameter as i32, value) };
}
