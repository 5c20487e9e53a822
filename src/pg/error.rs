//! Errors in PostgreSQL's style: lower case, no full stop, remedy in HINT.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// An error to be reported to the client.
#[derive(Debug)]
pub struct SqlError {
    pub code: PgSqlErrorCode,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl SqlError {
    pub fn new(code: PgSqlErrorCode, message: impl Into<String>) -> Self {
        SqlError { code, message: message.into(), detail: None, hint: None }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Raises the error, or PostgreSQL's own error that caused it; the stack unwinds.
    pub fn raise(self) -> ! {
        super::interrupts::raise_kept();
        self.report(pgrx::PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Reports it as a WARNING and returns.
    pub fn warn(self) {
        self.report(pgrx::PgLogLevel::WARNING);
    }

    /// Reports it as a NOTICE and returns.
    pub fn notice(self) {
        self.report(pgrx::PgLogLevel::NOTICE);
    }

    fn report(self, level: pgrx::PgLogLevel) {
        let mut report = ErrorReport::new(self.code, self.message, "vekter");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(level);
    }
}

/// Disables Rust backtraces in error messages, which pgrx appends to DETAIL if RUST_BACKTRACE is set: errors must not
/// depend on the server's environment. Called once, while the library is loaded and has started no threads. (The
/// backtrace of a panic on another thread still goes to the log.)
pub fn leave_backtraces_out() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(VARIABLE);
    // SAFETY: PostgreSQL changes the environment of its processes in the same way, on this thread; another library's
    // thread would have to read it at this moment.
    unsafe { std::env::set_var(VARIABLE, "0") };
    // The standard library reads the variable at the first capture and caches the result (std::backtrace).
    drop(std::backtrace::Backtrace::capture());
    match before {
        // SAFETY: as above.
        Some(value) => unsafe { std::env::set_var(VARIABLE, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(VARIABLE) },
    }
}

/// PostgreSQL's `ERRCODE_TO_CATEGORY` (utils/elog.h).
pub fn class_of(code: PgSqlErrorCode) -> i32 {
    code as i32 & 0xFFF
}

/// The message with an upper-case first letter, as a sentence in DETAIL.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Unwraps a result or raises its error.
pub trait OrRaise<T> {
    fn or_raise(self) -> T;
}

impl<T, E: Into<SqlError>> OrRaise<T> for Result<T, E> {
    fn or_raise(self) -> T {
        match self {
            Ok(value) => value,
            Err(error) => error.into().raise(),
        }
    }
}
