//! The order of vectors, for btree indexes, ORDER BY, merge joins, min and max: by elements first, then by
//! dimensions, like PostgreSQL's arrays.

use std::cmp::Ordering;

use pgrx::pg_extern;

use super::Vector;

/// A total order: elements are never NaN. -0 equals 0.
fn compare(a: &[f32], b: &[f32]) -> Ordering {
    let differing = a.iter().zip(b).find(|(x, y)| x != y);
    match differing {
        Some((x, y)) if x < y => Ordering::Less,
        Some(_) => Ordering::Greater,
        None => a.len().cmp(&b.len()),
    }
}

#[pg_extern]
fn vector_lt(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(&a, &b).is_lt()
}

#[pg_extern]
fn vector_le(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(&a, &b).is_le()
}

#[pg_extern]
fn vector_eq(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(&a, &b).is_eq()
}

#[pg_extern]
fn vector_ne(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(&a, &b).is_ne()
}

#[pg_extern]
fn vector_ge(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(&a, &b).is_ge()
}

#[pg_extern]
fn vector_gt(a: Vector<'_>, b: Vector<'_>) -> bool {
    compare(&a, &b).is_gt()
}

/// Negative, zero or positive, as btree support function 1 requires.
#[pg_extern]
fn vector_cmp(a: Vector<'_>, b: Vector<'_>) -> i32 {
    compare(&a, &b) as i32
}

/// The transition of `max(vector)`.
#[pg_extern]
fn vector_larger<'a>(a: Vector<'a>, b: Vector<'a>) -> Vector<'a> {
    if compare(&a, &b).is_lt() { b } else { a }
}

/// The transition of `min(vector)`.
#[pg_extern]
fn vector_smaller<'a>(a: Vector<'a>, b: Vector<'a>) -> Vector<'a> {
    if compare(&a, &b).is_gt() { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_decide_before_dimensions() {
        assert_eq!(compare(&[1.0, 9.0], &[2.0]), Ordering::Less);
        assert_eq!(compare(&[1.0, 2.0], &[1.0]), Ordering::Greater);
        assert_eq!(compare(&[1.0], &[1.0, -5.0]), Ordering::Less);
        assert_eq!(compare(&[0.0], &[-0.0]), Ordering::Equal);
    }
}
