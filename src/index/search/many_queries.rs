//! The first rounds of many searches at once: FAISS answers all queries on several threads, and the delta is read once.
//!
//! All of them read one version of the index, as a cursor does. A cursor that continues from here finds every row that
//! is visible to a snapshot taken earlier (invariant 1); for a later snapshot, rows could be missing. The caller
//! ensures that.

use std::cell::Cell;
use std::sync::Arc;

use super::request::{self, Request};
use crate::engine::{Hit, Metric, SearchParams};
use crate::index::error::IndexError;
use crate::index::format::{Meta, Tid};
use crate::index::interruptible::interruptible;
use crate::index::segment::OpenedSegment;
use crate::index::{IndexView, delta, retry};
use crate::pg::relation::Rel;

/// Values of delta rows that are compared with all queries at a time.
const DELTA_PIECE_VALUES: usize = 4 << 20;

/// The hits of each query in a segment; if None or empty, the cursor searches the segment by itself.
type Hits = Vec<Option<Vec<Hit>>>;

/// The first rounds of some queries.
pub struct FirstRounds {
    request: Request,
    metric: Metric,
    queries: Queries,
    delta_tids: Vec<Tid>,
    /// For each query, its distances to the delta's rows.
    delta_distances: Vec<Vec<f32>>,
    segments: Vec<(Arc<OpenedSegment>, Hits)>,
    /// The query that will probably be looked up next.
    next: Cell<usize>,
}

/// Queries of the index's dimensions, concatenated.
struct Queries {
    dims: usize,
    /// The queries as passed by the caller.
    given: Vec<f32>,
    /// The queries in their indexed form; unchanged if they have none.
    prepared: Vec<f32>,
    has_form: Vec<bool>,
}

impl Queries {
    fn new(dims: usize, given: &[f32], metric: Metric) -> Result<Self, IndexError> {
        let mut prepared = Vec::new();
        prepared.try_reserve_exact(given.len())?;
        prepared.extend_from_slice(given);
        let has_form = prepared.chunks_exact_mut(dims).map(|query| metric.prepare(query)).collect();
        Ok(Queries { dims, given: given.to_vec(), prepared, has_form })
    }

    fn given(&self, at: usize) -> &[f32] {
        &self.given[at * self.dims..(at + 1) * self.dims]
    }

    fn prepared(&self, at: usize) -> Option<&[f32]> {
        self.has_form[at].then(|| &self.prepared[at * self.dims..(at + 1) * self.dims])
    }
}

impl FirstRounds {
    /// Approximate memory for the first round of one query, in bytes.
    pub fn bytes_per_query(rel: Rel, request: &Request) -> Result<usize, IndexError> {
        let view = IndexView::open(rel)?;
        let hits: usize = (view.segments.iter())
            .filter_map(|opened| {
                let params = params_of(opened, request);
                request::candidates(opened, opened.live_rows(), request.wanted_rows, &params)
            })
            .sum();
        // FAISS's hits are briefly in memory three times: in its own result, as arrays, and as `Hit`s.
        let bytes = hits * 3 * size_of::<Hit>() + 2 * view.dims() * size_of::<f32>();
        Ok(bytes + most_delta_rows(&view.meta) * size_of::<f32>())
    }

