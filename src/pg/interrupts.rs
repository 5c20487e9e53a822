//! Interrupts: where a backend lets a cancel, a timeout, a shutdown or a conflict with recovery end its statement.
//!
//! Which flags can end a statement depends on PostgreSQL's version, and some of them are private to it (since 16 those of a
//! conflict with recovery). So while FAISS works on the main thread, PostgreSQL itself is asked: what it raises is kept
//! until FAISS's frames are gone, since no error may jump over them. FAISS's own threads only read the two flags that a
//! signal sets directly; the main thread, which waits for them, takes all the others (`engine::on_worker`).

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use pgrx::pg_sys;

static MAIN_THREAD: OnceLock<ThreadId> = OnceLock::new();

thread_local! {
    /// What PostgreSQL raised while FAISS was at work on this thread.
    static RAISED: RefCell<Option<Box<dyn Any + Send>>> = const { RefCell::new(None) };
}

/// To be called on the main thread.
pub fn initialise() {
    MAIN_THREAD.get_or_init(|| thread::current().id());
}

/// Lets a pending cancel or shutdown end the query; as a function, for those who take one to call now and then.
pub fn take_interrupts() {
    raise_kept();
    pgrx::check_for_interrupts!();
}

/// Raises the error that made FAISS stop, if PostgreSQL raised one.
pub fn raise_kept() {
    if let Some(raised) = RAISED.take() {
        resume_unwind(raised);
    }
}

/// Whether FAISS is to stop, asked on any thread and in the middle of its frames. If so, [`take_interrupts`] raises the error
/// afterwards.
pub fn are_pending() -> bool {
    // SAFETY: aligned integers that live as long as the process.
    let (is_ended, is_pending) = unsafe {
        let is_cancelled = (&raw const pg_sys::QueryCancelPending).read_volatile() != 0;
        let is_shut_down = (&raw const pg_sys::ProcDiePending).read_volatile() != 0;
        (is_cancelled || is_shut_down, (&raw const pg_sys::InterruptPending).read_volatile() != 0)
    };
    if is_ended || !is_pending || MAIN_THREAD.get() != Some(&thread::current().id()) {
        return is_ended;
    }
    // pgrx makes a panic of an ERROR, which ends here. FAISS runs where no buffer is locked, so PostgreSQL may do now what it
    // does between two rows.
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
