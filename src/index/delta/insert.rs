//! Inserts the rows of one statement.

use super::append::{Tail, append};
use crate::engine::Metric;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::{metric_of, read_meta};
use crate::pg::relation::Rel;

/// Inserts the rows of one statement. It reads the root once: dimensions and metric never change, and the end of the
/// delta is a guess that the pages confirm.
pub struct Inserter {
    dims: usize,
    metric: Metric,
    tail: Tail,
    /// The row in its indexed form.
    row: Vec<f32>,
}

impl Inserter {
    pub fn open(rel: Rel) -> Result<Self, IndexError> {
        let meta = read_meta(rel)?;
        let (dims, metric, tail) = (meta.dims as usize, metric_of(&meta)?, Tail::of(&meta));
        Ok(Inserter { dims, metric, tail, row: Vec::with_capacity(dims) })
    }

    /// Inserts a row. A row without an indexed form (a zero vector under cosine) is left out. Returns the delta's new
    /// size in bytes if a page was added.
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
