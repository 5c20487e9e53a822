//! Batches of queries, on several threads.

use super::SearchParams;
use super::open_index::{self, Hit, OpenIndex, zeros};
use crate::shim::ffi;
use crate::{EngineError, Metric};

impl OpenIndex {
    /// [`OpenIndex::search`] for each of the prepared `queries` (row-major, n x d values), with the same answers, on
    /// the calling thread's OpenMP threads (see [`crate::on_worker`]). None for a query that is a
    /// `BadParameter`; the others are answered.
    pub fn search_each(
        &self,
        queries: &[f32],
        k: usize,
        params: &SearchParams,
        dead: Option<&[u8]>,
    ) -> Result<Vec<Option<Vec<Hit>>>, EngineError> {
        let (about, dims) = (self.about(), self.dims());
        let accepted: Vec<bool> =
            queries.chunks_exact(dims).map(|query| open_index::check_query(about, query).is_ok()).collect();
        let mut hits = if accepted.iter().all(|&one| one) {
            self.search_accepted(queries, k, params, dead)?
        } else {
            let mut kept = open_index::with_room(queries.len())?;
            for (query, _) in queries.chunks_exact(dims).zip(&accepted).filter(|(_, accepted)| **accepted) {
                kept.extend_from_slice(query);
            }
            self.search_accepted(&kept, k, params, dead)?
        }
        .into_iter();
        Ok(accepted.into_iter().map(|accepted| if accepted { hits.next() } else { None }).collect())
    }

    fn search_accepted(
        &self,
        queries: &[f32],
        k: usize,
        params: &SearchParams,
        dead: Option<&[u8]>,
    ) -> Result<Vec<Vec<Hit>>, EngineError> {
        let (about, count) = (self.about(), queries.len() / self.dims());
        let rows = usize::try_from(about.rows).unwrap_or(0);
        let k = k.min(rows);
        if k == 0 {
            return Ok(vec![Vec::new(); count]);
        }
        let params = open_index::ffi_params(params, about, dead.unwrap_or_default(), rows)?;
        let values = count.checked_mul(k).ok_or(EngineError::OutOfMemory)?;
        let (mut distances, mut positions) = (zeros::<f32>(values)?, zeros::<i64>(values)?);
        let mut found = zeros::<i64>(count)?;
        // SAFETY: the handle is a live index, each query has its dimension, there are k elements of both arrays and one
        // of `found` for each of them, and `dead` outlives the call.
        let code = unsafe {
            ffi::vekter_index_search_each(
                self.handle().as_ptr(),
                count,
                queries.as_ptr(),
                k as i64,
                &params,
                distances.as_mut_ptr(),
                positions.as_mut_ptr(),
                found.as_mut_ptr(),
            )
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        (positions.chunks_exact(k).zip(distances.chunks_exact(k)).zip(found))
            .map(|((positions, distances), found)| {
                open_index::checked_hits(about, positions, distances, found, &|stored, distance| {
                    self.metric().operator_distance(stored, distance)
                })
            })
            .collect()
    }
}

impl Metric {
    /// [`Metric::distances`] for each of the prepared `queries` (row-major, n x d values) in order, on the calling
    /// thread's OpenMP threads.
    ///
    /// Panics unless `dims` is not 0, and both slices hold whole rows of that many values.
    pub fn distances_each(self, dims: usize, queries: &[f32], rows: &[f32]) -> Result<Vec<f32>, EngineError> {
        assert!(dims > 0 && queries.len().is_multiple_of(dims) && rows.len().is_multiple_of(dims));
        let (count, rows_count) = (queries.len() / dims, rows.len() / dims);
        let values = count.checked_mul(rows_count).ok_or(EngineError::OutOfMemory)?;
        let mut out = zeros::<f32>(values)?;
        let stored_as = self.stored_as(false);
        // SAFETY: `out` has an element for each pair of a query and a row, and the slices hold as many values as the
        // assertion and the divisions above establish.
        let code = unsafe {
            ffi::vekter_distances_each(
                out.as_mut_ptr(),
                stored_as,
                count,
                queries.as_ptr(),
                rows.as_ptr(),
                dims,
                rows_count,
            )
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        for value in &mut out {
            *value = self.operator_distance(stored_as, *value);
        }
        Ok(out)
    }
}
