//! The search cursor: rows in the order of their exact distances, one after the other, for as long as somebody asks.
//!
//! The cursor works in rounds. Each asks FAISS for more rows than the last, and skips by position the rows that were
//! found before. A row is returned when no other can be nearer: of the rows that were found, the nearest is ranked by
//! its exact distance, which is read from the table where the index has it only up to rounding; of those that were not,
//! each segment tells a lower bound. When a segment's rounds have grown to a good part of it, the rest of it is ranked
//! by exact distance; so a filtered query returns its full LIMIT whatever FAISS can or cannot reach.
//!
//! What a cursor holds grows with the rows that it returns up to a limit. Beyond that it ranks the rest of a segment in
//! passes, each of which finds as many of the rows behind the last one as there is room for (`passes`); and of the rows
//! that it has returned before it remembers a bit each. Rust ends the process where memory cannot be had, so growing
//! asks first.
//!
//! The lower bound of an approximate index is not certain: a later round can find a row that an earlier one missed.
//! Such a row is too late where a farther one has been returned already. It is left out unless the request relaxes the
//! order, and from there on the cursor ranks by exact distance, so that no other row is too late. A request for all
//! rows ranks them so from the start, and misses none.

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

/// Positions that one round of a search without order takes.
const UNORDERED_ROUND_ROWS: u64 = 4096;
/// What a candidate takes for a moment: in FAISS's arrays, as hits, as what was found and among what is pending.
const CANDIDATE_BYTES: usize = 72;
/// A segment has room for so many rows at least: passes go through all of it.
const MIN_ROOM_ROWS: u64 = 1024;
/// Rows whose exact distances are read from the table at a time.
const SETTLED_ROWS: usize = 8;
/// Values of rows that are read of an index at a time.
const READ_VALUES: usize = 64 << 10;

