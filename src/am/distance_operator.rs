//! The operator that orders a scan.

use pgrx::pg_sys;

use super::options;
use crate::engine::Metric;
use crate::pg::relation::Rel;
use crate::vector::{ValueKind, distance};

/// Number of the operator in an operator class.
const STRATEGY: i16 = 1;

/// Rows leave a scan in the order of its operator's values, to the last bit. The values of vekter's operators are
/// computed in place. An operator of another extension can add up in another order, so its function is called.
pub struct DistanceOperator {
    /// Of its arguments.
    pub kind: ValueKind,
    function: DistanceFunction,
}

enum DistanceFunction {
    Own(Metric),
    Foreign(Box<pg_sys::FmgrInfo>),
}

impl DistanceOperator {
    /// The operator of an index. A function to call is looked up in the current memory context.
    pub fn of(index: Rel) -> Self {
        let kind = options::value_kind(index).unwrap_or_default();
        let (family, input) = index.operator_family();
        // SAFETY: looks a catalogue row up by its key.
        let operator = unsafe { pg_sys::get_opfamily_member(family, input, input, STRATEGY) };
        // SAFETY: looks a catalogue row up by its oid.
        let code = unsafe { pg_sys::get_opcode(operator) };
        let mut function = Box::new(pg_sys::FmgrInfo::default());
        // SAFETY: fills the structure, or raises an error.
        unsafe { pg_sys::fmgr_info(code, &mut *function) };
        if function.fn_addr.is_some_and(distance::is_own_operator) {
            let metric = options::metric(index).unwrap_or(Metric::L2);
            return DistanceOperator { kind, function: DistanceFunction::Own(metric) };
        }
        DistanceOperator { kind, function: DistanceFunction::Foreign(function) }
    }

    /// The operator's value; NaN for vectors of different dimensions.
    pub fn distance(&self, query: &[f32], row: &[f32]) -> f64 {
        if query.len() != row.len() {
            return f64::NAN;
        }
        match &self.function {
            DistanceFunction::Own(metric) => own_distance(*metric, query, row),
            DistanceFunction::Foreign(function) => {
                let function = core::ptr::from_ref(&**function).cast_mut();
                let [a, b] = [query, row].map(|elements| self.kind.into_datum(elements));
                // SAFETY: the function takes two datums of this kind, and returns a float8.
                let value = unsafe { pg_sys::FunctionCall2Coll(function, pg_sys::InvalidOid, a, b) };
                for argument in [a, b] {
                    // SAFETY: made above, and nobody else's.
                    unsafe { pg_sys::pfree(argument.cast_mut_ptr()) };
                }
                f64::from_bits(value.value() as u64)
            }
        }
    }
}

/// As vekter's operators compute it.
fn own_distance(metric: Metric, query: &[f32], row: &[f32]) -> f64 {
    match metric {
        Metric::L2 => distance::euclidean(query, row),
        Metric::InnerProduct => -f64::from(distance::dot(query, row)),
        Metric::Cosine => distance::cosine(query, row),
        Metric::L1 => f64::from(distance::taxicab(query, row)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Metric, own_distance};
    use crate::index::search::rounding::Rounding;
    use crate::index::search::rounds::Distance;

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
                    let exact = Distance(own_distance(metric, &query, &row));
                    let bounds = Rounding::of(metric, &prepared);
                    let (below, above) = (bounds.below(computed[0]), bounds.above(computed[0]));
                    assert!(
                        below <= exact && exact <= above,
                        "{metric:?}, {dims}: {exact:?} of {computed:?}"
                    );
                }
            }
        }
    }
}
