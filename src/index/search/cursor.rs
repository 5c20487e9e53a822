//! The search cursor returns rows one by one in the order of their exact distances, for as long as the caller asks.
//!
//! The cursor works in rounds. Each round requests more rows of FAISS than the last, and skips the positions found
//! before. The cursor returns the nearest row found so far once no other row can be nearer: each segment provides a
//! lower bound on the distances of its other rows. If FAISS's distance of a found row is only approximate, the cursor
//! first reads the exact one from the table. When a round would request a large part of a segment, the cursor ranks the
//! rest of the segment by exact distance instead; so a filtered query always fills its LIMIT.
//!
//! A cursor's memory grows with the number of returned rows, up to a limit. Beyond it, the cursor ranks the rest of a
//! segment in passes (`passes`) and keeps one bit for each row returned before. A failed allocation aborts a Rust
//! process, so containers grow by `try_reserve`.
//!
//! The lower bound of an approximate index is an estimate: a later round can find a nearer row after a farther one was
//! returned. Under a strict order, the cursor drops such a row and ranks by exact distance from then on, so that it
//! drops no other. A request for all rows ranks by exact distance from the start, and misses none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::exact::ExactDistances;
use super::many_queries::FirstRounds;
use super::request::{Order, Request};
use super::rounds::{DeltaScan, Distance, Found, Query, SegmentScan, rank_delta};
use crate::engine::Metric;
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::{IndexView, retry};
use crate::pg::memory;
use crate::pg::relation::Rel;

/// Peak memory of one candidate: in FAISS's arrays, as `Hit`, as `Found` and in `pending`.
const CANDIDATE_BYTES: usize = 72;
/// Minimum of a segment's `max_held_rows`, because every pass reads the whole segment.
const MIN_HELD_ROWS: u64 = 1024;
/// Rows whose exact distances are read from the table at a time.
const EXACT_BATCH_ROWS: usize = 8;
/// Relative margin of a radius for rounding errors of distances.
const RADIUS_MARGIN: f64 = 1e-4;

pub struct Cursor {
    /// None: every row, in no order.
    query: Option<Query>,
    pub(super) metric: Metric,
    delta: DeltaScan,
    pub(super) scans: Vec<SegmentScan>,
    /// Rows that were found and not returned yet, each once.
    pub(super) pending: BinaryHeap<Reverse<Found>>,
    /// Distance of the row that was returned last.
    last: Distance,
    order: Order,
    /// Whether segments are ranked by exact distance, without approximate search.
    ranks_exactly: bool,
    /// The cursor ends at rows farther than this.
    end: Distance,
}

impl Cursor {
    /// `query`: None for a NULL query, whose distances are all NULL.
    pub fn open(
        rel: Rel,
        query: Option<&[f32]>,
        request: &Request,
        exact: &dyn ExactDistances,
    ) -> Result<Self, IndexError> {
        // If a delta page is reused between the reading of the root and that of the page, `retry` reads the new root.
        let (view, query, delta) = retry(|| {
            let view = IndexView::try_open(rel)?;
            let query = prepare(&view, query)?;
            failpoint::reach("search.segments_opened");
            let delta = rank_delta(rel, &view, query.as_ref(), exact)?;
            Ok((view, query, delta))
        })?;
        failpoint::reach("search.delta_read");
        let metric = view.metric;
        let scans = view.segments.into_iter().map(|opened| SegmentScan::open(opened, request));
        Ok(Self::new(query, metric, delta, scans.collect::<Result<_, _>>()?, request))
    }

    /// A cursor whose first round was run for a batch: that of query `at` of `rounds`.
    pub fn continued(rounds: &FirstRounds, at: usize) -> Result<Self, IndexError> {
        let (request, metric) = (rounds.request(), rounds.metric());
        let query = rounds.prepared(at).map(|prepared| Query::new(metric, prepared.to_vec()));
        let mut delta = Vec::new();
        delta.try_reserve_exact(rounds.delta_rows())?;
        delta.extend(rounds.delta(at).map(|(distance, tid)| match &query {
            Some(query) => Found::computed(query, metric, distance, tid),
            None => Found::in_no_order(tid),
        }));
        let scans = rounds.segments(at).map(|(opened, first_hits)| {
            Ok(SegmentScan { first_hits, ..SegmentScan::open(opened.clone(), request)? })
        });
        let scans = scans.collect::<Result<_, IndexError>>()?;
        Ok(Self::new(query, metric, delta, scans, request))
    }

    fn new(
        query: Option<Query>,
        metric: Metric,
        mut delta: Vec<Found>,
        mut scans: Vec<SegmentScan>,
        request: &Request,
    ) -> Self {
        if let Some(mut lookup) = request.candidates.as_ref().map(|candidates| candidates.lookup()) {
            delta.retain(|row| lookup.contains(row.tid));
        }
        share_memory(&mut scans);
        Cursor {
            metric,
            delta: DeltaScan::new(delta, request),
            scans,
            pending: BinaryHeap::new(),
            last: Distance(f64::NEG_INFINITY),
            order: request.order,
            ranks_exactly: request.reads_all,
            end: Distance(request.radius.map_or(f64::INFINITY, |radius| beyond(radius, query.as_ref()))),
            query,
        }
    }

