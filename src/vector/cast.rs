//! Casts between `vector` and arrays of numbers.

use pgrx::PgSqlErrorCode::{ERRCODE_DATA_EXCEPTION, ERRCODE_NULL_VALUE_NOT_ALLOWED};
use pgrx::pg_extern;
use pgrx::pg_sys;

use super::array::{Array, NewArray};
use super::error::{check_dims, check_expected_dims, check_finite, raise};
use super::{NewVector, Vector};

/// `array_to_vector(array, integer, boolean) -> vector`, of arrays of `smallint`, `integer`, `bigint`, `real`, `double
/// precision` and `numeric`. (pgvector has no casts from the first and the third; clients send short lists as such.)
///
/// A double beyond float4 becomes infinite and is refused as such; a numeric is refused by its own cast.
#[pg_extern]
fn array_to_vector(array: Array<'_>, typmod: i32, _explicit: bool) -> NewVector {
    let dims = match *array.dims() {
        [] => 0,
        [len] => len as usize,
        _ => raise(ERRCODE_DATA_EXCEPTION, "array must be 1-D"),
    };
    if array.contains_nulls() {
        raise(ERRCODE_NULL_VALUE_NOT_ALLOWED, "array must not contain nulls");
    }
    check_dims(dims);
    check_expected_dims(typmod, dims);
    let mut vector = NewVector::zeroed(dims);
    if let Some(elements) = array.elements() {
        convert(&mut vector, elements, |int: i16| f32::from(int));
    } else if let Some(elements) = array.elements() {
        convert(&mut vector, elements, |int: i64| int as f32);
    } else if let Some(elements) = array.elements() {
        convert(&mut vector, elements, |int: i32| int as f32);
    } else if let Some(elements) = array.elements() {
        vector.copy_from_slice(elements);
    } else if let Some(elements) = array.elements() {
        convert(&mut vector, elements, |double: f64| double as f32);
    } else if array.element_type() == pg_sys::NUMERICOID {
        for (element, numeric) in vector.iter_mut().zip(array.datums()) {
            // SAFETY: numeric_float4 takes a numeric and returns a float4 or raises an error.
            let float = unsafe { pgrx::direct_function_call(pg_sys::numeric_float4, &[numeric]) };
            *element = float.unwrap_or(f32::NAN);
        }
    } else {
        raise(ERRCODE_DATA_EXCEPTION, "unsupported array type");
    }
    check_finite(&vector);
    vector
}

fn convert<T: Copy>(vector: &mut [f32], elements: &[T], to_f32: impl Fn(T) -> f32) {
    for (element, &number) in vector.iter_mut().zip(elements) {
        *element = to_f32(number);
    }
}

/// `vector_to_float4(vector, integer, boolean) -> real[]`
#[pg_extern]
fn vector_to_float4(vector: Vector<'_>, _typmod: i32, _explicit: bool) -> NewArray<f32> {
    let mut array = NewArray::zeroed(vector.dims());
    array.copy_from_slice(&vector);
    array
}
