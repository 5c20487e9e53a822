//! Runs work whose failure must not abort the transaction.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{PgSqlErrorCode as Code, PgTryBuilder, pg_sys};

use super::error::{SqlError, class_of};

/// Runs `work` like a PL/pgSQL block with EXCEPTION: if PostgreSQL raises an error for lack of resources (disk full,
/// out of memory, system error), the buffers and locks that `work` holds are released and the error is returned. All
/// other errors, such as a query cancel, propagate.
///
/// Changes that `work` has made to pages remain. `work` must not hold the caller's page locks or need a transaction id.
/// In parallel mode, where PostgreSQL up to 16 allows no subtransactions, every error propagates.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, SqlError> {
    // SAFETY: reads this process's state.
    if unsafe { pg_sys::IsInParallelMode() } {
        return Ok(work());
    }
    // SAFETY: called in a transaction, on the main thread.
    let before = unsafe { OuterContext::enter() };
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| Ok(work())))
        .catch_others(|error| Err(Box::new(error)))
        .execute();
    // SAFETY: what was entered is left exactly once, on every path: an error that propagated from inside would end only
    // the subtransaction.
    unsafe { before.leave(outcome.is_ok()) };
    outcome.or_else(|error| match *error {
        CaughtError::PostgresError(report) if is_want(&report) => Err(to_sql(&report)),
        // Panics of Rust code propagate too: they have not passed through PostgreSQL's error handling, so a lock may
        // still hold off interrupts.
        error => error.rethrow(),
    })
}

/// State that a subtransaction changes and does not restore.
struct OuterContext {
    memory: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl OuterContext {
    /// # Safety
    /// Called in a transaction, not in parallel mode.
    unsafe fn enter() -> Self {
        // SAFETY: a pointer of this process.
        let memory = unsafe { pg_sys::CurrentMemoryContext };
        // SAFETY: a pointer of this process.
        let owner = unsafe { pg_sys::CurrentResourceOwner };
        // SAFETY: the caller's promise; a subtransaction needs no name.
        unsafe { pg_sys::BeginInternalSubTransaction(core::ptr::null()) };
        // SAFETY: memory of the transaction around it, which outlives it.
        unsafe { pg_sys::MemoryContextSwitchTo(memory) };
        OuterContext { memory, owner }
    }

    /// # Safety
    /// The subtransaction that `enter` began is the current one.
    unsafe fn leave(self, is_done: bool) {
        if is_done {
            // SAFETY: the caller's promise.
            unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        } else {
            // SAFETY: the caller's promise.
            unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() };
        }
        // SAFETY: memory of the transaction around it, which still runs.
        unsafe { pg_sys::MemoryContextSwitchTo(self.memory) };
        // SAFETY: a pointer of this process, and the owner of the transaction around it.
        unsafe { pg_sys::CurrentResourceOwner = self.owner };
    }
}

/// Whether the error is a lack of resources that may be temporary.
fn is_want(report: &ErrorReportWithLevel) -> bool {
    let class = class_of(report.sql_error_code());
    [Code::ERRCODE_INSUFFICIENT_RESOURCES, Code::ERRCODE_SYSTEM_ERROR].map(class_of).contains(&class)
}

fn to_sql(report: &ErrorReportWithLevel) -> SqlError {
    SqlError {
        code: report.sql_error_code(),
        message: report.message().into(),
        detail: report.detail().map(Into::into),
        hint: report.hint().map(Into::into),
    }
}