    /// Runs the first rounds for `queries`, each of `dims` values, on `threads` threads.
    pub fn search(
        rel: Rel,
        dims: usize,
        queries: &[f32],
        request: Request,
        threads: usize,
    ) -> Result<Self, IndexError> {
        let (view, queries, delta_tids, delta_distances) = retry(|| {
            let view = IndexView::try_open(rel)?;
            if view.dims() != dims {
                return Err(IndexError::Dimensions { expected: view.dims(), found: dims });
            }
            let queries = Queries::new(dims, queries, view.metric)?;
            let (tids, distances) = compare_delta(rel, &view, &queries, threads)?;
            Ok((view, queries, tids, distances))
        })?;
        let metric = view.metric;
        let mut segments = Vec::with_capacity(view.segments.len());
        for opened in view.segments {
            pgrx::check_for_interrupts!();
            let hits = search_segment(&opened, &queries, &request, threads)?;
            segments.push((opened, hits));
        }
        let next = Cell::new(0);
        Ok(FirstRounds { request, metric, queries, delta_tids, delta_distances, segments, next })
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The number of this query.
    pub fn find(&self, query: &[f32]) -> Option<usize> {
        let (start, end) = (self.next.get(), self.queries.has_form.len());
        let at = (start..end).chain(0..start).find(|&at| self.queries.given(at) == query)?;
        self.next.set(at + 1);
        Some(at)
    }

    /// Query `at` in its indexed form; None if it has none.
    pub fn prepared(&self, at: usize) -> Option<&[f32]> {
        self.queries.prepared(at)
    }

    pub fn delta_rows(&self) -> usize {
        self.delta_tids.len()
    }

    /// The delta's rows with their distances from query `at`.
    pub fn delta(&self, at: usize) -> impl Iterator<Item = (f32, Tid)> + '_ {
        self.delta_distances[at].iter().copied().zip(self.delta_tids.iter().copied())
    }

    /// The segments with the hits of query `at`, if they were searched.
    pub fn segments(&self, at: usize) -> impl Iterator<Item = (&Arc<OpenedSegment>, Option<Vec<Hit>>)> {
        self.segments.iter().map(move |(opened, hits)| (opened, hits.get(at).cloned().flatten()))
    }
}

/// Upper limit on the rows in the delta.
fn most_delta_rows(meta: &Meta) -> usize {
    meta.delta_bytes() as usize / (meta.dims as usize * size_of::<f32>())
}

/// Reads the delta's rows and computes their distances from each query.
fn compare_delta(
    rel: Rel,
    view: &IndexView,
    queries: &Queries,
    threads: usize,
) -> Result<(Vec<Tid>, Vec<Vec<f32>>), IndexError> {
    let mut all_tids = Vec::new();
    let mut distances: Vec<Vec<f32>> = vec![Vec::new(); queries.has_form.len()];
    let mut compare = |rows: &mut Vec<f32>| -> Result<(), IndexError> {
        let count = rows.len() / queries.dims;
        if count > 0 {
            let piece =
                interruptible(threads, || view.metric.distances_each(queries.dims, &queries.prepared, rows))?;
            for ((known, found), &has_form) in
                distances.iter_mut().zip(piece.chunks_exact(count)).zip(&queries.has_form)
            {
                known.try_reserve(count)?;
                if has_form { known.extend_from_slice(found) } else { known.resize(known.len() + count, 0.0) }
            }
        }
        rows.clear();
        Ok(())
    };
    let mut piece: Vec<f32> = Vec::new();
    delta::for_each_row(rel, &view.meta, |tids, rows| {
        all_tids.try_reserve(tids.len())?;
        all_tids.extend_from_slice(tids);
        piece.try_reserve(rows.len())?;
        piece.extend_from_slice(rows);
        if piece.len() >= DELTA_PIECE_VALUES { compare(&mut piece) } else { Ok(()) }
    })?;
    compare(&mut piece)?;
    Ok((all_tids, distances))
}

/// The search parameters for this segment.
fn params_of(opened: &OpenedSegment, request: &Request) -> SearchParams {
    request::segment_params(&opened.reference.points, &request.params, request.k)
}

/// The hits of each query.
fn search_segment(
    opened: &OpenedSegment,
    queries: &Queries,
    request: &Request,
    threads: usize,
) -> Result<Hits, IndexError> {
    let params = params_of(opened, request);
    let Some(candidates) = request::candidates(opened, opened.live_rows(), request.wanted_rows, &params)
    else {
        return Ok(Vec::new());
    };
    let (index, dead) = (&opened.segment.index, opened.dead.as_deref());
    Ok(interruptible(threads, || index.search_each(&queries.prepared, candidates, &params, dead))?)
}
