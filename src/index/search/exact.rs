//! Exact distances: bit for bit the operator's values. Rows leave a search in their order.

use crate::index::format::Tid;

/// The operator's distances from the query.
pub trait ExactDistances {
    /// The distance of the row at `tid` in the table. None if no version of it is visible to the search, or its value
    /// is NULL.
    fn at(&mut self, tid: Tid) -> Option<f64>;

    /// The distance of a row with these values, as they were inserted.
    fn of(&self, row: &[f32]) -> f64;
}
