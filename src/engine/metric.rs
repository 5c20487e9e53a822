//! The four metrics: their operators, and the conversion of FAISS's values into the operators' distances.
//!
//! FAISS's L2 is squared and its inner product is a similarity; no other file has to know.

use super::shim::ffi;

/// A distance operator. The numbers are on disk: never renumber.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `<->`, Euclidean distance.
    L2 = 1,
    /// `<#>`, negative inner product.
    InnerProduct = 2,
    /// `<=>`, one minus the cosine of the angle. Indexed as the inner product of rows divided by their norms, or,
    /// where FAISS has an index type for L2 only, as their Euclidean distance, which orders them alike.
    Cosine = 3,
    /// `<+>`, taxicab distance.
    L1 = 4,
}

impl Metric {
    pub const ALL: [Self; 4] = [Self::L2, Self::InnerProduct, Self::Cosine, Self::L1];

    /// The metric of a code on disk.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.code() == code)
    }

    /// The code on disk.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The metric of a name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name().eq_ignore_ascii_case(name))
    }

    /// The name that users give: `l2`, `ip`, `cosine` or `l1`.
    pub fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::InnerProduct => "ip",
            Self::Cosine => "cosine",
            Self::L1 => "l1",
        }
    }

    /// The SQL operator.
    pub fn operator(self) -> &'static str {
        match self {
            Self::L2 => "<->",
            Self::InnerProduct => "<#>",
            Self::Cosine => "<=>",
            Self::L1 => "<+>",
        }
    }

    /// Turns a row or query into the form that is indexed: cosine divides by the Euclidean norm (in double precision),
    /// the other metrics change nothing. Returns false where that form does not exist (a zero vector under cosine, or a
    /// value that is not finite); such a row must not be indexed.
    ///
    /// Cosine makes a zero vector of a vector so long that the operator's sum of squares overflows, or so short that it
    /// loses digits: the operator's distance is then not that of the vector's direction. A search finds such a row at
    /// distance 1, and the caller asks the operator ([`Metric::settles`]).
    pub fn prepare(self, row: &mut [f32]) -> bool {
        // The root of the largest float.
        const MAX_COSINE_NORM: f64 = 1.844_674_3e19;
        // Squares below 1e-38 are rounded to multiples of 1.4e-45: 16,000 of them to a millionth of this norm's square.
        const MIN_COSINE_NORM: f64 = 4e-18;
        let keeps_digits = |norm: f64| (MIN_COSINE_NORM..=MAX_COSINE_NORM).contains(&norm);
        self.scale(row, |row, norm| if keeps_digits(norm) { divide(row, norm) } else { row.fill(0.0) })
    }

    /// The same, but a long or short vector gets length 1 like any other.
    pub fn normalise(self, row: &mut [f32]) -> bool {
        self.scale(row, divide)
    }

    fn scale(self, row: &mut [f32], by: impl FnOnce(&mut [f32], f64)) -> bool {
        // No early exit, so that the loop compiles to SIMD.
        if !row.iter().fold(true, |is_finite, value| is_finite & value.is_finite()) {
            return false;
        }
        if self != Self::Cosine {
            return true;
        }
        let norm = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
        if norm == 0.0 {
            return false;
        }
        by(row, norm);
        true
    }

    /// Whether an exact index's distance equals the operator's up to rounding. It may not where sums come close to
    /// overflow, as the operator adds in another order, nor where cosine may have made a zero vector.
    pub fn settles(self, distance: f32) -> bool {
        const NEAR_OVERFLOW: f32 = 1e37;
        distance.abs() < NEAR_OVERFLOW && !(self == Self::Cosine && distance == 1.0)
    }

    /// Appends the operator's distance of the prepared `query` (d values) to each of the prepared `rows` (row-major,
    /// n x d values), computed by FAISS's SIMD kernels on this thread.
    ///
    /// Panics unless `query` is not empty and `rows` holds whole rows of its length.
    pub fn distances(self, query: &[f32], rows: &[f32], out: &mut Vec<f32>) {
        let dims = query.len();
        assert!(dims > 0 && rows.len().is_multiple_of(dims), "{} values are not rows of {dims}", rows.len());
        let count = rows.len() / dims;
        let start = out.len();
        out.resize(start + count, 0.0);
        let values = &mut out[start..];
        match self {
            Self::L2 => {
                // SAFETY: `values` has `count` elements, `query` has `dims` and `rows` has `count * dims`, as the
                // assertion and the division above establish; the shim reads and writes just these.
                unsafe {
                    ffi::vekter_squared_distances(
                        values.as_mut_ptr(),
                        query.as_ptr(),
                        rows.as_ptr(),
                        dims,
                        count,
                    )
                }
            }
            Self::L1 => {
                // SAFETY: as above.
                unsafe {
                    ffi::vekter_taxicab_distances(
                        values.as_mut_ptr(),
                        query.as_ptr(),
                        rows.as_ptr(),
                        dims,
                        count,
                    )
                }
            }
            Self::InnerProduct | Self::Cosine => {
                // SAFETY: as above.
                unsafe {
                    ffi::vekter_inner_products(
                        values.as_mut_ptr(),
                        query.as_ptr(),
                        rows.as_ptr(),
                        dims,
                        count,
                    )
                }
            }
        }
        let stored_as = self.stored_as(false);
        for value in values {
            *value = self.operator_distance(stored_as, *value);
        }
    }

    /// FAISS's metric for this one; `l2_only` where the index type has no inner product.
    pub(super) fn stored_as(self, l2_only: bool) -> i32 {
        match (self, l2_only) {
            (Self::L2, _) | (Self::Cosine, true) => ffi::L2,
            (Self::L1, _) => ffi::L1,
            _ => ffi::INNER_PRODUCT,
        }
    }

    /// Whether an index that was built under FAISS's metric `stored` can serve this one.
    pub(super) fn accepts(self, stored: i32) -> bool {
        match self {
            Self::L2 => stored == ffi::L2,
            Self::InnerProduct => stored == ffi::INNER_PRODUCT,
            Self::Cosine => stored == ffi::L2 || stored == ffi::INNER_PRODUCT,
            Self::L1 => stored == ffi::L1,
        }
    }

    /// The operator's distance for a value that FAISS computed under its metric `stored` over prepared vectors.
    pub(super) fn operator_distance(self, stored: i32, value: f32) -> f32 {
        match (self, stored) {
            // Estimates of lossy codes can fall below zero.
            (Self::L2, _) => value.max(0.0).sqrt(),
            (Self::L1, _) => value,
            (Self::InnerProduct, _) => -value,
            // Of unit vectors |a - b|^2 = 2 - 2 <a, b>.
            (Self::Cosine, ffi::L2) => value / 2.0,
            (Self::Cosine, _) => 1.0 - value,
        }
    }
}

