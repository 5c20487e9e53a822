//! Arrays of vectors.

use pgrx::callconv::{Arg, ArgAbi};

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
        let lengths = self.0.as_ptr().wrapping_add(1).cast::<i32>();
        // SAFETY: PostgreSQL's ARR_LBOUND (utils/array.h): behind the header lie the lengths of the dimensions and then
        // their lower bounds, and there is at least one dimension.
        unsafe { *lengths.wrapping_add(self.0.dims().len()) }
    }

    /// The elements in order; None for NULL.
    pub fn elements(&self) -> impl Iterator<Item = Option<Vector<'_>>> {
        // SAFETY: they are vectors, within the array.
        self.0.datums().map(|datum| datum.map(|datum| unsafe { Vector::from_datum(datum) }))
    }
}

// SAFETY: reads the argument as an array of vectors, as which sql/vekter.sql declares it.
unsafe impl<'fcx> ArgAbi<'fcx> for Vectors<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller vouches for the argument's type.
        Vectors(unsafe { arg.unbox_arg_using_from_datum() }.unwrap_or_else(|| null_argument()))
    }
}
