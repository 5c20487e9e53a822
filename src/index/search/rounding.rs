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
