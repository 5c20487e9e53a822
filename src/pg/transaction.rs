//! The moments of a transaction's end at which something is to be done.

use std::cell::RefCell;

use pgrx::pg_sys;

/// When a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before a commit, while the transaction can still do anything, and fail.
    BeforeCommit,
    /// At a commit or abort. It must not call PostgreSQL.
    End,
}

type Call = fn();

thread_local! {
    static CALLS: RefCell<Vec<(Moment, Call)>> = const { RefCell::new(Vec::new()) };
}

/// Has `call` called at this moment of each transaction of this backend; one that is known already is not added again.
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
