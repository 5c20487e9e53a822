//! Hash functions, for hash joins, hash aggregation, hash indexes and hash partitions.

use std::borrow::Cow;
use std::ffi::{c_int, c_uchar};

use pgrx::pg_extern;

use super::Vector;

unsafe extern "C" {
    /// src/common/hashfn.c. Hash partitions on disk depend on its result, so PostgreSQL keeps it stable between
    /// versions. Reads `bytes` bytes; raises no errors.
    fn hash_bytes(start: *const c_uchar, bytes: c_int) -> u32;

    /// As [`hash_bytes`], with a seed and 64 bits; with seed 0 the low 32 bits are equal to it.
    fn hash_bytes_extended(start: *const c_uchar, bytes: c_int, seed: u64) -> u64;
}

/// `vector_hash(vector) -> integer`
#[pg_extern]
fn vector_hash(vector: Vector<'_>) -> i32 {
    let elements = without_negative_zeros(&vector);
    // SAFETY: the slice covers that many bytes, at most 64,000.
    unsafe { hash_bytes(elements.as_ptr().cast(), size_of_val(&*elements) as c_int) as i32 }
}

/// `vector_hash_extended(vector, bigint) -> bigint`: for hash partitioning and large hash joins.
#[pg_extern]
fn vector_hash_extended(vector: Vector<'_>, seed: i64) -> i64 {
    let elements = without_negative_zeros(&vector);
    // SAFETY: the slice covers that many bytes, at most 64,000.
    unsafe {
        hash_bytes_extended(elements.as_ptr().cast(), size_of_val(&*elements) as c_int, seed as u64) as i64
    }
}

/// Equal values must have equal hashes, and -0 equals 0; all other equal elements have the same bits.
fn without_negative_zeros(elements: &[f32]) -> Cow<'_, [f32]> {
    const NEGATIVE_ZERO: u32 = (-0.0_f32).to_bits();
    if elements.iter().any(|element| element.to_bits() == NEGATIVE_ZERO) {
        // IEEE 754: -0 + 0 is 0, and x + 0 is x.
        elements.iter().map(|element| element + 0.0).collect()
    } else {
        Cow::Borrowed(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_negative_zeros_are_replaced() {
        let elements = [1.5, -0.0, 0.0, -1e-45, f32::MAX];
        let bits = |elements: &[f32]| elements.iter().map(|element| element.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&without_negative_zeros(&elements)), bits(&[1.5, 0.0, 0.0, -1e-45, f32::MAX]));
        assert!(matches!(without_negative_zeros(&[0.0, -1.0]), Cow::Borrowed(_)));
    }
}
