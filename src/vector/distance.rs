//! Distances and norms: the arithmetic, and the SQL functions on it.
//!
//! As in pgvector, distances accumulate in float4 and norms in float8, which shows: the Euclidean distance of
//! values around 3e38 is infinite. Sums run in [`LANES`] separate accumulators, which the compiler keeps in
//! vector registers. The last digits can therefore differ from a plain left-to-right sum, and where products of
//! both signs overflow, the sum is NaN.

use pgrx::{pg_extern, pg_sys};

use super::Vector;
use super::call::sql_functions;

/// Four AVX2 registers of accumulators hide the latency of a fused multiply-add.
const LANES: usize = 32;

/// Far enough ahead to hide the way from memory, and the length of an embedding of 384 dimensions.
const PREFETCH_BYTES: usize = 1536;

/// Sum of squared differences of two slices of equal length.
pub fn squared_euclidean(a: &[f32], b: &[f32]) -> f32 {
    accumulate(a, b, |sum, x, y| {
        let difference = x - y;
        difference.mul_add(difference, sum)
    })
}

/// Euclidean distance of two slices of equal length; the operator `<->`.
pub fn euclidean(a: &[f32], b: &[f32]) -> f64 {
    f64::from(squared_euclidean(a, b)).sqrt()
}

/// Inner product of two slices of equal length; `<#>` is its negative.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    accumulate(a, b, |sum, x, y| x.mul_add(y, sum))
}

/// Sum of absolute differences of two slices of equal length; the operator `<+>`.
pub fn taxicab(a: &[f32], b: &[f32]) -> f32 {
    accumulate(a, b, |sum, x, y| sum + (x - y).abs())
}

/// Cosine distance of two slices of equal length, 0 to 2; the operator `<=>`. NaN where either is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let (mut ab, mut aa, mut bb) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            ab[lane] = x[lane].mul_add(y[lane], ab[lane]);
            aa[lane] = x[lane].mul_add(x[lane], aa[lane]);
            bb[lane] = y[lane].mul_add(y[lane], bb[lane]);
        }
    }
    let (mut ab, mut aa, mut bb) = (total(&ab), total(&aa), total(&bb));
    for (&x, &y) in a_rest.iter().zip(b_rest) {
        ab = x.mul_add(y, ab);
        aa = x.mul_add(x, aa);
        bb = y.mul_add(y, bb);
    }
    // One root of the product and not a product of two roots: parallel vectors then give exactly 0.
    let similarity = f64::from(ab) / (f64::from(aa) * f64::from(bb)).sqrt();
    1.0 - similarity.clamp(-1.0, 1.0)
}

/// The angle between unit vectors as a share of pi, 0 to 1; the norms are not checked.
fn spherical(a: &[f32], b: &[f32]) -> f64 {
    f64::from(dot(a, b)).clamp(-1.0, 1.0).acos() / std::f64::consts::PI
}

/// Euclidean norm.
pub fn norm(elements: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (chunks, rest) = elements.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum = f64::from(x).mul_add(f64::from(x), *sum);
        }
    }
    let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// Folds `step(sum, x, y)` over pairs of elements, in [`LANES`] accumulators.
#[inline(always)]
fn accumulate(a: &[f32], b: &[f32], step: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        prefetch(x);
        prefetch(y);
        for lane in 0..LANES {
            sums[lane] = step(sums[lane], x[lane], y[lane]);
        }
    }
    a_rest.iter().zip(b_rest).fold(total(&sums), |sum, (&x, &y)| step(sum, x, y))
}

/// Prefetches the cache line [`PREFETCH_BYTES`] ahead in a vector. In a scan the rows come from memory, two pages for a
/// vector of an embedding's size, and the hardware prefetchers stop at the end of a page.
#[inline(always)]
fn prefetch(chunk: &[f32; LANES]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let ahead = chunk.as_ptr().wrapping_byte_add(PREFETCH_BYTES).cast();
        // SAFETY: a prefetch is a hint, for any address; it never faults.
        let line = |address| unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
        // A chunk is two cache lines.
        line(ahead);
        line(ahead.wrapping_byte_add(64));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = chunk;
}

/// Sums the accumulators, first register by register and then by halves; the compiler would split the arrays and add
/// pairs. All variants add in the same order, so that every processor computes the same distance.
#[cfg(all(target_arch = "x86_64", target_feature = "avx"))]
#[inline(always)]
fn total(sums: &[f32; LANES]) -> f32 {
    // SAFETY: the processor has AVX, or else the library does not load (`processor`).
    unsafe { total_avx(sums) }
}

