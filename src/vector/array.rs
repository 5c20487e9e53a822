//! PostgreSQL arrays as arguments and as results.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

use pgrx::array::RawArray;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::{FromDatum, pg_sys};

use super::error::null_argument;
use crate::pg::bytes::palloc_varlena;
use crate::pg::catalogue::{Storage, storage_of};

/// An array argument in plain storage. A detoasted copy is freed with the current memory context.
pub(super) struct Array<'a> {
    array: NonNull<pg_sys::ArrayType>,
    datum: PhantomData<&'a pg_sys::ArrayType>,
}

impl Array<'_> {
    pub(super) fn as_ptr(&self) -> *mut pg_sys::ArrayType {
        self.array.as_ptr()
    }

    /// The number of elements in each dimension; an empty array has no dimensions.
    pub(super) fn dims(&self) -> &[i32] {
        // SAFETY: the dimensions are part of the array's header, which lives as long as `self`.
        unsafe { &*std::ptr::from_ref(self.raw().dims()) }
    }

    pub(super) fn element_type(&self) -> pg_sys::Oid {
        self.raw().oid()
    }

    /// PostgreSQL's `ARR_HASNULL` (utils/array.h): whether there is a null bitmap, which may be without nulls.
    pub(super) fn has_null_bitmap(&self) -> bool {
        // SAFETY: the header lives as long as `self`.
        unsafe { (*self.as_ptr()).dataoffset != 0 }
    }

    pub(super) fn contains_nulls(&self) -> bool {
        // SAFETY: PostgreSQL made the array; the function reads its null bitmap.
        unsafe { pg_sys::array_contains_nulls(self.as_ptr()) }
    }

    /// The elements of an array of such numbers without nulls.
    pub(super) fn elements<T: Element>(&self) -> Option<&[T]> {
        let has_nulls = self.has_null_bitmap() && self.contains_nulls();
        // SAFETY: without nulls the elements lie one behind the other, aligned as their type wants.
        (self.element_type() == T::OID && !has_nulls).then(|| unsafe { &*self.raw().data::<T>().as_ptr() })
    }

    /// The elements of an array of any type; None for NULL.
    pub(super) fn datums(&self) -> impl Iterator<Item = Option<pg_sys::Datum>> {
        let kind = self.element_type();
        let Storage { length, is_by_value, alignment } = storage_of(kind);
        let (mut datums, mut nulls, mut count) = (null_mut(), null_mut(), 0);
        // SAFETY: the array is in plain storage, and its elements are stored as the catalogue has it of their type.
        unsafe {
            pg_sys::deconstruct_array(
                self.as_ptr(),
                kind,
                i32::from(length),
                is_by_value,
                alignment,
                &mut datums,
                &mut nulls,
                &mut count,
            )
        };
        // SAFETY: as many datums as were counted, in the current memory context.
        let datums = unsafe { std::slice::from_raw_parts(datums, count as usize) };
        // SAFETY: as many flags as were counted, in the current memory context.
        let nulls = unsafe { std::slice::from_raw_parts(nulls, count as usize) };
        std::iter::zip(datums, nulls).map(|(datum, is_null)| (!is_null).then_some(*datum))
    }

    fn raw(&self) -> RawArray {
        // SAFETY: detoasted in `from_polymorphic_datum`. The type has no destructor, and it is only read.
        unsafe { RawArray::from_ptr(self.array) }
    }
}

impl FromDatum for Array<'_> {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        if is_null {
            return None;
        }
        // SAFETY: the caller vouches for an array, which is a varlena.
        let plain = unsafe { pg_sys::pg_detoast_datum(datum.cast_mut_ptr()) };
        NonNull::new(plain.cast()).map(|array| Array { array, datum: PhantomData })
    }
}

// SAFETY: reads the argument as an array, as which sql/vekter.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for Array<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type.
        unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| null_argument())
    }
}

/// A number that an array can hold.
///
/// # Safety
/// Any bytes are a valid value, and `OID` is the type that PostgreSQL stores in these bytes.
pub(super) unsafe trait Element {
    const OID: pg_sys::Oid;
}

// SAFETY: two's complement, as int2.
unsafe impl Element for i16 {
    const OID: pg_sys::Oid = pg_sys::INT2OID;
}

// SAFETY: two's complement, as int4.
unsafe impl Element for i32 {
    const OID: pg_sys::Oid = pg_sys::INT4OID;
}

// SAFETY: two's complement, as int8.
unsafe impl Element for i64 {
    const OID: pg_sys::Oid = pg_sys::INT8OID;
}

// SAFETY: IEEE 754 single precision, as float4.
unsafe impl Element for f32 {
    const OID: pg_sys::Oid = pg_sys::FLOAT4OID;
}

// SAFETY: IEEE 754 double precision, as float8.
unsafe impl Element for f64 {
    const OID: pg_sys::Oid = pg_sys::FLOAT8OID;
}

/// What lies before the elements of a one-dimensional array without nulls (src/include/utils/array.h).
#[repr(C)]
struct ArrayHeader {
    array: pg_sys::ArrayType,
    length: i32,
    lower_bound: i32,
}

/// ARR_OVERHEAD_NONULLS(1) of src/include/utils/array.h, a multiple of the maximal alignment.
const ARRAY_HEADER_BYTES: usize = size_of::<ArrayHeader>();
const _: () = assert!(ARRAY_HEADER_BYTES.is_multiple_of(8));

/// A one-dimensional array without nulls, under construction in the current memory context. Its elements are 0
/// until they are written.
pub(super) struct NewArray<T>(NonNull<[T]>);

impl<T: Element> NewArray<T> {
    pub(super) fn zeroed(len: usize) -> NewArray<T> {
        let varlena = palloc_varlena(ARRAY_HEADER_BYTES + len * size_of::<T>());
        // SAFETY: the allocation begins with the header, aligned and zeroed, and no one else has it.
        let header: &mut ArrayHeader = unsafe { varlena.cast().as_mut() };
        header.array.ndim = 1;
        header.array.elemtype = T::OID;
        (header.length, header.lower_bound) = (len as i32, 1);
        // SAFETY: `len` elements follow the header in the allocation.
        let elements = unsafe { varlena.byte_add(ARRAY_HEADER_BYTES) }.cast();
        NewArray(NonNull::slice_from_raw_parts(elements, len))
    }
}

impl<T> Deref for NewArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `zeroed` allocated the elements, and zero is valid by `Element`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for NewArray<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `self` is the only handle to the allocation.
        unsafe { self.0.as_mut() }
    }
}

// SAFETY: the datum is a complete array, palloc'd in the context that PostgreSQL gave for the result.
unsafe impl<T> BoxRet for NewArray<T> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        let array = self.0.as_ptr().cast::<pg_sys::ArrayType>().wrapping_byte_sub(ARRAY_HEADER_BYTES);
        // SAFETY: see above.
        unsafe { fcinfo.return_raw_datum(array.into()) }
    }
}
