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
use super::passes::{self, Nearest, Positions, Source};
use super::request::{Order, Request, candidates};
use super::rounds::{DeltaScan, Distance, Found, Query, SegmentScan, rank_delta};
use crate::engine::{EngineError, Hit, Metric};
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::segment::OpenedSegment;
use crate::index::{IndexView, retry};
use crate::pg::memory;
use crate::pg::relation::Rel;
use crate::pg::take_interrupts;

/// Rows of a round of a search without order.
const UNORDERED_ROUND_ROWS: u64 = 4096;
/// Peak memory of one candidate: in FAISS's arrays, as `Hit`, as `Found` and in `pending`.
const CANDIDATE_BYTES: usize = 72;
/// Minimum of a segment's `max_held_rows`, because every pass reads the whole segment.
const MIN_HELD_ROWS: u64 = 1024;
/// Rows whose exact distances are read from the table at a time.
const EXACT_BATCH_ROWS: usize = 8;
/// Vector elements read from an index per call.
const READ_VALUES: usize = 64 << 10;
/// Relative margin of a radius for rounding errors of distances.
const RADIUS_MARGIN: f64 = 1e-4;

pub struct Cursor {
    /// None: every row, in no order.
    query: Option<Query>,
    metric: Metric,
    delta: DeltaScan,
    scans: Vec<SegmentScan>,
    /// Rows that were found and not returned yet, each once.
    pending: BinaryHeap<Reverse<Found>>,
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
    /// was dropped, or the lower bounds of up to [`EXACT_BATCH_ROWS`] pending rows became exact distances; the caller
    /// looks at
    /// `pending` again.
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

