//! Queries for calibration with their exact nearest rows, which are collected batch by batch while the index is built.
//!
//! The queries are held out of the index. A graph finds rows of its own more easily than others (measured, `HNSW32` and
//! efSearch 10: recall@10 of 0.97 for rows in the graph, 0.91 for others), so recall over them would be too high.

use crate::shim::ffi;
use crate::{EngineError, Metric};

/// Neighbours for each query: calibration measures recall@10.
pub(super) const NEIGHBOURS: usize = 10;

/// Distance to a query (smaller is nearer) and position of a row.
type Near = (f32, u64);

/// Held-out rows as queries, with the nearest of all rows that were added here.
#[derive(Debug)]
pub struct HoldoutQueries {
    metric: Metric,
    dims: usize,
    /// Prepared, row-major.
    queries: Vec<f32>,
    /// Nearest first, by query.
    near: Vec<Vec<Near>>,
}

impl HoldoutQueries {
    /// `queries`: prepared rows of `dims` values, row-major.
    pub fn new(metric: Metric, dims: usize, queries: Vec<f32>) -> Self {
        let count = queries.len() / dims.max(1);
        Self { metric, dims, queries, near: vec![Vec::new(); count] }
    }

    /// Queries.
    pub fn len(&self) -> usize {
        self.near.len()
    }

    pub fn is_empty(&self) -> bool {
        self.near.is_empty()
    }

    /// Drops all but the first `count` queries.
    pub fn truncate(&mut self, count: usize) {
        self.queries.truncate(count * self.dims);
        self.near.truncate(count);
    }

    /// Compares prepared rows with every query, on the calling thread's OpenMP threads. `positions` has one element for
    /// each row.
    pub fn add(&mut self, positions: &[u64], rows: &[f32]) -> Result<(), EngineError> {
        let (queries, k) = (self.len(), NEIGHBOURS);
        if queries == 0 || positions.is_empty() {
            return Ok(());
        }
        if rows.len() != positions.len() * self.dims {
            return Err(EngineError::bad_parameter("there must be a position for each row"));
        }
        if self.metric == Metric::L1 {
            self.add_one_by_one(positions, rows);
            return Ok(());
        }
        let (distances, found) = nearest_rows(self.metric, self.dims, &self.queries, rows, k)?;
        let sign = if self.metric.stored_as(false) == ffi::INNER_PRODUCT { -1.0 } else { 1.0 };
        for (query, near) in self.near.iter_mut().enumerate() {
            let at = query * k..(query + 1) * k;
            let hits = std::iter::zip(&distances[at.clone()], &found[at]);
            near.extend(hits.filter_map(|(&distance, &row)| {
                let position = positions.get(usize::try_from(row).ok()?)?;
                Some((sign * distance, *position))
            }));
            near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            near.truncate(k);
        }
        Ok(())
    }

    /// FAISS has no exact search for many queries at once under L1.
    fn add_one_by_one(&mut self, positions: &[u64], rows: &[f32]) {
        let mut distances = Vec::with_capacity(positions.len());
        for (query, near) in self.queries.chunks_exact(self.dims).zip(&mut self.near) {
            distances.clear();
            self.metric.distances(query, rows, &mut distances);
            near.extend(distances.iter().copied().zip(positions.iter().copied()));
            near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            near.truncate(NEIGHBOURS);
        }
    }

    pub(crate) fn query(&self, query: usize) -> &[f32] {
        &self.queries[query * self.dims..(query + 1) * self.dims]
    }

    /// The positions of the exact nearest rows, nearest first, at most [`NEIGHBOURS`].
    pub(crate) fn neighbours(&self, query: usize) -> impl Iterator<Item = u64> + '_ {
        self.near[query].iter().map(|near| near.1)
    }
}

/// For each of `queries` the `k` nearest of `rows`: FAISS's distance values and the row numbers, nearest first, padded
/// with -1. Queries and rows are prepared, row-major and finite; the metric is not L1. Runs on the calling thread's
/// OpenMP threads.
pub(crate) fn nearest_rows(
    metric: Metric,
    dims: usize,
    queries: &[f32],
    rows: &[f32],
    k: usize,
) -> Result<(Vec<f32>, Vec<i64>), EngineError> {
    let count = queries.len() / dims;
    let (mut distances, mut found) = (vec![0f32; count * k], vec![-1i64; count * k]);
    // SAFETY: `queries` and `rows` hold the stated numbers of rows of `dims` values, and both results hold k values per
    // query.
    let code = unsafe {
        ffi::vekter_nearest_rows(
            queries.as_ptr(),
            count as i64,
            rows.as_ptr(),
            (rows.len() / dims) as i64,
            dims as i32,
            metric.stored_as(false),
            k as i64,
            distances.as_mut_ptr(),
            found.as_mut_ptr(),
        )
    };
    EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
    Ok((distances, found))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn neighbours_are_the_nearest_of_all_batches() {
        let rows: Vec<f32> = (0..100).flat_map(|i| [i as f32, 0.0]).collect();
        let mut sample = HoldoutQueries::new(Metric::L2, 2, vec![50.4, 0.0, 0.2, 0.0]);
        let positions: Vec<u64> = (0..100).collect();
        for (positions, rows) in std::iter::zip(positions.chunks(7), rows.chunks(14)) {
            sample.add(positions, rows).unwrap();
        }
        assert_eq!(sample.neighbours(0).collect::<Vec<_>>(), [50, 51, 49, 52, 48, 53, 47, 54, 46, 55]);
        assert_eq!(sample.neighbours(1).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn the_largest_inner_product_is_nearest() {
        let mut sample = HoldoutQueries::new(Metric::InnerProduct, 2, vec![1.0, 0.0]);
        sample.add(&[7, 8, 9], &[1.0, 0.0, 3.0, 0.0, 2.0, 0.0]).unwrap();
        assert_eq!(sample.neighbours(0).collect::<Vec<_>>(), [8, 9, 7]);
    }
}
