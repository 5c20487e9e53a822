//! Errors of PostgreSQL's that pass through Rust frames.
//!
//! pgrx catches such an error, keeps its message, DETAIL and HINT as Rust strings while it unwinds, and reports a new
//! error with them. Clients and PL/pgSQL read the other fields too: the names of the constraint, the table and the
//! column, the position in the statement, CONTEXT. So the linker wraps the two functions that pgrx uses (build.rs): the
//! first keeps these fields, the second completes the new report with them. Both recode the strings (`text`).

use core::ffi::{CStr, c_char, c_int};
use std::cell::RefCell;
use std::ffi::CString;

use pgrx::pg_sys;

use super::text::{carry, is_utf8, uncarry};

unsafe extern "C-unwind" {
    /// utils/elog.h, under the names that the linker gives the wrapped functions.
    fn __real_CopyErrorData() -> *mut pg_sys::ErrorData;
    fn __real_errfinish(file: *const c_char, line: c_int, function: *const c_char);
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
    fn errdetail_log(format: *const c_char, ...) -> c_int;
    fn errcontext_msg(format: *const c_char, ...) -> c_int;
    fn err_generic_string(field: c_int, text: *const c_char) -> c_int;
    fn errposition(position: c_int) -> c_int;
    fn internalerrposition(position: c_int) -> c_int;
    fn internalerrquery(query: *const c_char) -> c_int;
}

/// Fields of an error that pgrx does not keep, with what tells the error from others.
struct Caught {
    code: c_int,
    message: Option<CString>,
    file: Option<CString>,
    line: c_int,
    detail_log: Option<CString>,
    context: Option<CString>,
    /// With their codes in `err_generic_string` (`PG_DIAG_...` of postgres_ext.h).
    names: [(u8, Option<CString>); 5],
    position: c_int,
    internal_position: c_int,
    internal_query: Option<CString>,
}

thread_local! {
    /// Of the error that pgrx caught last and has not reported again.
    static CAUGHT: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

impl Caught {
    /// # Safety
    /// The strings of the report are NULL or C strings.
    unsafe fn of(report: &pg_sys::ErrorData) -> Self {
        let kept = |text: *const c_char| {
            // SAFETY: the caller's promise.
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_owned())
        };
        Caught {
            code: report.sqlerrcode,
            message: kept(report.message),
            file: kept(report.filename),
            line: report.lineno,
            detail_log: kept(report.detail_log),
            context: kept(report.context),
            names: [
                (b's', kept(report.schema_name)),
                (b't', kept(report.table_name)),
                (b'c', kept(report.column_name)),
                (b'd', kept(report.datatype_name)),
                (b'n', kept(report.constraint_name)),
            ],
            position: report.cursorpos,
            internal_position: report.internalpos,
            internal_query: kept(report.internalquery),
        }
    }

    /// Whether the report that is being made repeats this error. `report` is a copy of it; `file` and `line` are those
    /// that it will have.
    ///
    /// # Safety
    /// As of `of`; `file` is NULL or a C string.
    unsafe fn is(&self, report: &pg_sys::ErrorData, file: *const c_char, line: c_int) -> bool {
        // SAFETY: the caller's promise.
        let other = unsafe { Caught::of(&pg_sys::ErrorData { filename: file, lineno: line, ..*report }) };
        (self.code, &self.message, &self.file, self.line)
            == (other.code, &other.message, &other.file, other.line)
    }

    /// Sets the fields of the report that is being made.
    #[expect(
        ffi_unwind_calls,
        reason = "each copies a string into the report; an error jumps over frames that own nothing but it"
    )]
    fn complete_report(&self) {
        let texts: [(&Option<CString>, Replace); 2] =
            [(&self.detail_log, errdetail_log), (&self.context, errcontext_msg)];
        for (text, set) in texts {
            if let Some(text) = text {
                // SAFETY: one argument, a C string, as the format says; it is copied.
                unsafe { set(c"%s".as_ptr(), text.as_ptr()) };
            }
        }
        for (field, name) in &self.names {
            if let Some(name) = name {
                // SAFETY: one of the fields' codes, and a C string, which is copied.
                unsafe { err_generic_string(c_int::from(*field), name.as_ptr()) };
            }
        }
        // SAFETY: sets a number.
        unsafe { errposition(self.position) };
        // SAFETY: sets a number.
        unsafe { internalerrposition(self.internal_position) };
        if let Some(query) = &self.internal_query {
            // SAFETY: a C string, which is copied.
            unsafe { internalerrquery(query.as_ptr()) };
        }
    }
}

/// A function of errmsg's kind, which replaces a string of the report that is being made.
type Replace = unsafe extern "C-unwind" fn(*const c_char, ...) -> c_int;

