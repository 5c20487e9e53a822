//! pgvector's type `halfvec`: IEEE 754's 16-bit floats, read as the floats of the same values, and made of floats.

use std::ptr::NonNull;

use half::f16;
use half::slice::HalfFloatSliceExt;
use pgrx::PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::{FromDatum, pg_extern, pg_sys};

use super::error::{check_expected_dims, check_finite, corrupted, null_argument, raise};
use super::layout::{HEADER_BYTES, Header, check, elements_behind, in_place, mark};
use super::{NewVector, text};
use crate::pg::bytes::palloc_varlena;

/// The elements of a datum of type `halfvec`.
///
/// Raises an error with `ERRCODE_DATA_CORRUPTED` when the length and the dimensions disagree.
///
/// # Safety
/// `datum` is a non-null datum of type `halfvec`.
pub(super) unsafe fn read(datum: pg_sys::Datum) -> Vec<f32> {
    // SAFETY: the caller's promise.
    if let Some(header) = unsafe { in_place::<f16>(datum) } {
        // SAFETY: `in_place` found a complete value.
        return floats(unsafe { elements(header) });
    }
    // SAFETY: the caller vouches for a varlena.
    let copy = unsafe { pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr()) };
    // SAFETY: the copy is palloc'd, so it is aligned and has a 4-byte header.
    let header = match unsafe { check::<f16>(copy) } {
        Ok(header) => header,
        Err(malformed) => corrupted("halfvec", malformed),
    };
    // SAFETY: `check` found a complete value.
    let floats = floats(unsafe { elements(header) });
    // SAFETY: made above; its elements were copied.
    unsafe { pg_sys::pfree(copy.cast()) };
    floats
}

/// # Safety
/// `header` is that of a complete value of halves, which stays readable for `'a`.
unsafe fn elements<'a>(header: NonNull<Header>) -> &'a [f16] {
    // SAFETY: the caller's promise.
    let dims = unsafe { header.as_ref() }.dims as usize;
    // SAFETY: the value has as many elements as its header says.
    let elements = unsafe { elements_behind(header, dims) };
    // SAFETY: they stay readable for 'a.
    unsafe { elements.as_ref() }
}

fn floats(halves: &[f16]) -> Vec<f32> {
    let mut floats = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut floats);
    floats
}

/// A new datum of type `halfvec` in the current memory context, of 1 to [`super::MAX_DIMS`] finite elements, each
/// rounded as pgvector's cast does. `is_marked`: with the mark of [`super::is_marked`].
///
/// Raises pgvector's error for an element beyond the largest half.
pub(super) fn into_datum(elements: &[f32], is_marked: bool) -> pg_sys::Datum {
    let mut header = palloc_varlena(HEADER_BYTES + size_of::<f16>() * elements.len()).cast::<Header>();
    // SAFETY: `palloc_varlena` returned that many zeroed, aligned bytes, which are nobody else's.
    unsafe { header.as_mut() }.dims = elements.len() as i16;
    // SAFETY: there is room for them.
    let mut halves = unsafe { elements_behind(header, elements.len()) };
    // SAFETY: zeroes are halves.
    fill(unsafe { halves.as_mut() }, elements);
    if is_marked {
        // SAFETY: made above.
        unsafe { mark(header) };
    }
    header.as_ptr().into()
}

/// Rounds elements to halves, with the same error.
pub(super) fn round(elements: &mut [f32]) {
    let mut halves = vec![f16::ZERO; elements.len()];
    fill(&mut halves, elements);
    halves.convert_to_f32_slice(elements);
}

fn fill(halves: &mut [f16], elements: &[f32]) {
    if let Err(element) = convert(halves, elements) {
        let element = text::shortest(element);
        raise(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, format!("\"{element}\" is out of range for type halfvec"));
    }
}

/// Err: the first element beyond the largest half.
fn convert(halves: &mut [f16], elements: &[f32]) -> Result<(), f32> {
    halves.convert_from_f32_slice(elements);
    // No early exit, so that the loop compiles to SIMD.
    if halves.iter().fold(true, |are_finite, half| are_finite & !half.is_infinite()) {
        return Ok(());
    }
    let beyond = halves.iter().zip(elements).find(|(half, _)| half.is_infinite());
    beyond.map_or(Ok(()), |(_, &element)| Err(element))
}

/// An argument of type `halfvec`.
struct Halves(Vec<f32>);

impl FromDatum for Halves {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        // SAFETY: the trait's contract is that of `read` where `is_null` is false.
        (!is_null).then(|| Halves(unsafe { read(datum) }))
    }
}

// SAFETY: reads the argument as a datum of type `halfvec`, as which sql/vekter_pgvector.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for Halves {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| null_argument())
    }
}

/// `halfvec_to_vector(halfvec, integer, boolean) -> vector`
#[pg_extern]
fn halfvec_to_vector(halves: Halves, typmod: i32, _explicit: bool) -> NewVector {
    let Halves(elements) = halves;
    check_expected_dims(typmod, elements.len());
    check_finite(&elements);
    let mut vector = NewVector::zeroed(elements.len());
    vector.copy_from_slice(&elements);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_becomes_a_float_and_the_same_half_again() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite()).collect();
        let floats = floats(&halves);
        let mut again = vec![f16::ZERO; halves.len()];
        assert_eq!(convert(&mut again, &floats), Ok(()));
        assert!(halves.iter().zip(&again).all(|(half, again)| half.to_bits() == again.to_bits()));
    }

    #[test]
    fn floats_are_rounded_to_the_nearest_half_ties_to_even() {
        let elements = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65_519.0, 1e-8, -3e-8, 0.1];
        let mut halves = [f16::ZERO; 6];
        assert_eq!(convert(&mut halves, &elements), Ok(()));
        assert_eq!(floats(&halves), [1.0, 1.0 + 4.0 / 2048.0, 65_504.0, 0.0, -5.9604645e-8, 0.099975586]);
        assert_eq!(convert(&mut halves[..2], &[1.0, -65_520.0]), Err(-65_520.0));
    }
}
