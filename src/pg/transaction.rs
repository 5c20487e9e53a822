//! Callbacks at the end of a transaction.

use std::cell::RefCell;

use pgrx::pg_sys;

/// When a callback runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before a commit, while it can still use the transaction, and fail.
    BeforeCommit,
    /// At commit or abort; must not call PostgreSQL.
    End,
}

type Call = fn();

thread_local! {
    static CALLS: RefCell<Vec<(Moment, Call)>> = const { RefCell::new(Vec::new()) };
}

/// Registers `call` for every transaction of this backend; registering it again has no effect.
pub fn at(moment: Moment, call: Call) {
    let is_first = CALLS.with_borrow_mut(|calls| {
        let is_first = calls.is_empty();
        if !calls.iter().any(|&(known, other)| known == moment && std::ptr::fn_addr_eq(other, call)) {
            calls.push((moment, call));
        }
        is_first
    });
    if is_first {
        // SAFETY: once for the life of the backend.
        unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), core::ptr::null_mut()) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn transaction_ends(
    event: pg_sys::XactEvent::Type,
    _argument: *mut core::ffi::c_void,
) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PREPARE};
    let now = match event {
        XACT_EVENT_PRE_COMMIT => Moment::BeforeCommit,
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE => Moment::End,
        _ => return,
    };
    let calls = CALLS.with_borrow(Vec::clone);
    calls.iter().filter(|(moment, _)| *moment == now).for_each(|(_, call)| call());
}
