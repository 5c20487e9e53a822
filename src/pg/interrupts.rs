//! Interrupts: query cancel, timeouts, shutdown and recovery conflicts.
//!
//! The flags that can end a statement depend on PostgreSQL's version, and some are private (those of recovery conflicts
//! since 16). So while FAISS works on the main thread, PostgreSQL itself processes interrupts, and an error it raises
//! is kept until FAISS's frames have returned, because no error may jump over them. FAISS's threads only read the two
//! flags that signal handlers set; the main thread, waiting for them, processes everything else (`engine::on_worker`).

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use pgrx::pg_sys;

static MAIN_THREAD: OnceLock<ThreadId> = OnceLock::new();

thread_local! {
    /// The error that PostgreSQL raised while FAISS was working on this thread.
    static RAISED: RefCell<Option<Box<dyn Any + Send>>> = const { RefCell::new(None) };
}

/// Must be called on the main thread.
pub fn initialise() {
    MAIN_THREAD.get_or_init(|| thread::current().id());
}

/// Processes pending interrupts, which may end the query. A function, to be passed as callback.
pub fn take_interrupts() {
    raise_kept();
    pgrx::check_for_interrupts!();
}

/// Raises the error that stopped FAISS, if PostgreSQL raised one.
pub fn raise_kept() {
    if let Some(raised) = RAISED.take() {
        resume_unwind(raised);
    }
}

/// Whether FAISS must stop; callable on any thread and below FAISS's frames. If true, [`take_interrupts`] raises the
/// error afterwards.
pub fn are_pending() -> bool {
    // SAFETY: an aligned integer that lives as long as the process.
    let is_set = |flag: *const pg_sys::sig_atomic_t| unsafe { flag.read_volatile() } != 0;
    let is_ended = is_set(&raw const pg_sys::QueryCancelPending) || is_set(&raw const pg_sys::ProcDiePending);
    if is_ended
        || !is_set(&raw const pg_sys::InterruptPending)
        || MAIN_THREAD.get() != Some(&thread::current().id())
    {
        return is_ended;
    }
    // pgrx turns an ERROR into a panic, which is caught here. FAISS runs with no buffer locked, so PostgreSQL may
    // process interrupts as it does between two rows.
    match catch_unwind(|| {
        pgrx::check_for_interrupts!();
    }) {
        Ok(()) => false,
        Err(raised) => {
            RAISED.set(Some(raised));
            true
        }
    }
}
