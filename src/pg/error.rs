//! Errors as PostgreSQL reports them: lower case, no full stop, with the way out in HINT.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;

/// An error on its way to the client.
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

    /// Raises the error, or the one of PostgreSQL's that it is the consequence of; the frames above unwind.
    pub fn raise(self) -> ! {
        super::interrupts::raise_kept();
        self.report(pgrx::PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Tells the client and goes on.
    pub fn warn(self) {
        self.report(pgrx::PgLogLevel::WARNING);
    }

    /// Tells the client what is no fault, and goes on.
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

/// Has errors say the same whatever the server's environment: pgrx appends Rust's backtrace to DETAIL where RUST_BACKTRACE
/// is set. Called once, while the library is loaded, in the only thread of ours. (Of a panic in another, which never becomes
/// an error, the backtrace still goes to the log.)
pub fn leave_backtraces_out() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(VARIABLE);
    // SAFETY: PostgreSQL changes the environment of its processes in the same way, on this thread; threads of other
    // libraries would have to read it at this moment.
    unsafe { std::env::set_var(VARIABLE, "0") };
    // The standard library reads it at the first capture, and remembers the answer (std::backtrace).
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

/// A message as the beginning of a sentence.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Unwraps or raises.
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
