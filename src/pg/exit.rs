//! The end of a backend that does not unwind: a FATAL error leaves through `exit()`, whatever other threads do.

use std::cell::Cell;

use pgrx::pg_sys;

thread_local! {
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Has native work stopped before this backend exits, so that no thread is inside FAISS or BLAS when their statics are
/// destroyed.
pub fn stop_native_work_first() {
    if !REGISTERED.replace(true) {
        // SAFETY: once in this process; the callback calls nothing of PostgreSQL.
        unsafe { pg_sys::before_shmem_exit(Some(stop), pg_sys::Datum::from(0)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn stop(_code: i32, _argument: pg_sys::Datum) {
    crate::engine::stop_worker();
}
