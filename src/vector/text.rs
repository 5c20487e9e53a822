//! The text form: `[1,2.5,-3]`.

use std::ffi::{CStr, c_char, c_int};

use pgrx::PgSqlErrorCode::{ERRCODE_INVALID_TEXT_REPRESENTATION, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE};
use pgrx::pg_extern;
use pgrx::pg_sys;

use super::error::{check_dims, check_expected_dims, check_finite, raise, raise_with_detail};
use super::{Finished, MAX_DIMS, NewVector, Vector};
use crate::pg::text::from_server;

unsafe extern "C" {
    /// The C library's parser, as in PostgreSQL's float4in: parsing a double and narrowing it would round twice. The
    /// decimal point is `.`, because PostgreSQL sets LC_NUMERIC to C in every backend.
    fn strtof(text: *const c_char, end: *mut *mut c_char) -> f32;

    /// PostgreSQL's shortest decimal form that reads back as the same float4 (src/common/f2s.c). Writes no NUL;
    /// returns the number of bytes written, less than [`FLOAT_SHORTEST_DECIMAL_LEN`]. Raises no errors.
    fn float_to_shortest_decimal_bufn(value: f32, result: *mut c_char) -> c_int;
}

/// src/include/common/shortest_dec.h; it counts a NUL.
const FLOAT_SHORTEST_DECIMAL_LEN: usize = 16;

/// `vector_in(cstring, oid, integer) -> vector`
#[pg_extern]
fn vector_in(literal: &CStr, _element_type: pg_sys::Oid, typmod: i32) -> NewVector {
    match read(literal) {
        Ok(vector) => {
            check_expected_dims(typmod, vector.len());
            vector
        }
        Err(error) => report(error, literal),
    }
}

/// `vector_out(vector) -> cstring`
#[pg_extern]
fn vector_out(vector: Vector<'_>) -> Finished {
    Finished(write(&vector).into())
}

/// Reads a literal into a new vector.
pub(super) fn read(literal: &CStr) -> Result<NewVector, InputError<'_>> {
    // A valid literal has one element more than commas, because no element contains a comma.
    let commas = literal.to_bytes().iter().filter(|&&byte| byte == b',').count();
    let mut vector = NewVector::zeroed((commas + 1).min(MAX_DIMS));
    let dims = parse(literal, &mut vector)?;
    debug_assert_eq!(dims, vector.len());
    Ok(vector)
}

/// Writes elements as a literal that ends in a NUL, in the current memory context.
pub(super) fn write(elements: &[f32]) -> *mut c_char {
    // Each element with a comma or the closing bracket, the opening bracket, and a NUL.
    let bytes = elements.len() * FLOAT_SHORTEST_DECIMAL_LEN + 2;
    // SAFETY: raises an error where there is no memory.
    let text: *mut c_char = unsafe { pg_sys::palloc(bytes) }.cast();
    let mut end = text;
    // Every element writes at most FLOAT_SHORTEST_DECIMAL_LEN - 1 bytes and its separator one, so all writes stay
    // within `bytes`.
    for (position, &element) in elements.iter().enumerate() {
        // SAFETY: within the allocation.
        unsafe { *end = if position == 0 { b'[' } else { b',' } as c_char };
        let start = end.wrapping_add(1);
        // SAFETY: there is room for the longest number.
        end = start.wrapping_add(unsafe { float_to_shortest_decimal_bufn(element, start) } as usize);
    }
    // SAFETY: two bytes are left.
    unsafe { end.cast::<[u8; 2]>().write([b']', 0]) };
    text
}

/// An element as a literal has it.
pub(super) fn shortest(element: f32) -> String {
    let mut text = [0u8; FLOAT_SHORTEST_DECIMAL_LEN];
    // SAFETY: writes less than FLOAT_SHORTEST_DECIMAL_LEN bytes.
    let length = unsafe { float_to_shortest_decimal_bufn(element, text.as_mut_ptr().cast()) };
    String::from_utf8_lossy(&text[..length as usize]).into_owned()
}

/// Why a literal is invalid.
#[derive(Debug, PartialEq)]
pub(super) enum InputError<'a> {
    NoOpeningBracket,
    Malformed,
    JunkAfterEnd,
    /// No elements.
    Empty,
    /// More elements than there is room for.
    TooMany,
    /// An element, as it was written, whose magnitude is beyond float4.
    OutOfRange(&'a [u8]),
    NotFinite(f32),
}

/// Reads a literal into `elements` and returns how many it has.
fn parse<'a>(literal: &'a CStr, elements: &mut [f32]) -> Result<usize, InputError<'a>> {
    let bytes = literal.to_bytes_with_nul();
    let mut at = skip_space(bytes, 0);
    if bytes[at] != b'[' {
        return Err(InputError::NoOpeningBracket);
    }
    at = skip_space(bytes, at + 1);
    if bytes[at] == b']' {
        return Err(InputError::Empty);
    }
    let mut dims = 0;
    loop {
        let element = elements.get_mut(dims).ok_or(InputError::TooMany)?;
        at = skip_space(bytes, at);
        let start = at;
        (*element, at) = parse_element(bytes, start).ok_or(InputError::Malformed)?;
        if !element.is_finite() {
            return Err(not_finite(*element, &bytes[start..at]));
        }
        dims += 1;
        at = skip_space(bytes, at);
        match bytes[at] {
            b',' => at += 1,
            b']' => break,
            _ => return Err(InputError::Malformed),
        }
    }
    if bytes[skip_space(bytes, at + 1)] != 0 {
        return Err(InputError::JunkAfterEnd);
    }
    Ok(dims)
}

