//! Background workers, started on demand: needs no preloading and no shared memory.

use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;

#[cfg(not(feature = "pg18"))]
use pgrx::pg_sys::pqsignal;
#[cfg(feature = "pg18")]
use pgrx::pg_sys::pqsignal_be as pqsignal;

unsafe extern "C-unwind" {
    /// PostgreSQL's SIGTERM handler (tcop/tcopprot.h). pgrx's binding is a guarded Rust function, which cannot serve as
    /// a signal handler.
    fn die(signal: core::ffi::c_int);
}

/// Asks the postmaster for a process that runs `main`, an exported function of this library, with `argument`. False if
/// all slots of max_worker_processes are in use.
pub fn request(name: &str, main: &str, argument: u64) -> bool {
    BackgroundWorkerBuilder::new(name)
        .set_type(name)
        .set_library("$libdir/vekter")
        .set_function(main)
        .set_argument(Some(pg_sys::Datum::from(argument)))
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .enable_spi_access()
        .load_dynamic()
        .is_ok()
}

/// Must be called first in a worker: connects to a database as the bootstrap superuser. From then on SIGTERM ends the
/// process at its next check for interrupts, and nowhere else.
pub fn connect(database: pg_sys::Oid) {
    // SAFETY: PostgreSQL's own handler, in a background worker that has not unblocked signals yet.
    unsafe { pqsignal(pg_sys::SIGTERM as i32, Some(die)) };
    // SAFETY: the handler is installed.
    unsafe { pg_sys::BackgroundWorkerUnblockSignals() };
    // SAFETY: called once, at the start of a background worker.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
}

/// Runs `work` in a transaction of its own. An error ends the process, as in any background worker.
pub fn transaction<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: this process's own clock.
    unsafe { pg_sys::SetCurrentStatementStartTimestamp() };
    // SAFETY: a connected background worker outside any transaction.
    unsafe { pg_sys::StartTransactionCommand() };
    let result = work();
    // SAFETY: the transaction was started above.
    unsafe { pg_sys::CommitTransactionCommand() };
    // SAFETY: no transaction is running.
    unsafe { pg_sys::pgstat_report_stat(true) };
    result
}

/// Sets the activity that pg_stat_activity shows for this process.
pub fn report(activity: &str) {
    let text = super::text::to_server(activity);
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
}

/// Sleeps until the time is over or the process's latch is set.
pub fn nap(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    // SAFETY: a pointer of this process, set when it was connected to a database.
    let latch = unsafe { pg_sys::MyLatch };
    // SAFETY: this process's latch.
    unsafe { pg_sys::WaitLatch(latch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION) };
    // SAFETY: this process's latch.
    unsafe { pg_sys::ResetLatch(latch) };
    super::take_interrupts();
}
