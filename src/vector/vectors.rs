//! Arrays of vectors.

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pg_sys;

use super::Vector;
use super::array::Array;
use super::error::null_argument;

/// An argument of type `vector[]`.
pub struct Vectors<'a>(Array<'a>);

impl Vectors<'_> {
    /// The number of elements in each dimension of the array; an empty one has no dimensions.
    pub fn lengths(&self) -> &[i32] {
        self.0.dims()
    }

    /// Subscript of the first element of an array that is not empty.
    pub fn first_subscript(&self) -> i32 {
        // SAFETY: PostgreSQL's ARR_LBOUND (utils/array.h): behind the header lie the lengths of the dimensions and then
        // their lower bounds, and there is at least one dimension.
        unsafe {
            let lengths = self.0.as_ptr().add(1).cast::<i32>();
            *lengths.add(self.0.dims().len())
        }
    }

    /// The elements in order; None for NULL.
    pub fn elements(&self) -> impl Iterator<Item = Option<Vector<'_>>> {
        let element_type = self.0.element_type();
        let (mut datums, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        // SAFETY: the array is in plain storage, and its elements are stored as the catalogue has it of their type.
        unsafe {
            let (mut length, mut by_value, mut align) = (0, false, 0);
            pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut align);
            pg_sys::deconstruct_array(
                self.0.as_ptr(),
                element_type,
                i32::from(length),
                by_value,
                align,
                &mut datums,
                &mut nulls,
                &mut count,
            );
        }
        // SAFETY: both have `count` elements in the current memory context; the datums are vectors within the array.
        (0..count as usize).map(move |at| unsafe {
            let is_null = *nulls.add(at);
            (!is_null).then(|| Vector::from_datum(*datums.add(at)))
        })
    }
}

// SAFETY: reads the argument as an array of vectors, as which sql/vekter.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for Vectors<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type.
        Vectors(unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| null_argument()))
    }
}