    fn push(&mut self, row: Found) -> Result<(), IndexError> {
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

    fn add_unordered(&mut self, at: usize) -> Result<(), IndexError> {
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let end = opened.segment.rows().min(scan.next_position + UNORDERED_ROUND_ROWS);
        let positions = scan.next_position..end;
        scan.next_position = end;
        scan.exhausted = end == opened.segment.rows();
        scan.lower_bound = Distance(0.0);
        for position in positions.filter(|&position| !opened.is_dead(position)) {
            self.push(Found::in_no_order(opened.segment.tid(position)))?;
        }
        Ok(())
    }

    fn search_round(
        &mut self,
        at: usize,
        query: &Query,
        exact: &mut dyn ExactDistances,
    ) -> Result<(), IndexError> {
        if let Some(source) = self.scans[at].passes {
            return self.rank_pass(at, query, source, exact).map(drop);
        }
        if self.scans[at].among.is_some() {
            if self.rank_pass(at, query, self.scans[at].candidates_source(), exact)? {
                return Ok(());
            }
            let index = &self.scans[at].opened.segment.index;
            if !index.is_exhaustive() && index.lists() == 0 {
                // A graph has no short way to a few of its rows.
                return self.rank_rest(at, query, exact);
            }
        }
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let (index, live_rows) = (&opened.segment.index, scan.rows());
        let wanted = scan.round_rows;
        // `max_held_rows` does not limit the first round: the caller chooses its size.
        let has_room = |candidates: &usize| !scan.is_begun || *candidates <= scan.max_held_rows;
        let Some(candidates) = candidates(&opened, live_rows, wanted, &scan.params).filter(has_room) else {
            return self.rank_rest(at, query, exact);
        };
        let params = scan.params;
        let hits = match scan.first_hits.take() {
            Some(hits) => hits,
            None => match index.search(&query.prepared, candidates, &params, scan.excluded()?) {
                // A query so long that FAISS's sums would overflow.
                Err(EngineError::BadParameter { .. }) => {
                    return self.rank_pass(at, query, Source::Table, exact).map(drop);
                }
                hits => not_interrupted(hits)?,
            },
        };
        scan.is_begun = true;
        scan.exhausted = hits.len() as u64 >= live_rows;
        scan.round_rows = wanted.saturating_mul(2);
        scan.params = index.widen(&scan.params);
        self.add_hits(at, query, &hits, wanted, exact)?;
        // FAISS returned fewer rows than all, which this round requested; a repetition would not return more.
        if candidates as u64 >= live_rows && !self.scans[at].exhausted {
            return self.rank_rest(at, query, exact);
        }
        Ok(())
    }

    /// Adds the new hits of a round to `pending` and updates the segment's lower bound.
    fn add_hits(
        &mut self,
        at: usize,
        query: &Query,
        hits: &[Hit],
        wanted: usize,
        exact: &mut dyn ExactDistances,
    ) -> Result<(), IndexError> {
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let (index, rows) = (&opened.segment.index, opened.segment.rows());
        let mut new: Vec<Hit> = Vec::new();
        new.try_reserve_exact(hits.len())?;
        for hit in hits {
            // Rows that are not visible to this search count as seen, so they are not looked at again.
            if scan.seen.insert(hit.position, rows)? {
                new.push(*hit);
            }
        }
        if !index.ranks_exactly() {
            let ranked = |hit: &Hit| {
                let tid = opened.segment.tid(hit.position);
                exact.at(tid).map(|distance| Found::exact(distance, tid))
            };
            let mut found: Vec<Found> = new.iter().filter_map(ranked).collect();
            found.sort_unstable();
            // With approximate distances, FAISS may have missed rows beyond the `wanted` nearest.
            let safe = found.get(wanted - 1).or(found.last()).map(|row| row.distance);
            scan.lower_bound = safe.unwrap_or(scan.lower_bound);
            return found.into_iter().try_for_each(|row| self.push(row));
        }
        // An exhaustive index found all nearer rows, so its bound is certain, up to rounding. For others, the last hit
        // is an estimate, rounded up so that the last hit itself can be returned.
        let last = hits.last().map(|hit| match index.is_exhaustive() {
            true => query.rounding.below(hit.distance),
            false => query.rounding.above(hit.distance),
        });
        scan.lower_bound = last.unwrap_or(Distance(f64::NEG_INFINITY));
        if index.stores_rows() && index.lists() == 0 && self.metric != Metric::Cosine {
            return self.add_by_rows(&opened, &new, exact);
        }
        for hit in new {
            let tid = opened.segment.tid(hit.position);
            // The bound on an inner product's rounding holds for rows of the query's length only.
            if self.metric == Metric::InnerProduct {
                if let Some(distance) = exact.at(tid) {
                    self.push(Found::exact(distance, tid))?;
                }
            } else {
                self.push(Found::computed(query, self.metric, hit.distance, tid))?;
            }
        }
        Ok(())
    }

    /// Adds rows by the exact distances of their values, which the index has by position.
    fn add_by_rows(
        &mut self,
        opened: &OpenedSegment,
        hits: &[Hit],
        exact: &dyn ExactDistances,
    ) -> Result<(), IndexError> {
        let index = &opened.segment.index;
        let (mut positions, mut values) = (Vec::new(), Vec::new());
        for chunk in hits.chunks((READ_VALUES / index.dims()).max(1)) {
            positions.clear();
            positions.extend(chunk.iter().map(|hit| hit.position));
            values.clear();
            values.try_reserve(chunk.len() * index.dims())?;
            index.rows_at(&positions, &mut values)?;
            for (&position, row) in positions.iter().zip(values.chunks_exact(index.dims())) {
                self.push(Found::exact(exact.of(row), opened.segment.tid(position)))?;
            }
        }
        Ok(())
    }

    /// Ranks every row of the segment that was not found yet by its exact distance.
    fn rank_rest(
        &mut self,
        at: usize,
        query: &Query,
        exact: &mut dyn ExactDistances,
    ) -> Result<(), IndexError> {
        let scan = &self.scans[at];
        let source = scan.passes.unwrap_or(match scan.opened.segment.index.stores_rows() {
            true => Source::Index,
            false => Source::Table,
        });
        if !self.rank_pass(at, query, source, exact)? {
            self.rank_pass(at, query, Source::Table, exact)?;
        }
        Ok(())
    }

    /// One pass: finds the nearest rows not found yet, at most `max_held_rows`. False: the source cannot provide
    /// distances by position.
    fn rank_pass(
        &mut self,
        at: usize,
        query: &Query,
        source: Source,
        exact: &mut dyn ExactDistances,
    ) -> Result<bool, IndexError> {
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let mut nearest = Nearest::new(scan.last_ranked, scan.max_held_rows);
        if !passes::rank(scan, query, source, exact, &mut nearest)? {
            return Ok(false);
        }
        let is_exact = source.is_exact(scan);
        let (rows, last, is_all) = nearest.finish();
        scan.passes = Some(source);
        scan.exhausted = is_all;
        scan.last_ranked = last;
        scan.lower_bound = last.map_or(scan.lower_bound, |(distance, _)| distance);
        if is_all {
            (scan.among, scan.seen) = (None, Positions::default());
        }
        self.pending.try_reserve(rows.len())?;
        let found = |(distance, position)| Found { distance, is_exact, tid: opened.segment.tid(position) };
        self.pending.extend(rows.into_iter().map(|row| Reverse(found(row))));
        Ok(true)
    }
}

/// If the engine was interrupted, lets PostgreSQL raise the error of the pending cancel or shutdown.
pub(super) fn not_interrupted<T>(outcome: Result<T, EngineError>) -> Result<T, EngineError> {
    if matches!(outcome, Err(EngineError::Interrupted)) {
        take_interrupts();
    }
    outcome
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