/// Wraps PostgreSQL's `CopyErrorData`, which pgrx calls after it has caught an error.
///
/// # Safety
/// As PostgreSQL's: called where an error was caught, outside of its memory context.
#[unsafe(no_mangle)]
#[expect(ffi_unwind_calls, reason = "pgrx calls PostgreSQL's function without a guard, and so does this one")]
pub unsafe extern "C-unwind" fn __wrap_CopyErrorData() -> *mut pg_sys::ErrorData {
    // SAFETY: the caller's promise.
    let copy = unsafe { __real_CopyErrorData() };
    // SAFETY: the copy is this function's own.
    let report = unsafe { &mut *copy };
    // SAFETY: a copy's strings are NULL or C strings.
    CAUGHT.set(Some(unsafe { Caught::of(report) }));
    if !is_utf8() {
        for text in [&mut report.message, &mut report.detail, &mut report.hint] {
            // SAFETY: a copy's strings are NULL or palloc'd.
            unsafe { recode(text, |bytes| carry(bytes).into_bytes()) };
        }
    }
    copy
}

/// Wraps PostgreSQL's `errfinish`, with which pgrx ends each error report.
///
/// # Safety
/// As PostgreSQL's: called after `errstart` has returned true.
#[unsafe(no_mangle)]
#[expect(ffi_unwind_calls, reason = "an error jumps from here, over frames that own nothing")]
pub unsafe extern "C-unwind" fn __wrap_errfinish(file: *const c_char, line: c_int, function: *const c_char) {
    let caught = CAUGHT.take();
    if caught.is_some() || !is_utf8() {
        // SAFETY: the caller's promise.
        unsafe { finish_report(caught, file, line) };
    }
    // SAFETY: the caller's promise.
    unsafe { __real_errfinish(file, line, function) };
}

/// Gives the report that is being made the server's bytes, and the fields of the error that it repeats.
///
/// # Safety
/// As of `__wrap_errfinish`.
#[expect(
    ffi_unwind_calls,
    reason = "pgrx calls PostgreSQL's functions of reports without a guard, and so does this one"
)]
unsafe fn finish_report(caught: Option<Caught>, file: *const c_char, line: c_int) {
    // SAFETY: a pointer of this process.
    let lasting = unsafe { pg_sys::TopMemoryContext };
    // SAFETY: memory that lives as long as the process. The copy must not lie in the report's own.
    let current = unsafe { pg_sys::MemoryContextSwitchTo(lasting) };
    // SAFETY: a report is being made.
    let copy = unsafe { __real_CopyErrorData() };
    // SAFETY: the copy is this function's own.
    let report = unsafe { &mut *copy };
    let texts: [(&mut *mut c_char, Replace); 3] = [
        (&mut report.message, errmsg_internal),
        (&mut report.detail, errdetail_internal),
        (&mut report.hint, errhint),
    ];
    for (text, replace) in texts {
        // SAFETY: a copy's strings are NULL or palloc'd.
        if !is_utf8() && unsafe { recode(text, |bytes| uncarry(&String::from_utf8_lossy(bytes))) } {
            // SAFETY: one argument, a C string, as the format says; it is copied into the report.
            unsafe { replace(c"%s".as_ptr(), *text) };
        }
    }
    match caught {
        // SAFETY: the copy's strings are NULL or C strings, and so is the file's name.
        Some(caught) if unsafe { caught.is(report, file, line) } => {
            caught.complete_report();
            // Its CONTEXT is complete. The frame that catches the error restores this.
            // SAFETY: a variable of this process.
            unsafe { pg_sys::error_context_stack = core::ptr::null_mut() };
        }
        // A notice, perhaps, before the error is reported again.
        other => CAUGHT.set(other),
    }
    // SAFETY: the copy, which nobody reads any more.
    unsafe { pg_sys::FreeErrorData(copy) };
    // SAFETY: the context that was current before.
    unsafe { pg_sys::MemoryContextSwitchTo(current) };
}

/// Replaces a string by its recoded bytes; false if it is all ASCII.
///
/// # Safety
/// `text` is NULL or palloc'd, and nobody else's.
unsafe fn recode(text: &mut *mut c_char, recoded: impl Fn(&[u8]) -> Vec<u8>) -> bool {
    if text.is_null() {
        return false;
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(*text) }.to_bytes();
    if bytes.is_ascii() {
        return false;
    }
    let other = recoded(bytes);
    // SAFETY: palloc'd, and nobody else's, by the caller's promise.
    unsafe { pg_sys::pfree((*text).cast()) };
    // SAFETY: the new string is copied out of a vector that outlives the call.
    *text = unsafe { pg_sys::pnstrdup(other.as_ptr().cast(), other.len()) };
    true
}
