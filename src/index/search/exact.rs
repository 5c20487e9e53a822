//! Exact distances: the operator's own values, to the last bit, in whose order rows leave a search.

use crate::index::format::Tid;

/// The operator's distances from the query.
pub trait ExactDistances {
    /// Of the row at `tid` in the table. None: no version of it is visible to the search, or it is NULL.
    fn at(&mut self, tid: Tid) -> Option<f64>;

    /// Of a row with these values, in the form in which they were inserted.
    fn of(&self, row: &[f32]) -> f64;
}
