//! Calls from SQL of functions with two vector arguments and a numeric result.
//!
//! A scan computes a distance for each row. At a hundred dimensions the general call of a Rust function (converting the
//! arguments one by one, a guard against panics, a memory context switch) takes as long as the distance itself, so two
//! valid vectors are passed to it directly. Only errors use the general call.

use std::ptr::NonNull;

use pgrx::{FromDatum, pg_sys, pgrx_extern_c_guard};

use super::Vector;
use super::error::{check_same_dims, null_argument};
use super::layout::{Header, check, elements_behind, in_place};

unsafe extern "C-unwind" {
    /// src/backend/utils/fmgr/fmgr.c, without the guard of pgrx's binding: an error jumps over our frames, which own
    /// nothing, as over those of a C function.
    fn pg_detoast_datum_copy(datum: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
}

/// Declares C functions for SQL, with the record that PostgreSQL requires for each (PG_FUNCTION_INFO_V1 of fmgr.h).
macro_rules! sql_functions {
    ($($function:ident, $record:ident => $distance:expr;)*) => {$(
        /// # Safety
        /// PostgreSQL calls it with two arguments of type `vector`.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $function(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: the caller's promise. The distance is arithmetic on slices of equal length and does not panic.
            unsafe { $crate::vector::call::distance(call, $distance) }
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $record() -> &'static pg_sys::Pg_finfo_record {
            const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    )*};
}
pub(super) use sql_functions;

/// The value of `distance` for a call's two arguments, as a `double precision`.
///
/// # Safety
/// The call has two arguments of type `vector`; `distance` does not panic on two slices of equal length.
#[inline(always)]
pub(super) unsafe fn distance(
    call: pg_sys::FunctionCallInfo,
    distance: impl Fn(&[f32], &[f32]) -> f64,
) -> pg_sys::Datum {
    // SAFETY: the call that PostgreSQL passed.
    let call = unsafe { &*call };
    // SAFETY: the call has two arguments.
    let arguments = unsafe { call.args.as_slice(2) };
    // SAFETY: of type vector, and stays readable during the call.
    let a = unsafe { read(arguments[0]) };
    // SAFETY: of type vector, and stays readable during the call.
    let b = unsafe { read(arguments[1]) };
    match (a, b) {
        (Some(a), Some(b)) if a.len() == b.len() => distance(a, b).to_bits().into(),
        // SAFETY: of type vector, and one of them is not as it should be.
        _ => unsafe { raise_error(arguments) },
    }
}

/// The elements of an argument; None if it is null or malformed. A detoasted copy is freed with the memory context of
/// the call.
///
/// # Safety
/// The argument is null or of type `vector`, and stays readable for `'a`.
#[inline(always)]
unsafe fn read<'a>(argument: pg_sys::NullableDatum) -> Option<&'a [f32]> {
    if argument.isnull {
        return None;
    }
    // SAFETY: of type vector, by the caller's promise, and not null.
    let header = match unsafe { in_place::<f32>(argument.value) } {
        Some(header) => header,
        // SAFETY: of type vector, by the caller's promise, and not null.
        None => unsafe { copy(argument.value) }?,
    };
    // SAFETY: `in_place` and `copy` checked that the header is there.
    let Header { dims, .. } = *unsafe { header.as_ref() };
    // SAFETY: and as many elements as it says.
    let elements = unsafe { elements_behind(header, dims as usize) };
    // SAFETY: they stay readable for 'a, or for as long as the call where they are a copy.
    Some(unsafe { elements.as_ref() })
}

/// # Safety
/// `datum` is a non-null datum of a varlena type.
#[inline(never)]
#[expect(ffi_unwind_calls, reason = "an error jumps over our frames, which own nothing")]
unsafe fn copy(datum: pg_sys::Datum) -> Option<NonNull<Header>> {
    // SAFETY: the caller vouches for a varlena.
    let copy = unsafe { pg_detoast_datum_copy(datum.cast_mut_ptr()) };
    // SAFETY: the copy is palloc'd, so it is aligned and has a 4-byte header.
    unsafe { check::<f32>(copy) }.ok()
}

/// Reads the arguments again in the general way, which raises the right error.
///
/// # Safety
/// Each argument is null or of type `vector`, and at least one is null, malformed or of other dimensions.
#[cold]
unsafe fn raise_error(arguments: &[pg_sys::NullableDatum]) -> ! {
    let vector = |argument: &pg_sys::NullableDatum| {
        // SAFETY: the caller's promise.
        let vector = unsafe { <Vector as FromDatum>::from_datum(argument.value, argument.isnull) };
        vector.unwrap_or_else(|| null_argument())
    };
    // SAFETY: PostgreSQL's frames are directly above; nothing here needs to be dropped when the guard raises the error.
    unsafe {
        pgrx_extern_c_guard(|| {
            check_same_dims(&vector(&arguments[0]), &vector(&arguments[1]));
            unreachable!("two vectors of equal dimensions have a distance")
        })
    }
}