pub struct Cursor {
    /// None: every row, in no order.
    query: Option<Query>,
    metric: Metric,
    delta: DeltaScan,
    scans: Vec<SegmentScan>,
    /// Rows that were found and not returned. Each is once in the index, and once here.
    pending: BinaryHeap<Reverse<Found>>,
    /// Of the row that was returned last.
    last: Distance,
    order: Order,
    reads_all: bool,
    /// Where the cursor ends.
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
        // Root and delta are read together: where a page of the delta was used again meanwhile, a new root leads on.
        let (snapshot, query, delta) = retry(|| {
            let snapshot = IndexView::try_open(rel)?;
            let query = prepare(&snapshot, query)?;
            failpoint::reach("search.segments_opened");
            let delta = rank_delta(rel, &snapshot, query.as_ref(), exact)?;
            Ok((snapshot, query, delta))
        })?;
        failpoint::reach("search.delta_read");
        let metric = snapshot.metric;
        let scans = snapshot.segments.into_iter().map(|opened| SegmentScan::open(opened, request));
        Ok(Self::new(query, metric, delta, scans.collect::<Result<_, _>>()?, request))
    }

    /// A cursor whose first round is over: that of query `at` of `rounds`.
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
        share_room(&mut scans);
        Cursor {
            metric,
            delta: DeltaScan::new(delta, request),
            scans,
            pending: BinaryHeap::new(),
            last: Distance(f64::NEG_INFINITY),
            order: request.order,
            reads_all: request.reads_all,
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

    /// The nearest row that was found, if its distance is exact and it is not too late; else what stood before it has
    /// moved.
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
        let mut unsettled = [row; SETTLED_ROWS];
        let mut count = 1;
        while let Some(Reverse(row)) = self.pending.peek().filter(|_| count < SETTLED_ROWS)
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

    /// Searches by approximation no more.
    pub fn rank_exactly(&mut self) {
        self.reads_all = true;
    }

    fn is_behind_end(&self, distance: Option<Distance>) -> bool {
        distance.is_none_or(|distance| distance > self.end && self.end.0.is_finite())
    }

    /// Lower bounds on the distances of rows not returned yet, of each part that has some.
    fn lower_bounds(&self) -> impl Iterator<Item = Distance> {
        let segments = self.scans.iter().filter(|scan| !scan.exhausted).map(|scan| scan.lower_bound);
        segments.chain(self.delta.lower_bound())
    }

    fn push(&mut self, row: Found) -> Result<(), IndexError> {
        self.pending.try_reserve(1)?;
        self.pending.push(Reverse(row));
        Ok(())
    }

    /// One more round for every segment that holds candidates back.
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
                    let outcome = match self.reads_all {
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
        // How many rows are wanted at first is for the caller to say.
        let has_room = |candidates: &usize| !scan.is_begun || *candidates <= scan.room_rows;
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
        // A search for all rows that did not bring them all will not do so the next time.
        if candidates as u64 >= live_rows && !self.scans[at].exhausted {
            return self.rank_rest(at, query, exact);
        }
        Ok(())
    }

    /// Takes over what a round has found, where it was not found before, and says how far the round has seen.
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
            // Rows that this search cannot see are done with as well: they need no second look.
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
            // Of candidates by estimate only the nearest are safe to return; those behind wait for the next round.
            let safe = found.get(wanted - 1).or(found.last()).map(|row| row.distance);
            scan.lower_bound = safe.unwrap_or(scan.lower_bound);
            return found.into_iter().try_for_each(|row| self.push(row));
        }
        // An index that compares all rows is certain of what it left out, up to rounding. Of another the round's last
        // row is as good a bound as any, and is not held back itself.
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
            // An inner product tells nothing of its rounding.
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

    /// Finds the nearest of the rows that were not found yet: as many as there is room for. False: not in this way.
    fn rank_pass(
        &mut self,
        at: usize,
        query: &Query,
        source: Source,
        exact: &mut dyn ExactDistances,
    ) -> Result<bool, IndexError> {
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let mut nearest = Nearest::new(scan.last_ranked, scan.room_rows);
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

/// Raises PostgreSQL's own error where the engine was interrupted: PostgreSQL knows why.
pub(super) fn not_interrupted<T>(outcome: Result<T, EngineError>) -> Result<T, EngineError> {
    if matches!(outcome, Err(EngineError::Interrupted)) {
        take_interrupts();
    }
    outcome
}

/// A distance that rows within the radius do not exceed, however the sums of who compares them with it are rounded. The
/// errors grow with the products that are summed up: those of the query with itself are as good a measure as there is
/// before the search.
fn beyond(radius: f64, query: Option<&Query>) -> f64 {
    let values = query.map_or(&[][..], |query| &query.prepared);
    let square: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    radius + 1e-4 * (radius.abs() + square.max(square.sqrt()))
}

/// The query in the form that is indexed. None where it has none: a zero vector under cosine is as far from one row as
/// from another.
fn prepare(snapshot: &IndexView, query: Option<&[f32]>) -> Result<Option<Query>, IndexError> {
    let Some(query) = query else {
        return Ok(None);
    };
    if query.len() != snapshot.dims() {
        return Err(IndexError::Dimensions { expected: snapshot.dims(), found: query.len() });
    }
    let mut query = query.to_vec();
    let has_form = snapshot.metric.prepare(&mut query);
    Ok(has_form.then(|| Query::new(snapshot.metric, query)))
}

/// Gives each segment its part of the rows that a search may hold, by its rows.
fn share_room(scans: &mut [SegmentScan]) {
    let room_rows = (memory::query_bytes() / CANDIDATE_BYTES) as u64;
    let rows: u64 = scans.iter().map(SegmentScan::rows).sum();
    for scan in scans {
        let share = (u128::from(room_rows) * u128::from(scan.rows()) / u128::from(rows.max(1))) as u64;
        scan.room_rows = share.max(MIN_ROOM_ROWS) as usize;
    }
}
