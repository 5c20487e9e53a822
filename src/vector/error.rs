//! Checks of vectors, and their errors. Messages and SQLSTATEs are pgvector's.

use pgrx::PgSqlErrorCode::{self, *};
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;

use super::layout::Malformed;
use super::{MAX_DIMS, Vector};

#[cold]
#[track_caller]
pub(super) fn raise(code: PgSqlErrorCode, message: impl Into<String>) -> ! {
    report(ErrorReport::new(code, message.into(), module_path!()))
}

#[cold]
#[track_caller]
pub(super) fn raise_with_detail(code: PgSqlErrorCode, message: impl Into<String>, detail: &str) -> ! {
    report(ErrorReport::new(code, message.into(), module_path!()).set_detail(detail))
}

fn report(error: ErrorReport) -> ! {
    error.report(PgLogLevel::ERROR);
    unreachable!("a report at level ERROR does not return")
}

#[track_caller]
pub(super) fn check_dims(dims: usize) {
    if dims < 1 {
        raise(ERRCODE_DATA_EXCEPTION, "vector must have at least 1 dimension");
    }
    if dims > MAX_DIMS {
        raise(ERRCODE_PROGRAM_LIMIT_EXCEEDED, format!("vector cannot have more than {MAX_DIMS} dimensions"));
    }
}

#[track_caller]
pub(super) fn check_same_dims(a: &Vector, b: &Vector) {
    if a.dims() != b.dims() {
        raise(ERRCODE_DATA_EXCEPTION, format!("different vector dimensions {} and {}", a.dims(), b.dims()));
    }
}

/// Checks the dimensions against a type modifier or an aggregate's state; -1 accepts any.
#[track_caller]
pub(super) fn check_expected_dims(expected: i32, dims: usize) {
    if expected != -1 && usize::try_from(expected) != Ok(dims) {
        raise(ERRCODE_DATA_EXCEPTION, format!("expected {expected} dimensions, not {dims}"));
    }
}

#[track_caller]
pub(super) fn check_finite(elements: &[f32]) {
    match elements.iter().find(|element| !element.is_finite()) {
        None => (),
        Some(element) if element.is_nan() => raise(ERRCODE_DATA_EXCEPTION, "NaN not allowed in vector"),
        Some(_) => raise(ERRCODE_DATA_EXCEPTION, "infinite value not allowed in vector"),
    }
}

/// Checks the result of arithmetic on finite elements.
#[track_caller]
pub(super) fn check_overflow(elements: &[f32]) {
    if elements.iter().any(|element| element.is_infinite()) {
        overflow();
    }
}

#[track_caller]
pub(super) fn overflow() -> ! {
    raise(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
}

#[track_caller]
pub(super) fn underflow() -> ! {
    raise(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: underflow")
}

#[cold]
#[track_caller]
pub(super) fn corrupted(of_type: &str, Malformed { bytes, dims }: Malformed) -> ! {
    raise(ERRCODE_DATA_CORRUPTED, format!("malformed {of_type}: {bytes} bytes for {dims} dimensions"))
}

/// Raised if a STRICT function gets a null argument, which requires a wrong declaration.
#[cold]
#[track_caller]
pub(super) fn null_argument() -> ! {
    raise(ERRCODE_NULL_VALUE_NOT_ALLOWED, "argument must not be null")
}