#[cfg(all(target_arch = "x86_64", target_feature = "avx"))]
#[target_feature(enable = "avx")]
#[inline]
fn total_avx(sums: &[f32; LANES]) -> f32 {
    use std::arch::x86_64::*;
    let (registers, _) = sums.as_chunks::<8>();
    // SAFETY: a register is 8 floats.
    let [a, b, c, d] = [0, 1, 2, 3].map(|i: usize| unsafe { _mm256_loadu_ps(registers[i].as_ptr()) });
    let eight = _mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d));
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "avx")))]
fn total(sums: &[f32; LANES]) -> f32 {
    let mut sums = *sums;
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}

sql_functions! {
    l2_distance_wrapper, pg_finfo_l2_distance_wrapper => euclidean;
    vector_l2_squared_distance_wrapper, pg_finfo_vector_l2_squared_distance_wrapper =>
        |a, b| squared_euclidean(a, b).into();
    inner_product_wrapper, pg_finfo_inner_product_wrapper => |a, b| dot(a, b).into();
    vector_negative_inner_product_wrapper, pg_finfo_vector_negative_inner_product_wrapper => |a, b| (-dot(a, b)).into();
    cosine_distance_wrapper, pg_finfo_cosine_distance_wrapper => cosine;
    l1_distance_wrapper, pg_finfo_l1_distance_wrapper => |a, b| taxicab(a, b).into();
    vector_spherical_distance_wrapper, pg_finfo_vector_spherical_distance_wrapper => spherical;
}

/// Whether a C function is that of one of the operators that an index serves.
pub fn is_own_operator(
    function: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
) -> bool {
    let own = [
        l2_distance_wrapper,
        vector_negative_inner_product_wrapper,
        cosine_distance_wrapper,
        l1_distance_wrapper as unsafe extern "C-unwind" fn(_) -> _,
    ];
    own.into_iter().any(|operator| std::ptr::fn_addr_eq(operator, function))
}

#[pg_extern]
fn vector_dims(vector: Vector<'_>) -> i32 {
    vector.dims() as i32
}

#[pg_extern]
fn vector_norm(vector: Vector<'_>) -> f64 {
    norm(&vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lengths around the number of lanes, where the chunks and the rest meet.
    const DIMS: [usize; 7] = [1, 2, LANES - 1, LANES, LANES + 1, 3 * LANES + 7, 1536];

    fn pair(dims: usize) -> (Vec<f32>, Vec<f32>) {
        let a = (0..dims).map(|i| (i % 7) as f32 - 3.0).collect();
        let b = (0..dims).map(|i| (i % 5) as f32 - 1.0).collect();
        (a, b)
    }

    #[test]
    fn every_element_counts_once_whatever_the_length() {
        for dims in DIMS {
            let (a, b) = pair(dims);
            let sum = |f: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(&x, &y)| f(x, y)).sum::<f32>();
            // Small integers: float4 holds all sums exactly, in any order.
            assert_eq!(squared_euclidean(&a, &b), sum(|x, y| (x - y) * (x - y)), "{dims}");
            assert_eq!(dot(&a, &b), sum(|x, y| x * y), "{dims}");
            assert_eq!(taxicab(&a, &b), sum(|x, y| (x - y).abs()), "{dims}");
        }
    }

    #[test]
    fn a_vector_has_distance_zero_to_its_multiples() {
        for dims in DIMS {
            let (a, _) = pair(dims);
            let twice: Vec<f32> = a.iter().map(|x| 2.0 * x).collect();
            assert_eq!(cosine(&a, &twice), 0.0, "{dims}");
        }
    }

    #[test]
    fn distances_overflow_as_float4_and_norms_as_float8() {
        let (large, small) = ([3e38_f32], [-3e38_f32]);
        assert_eq!(euclidean(&large, &small), f64::INFINITY);
        assert_eq!(taxicab(&large, &small), f32::INFINITY);
        assert_eq!(dot(&large, &large), f32::INFINITY);
        assert!(cosine(&large, &large).is_nan());
        assert!(cosine(&[1.0], &[0.0]).is_nan());
        assert_eq!(norm(&[3e37, 4e37]) as f32, 5e37);
    }
}
