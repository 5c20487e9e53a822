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
