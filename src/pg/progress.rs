//! Progress reports: `pg_stat_progress_create_index`, and a borrowed view for functions.

use core::ffi::CStr;

use pgrx::pg_sys;

/// Phases of a build. The first number is defined by PostgreSQL (commands/progress.h).
#[derive(Clone, Copy)]
pub enum Phase {
    Initializing = pg_sys::PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE as isize,
    Sampling,
    Training,
    Adding,
    Writing,
}

/// The text that the view shows after `building index: `.
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

/// Progress of a function that processes rows. PostgreSQL's progress views are fixed; the one with suitable columns is
/// `pg_stat_progress_copy`: relation, tuples processed and tuples excluded. The command column stays NULL, which it
/// never does for COPY, so `vekter_join_progress()` can tell them apart. The transaction's abort also ends the report.
pub struct RowsThrough {
    /// False if the backend already reports progress, such as that of a COPY of the function's result.
    is_shown: bool,
}

impl RowsThrough {
    pub fn begin(relation: pg_sys::Oid) -> Self {
        // SAFETY: a pointer of this process.
        let entry = unsafe { pg_sys::MyBEEntry };
        // SAFETY: null, or this backend's own status entry, which others only read.
        let is_shown = unsafe { entry.as_ref() }.is_some_and(|entry| {
            entry.st_progress_command == pg_sys::ProgressCommandType::PROGRESS_COMMAND_INVALID
        });
        if is_shown {
            // SAFETY: this backend's own status entry, which reports nothing else.
            unsafe {
                pg_sys::pgstat_progress_start_command(
                    pg_sys::ProgressCommandType::PROGRESS_COMMAND_COPY,
                    relation,
                )
            };
        }
        RowsThrough { is_shown }
    }

    pub fn show(&self, processed: u64, excluded: u64) {
        if self.is_shown {
            update(pg_sys::PROGRESS_COPY_TUPLES_PROCESSED, processed as i64);
            update(pg_sys::PROGRESS_COPY_TUPLES_EXCLUDED, excluded as i64);
        }
    }
}

impl Drop for RowsThrough {
    fn drop(&mut self) {
        if self.is_shown && !std::thread::panicking() {
            // SAFETY: begun by this value.
            unsafe { pg_sys::pgstat_progress_end_command() };
        }
    }
}