    /// The next row, or None when there are no more.
    pub fn next(&mut self, exact: &mut dyn ExactDistances) -> Result<Option<Found>, IndexError> {
        loop {
            let bound = self.lower_bounds().min();
            let nearest = self.pending.peek().map(|Reverse(row)| row.distance);
            match (nearest, bound) {
                (None, None) => return Ok(None),
                (nearest, bound) if self.is_behind_end(nearest) && self.is_behind_end(bound) => {
                    return Ok(None);
                }
                (Some(nearest), bound) if bound.is_none_or(|bound| nearest <= bound) => {
                    if let Some(row) = self.take_nearest(exact) {
                        return Ok(Some(row));
                    }
                }
                (_, Some(bound)) => self.advance(bound, exact)?,
                (Some(_), None) => unreachable!("without a bound every candidate may leave"),
            }
        }
    }

    /// Pops the nearest pending row, and returns it if its distance is exact and it keeps the order. None: a late row
    /// was dropped, or the lower bounds of up to [`EXACT_BATCH_ROWS`] pending rows became exact distances; call
    /// it again.
    fn take_nearest(&mut self, exact: &mut dyn ExactDistances) -> Option<Found> {
        let Reverse(row) = self.pending.pop()?;
        if row.is_exact {
            if row.distance < self.last && self.order == Order::Strict {
                self.rank_exactly();
                return None;
            }
            self.last = row.distance;
            return Some(row);
        }
        let mut unsettled = [row; EXACT_BATCH_ROWS];
        let mut count = 1;
        while let Some(Reverse(row)) = self.pending.peek().filter(|_| count < EXACT_BATCH_ROWS)
            && !row.is_exact
        {
            unsettled[count] = *row;
            self.pending.pop();
            count += 1;
        }
        for row in &unsettled[..count] {
            if let Some(distance) = exact.at(row.tid) {
                self.pending.push(Reverse(Found::exact(distance, row.tid)));
            }
        }
        None
    }

    /// From now on, ranks every segment by exact distance.
    pub fn rank_exactly(&mut self) {
        self.ranks_exactly = true;
    }

    fn is_behind_end(&self, distance: Option<Distance>) -> bool {
        distance.is_none_or(|distance| distance > self.end && self.end.0.is_finite())
    }

    /// Of the delta and of each segment that has rows not found yet, the lower bound on their distances.
    fn lower_bounds(&self) -> impl Iterator<Item = Distance> {
        let segments = self.scans.iter().filter(|scan| !scan.exhausted).map(|scan| scan.lower_bound);
        segments.chain(self.delta.lower_bound())
    }

    pub(super) fn push(&mut self, row: Found) -> Result<(), IndexError> {
        self.pending.try_reserve(1)?;
        self.pending.push(Reverse(row));
        Ok(())
    }

    /// One more round for the delta and for every segment whose lower bound is at most `bound`.
    fn advance(&mut self, bound: Distance, exact: &mut dyn ExactDistances) -> Result<(), IndexError> {
        if self.delta.lower_bound().is_some_and(|lower| lower <= bound) {
            for at in self.delta.next_round() {
                self.push(self.delta.rows[at])?;
            }
        }
        for at in 0..self.scans.len() {
            if self.scans[at].exhausted || self.scans[at].lower_bound > bound {
                continue;
            }
            pgrx::check_for_interrupts!();
            match self.query.take() {
                None => self.add_unordered(at)?,
                Some(query) => {
                    let outcome = match self.ranks_exactly {
                        true => self.rank_rest(at, &query, exact),
                        false => self.search_round(at, &query, exact),
                    };
                    self.query = Some(query);
                    outcome?;
                }
            }
        }
        Ok(())
    }
}

/// The radius plus a margin for rounding: no row within the radius has a larger computed distance. Rounding errors are
/// proportional to the products that are summed; before the search, the query's squared norm is the best estimate of
/// them.
fn beyond(radius: f64, query: Option<&Query>) -> f64 {
    let values = query.map_or(&[][..], |query| &query.prepared);
    let square: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    radius + RADIUS_MARGIN * (radius.abs() + square.max(square.sqrt()))
}

/// The query in its indexed form. None: a zero vector under cosine, which has no distance to any row.
fn prepare(view: &IndexView, query: Option<&[f32]>) -> Result<Option<Query>, IndexError> {
    let Some(query) = query else {
        return Ok(None);
    };
    if query.len() != view.dims() {
        return Err(IndexError::Dimensions { expected: view.dims(), found: query.len() });
    }
    let mut query = query.to_vec();
    let has_form = view.metric.prepare(&mut query);
    Ok(has_form.then(|| Query::new(view.metric, query)))
}

/// Divides the rows that a search may hold in memory among the segments, in proportion to their rows.
fn share_memory(scans: &mut [SegmentScan]) {
    let held_rows = (memory::query_bytes() / CANDIDATE_BYTES) as u64;
    let rows: u64 = scans.iter().map(SegmentScan::rows).sum();
    for scan in scans {
        let share = (u128::from(held_rows) * u128::from(scan.rows()) / u128::from(rows.max(1))) as u64;
        scan.max_held_rows = share.max(MIN_HELD_ROWS) as usize;
    }
}
