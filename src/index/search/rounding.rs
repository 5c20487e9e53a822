//! Bounds on the difference between FAISS's distances and the operator's.
//!
//! Both add the same terms in single precision, in different orders. A sum of d terms is off by at most g = d u / (1 -
//! d u) times the sum of their absolute values, u = 2^-24, whatever the order (Higham, Accuracy and Stability of
//! Numerical Algorithms, section 3.1). Two such sums differ by at most 2 g. d + 8 replaces d to cover the other
//! roundings (differences, products, roots, norms).

use super::rounds::Distance;
use crate::engine::Metric;

/// Unit roundoff of single precision.
const UNIT: f64 = 1.0 / (1u32 << 24) as f64;
/// Squares below the smallest float vanish in only one of the sums: the root of 16,000 of them, rounded up.
const UNDERFLOW: f64 = 1e-20;

#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    relative: f64,
    absolute: f64,
}

impl Rounding {
    /// `query`: in its indexed form.
    pub fn of(metric: Metric, query: &[f32]) -> Self {
        let sums = 2.0 * (query.len() + 8) as f64 * UNIT;
        match metric {
            // 2 g for the squared distance, half of that for its root.
            Metric::L2 | Metric::L1 => Rounding { relative: sums, absolute: UNDERFLOW },
            // The operator divides a sum by the root of two others; the index stores unit vectors, which are rounded
            // too.
            Metric::Cosine => Rounding { relative: 0.0, absolute: 2.0 * sums },
            // A bound would need the row's norm. Rows that are much longer than the query and among the nearest have a
            // correspondingly large inner product.
            Metric::InnerProduct => {
                let square: f64 = query.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
                Rounding { relative: sums, absolute: sums * square }
            }
        }
    }

    /// A lower bound on the operator's distance of a row for which FAISS computed `distance`.
    pub fn below(&self, distance: f32) -> Distance {
        if is_near_overflow(distance) {
            return Distance(f64::NEG_INFINITY);
        }
        let distance = f64::from(distance);
        Distance(distance - distance.abs() * self.relative - self.absolute)
    }

    /// An upper bound on the operator's distance.
    pub fn above(&self, distance: f32) -> Distance {
        if is_near_overflow(distance) {
            return Distance(f64::NAN);
        }
        let distance = f64::from(distance);
        Distance(distance + distance.abs() * self.relative + self.absolute)
    }
}

/// Whether a sum of this size can overflow in one order of additions and not in another.
fn is_near_overflow(distance: f32) -> bool {
    distance.is_nan() || distance.abs() >= 1e37
}
