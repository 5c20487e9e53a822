//! Functions from vectors to vectors, and to bits.

use pgrx::pg_extern;

use super::error::{check_dims, check_overflow, check_same_dims, underflow};
use super::{Finished, NewVector, Vector};
use crate::pg::bytes::NewBytes;

#[pg_extern]
fn vector_add(a: Vector<'_>, b: Vector<'_>) -> NewVector {
    element_wise(&a, &b, |x, y| x + y)
}

#[pg_extern]
fn vector_sub(a: Vector<'_>, b: Vector<'_>) -> NewVector {
    element_wise(&a, &b, |x, y| x - y)
}

#[pg_extern]
fn vector_mul(a: Vector<'_>, b: Vector<'_>) -> NewVector {
    let product = element_wise(&a, &b, |x, y| x * y);
    let vanished = |((&product, &x), &y): ((&f32, &f32), &f32)| product == 0.0 && x != 0.0 && y != 0.0;
    if product.iter().zip(a.iter()).zip(b.iter()).any(vanished) {
        underflow();
    }
    product
}

fn element_wise(a: &Vector, b: &Vector, operation: impl Fn(f32, f32) -> f32) -> NewVector {
    check_same_dims(a, b);
    let mut result = NewVector::zeroed(a.dims());
    for ((element, &x), &y) in result.iter_mut().zip(a.iter()).zip(b.iter()) {
        *element = operation(x, y);
    }
    check_overflow(&result);
    result
}

#[pg_extern]
fn vector_concat(a: Vector<'_>, b: Vector<'_>) -> NewVector {
    let mut result = NewVector::zeroed(a.dims() + b.dims());
    let (head, tail) = result.split_at_mut(a.dims());
    head.copy_from_slice(&a);
    tail.copy_from_slice(&b);
    result
}

/// The vector divided by its Euclidean norm; a zero vector stays as it is.
#[pg_extern]
fn l2_normalize(vector: Vector<'_>) -> NewVector {
    let mut result = NewVector::zeroed(vector.dims());
    let norm = super::distance::norm(&vector);
    if norm > 0.0 {
        for (element, &x) in result.iter_mut().zip(vector.iter()) {
            *element = (f64::from(x) / norm) as f32;
        }
        check_overflow(&result);
    }
    result
}

/// `count` elements from the 1-based position `start` on, clipped to the vector as `substring` clips.
#[pg_extern]
fn subvector(vector: Vector<'_>, start: i32, count: i32) -> NewVector {
    let end = (i64::from(start) + i64::from(count)).min(vector.dims() as i64 + 1);
    let start = i64::from(start).max(1);
    if count < 1 || start >= end {
        check_dims(0);
    }
    let part = &vector[start as usize - 1..end as usize - 1];
    let mut result = NewVector::zeroed(part.len());
    result.copy_from_slice(part);
    result
}

/// `binary_quantize(vector) -> bit`: one bit per element, 1 where it is positive, the first one highest.
#[pg_extern]
fn binary_quantize(vector: Vector<'_>) -> Finished {
    // VarBit of src/include/utils/varbit.h: varlena header, int32 number of bits, the bits.
    let mut varbit = NewBytes::zeroed(size_of::<i32>() + vector.dims().div_ceil(8));
    let (count, bits) = varbit.as_mut_slice().split_at_mut(size_of::<i32>());
    count.copy_from_slice(&(vector.dims() as i32).to_ne_bytes());
    for (byte, elements) in bits.iter_mut().zip(vector.chunks(8)) {
        for (position, &element) in elements.iter().enumerate() {
            *byte |= u8::from(element > 0.0) << (7 - position);
        }
    }
    Finished(varbit.into_datum())
}
