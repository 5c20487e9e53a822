//! Text in the database's encoding, represented as Rust strings.
//!
//! PostgreSQL's names, statements and messages are bytes in the database's encoding; in SQL_ASCII they can be any
//! bytes. Rust's strings are UTF-8. In a database with another encoding, a string represents each non-ASCII byte as a
//! character of Unicode's private use area: [`from_server`] inserts it and [`to_server`] removes it. The conversion is
//! lossless and cannot fail, and quoting and `format!` work, because in every server encoding an ASCII byte is an ASCII
//! character. (Python treats file names in the same way: PEP 383.)
//!
//! Error messages are converted too. pgrx keeps the messages of PostgreSQL's errors as Rust strings while it unwinds
//! and then reports them again; the linker wraps the two functions it uses for that (build.rs).

use core::ffi::{CStr, c_char, c_int};
use std::ffi::CString;
use std::ops::Deref;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::{FromDatum, pg_sys};

/// The character that represents byte 0x80; the others follow.
const FIRST_CARRIER: u32 = 0xEF80;
const FIRST_CARRIED: u8 = 0x80;

/// Converts bytes of the server to a string.
pub fn from_server(bytes: &[u8]) -> String {
    if is_utf8() { String::from_utf8_lossy(bytes).into_owned() } else { carry(bytes) }
}

/// Converts a C string of the server.
///
/// # Safety
/// `text` points to a C string.
pub unsafe fn from_c(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    from_server(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Converts a string to the server's bytes, up to its first zero byte.
pub fn to_server(text: &str) -> CString {
    let mut bytes = if is_utf8() { text.as_bytes().to_vec() } else { uncarry(text) };
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    CString::new(bytes).unwrap_or_default()
}

/// A new datum of type `text`, in the current memory context.
pub fn datum(text: &str) -> pg_sys::Datum {
    // SAFETY: the string outlives the call, which copies it.
    unsafe { pg_sys::cstring_to_text(to_server(text).as_ptr()) }.into()
}

fn is_utf8() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

fn carry(bytes: &[u8]) -> String {
    let carried = |byte: u8| match byte.checked_sub(FIRST_CARRIED) {
        Some(place) => {
            char::from_u32(FIRST_CARRIER + u32::from(place)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        None => char::from(byte),
    };
    bytes.iter().map(|&byte| carried(byte)).collect()
}

/// A character that is neither ASCII nor private-use did not come from the server and has no bytes in its encoding.
fn uncarry(text: &str) -> Vec<u8> {
    let byte = |character: char| match u32::from(character).checked_sub(FIRST_CARRIER) {
        _ if character.is_ascii() => character as u8,
        Some(place @ 0..0x80) => FIRST_CARRIED + place as u8,
        _ => b'?',
    };
    text.chars().map(byte).collect()
}

/// An argument of type `text`.
#[derive(Default)]
pub struct Text(String);

impl Text {
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the caller vouches for a text, which is a varlena.
        let plain = unsafe { pg_sys::pg_detoast_datum_packed(stored) };
        // SAFETY: detoasted, or stored so.
        let text = from_server(unsafe { pgrx::varlena::varlena_to_byte_slice(plain) });
        if plain != stored {
            // SAFETY: a copy that was made for this call.
            unsafe { pg_sys::pfree(plain.cast()) };
        }
        Some(Text(text))
    }
}

// SAFETY: reads the argument as a text, as which sql/vekter.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type. It is not NULL: those that may be are Option<Text>.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_default()
    }
}

// ---------------------------------------------------------------- errors

unsafe extern "C-unwind" {
    /// utils/elog.h, under the names that the linker gives the wrapped functions.
    fn __real_CopyErrorData() -> *mut pg_sys::ErrorData;
    fn __real_errfinish(file: *const c_char, line: c_int, function: *const c_char);
    fn errmsg_internal(format: *const c_char, ...) -> c_int;
    fn errdetail_internal(format: *const c_char, ...) -> c_int;
    fn errhint(format: *const c_char, ...) -> c_int;
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
    if !is_utf8() {
        // SAFETY: the copy is this function's own.
        let report = unsafe { &mut *copy };
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
    if !is_utf8() {
        // SAFETY: the caller's promise.
        unsafe { uncarry_report() };
    }
    // SAFETY: the caller's promise.
    unsafe { __real_errfinish(file, line, function) };
}

/// Gives the report that is being made the server's bytes.
///
/// # Safety
/// As of `__wrap_errfinish`.
#[expect(
    ffi_unwind_calls,
    reason = "pgrx calls PostgreSQL's functions of reports without a guard, and so does this one"
)]
unsafe fn uncarry_report() {
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
        if unsafe { recode(text, |bytes| uncarry(&String::from_utf8_lossy(bytes))) } {
            // SAFETY: one argument, a C string, as the format says; it is copied into the report.
            unsafe { replace(c"%s".as_ptr(), *text) };
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_carried_and_come_back() {
        let bytes: Vec<u8> = (1..=255).collect();
        let carried = carry(&bytes);
        assert_eq!(carried.chars().count(), bytes.len());
        assert!(carried.starts_with("\u{1}\u{2}") && carried.ends_with('\u{efff}'));
        assert_eq!(uncarry(&carried), bytes);
    }

    #[test]
    fn ascii_around_what_is_carried_stays_as_it_is() {
        assert_eq!(uncarry(&format!("index \"{}\"", carry(b"v\xe9c"))), b"index \"v\xe9c\"");
        assert_eq!(uncarry("\u{e9} \u{efff} \u{f000} \u{1f642}"), b"? \xff ? ?");
    }
}
