//! Values of type `bytea`, constructed in place.

use std::ptr::NonNull;

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pg_sys;

/// Maximum length of a value (`MaxAllocSize` of utils/memutils.h, minus the header).
pub const MAX_BYTES: usize = 0x3fff_ffff - pg_sys::VARHDRSZ;

/// A `bytea` under construction in the current memory context.
pub struct NewBytes(NonNull<pg_sys::varlena>);

impl NewBytes {
    /// `length`: at most `MAX_BYTES`. The bytes are zero.
    pub fn zeroed(length: usize) -> Self {
        assert!(length <= MAX_BYTES, "{length} bytes are too many for a bytea");
        let bytes = length + pg_sys::VARHDRSZ;
        // SAFETY: palloc0 returns memory of that size or raises an error; the length fits a header.
        unsafe {
            let varlena = pg_sys::palloc0(bytes).cast::<pg_sys::varlena>();
            pgrx::varlena::set_varsize_4b(varlena, bytes as i32);
            NewBytes(NonNull::new_unchecked(varlena))
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `zeroed` allocated header and bytes; `self` is the only handle to them.
        unsafe {
            let varlena = self.0.as_ptr();
            let length = pgrx::varlena::varsize_4b(varlena) - pg_sys::VARHDRSZ;
            std::slice::from_raw_parts_mut(varlena.cast::<u8>().add(pg_sys::VARHDRSZ), length)
        }
    }
}

// SAFETY: the datum is a complete bytea, palloc'd in the context that PostgreSQL gave for the result.
unsafe impl BoxRet for NewBytes {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(self.0.as_ptr().into()) }
    }
}
