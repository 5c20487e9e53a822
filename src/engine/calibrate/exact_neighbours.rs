//! Sampled queries with their exact nearest rows, found while the rows of an index pass by.
//!
//! The queries are rows that are held back: to a row that is in it, a graph leads much faster than to others (measured,
//! `HNSW32` and efSearch 10: recall@10 of 0.97 for rows of its own, 0.91 for others).

use crate::engine::shim::ffi;
use crate::engine::{EngineError, Metric};

/// Neighbours that are kept of each query: recall@10 is what calibration goes by.
pub(super) const NEIGHBOURS: usize = 10;

/// A row's distance to a query, smaller is nearer, and its position.
type Near = (f32, u64);

/// Rows as queries, and their nearest rows among all that were shown.
#[derive(Debug)]
pub struct Sample {
    metric: Metric,
    dims: usize,
    /// Prepared, row-major.
    queries: Vec<f32>,
    /// Nearest first, by query.
    near: Vec<Vec<Near>>,
}

impl Sample {
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

    /// Goes on with the first `count` queries only.
    pub fn truncate(&mut self, count: usize) {
        self.queries.truncate(count * self.dims);
        self.near.truncate(count);
    }

    /// Compares prepared rows with every query, on all threads of OpenMP that the calling thread has. `positions`:
    /// one for each row.
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

    /// FAISS has no exact search of many queries at once under this metric.
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

    pub(in crate::engine) fn query(&self, query: usize) -> &[f32] {
        &self.queries[query * self.dims..(query + 1) * self.dims]
    }

    /// The exact nearest rows, nearest first, at most [`NEIGHBOURS`].
    pub(in crate::engine) fn neighbours(&self, query: usize) -> impl Iterator<Item = u64> + '_ {
        self.near[query].iter().map(|near| near.1)
    }
}

/// For each of `queries` the `k` nearest of `rows`, both prepared, row-major and finite: FAISS's distance values and
/// their numbers, best first; -1 where there are no more. On all threads of OpenMP that the calling thread has; not
/// under L1.
pub(in crate::engine) fn nearest_rows(
    metric: Metric,
    dims: usize,
    queries: &[f32],
    rows: &[f32],
    k: usize,
) -> Result<(Vec<f32>, Vec<i64>), EngineError> {
    let count = queries.len() / dims;
    let (mut distances, mut found) = (vec![0f32; count * k], vec![-1i64; count * k]);
    // SAFETY: queries and rows hold as many rows of `dims` values as is said, and both results k for each query.
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
        let mut sample = Sample::new(Metric::L2, 2, vec![50.4, 0.0, 0.2, 0.0]);
        let positions: Vec<u64> = (0..100).collect();
        for (positions, rows) in std::iter::zip(positions.chunks(7), rows.chunks(14)) {
            sample.add(positions, rows).unwrap();
        }
        assert_eq!(sample.neighbours(0).collect::<Vec<_>>(), [50, 51, 49, 52, 48, 53, 47, 54, 46, 55]);
        assert_eq!(sample.neighbours(1).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn the_largest_inner_product_is_nearest() {
        let mut sample = Sample::new(Metric::InnerProduct, 2, vec![1.0, 0.0]);
        sample.add(&[7, 8, 9], &[1.0, 0.0, 3.0, 0.0, 2.0, 0.0]).unwrap();
        assert_eq!(sample.neighbours(0).collect::<Vec<_>>(), [8, 9, 7]);
    }
}
