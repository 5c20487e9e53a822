//! Casts between `vector` and arrays of numbers.

use std::ptr::null_mut;

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
    // SAFETY: each type is read as what PostgreSQL stores for it; there are no nulls.
    unsafe {
        match array.element_type() {
            pg_sys::INT2OID => convert(&mut vector, array.elements(), |int: i16| f32::from(int)),
            pg_sys::INT8OID => convert(&mut vector, array.elements(), |int: i64| int as f32),
            pg_sys::INT4OID => convert(&mut vector, array.elements(), |int: i32| int as f32),
            pg_sys::FLOAT4OID => vector.copy_from_slice(array.elements()),
            pg_sys::FLOAT8OID => convert(&mut vector, array.elements(), |double: f64| double as f32),
            pg_sys::NUMERICOID => convert_numerics(&mut vector, &array),
            _ => raise(ERRCODE_DATA_EXCEPTION, "unsupported array type"),
        }
    }
    check_finite(&vector);
    vector
}

fn convert<T: Copy>(vector: &mut [f32], elements: &[T], to_f32: impl Fn(T) -> f32) {
    for (element, &number) in vector.iter_mut().zip(elements) {
        *element = to_f32(number);
    }
}

/// # Safety
/// The array's elements are numerics, none of them null, as many as the vector has.
unsafe fn convert_numerics(vector: &mut [f32], array: &Array) {
    let (mut numerics, mut count) = (null_mut(), 0);
    // SAFETY: the caller vouches for numerics (of variable length, by reference, aligned as int4) without
    // nulls; deconstruct_array allocates as many datums as it counts.
    let numerics = unsafe {
        let (array, alignment) = (array.as_ptr(), pg_sys::TYPALIGN_INT as _);
        pg_sys::deconstruct_array(
            array,
            pg_sys::NUMERICOID,
            -1,
            false,
            alignment,
            &mut numerics,
            null_mut(),
            &mut count,
        );
        std::slice::from_raw_parts(numerics, count as usize)
    };
    for (element, &numeric) in vector.iter_mut().zip(numerics) {
        // SAFETY: numeric_float4 takes a numeric and returns a float4 or raises an error.
        let float = unsafe { pgrx::direct_function_call(pg_sys::numeric_float4, &[Some(numeric)]) };
        *element = float.unwrap_or(f32::NAN);
    }
}

/// `vector_to_float4(vector, integer, boolean) -> real[]`
#[pg_extern]
fn vector_to_float4(vector: Vector<'_>, _typmod: i32, _explicit: bool) -> NewArray<f32> {
    let mut array = NewArray::zeroed(vector.dims());
    array.copy_from_slice(&vector);
    array
}
