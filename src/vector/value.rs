//! Values of indexed columns: of type `vector`, or of pgvector's `halfvec`.

use std::ops::Deref;

use pgrx::pg_sys;

use super::{NewVector, Vector, halves, layout};
use crate::pg::catalogue::{Storage, storage_of};

/// How the values of a column store their elements. The numbers are those that the support function of an operator
/// class returns.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueKind {
    /// As float4: vekter's type `vector`, and pgvector's.
    #[default]
    Single = 1,
    /// As IEEE 754's 16-bit floats: pgvector's `halfvec`.
    Half = 2,
}

/// The elements of a value, as floats: where they lie, or converted. The lifetime is that of [`Vector`].
pub enum Value<'a> {
    Single(Vector<'a>),
    Half(Vec<f32>),
}

impl Deref for Value<'_> {
    type Target = [f32];

    #[inline]
    fn deref(&self) -> &[f32] {
        match self {
            Value::Single(vector) => vector.as_slice(),
            Value::Half(floats) => floats,
        }
    }
}

impl ValueKind {
    pub const ALL: [Self; 2] = [Self::Single, Self::Half];

    pub fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The name of the type, without its schema.
    pub fn type_name(self) -> &'static str {
        match self {
            ValueKind::Single => "vector",
            ValueKind::Half => "halfvec",
        }
    }

    /// Reads a datum. Raises an error with `ERRCODE_DATA_CORRUPTED` when its length and its dimensions disagree.
    ///
    /// # Safety
    /// `datum` is a non-null datum of a column of this kind, and stays readable and unchanged for `'a`.
    #[inline]
    pub unsafe fn read<'a>(self, datum: pg_sys::Datum) -> Value<'a> {
        match self {
            // SAFETY: the caller's promise.
            ValueKind::Single => Value::Single(unsafe { Vector::from_datum(datum) }),
            // SAFETY: the caller's promise.
            ValueKind::Half => Value::Half(unsafe { halves::read(datum) }),
        }
    }

    /// Copies finite elements into a new datum in the current memory context. Halves are rounded, as pgvector's cast
    /// does, with its error for an element beyond the largest half.
    pub fn into_datum(self, elements: &[f32]) -> pg_sys::Datum {
        self.new_datum(elements, false)
    }

    /// As `into_datum`, with a mark that tells a query of `knn()` from others with the same elements
    /// ([`super::is_marked`]).
    pub fn into_marked_datum(self, elements: &[f32]) -> pg_sys::Datum {
        self.new_datum(elements, true)
    }

    fn new_datum(self, elements: &[f32], is_marked: bool) -> pg_sys::Datum {
        match self {
            ValueKind::Single => {
                let mut vector = NewVector::zeroed(elements.len());
                vector.copy_from_slice(elements);
                if is_marked {
                    // SAFETY: `zeroed` allocated the header, and `vector` is the only handle to it.
                    unsafe { layout::mark(vector.0) };
                }
                vector.into_datum()
            }
            ValueKind::Half => halves::into_datum(elements, is_marked),
        }
    }

    /// Rounds finite elements to what a datum holds, with the errors of `into_datum`.
    pub fn round(self, elements: &mut [f32]) {
        match self {
            ValueKind::Single => (),
            ValueKind::Half => halves::round(elements),
        }
    }

    /// A new array of such datums in the current memory context, each with the mark of `into_marked_datum`.
    /// `element_type` is the oid of their type.
    pub fn into_marked_array<'a>(
        self,
        element_type: pg_sys::Oid,
        values: impl Iterator<Item = &'a [f32]>,
    ) -> pg_sys::Datum {
        let mut datums: Vec<pg_sys::Datum> = values.map(|value| self.into_marked_datum(value)).collect();
        let Storage { length, is_by_value, alignment } = storage_of(element_type);
        let (start, count) = (datums.as_mut_ptr(), datums.len() as i32);
        // SAFETY: the datums are of this type, and are copied.
        let array = unsafe {
            pg_sys::construct_array(start, count, element_type, i32::from(length), is_by_value, alignment)
        };
        for datum in datums {
            // SAFETY: made above, and nobody else's.
            unsafe { pg_sys::pfree(datum.cast_mut_ptr()) };
        }
        array.into()
    }
}
