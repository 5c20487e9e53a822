//! The rows of one statement.

use super::append::{Tail, append};
use crate::engine::Metric;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::{metric_of, read_meta};
use crate::pg::relation::Rel;

/// Adds the rows of one statement. What it has read of the root holds for so long: dimensions and metric never change,
/// and where the delta ends is a guess that its pages confirm.
pub struct Inserter {
    dims: usize,
    metric: Metric,
    tail: Tail,
    /// The row in the form that is indexed.
    row: Vec<f32>,
}

impl Inserter {
    pub fn open(rel: Rel) -> Result<Self, IndexError> {
        let meta = read_meta(rel)?;
        let (dims, metric, tail) = (meta.dims as usize, metric_of(&meta)?, Tail::of(&meta));
        Ok(Inserter { dims, metric, tail, row: Vec::with_capacity(dims) })
    }

    /// Adds a row. One that has no indexed form (a zero vector under cosine) stays out of the index. Returns the bytes
    /// that the delta has grown to if it took a new page.
    pub fn insert(&mut self, rel: Rel, tid: Tid, vector: &[f32]) -> Result<Option<u64>, IndexError> {
        if vector.len() != self.dims {
            return Err(IndexError::Dimensions { expected: self.dims, found: vector.len() });
        }
        self.row.clear();
        self.row.extend_from_slice(vector);
        if self.metric.prepare(&mut self.row) {
            append(rel, &mut self.tail, tid, &self.row)
        } else {
            Ok(None)
        }
    }
}
