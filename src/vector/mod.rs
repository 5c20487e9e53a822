//! The SQL type `vector`: float32 elements, at least one and at most [`MAX_DIMS`].
//!
//! A value is a varlena with pgvector's layout, so that tables can be copied byte for byte:
//!
//! ```text
//! bytes 0..4   varlena header
//!       4..6   int16 dims, native byte order
//!       6..8   int16, always 0
//!       8..    float4[dims], native byte order
//! ```
//!
//! Elements are finite: every way into the type refuses NaN and infinity. Values of different dimensions are
//! the same type; a column is narrowed by its type modifier, `vector(n)`.
//!
//! Of pgvector's `halfvec`, whose elements are 16-bit floats, an index reads values and makes queries ([`ValueKind`]).
//!
//! Names, messages and numeric behaviour are pgvector's (0.8), so that its clients and queries work unchanged. What
//! pgvector does not have (hash, json, statistics, subscript, min and max) behaves as PostgreSQL's own types do.

mod aggregate;
mod arithmetic;
mod array;
mod binary;
mod call;
mod cast;
mod compare;
pub mod cost;
pub mod distance;
mod error;
mod halves;
mod hash;
mod json;
mod layout;
mod statistics;
mod subscript;
mod text;
mod typmod;
mod value;
mod vectors;

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::{FromDatum, pg_sys};

use crate::pg::bytes::palloc_varlena;
use error::{check_dims, corrupted, null_argument};
pub use layout::is_marked;
use layout::{HEADER_BYTES, Header, check, elements_behind, in_place};
pub use value::{Value, ValueKind};
pub use vectors::Vectors;

/// The most dimensions a vector has, as in pgvector: a value is then at most 64,008 bytes.
pub const MAX_DIMS: usize = 16_000;

/// A vector in a datum: borrowed if it is inline and aligned, otherwise detoasted into the current memory context and
/// freed on drop.
///
/// A detoasted copy belongs to the memory context that was current in [`Vector::from_datum`]; the value must be dropped
/// before that context is reset.
pub struct Vector<'a> {
    /// The header and the elements behind it, whose extent `from_datum` checked. One pointer and one flag travel in
    /// registers: a wider struct would cost a call more than a short distance does.
    header: NonNull<Header>,
    is_copy: bool,
    datum: PhantomData<&'a [f32]>,
}

impl<'a> Vector<'a> {
    /// Reads a datum of type `vector`.
    ///
    /// Raises an error with `ERRCODE_DATA_CORRUPTED` when the length and the dimensions disagree.
    ///
    /// # Safety
    /// `datum` is a non-null datum of type `vector`, and stays readable and unchanged for `'a`.
    #[inline]
    pub unsafe fn from_datum(datum: pg_sys::Datum) -> Vector<'a> {
        // SAFETY: the caller's promise.
        if let Some(header) = unsafe { in_place::<f32>(datum) } {
            return Vector { header, is_copy: false, datum: PhantomData };
        }
        // SAFETY: the caller vouches for a varlena.
        let copy = unsafe { pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr()) };
        // SAFETY: the copy is palloc'd, so it is aligned and has a 4-byte header.
        match unsafe { check::<f32>(copy) } {
            Ok(header) => Vector { header, is_copy: true, datum: PhantomData },
            Err(malformed) => corrupted("vector", malformed),
        }
    }

    /// The elements, in order.
    #[inline]
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `from_datum` checked that the elements that the header counts are there, aligned.
        let elements = unsafe { elements_behind(self.header, self.dims()) };
        // SAFETY: the datum or the copy outlives `self`.
        unsafe { elements.as_ref() }
    }

    /// The number of elements, 1 to [`MAX_DIMS`].
    #[inline]
    pub fn dims(&self) -> usize {
        // SAFETY: the header is readable for as long as `self` is.
        unsafe { self.header.as_ref() }.dims as usize
    }
}

impl Drop for Vector<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_copy {
            // SAFETY: `from_datum` palloc'd the copy, and nothing else frees it.
            unsafe { pg_sys::pfree(self.header.as_ptr().cast()) }
        }
    }
}

impl Deref for Vector<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.as_slice()
    }
}

impl FromDatum for Vector<'_> {
    #[inline]
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        // SAFETY: the trait's contract is that of `Vector::from_datum` where `is_null` is false.
        (!is_null).then(|| unsafe { Vector::from_datum(datum) })
    }

    // The provided method is not inlined, which costs as much as a short distance.
    #[inline]
    unsafe fn from_datum(datum: pg_sys::Datum, is_null: bool) -> Option<Self> {
        // SAFETY: as above.
        (!is_null).then(|| unsafe { Vector::from_datum(datum) })
    }
}

// SAFETY: reads the argument as a datum of type `vector`, as which sql/vekter.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for Vector<'fcx> {
    #[inline]
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| null_argument())
    }
}

// SAFETY: the datum returned is a vector in memory that outlives the call: the argument itself, or the copy,
// which is palloc'd in the context that PostgreSQL gave for the result and is no longer freed here.
unsafe impl BoxRet for Vector<'_> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let datum = self.header.as_ptr().into();
        std::mem::forget(self);
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(datum) }
    }
}

/// A vector under construction in the current memory context. Its elements are 0 until they are written; the writer
/// must keep them finite.
pub(crate) struct NewVector(NonNull<Header>);

impl NewVector {
    /// Raises pgvector's error where `dims` is not 1 to [`MAX_DIMS`].
    pub(crate) fn zeroed(dims: usize) -> NewVector {
        check_dims(dims);
        let mut header = palloc_varlena(HEADER_BYTES + dims * size_of::<f32>()).cast::<Header>();
        // SAFETY: `palloc_varlena` gave that many zeroed, aligned bytes; `check_dims` makes `dims` fit.
        unsafe { header.as_mut().dims = dims as i16 };
        NewVector(header)
    }

    pub(crate) fn into_datum(self) -> pg_sys::Datum {
        self.0.as_ptr().into()
    }

    fn elements(&self) -> NonNull<[f32]> {
        // SAFETY: `zeroed` wrote the header.
        let dims = unsafe { self.0.as_ref() }.dims;
        // SAFETY: and allocated as many elements.
        unsafe { elements_behind(self.0, dims as usize) }
    }
}

impl Deref for NewVector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `zeroed` initialised them, and they live as long as `self` is used.
        unsafe { self.elements().as_ref() }
    }
}

impl DerefMut for NewVector {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `zeroed` initialised them, and `self` is the only handle to the allocation.
        unsafe { self.elements().as_mut() }
    }
}

// SAFETY: the datum is a complete vector, palloc'd in the context that PostgreSQL gave for the result.
unsafe impl BoxRet for NewVector {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(self.into_datum()) }
    }
}

/// A complete datum of another by-reference type in the current memory context, as a return value.
struct Finished(pg_sys::Datum);

// SAFETY: each function that returns `Finished` builds the type that sql/vekter.sql declares for it.
unsafe impl BoxRet for Finished {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(self.0) }
    }
}
