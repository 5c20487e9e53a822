//! Values of type `bytea`, constructed in place.

use std::ptr::NonNull;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pg_sys;

/// Maximum length of a value (`MaxAllocSize` of utils/memutils.h, minus the header).
pub const MAX_BYTES: usize = 0x3fff_ffff - pg_sys::VARHDRSZ;

/// Allocates a varlena of `bytes` bytes, its 4-byte header included, in the current memory context; all but the header
/// is zero. `bytes`: at least the header's, and at most `MaxAllocSize`, which fits in it.
pub fn palloc_varlena(bytes: usize) -> NonNull<pg_sys::varlena> {
    // SAFETY: palloc0 returns maximally aligned memory of that size or raises an error.
    let varlena: *mut pg_sys::varlena = unsafe { pg_sys::palloc0(bytes) }.cast();
    // SAFETY: there is room for the header.
    unsafe { pgrx::varlena::set_varsize_4b(varlena, bytes as i32) };
    // SAFETY: palloc0 returns no null pointer.
    unsafe { NonNull::new_unchecked(varlena) }
}

/// A `bytea` under construction in the current memory context.
pub struct NewBytes(NonNull<pg_sys::varlena>);

impl NewBytes {
    /// `length`: at most `MAX_BYTES`. The bytes are zero.
    pub fn zeroed(length: usize) -> Self {
        assert!(length <= MAX_BYTES, "{length} bytes are too many for a bytea");
        let bytes = length + pg_sys::VARHDRSZ;
        NewBytes(palloc_varlena(bytes))
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let varlena = self.0.as_ptr();
        // SAFETY: `zeroed` has set the header.
        let length = unsafe { pgrx::varlena::varsize_4b(varlena) } - pg_sys::VARHDRSZ;
        let bytes = varlena.cast::<u8>().wrapping_add(pg_sys::VARHDRSZ);
        // SAFETY: `zeroed` allocated as many bytes behind the header; `self` is the only handle to them.
        unsafe { std::slice::from_raw_parts_mut(bytes, length) }
    }

    /// The finished value, as a datum of another type that is a varlena too.
    pub fn into_datum(self) -> pg_sys::Datum {
        self.0.as_ptr().into()
    }
}

// SAFETY: the datum is a complete bytea, palloc'd in the context that PostgreSQL gave for the result.
unsafe impl BoxRet for NewBytes {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(self.into_datum()) }
    }
}
