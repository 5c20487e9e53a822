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
mod hash;
mod json;
mod statistics;
mod subscript;
mod text;
mod typmod;
mod vectors;

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::{FromDatum, pg_sys, varlena};

use error::{check_dims, corrupted, null_argument};
pub use vectors::{Vectors, into_marked_array};

/// The most dimensions a vector has, as in pgvector: a value is then at most 64,008 bytes.
pub const MAX_DIMS: usize = 16_000;

#[repr(C)]
struct Header {
    varlena: u32,
    dims: i16,
    unused: i16,
}

const HEADER_BYTES: usize = size_of::<Header>();

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
        if let Some(header) = unsafe { in_place(datum) } {
            return Vector { header, is_copy: false, datum: PhantomData };
        }
        // SAFETY: the caller vouches for a varlena; the result is palloc'd, so it is aligned and has a 4-byte header.
        let checked = unsafe { check(pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr())) };
        match checked {
            Ok(header) => Vector { header, is_copy: true, datum: PhantomData },
            Err(Malformed { bytes, dims }) => corrupted(bytes, dims),
        }
    }

    /// The elements, in order.
    #[inline]
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `from_datum` checked that the elements that the header counts are there, aligned; the datum
        // or the copy outlives `self`.
        unsafe { elements_behind(self.header, self.dims()).as_ref() }
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
}

impl Deref for NewVector {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `zeroed` allocated and initialised as many elements as it wrote to the header.
        unsafe { elements_behind(self.0, self.0.as_ref().dims as usize).as_ref() }
    }
}

impl DerefMut for NewVector {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; `self` is the only handle to the allocation.
        unsafe { elements_behind(self.0, self.0.as_ref().dims as usize).as_mut() }
    }
}

// SAFETY: the datum is a complete vector, palloc'd in the context that PostgreSQL gave for the result.
unsafe impl BoxRet for NewVector {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(self.into_datum()) }
    }
}

/// Copies finite elements into a new datum of type `vector` in the current memory context.
///
/// Raises pgvector's error if there are none, or more than [`MAX_DIMS`].
pub fn into_datum(elements: &[f32]) -> pg_sys::Datum {
    let mut vector = NewVector::zeroed(elements.len());
    vector.copy_from_slice(elements);
    vector.into_datum()
}

/// Value of the header field that is 0 in stored vectors. SQL cannot construct such a value, and copies preserve it.
const MARK: i16 = 0x6b6e;

/// As `into_datum`, with a mark that tells a query of `knn()` from others with the same vector.
pub fn into_marked_datum(elements: &[f32]) -> pg_sys::Datum {
    let mut vector = NewVector::zeroed(elements.len());
    vector.copy_from_slice(elements);
    // SAFETY: `zeroed` allocated the header, and `vector` is the only handle to it.
    unsafe { vector.0.as_mut().unused = MARK };
    vector.into_datum()
}

/// Whether a datum has the mark.
///
/// # Safety
/// `datum` is a non-null datum of type `vector`.
pub unsafe fn is_marked(datum: pg_sys::Datum) -> bool {
    // SAFETY: the caller's promise; what is stored otherwise than in place has no mark.
    unsafe { in_place(datum).is_some_and(|header| header.as_ref().unused == MARK) }
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

/// Allocates a varlena of `bytes` bytes, its 4-byte header included, in the current memory context; all but
/// the header is zero.
fn palloc_varlena(bytes: usize) -> NonNull<pg_sys::varlena> {
    // SAFETY: palloc0 returns maximally aligned memory of that size or raises an error; sizes here are far
    // below its limit of 1 GB, which is also what the header can hold.
    unsafe {
        let varlena: *mut pg_sys::varlena = pg_sys::palloc0(bytes).cast();
        varlena::set_varsize_4b(varlena, bytes as i32);
        NonNull::new_unchecked(varlena)
    }
}

/// A varlena that is no valid vector: its length in bytes, and the dimensions in its header, 0 if it has none.
struct Malformed {
    bytes: usize,
    dims: i16,
}

/// The header of a vector that is inline, aligned and complete, so that it can be read in place; None otherwise.
///
/// # Safety
/// `datum` is a non-null datum of a varlena type.
#[inline(always)]
unsafe fn in_place(datum: pg_sys::Datum) -> Option<NonNull<Header>> {
    let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the caller vouches for a varlena; its first byte tells how the rest is stored.
    let is_inline = unsafe { varlena::varatt_is_4b_u(stored) };
    if !is_inline || !stored.cast::<Header>().is_aligned() {
        return None;
    }
    // SAFETY: as just seen.
    unsafe { check(stored) }.ok()
}

/// Whether the length of a varlena and the dimensions in it agree.
///
/// # Safety
/// `plain` is readable, aligned and has a 4-byte header.
#[inline(always)]
unsafe fn check(plain: *mut pg_sys::varlena) -> Result<NonNull<Header>, Malformed> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { varlena::varsize_4b(plain) };
    if bytes < HEADER_BYTES {
        return Err(Malformed { bytes, dims: 0 });
    }
    // SAFETY: at least `HEADER_BYTES` bytes are there, aligned.
    let dims = unsafe { (*plain.cast::<Header>()).dims };
    let elements = usize::try_from(dims).unwrap_or(0);
    if elements == 0 || elements > MAX_DIMS || bytes != HEADER_BYTES + elements * size_of::<f32>() {
        return Err(Malformed { bytes, dims });
    }
    // SAFETY: not null, since the header was just read.
    Ok(unsafe { NonNull::new_unchecked(plain.cast()) })
}

/// # Safety
/// `header` is that of a vector of `dims` dimensions.
unsafe fn elements_behind(header: NonNull<Header>, dims: usize) -> NonNull<[f32]> {
    // SAFETY: the elements follow the header within the same allocation.
    NonNull::slice_from_raw_parts(unsafe { header.add(1) }.cast(), dims)
}