fn divide(row: &mut [f32], norm: f64) {
    for value in row.iter_mut() {
        *value = (f64::from(*value) / norm) as f32;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn codes_and_names_never_change() {
        let known = [(1, "l2", "<->"), (2, "ip", "<#>"), (3, "cosine", "<=>"), (4, "l1", "<+>")];
        for (metric, (code, name, operator)) in Metric::ALL.into_iter().zip(known) {
            assert_eq!((metric.code(), metric.name(), metric.operator()), (code, name, operator));
            assert_eq!(Metric::from_code(code), Some(metric));
        }
        assert_eq!(Metric::from_code(0), None);
        assert_eq!(Metric::from_code(5), None);
    }

    #[test]
    fn distances_are_those_of_the_operators() {
        let (query, rows) = ([0.6f32, 0.8], [0.6f32, 0.8, -0.6, -0.8, 0.8, -0.6]);
        let expect = |metric: Metric, values: [f32; 3]| {
            let mut out = vec![7.0];
            metric.distances(&query, &rows, &mut out);
            assert_eq!(out.len(), 4);
            for (value, expected) in out[1..].iter().zip(values) {
                assert!((value - expected).abs() < 1e-6, "{metric:?}: {value} is not {expected}");
            }
        };
        expect(Metric::L2, [0.0, 2.0, 2f32.sqrt()]);
        expect(Metric::InnerProduct, [-1.0, 1.0, 0.0]);
        expect(Metric::Cosine, [0.0, 2.0, 1.0]);
        expect(Metric::L1, [0.0, 2.8, 1.6]);
    }

    #[test]
    fn only_what_has_a_direction_is_prepared_for_cosine() {
        let mut tiny = [1e-30f32, 0.0];
        assert!(Metric::Cosine.normalise(&mut tiny));
        assert_eq!(tiny, [1.0, 0.0]);
        let mut tiny = [1e-30f32, 0.0];
        assert!(Metric::Cosine.prepare(&mut tiny));
        assert_eq!(tiny, [0.0, 0.0]);
        let mut huge = [3e38f32, 3e38];
        assert!(Metric::Cosine.normalise(&mut huge));
        assert!((huge[0] - 0.5f32.sqrt()).abs() < 1e-6);
        let mut huge = [3e38f32, 3e38];
        assert!(Metric::Cosine.prepare(&mut huge));
        assert_eq!(huge, [0.0, 0.0]);
        assert!(!Metric::Cosine.prepare(&mut [0.0, -0.0]));
        assert!(Metric::L2.prepare(&mut [0.0, 0.0]));
        for metric in Metric::ALL {
            assert!(!metric.prepare(&mut [f32::NAN, 1.0]));
            assert!(!metric.prepare(&mut [f32::INFINITY, 1.0]));
        }
    }
}
