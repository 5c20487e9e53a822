//! The bytes of a value: a header, and behind it its elements. pgvector's types `vector` (of float4) and `halfvec` (of
//! IEEE's 16-bit floats) differ in their elements only.

use std::ptr::NonNull;

use pgrx::{pg_sys, varlena};

use super::MAX_DIMS;

#[repr(C)]
pub(super) struct Header {
    varlena: u32,
    pub(super) dims: i16,
    unused: i16,
}

pub(super) const HEADER_BYTES: usize = size_of::<Header>();

/// Value of the header field that is 0 in stored values. SQL cannot construct such a value, and copies preserve it.
const MARK: i16 = 0x6b6e;

/// Marks a value, which tells a query of `knn()` from others with the same elements.
///
/// # Safety
/// `header` is that of a value that nobody else uses.
pub(super) unsafe fn mark(mut header: NonNull<Header>) {
    // SAFETY: the caller's promise.
    unsafe { header.as_mut().unused = MARK };
}

/// Whether a datum has the mark.
///
/// # Safety
/// `datum` is a non-null datum of a varlena type.
pub unsafe fn is_marked(datum: pg_sys::Datum) -> bool {
    // SAFETY: the caller's promise; a value that is stored otherwise than in place has no mark.
    let header = unsafe { header_in_place(datum) };
    // SAFETY: the header is there.
    header.is_some_and(|header| unsafe { header.as_ref() }.unused == MARK)
}

/// A varlena that is no valid value: its length in bytes, and the dimensions in its header, 0 if it has none.
pub(super) struct Malformed {
    pub(super) bytes: usize,
    pub(super) dims: i16,
}

/// The header of a value of elements `T` that is inline, aligned and complete, so that it can be read in place; None
/// otherwise.
///
/// # Safety
/// `datum` is a non-null datum of a varlena type.
#[inline(always)]
pub(super) unsafe fn in_place<T>(datum: pg_sys::Datum) -> Option<NonNull<Header>> {
    let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the caller vouches for a varlena; its first byte tells how the rest is stored.
    let is_inline = unsafe { varlena::varatt_is_4b_u(stored) };
    if !is_inline || !stored.cast::<Header>().is_aligned() {
        return None;
    }
    // SAFETY: as just seen.
    unsafe { check::<T>(stored) }.ok()
}

/// The header of a varlena that is inline, aligned and long enough to have one.
///
/// # Safety
/// `datum` is a non-null datum of a varlena type.
unsafe fn header_in_place(datum: pg_sys::Datum) -> Option<NonNull<Header>> {
    let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the caller vouches for a varlena; its first byte tells how the rest is stored.
    let is_inline = unsafe { varlena::varatt_is_4b_u(stored) };
    if !is_inline || !stored.cast::<Header>().is_aligned() {
        return None;
    }
    // SAFETY: as just seen, it begins with a 4-byte header.
    let bytes = unsafe { varlena::varsize_4b(stored) };
    NonNull::new(stored.cast()).filter(|_| bytes >= HEADER_BYTES)
}

/// Whether the length of a varlena and the dimensions in it agree, if its elements are `T`.
///
/// # Safety
/// `plain` is readable, aligned and has a 4-byte header.
#[inline(always)]
pub(super) unsafe fn check<T>(plain: *mut pg_sys::varlena) -> Result<NonNull<Header>, Malformed> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { varlena::varsize_4b(plain) };
    if bytes < HEADER_BYTES {
        return Err(Malformed { bytes, dims: 0 });
    }
    // SAFETY: at least `HEADER_BYTES` bytes are there, aligned.
    let dims = unsafe { (*plain.cast::<Header>()).dims };
    let elements = usize::try_from(dims).unwrap_or(0);
    if elements == 0 || elements > MAX_DIMS || bytes != HEADER_BYTES + elements * size_of::<T>() {
        return Err(Malformed { bytes, dims });
    }
    // SAFETY: not null, since the header was just read.
    Ok(unsafe { NonNull::new_unchecked(plain.cast()) })
}

/// # Safety
/// `header` is that of a value of `dims` elements `T`.
#[inline(always)]
pub(super) unsafe fn elements_behind<T>(header: NonNull<Header>, dims: usize) -> NonNull<[T]> {
    // SAFETY: the elements follow the header within the same allocation.
    NonNull::slice_from_raw_parts(unsafe { header.add(1) }.cast(), dims)
}
