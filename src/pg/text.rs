//! Text in the database's encoding, represented as Rust strings.
//!
//! PostgreSQL's names, statements and messages are bytes in the database's encoding; in SQL_ASCII they can be any
//! bytes. Rust's strings are UTF-8. In a database with another encoding, a string represents each non-ASCII byte as a
//! character of Unicode's private use area: [`from_server`] inserts it and [`to_server`] removes it. The conversion is
//! lossless and cannot fail, and quoting and `format!` work, because in every server encoding an ASCII byte is an ASCII
//! character. (Python treats file names in the same way: PEP 383.)
//!
//! Error messages are converted too (`report`).

use core::ffi::{CStr, c_char};
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

pub(super) fn is_utf8() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

pub(super) fn carry(bytes: &[u8]) -> String {
    let carried = |byte: u8| match byte.checked_sub(FIRST_CARRIED) {
        Some(place) => {
            char::from_u32(FIRST_CARRIER + u32::from(place)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        None => char::from(byte),
    };
    bytes.iter().map(|&byte| carried(byte)).collect()
}

/// A character that is neither ASCII nor private-use did not come from the server and has no bytes in its encoding.
pub(super) fn uncarry(text: &str) -> Vec<u8> {
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
