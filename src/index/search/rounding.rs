//! How far a distance that FAISS computed can be from the operator's.
//!
//! Both add the same terms in single precision, in another order. A sum of d terms is off by at most g = d u / (1 - d u)
//! of the sum of their absolute values, u = 2^-24, whatever the order (Higham, Accuracy and Stability of Numerical
//! Algorithms, section 3.1). Two such sums differ by at most 2 g; for the last roundings (differences, products, roots,
//! norms) d + 8 stands for d.

use super::rounds::Distance;
use crate::engine::Metric;

/// Unit roundoff of single precision.
const UNIT: f64 = 1.0 / (1u32 << 24) as f64;
/// Squares below the smallest float vanish in one sum and not in the other: the root of 16,000 of them, rounded up.
const UNDERFLOW: f64 = 1e-20;

#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    relative: f64,
    absolute: f64,
}

impl Rounding {
    /// `query`: in the form that is indexed.
    pub fn of(metric: Metric, query: &[f32]) -> Self {
        let sums = 2.0 * (query.len() + 8) as f64 * UNIT;
        match metric {
            // Of the squared distance 2 g, of its root half of that.
            Metric::L2 | Metric::L1 => Rounding { relative: sums, absolute: UNDERFLOW },
            // The operator divides a sum by the root of two others; the index has unit vectors that are rounded too.
            Metric::Cosine => Rounding { relative: 0.0, absolute: 2.0 * sums },
            // A bound would need the row's norm. Rows that are much longer than the query and found among the nearest
            // have an inner product to match.
            Metric::InnerProduct => {
                let square: f64 = query.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
                Rounding { relative: sums, absolute: sums * square }
            }
        }
    }

    /// At most the operator's distance of a row for which FAISS computed `distance`.
    pub fn below(&self, distance: f32) -> Distance {
        if is_near_overflow(distance) {
            return Distance(f64::NEG_INFINITY);
        }
        let distance = f64::from(distance);
        Distance(distance - distance.abs() * self.relative - self.absolute)
    }

    /// At least the operator's distance.
    pub fn above(&self, distance: f32) -> Distance {
        if is_near_overflow(distance) {
            return Distance(f64::NAN);
        }
        let distance = f64::from(distance);
        Distance(distance + distance.abs() * self.relative + self.absolute)
    }
}

/// Sums of such a size can overflow in one order of adding and not in another.
fn is_near_overflow(distance: f32) -> bool {
    distance.is_nan() || distance.abs() >= 1e37
}

#[cfg(test)]
mod tests {
    use super::Rounding;
    use crate::engine::Metric;
    use crate::index::search::rounds::Distance;
    use crate::vector::distance;

    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn the_operators_distance_lies_within_the_bounds_of_faiss_distance() {
        for dims in [1, 2, 3, 5, 16, 100, 384, 1536, 16_000] {
            for seed in 1..40 {
                let (query, row) = (values(dims, seed), values(dims, seed + 1000));
                for metric in Metric::ALL {
                    let (mut prepared, mut indexed, mut computed) = (query.clone(), row.clone(), Vec::new());
                    assert!(metric.prepare(&mut prepared) && metric.prepare(&mut indexed));
                    metric.distances(&prepared, &indexed, &mut computed);
                    let exact = match metric {
                        Metric::L2 => distance::euclidean(&query, &row),
                        Metric::InnerProduct => -f64::from(distance::dot(&query, &row)),
                        Metric::Cosine => distance::cosine(&query, &row),
                        Metric::L1 => f64::from(distance::taxicab(&query, &row)),
                    };
                    let bounds = Rounding::of(metric, &prepared);
                    let (below, above) = (bounds.below(computed[0]), bounds.above(computed[0]));
                    let exact = Distance(exact);
                    assert!(
                        below <= exact && exact <= above,
                        "{metric:?}, {dims}: {exact:?} of {computed:?}"
                    );
                }
            }
        }
    }
}
