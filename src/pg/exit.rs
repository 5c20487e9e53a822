//! Exit of a backend without unwinding: a FATAL error calls `exit()`, whatever other threads are doing.

use std::cell::Cell;

use pgrx::pg_sys;

thread_local! {
    static STOP: Cell<Option<fn(i32)>> = const { Cell::new(None) };
}

/// Registers `stop` to be called with the exit status before this backend exits, so that no thread runs in a library
/// whose statics are being destroyed. `stop` must not call PostgreSQL.
pub fn before_exit(stop: fn(i32)) {
    if STOP.replace(Some(stop)).is_none() {
        // SAFETY: once in this process; the callback calls nothing of PostgreSQL.
        unsafe { pg_sys::before_shmem_exit(Some(stop_now), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn stop_now(status: i32, _argument: pg_sys::Datum) {
    if let Some(stop) = STOP.get() {
        stop(status);
    }
}