/// Reads the float at `bytes[start..]`, which is NUL-terminated; returns it with the position after it.
fn parse_element(bytes: &[u8], start: usize) -> Option<(f32, usize)> {
    let text: *const c_char = bytes[start..].as_ptr().cast();
    let mut end = std::ptr::null_mut();
    // SAFETY: `bytes` ends in a NUL at or after `start`, so strtof stays inside; it sets `end` to a position
    // in the same text.
    let value = unsafe { strtof(text, &mut end) };
    let read = end.addr() - text.addr();
    (read > 0).then_some((value, start + read))
}

/// strtof returns infinity both for an overflow and for the word; only a number starts with a digit or a point.
fn not_finite(value: f32, written: &[u8]) -> InputError<'_> {
    let is_number = written.iter().any(u8::is_ascii_digit);
    if value.is_infinite() && is_number {
        InputError::OutOfRange(written)
    } else {
        InputError::NotFinite(value)
    }
}

/// The first position from `at` that is not white space (PostgreSQL's scanner_isspace).
fn skip_space(bytes: &[u8], at: usize) -> usize {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    at + bytes[at..].iter().take_while(|byte| is_space(byte)).count()
}

/// Raises the error for an invalid literal.
pub(super) fn report(error: InputError, literal: &CStr) -> ! {
    let syntax = || format!("invalid input syntax for type vector: \"{}\"", printable(literal.to_bytes()));
    let syntax_code = ERRCODE_INVALID_TEXT_REPRESENTATION;
    match error {
        InputError::NoOpeningBracket => {
            raise_with_detail(syntax_code, syntax(), "Vector contents must start with \"[\".")
        }
        InputError::Malformed => raise(syntax_code, syntax()),
        InputError::JunkAfterEnd => {
            raise_with_detail(syntax_code, syntax(), "Junk after closing right brace.")
        }
        InputError::Empty => check_dims(0),
        InputError::TooMany => check_dims(MAX_DIMS + 1),
        InputError::OutOfRange(written) => raise(
            ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            format!("\"{}\" is out of range for type vector", printable(written)),
        ),
        InputError::NotFinite(value) => check_finite(&[value]),
    }
    unreachable!("every branch above raises an error")
}

/// Text for a message, truncated between two characters if it is longer than any reasonable vector, so that a literal
/// of 1 GB is not copied several times into an error.
fn printable(bytes: &[u8]) -> String {
    const MAX_BYTES: i32 = 1 << 20;
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    // SAFETY: as many bytes as are said.
    let shown = unsafe { pg_sys::pg_mbcliplen(bytes.as_ptr().cast(), length, MAX_BYTES) };
    from_server(&bytes[..shown as usize])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(literal: &CStr) -> Result<Vec<f32>, InputError<'_>> {
        let mut elements = [0.0; 4];
        parse(literal, &mut elements).map(|dims| elements[..dims].to_vec())
    }

    #[test]
    fn white_space_is_allowed_around_every_token() {
        assert_eq!(parsed(c" \t\n\r\x0b\x0c[ 1 ,\t2\n, 3 ] "), Ok(vec![1.0, 2.0, 3.0]));
    }

    #[test]
    fn elements_are_what_strtof_reads() {
        assert_eq!(parsed(c"[1.,.5,+3,0x10]"), Ok(vec![1.0, 0.5, 3.0, 16.0]));
        assert_eq!(parsed(c"[1e-50]"), Ok(vec![0.0]));
        assert!(parsed(c"[-1e-50]").unwrap()[0].is_sign_negative());
    }

    #[test]
    fn a_decimal_is_rounded_to_float4_once() {
        // Lies above the midpoint of two float4 by less than a double can tell: rounding twice gives 1.
        assert_eq!(parsed(c"[1.000000059604644775390626]"), Ok(vec![1.0 + f32::EPSILON]));
    }

    #[test]
    fn overflow_and_infinity_are_told_apart() {
        assert_eq!(parsed(c"[-4e38]"), Err(InputError::OutOfRange(b"-4e38")));
        assert_eq!(parsed(c"[0x1p999]"), Err(InputError::OutOfRange(b"0x1p999")));
        assert_eq!(parsed(c"[-Infinity]"), Err(InputError::NotFinite(f32::NEG_INFINITY)));
        assert!(matches!(parsed(c"[nan(12)]"), Err(InputError::NotFinite(value)) if value.is_nan()));
    }

    #[test]
    fn every_deviation_from_the_form_is_named() {
        assert_eq!(parsed(c""), Err(InputError::NoOpeningBracket));
        assert_eq!(parsed(c"1,2"), Err(InputError::NoOpeningBracket));
        assert_eq!(parsed(c"[ ]"), Err(InputError::Empty));
        assert_eq!(parsed(c"[1]]"), Err(InputError::JunkAfterEnd));
        assert_eq!(parsed(c"[1,2,3,4,5]"), Err(InputError::TooMany));
        for literal in [c"[", c"[,", c"[1", c"[1,", c"[1,]", c"[1,,2]", c"[1;2]", c"[1_000]", c"[0x]"] {
            assert_eq!(parsed(literal), Err(InputError::Malformed), "{literal:?}");
        }
    }
}
