//! Explicit casts between `vector` and JSON arrays of numbers.
//!
//! `[1,2.5]` is valid in both text forms, so the conversion goes through text.

use std::ffi::CStr;

use pgrx::PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::{FromDatum, direct_function_call, direct_function_call_as_datum, pg_extern, pg_sys};

use super::error::{check_expected_dims, null_argument, raise, raise_with_detail};
use super::text::{self, InputError};
use super::{Finished, NewVector, Vector};

/// `jsonb_to_vector(jsonb, integer, boolean) -> vector`
///
/// Numbers are read as in the text form: rounded to float4 once, underflowing to zero, refused beyond float4.
#[pg_extern]
fn jsonb_to_vector(json: JsonbText<'_>, typmod: i32, _explicit: bool) -> NewVector {
    read(json.0, typmod, "jsonb")
}

/// `json_to_vector(json, integer, boolean) -> vector`: the same.
#[pg_extern]
fn json_to_vector(json: JsonText<'_>, typmod: i32, _explicit: bool) -> NewVector {
    read(json.0, typmod, "json")
}

fn read(json: &CStr, typmod: i32, type_name: &str) -> NewVector {
    match text::read(json) {
        Ok(vector) => {
            check_expected_dims(typmod, vector.len());
            vector
        }
        Err(InputError::NoOpeningBracket | InputError::Malformed) => not_an_array_of_numbers(json, type_name),
        Err(error) => text::report(error, json),
    }
}

/// `vector_to_jsonb(vector) -> jsonb`: the shortest decimals that read back as the same elements. JSON's numbers have
/// no negative zero.
#[pg_extern]
fn vector_to_jsonb(vector: Vector<'_>) -> Finished {
    let literal = text::write(&vector);
    // SAFETY: jsonb_in takes a cstring, and the text form of a vector is JSON.
    let json = unsafe { direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(literal.into())]) };
    Finished(json.unwrap_or_else(|| null_argument()))
}

/// Reports the actual JSON type, in the words of PostgreSQL's casts from jsonb to numbers.
fn not_an_array_of_numbers(json: &CStr, type_name: &str) -> ! {
    let kind = match json.to_bytes().trim_ascii_start().first() {
        Some(b'[') => "array",
        Some(b'{') => "object",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "numeric",
    };
    let message = format!("cannot cast {type_name} {kind} to type vector");
    match kind {
        "array" => {
            raise_with_detail(ERRCODE_INVALID_PARAMETER_VALUE, message, "Every element must be a number.")
        }
        _ => raise(ERRCODE_INVALID_PARAMETER_VALUE, message),
    }
}

/// An argument of type `jsonb`, as text in the current memory context.
struct JsonbText<'a>(&'a CStr);

impl FromDatum for JsonbText<'_> {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the caller vouches for a jsonb; jsonb_out returns a palloc'd cstring.
        unsafe { direct_function_call(pg_sys::jsonb_out, &[Some(datum)]) }.map(JsonbText)
    }
}

// SAFETY: reads the argument as a jsonb, as which sql/vekter.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonbText<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| null_argument())
    }
}

/// An argument of type `json`, as text in the current memory context.
struct JsonText<'a>(&'a CStr);

impl FromDatum for JsonText<'_> {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the caller vouches for a json; json_out returns a palloc'd cstring.
        unsafe { direct_function_call(pg_sys::json_out, &[Some(datum)]) }.map(JsonText)
    }
}

// SAFETY: reads the argument as a json, as which sql/vekter.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for JsonText<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| null_argument())
    }
}
