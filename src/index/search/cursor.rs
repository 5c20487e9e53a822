//! The search cursor: rows in distance order, one after the other, for as long as somebody asks.
//!
//! An access method is not told the LIMIT or the filter, so the cursor works in rounds (as grows the number of rows
//! that a round asks FAISS for) and skips by position what it has seen. A candidate may leave once no segment can still
//! come up with a nearer one, which for each segment its *frontier* tells: the distance up to which its last search
//! went. When a segment's rounds have grown to a good part of it, the rest of it is ranked by exact distance; so a filtered
//! query returns its full LIMIT whatever FAISS can or cannot reach.
//!
//! What a cursor holds grows with the rows that it returns up to a limit. Beyond that it ranks the rest of a segment in
//! passes, each of which finds as many of the rows behind the last one as there is room for (`passes`); and of the rows
//! that it has returned before it remembers a bit each. Rust ends the process where memory cannot be had, so growing asks
//! first.
//!
//! An approximate index may find in a later round a row that it should have found in an earlier one. It is returned
//! then, late rather than never.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::many_queries::FirstRounds;
use super::passes::{self, Nearest, Positions, Source};
use super::request::{Request, candidates};
use super::rounds::{DeltaScan, Distance, SegmentScan, rank_delta};
use crate::engine::{EngineError, Hit, Metric};
use crate::failpoint;
use crate::index::error::IndexError;
use crate::index::format::Tid;
use crate::index::{Snapshot, retry};
use crate::pg::memory;
use crate::pg::relation::Rel;
use crate::pg::take_interrupts;

/// Positions that one round of a search without order takes.
const UNORDERED_ROUND_ROWS: u64 = 4096;
/// What a candidate takes for a moment: in FAISS's arrays, as hits, as what was found and among what is pending.
const CANDIDATE_BYTES: usize = 64;
/// A segment has room for so many rows at least: passes go through all of it.
const MIN_ROOM_ROWS: u64 = 1024;

/// Exact distances from the table.
pub trait Rerank {
    /// Operator distance of the row at `tid`; None if no version of it is visible to the search.
    fn distance(&mut self, tid: Tid) -> Option<f32>;
}

pub struct Cursor {
    /// In the form that is indexed; None: every row, in no order.
    query: Option<Vec<f32>>,
    metric: Metric,
    delta: DeltaScan,
    scans: Vec<SegmentScan>,
    /// Rows that were found and not returned. Each is once in the index, and once here.
    pending: BinaryHeap<Reverse<(Distance, Tid)>>,
    /// Where the cursor ends.
    end: Distance,
}

impl Cursor {
    /// `query`: None for a NULL query, whose distances are all NULL.
    pub fn open(rel: Rel, query: Option<&[f32]>, request: &Request) -> Result<Self, IndexError> {
        // Root and delta are read together: where a page of the delta was used again meanwhile, a new root leads on.
        let (snapshot, query, delta) = retry(|| {
            let snapshot = Snapshot::try_open(rel)?;
            let query = prepare(&snapshot, query)?;
            failpoint::reach("search.segments_opened");
            let delta = rank_delta(rel, &snapshot, query.as_deref())?;
            Ok((snapshot, query, delta))
        })?;
        failpoint::reach("search.delta_read");
        let metric = snapshot.metric;
        let scans = snapshot.segments.into_iter().map(|opened| SegmentScan::open(opened, request));
        Ok(Self::new(query, metric, delta, scans.collect::<Result<_, _>>()?, request))
    }

    /// A cursor whose first round is over: that of query `at` of `rounds`.
    pub fn continued(rounds: &FirstRounds, at: usize) -> Result<Self, IndexError> {
        let request = rounds.request();
        let mut delta = Vec::new();
        delta.try_reserve_exact(rounds.delta_rows())?;
        delta.extend(rounds.delta(at).map(|(distance, tid)| (Distance(distance), tid)));
        let scans = rounds.segments(at).map(|(opened, first_hits)| {
            Ok(SegmentScan { first_hits, ..SegmentScan::open(opened.clone(), request)? })
        });
        let scans = scans.collect::<Result<_, IndexError>>()?;
        let query = rounds.prepared(at).map(<[f32]>::to_vec);
        Ok(Self::new(query, rounds.metric(), delta, scans, request))
    }

    fn new(
        query: Option<Vec<f32>>,
        metric: Metric,
        mut delta: Vec<(Distance, Tid)>,
        mut scans: Vec<SegmentScan>,
        request: &Request,
    ) -> Self {
        if let Some(mut lookup) = request.candidates.as_ref().map(|candidates| candidates.lookup()) {
            delta.retain(|(_, tid)| lookup.contains(*tid));
        }
        let delta = DeltaScan::new(delta, request);
        let end = request.radius.map_or(f32::INFINITY, |radius| rounded_up(radius, query.as_deref()));
        share_room(&mut scans);
        Cursor { query, metric, delta, scans, pending: BinaryHeap::new(), end: Distance(end) }
    }

    /// The next row, or None when there are no more.
    pub fn next(&mut self, rerank: &mut dyn Rerank) -> Result<Option<Tid>, IndexError> {
        loop {
            let bound = self.frontiers().min();
            let nearest = self.pending.peek().map(|Reverse((distance, _))| *distance);
            match (nearest, bound) {
                (None, None) => return Ok(None),
                (nearest, bound) if self.is_behind_end(nearest) && self.is_behind_end(bound) => {
                    return Ok(None);
                }
                (Some(nearest), bound) if bound.is_none_or(|bound| nearest <= bound) => {
                    return Ok(self.pending.pop().map(|Reverse((_, tid))| tid));
                }
                (_, Some(bound)) => self.advance(bound, rerank)?,
                (Some(_), None) => unreachable!("without a bound every candidate may leave"),
            }
        }
    }

    fn is_behind_end(&self, distance: Option<Distance>) -> bool {
        distance.is_none_or(|distance| distance > self.end && self.end.0.is_finite())
    }

    /// The distances up to which what is not exhausted was searched.
    fn frontiers(&self) -> impl Iterator<Item = Distance> {
        let segments = self.scans.iter().filter(|scan| !scan.exhausted).map(|scan| scan.frontier);
        segments.chain(self.delta.frontier())
    }

    fn push(&mut self, distance: Distance, tid: Tid) -> Result<(), IndexError> {
        self.pending.try_reserve(1)?;
        self.pending.push(Reverse((distance, tid)));
        Ok(())
    }

    /// One more round for every segment that holds candidates back.
    fn advance(&mut self, bound: Distance, rerank: &mut dyn Rerank) -> Result<(), IndexError> {
        if self.delta.frontier().is_some_and(|frontier| frontier <= bound) {
            self.add_delta(rerank)?;
        }
        for at in 0..self.scans.len() {
            if self.scans[at].exhausted || self.scans[at].frontier > bound {
                continue;
            }
            pgrx::check_for_interrupts!();
            match self.query.take() {
                None => self.add_unordered(at)?,
                Some(query) => {
                    let outcome = self.search_round(at, &query, rerank);
                    self.query = Some(query);
                    outcome?;
                }
            }
        }
        Ok(())
    }

    fn add_delta(&mut self, rerank: &mut dyn Rerank) -> Result<(), IndexError> {
        let round = self.delta.next_round();
        for at in round {
            let (distance, tid) = self.delta.rows[at];
            // Without a query every row is as near as any other.
            if self.query.is_none() || self.metric.settles(distance.0) {
                self.push(distance, tid)?;
            } else if let Some(distance) = rerank.distance(tid) {
                self.push(Distance(distance), tid)?;
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
        scan.frontier = Distance(0.0);
        for position in positions.filter(|&position| !opened.is_dead(position)) {
            self.push(Distance(0.0), opened.segment.tid(position))?;
        }
        Ok(())
    }

    fn search_round(&mut self, at: usize, query: &[f32], rerank: &mut dyn Rerank) -> Result<(), IndexError> {
        if let Some(source) = self.scans[at].passes {
            return self.rank_pass(at, query, source, rerank).map(drop);
        }
        if self.scans[at].among.is_some() {
            if self.rank_pass(at, query, Source::Index, rerank)? {
                return Ok(());
            }
            let index = &self.scans[at].opened.segment.index;
            if !index.is_exhaustive() && index.lists() == 0 {
                // A graph has no short way to a few of its rows.
                return self.rank_rest(at, query, rerank);
            }
        }
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let (index, live_rows) = (&opened.segment.index, scan.rows());
        let exact = index.ranks_exactly();
        let wanted = scan.round_rows;
        // How many rows are wanted at first is for the caller to say.
        let has_room = |candidates: &usize| !scan.is_begun || *candidates <= scan.room_rows;
        let Some(candidates) = candidates(&opened, live_rows, wanted, &scan.params).filter(has_room) else {
            return self.rank_rest(at, query, rerank);
        };
        let params = scan.params;
        let hits = match scan.first_hits.take() {
            Some(hits) => hits,
            None => match index.search(query, candidates, &params, scan.excluded()?) {
                // A query so long that FAISS's sums would overflow.
                Err(EngineError::BadParameter { .. }) => {
                    return self.rank_pass(at, query, Source::Table, rerank).map(drop);
                }
                hits => not_interrupted(hits)?,
            },
        };
        scan.is_begun = true;
        scan.exhausted = hits.len() as u64 >= live_rows;
        scan.round_rows = wanted.saturating_mul(2);
        scan.params = index.widen(&scan.params);

        let rows = opened.segment.rows();
        let last_hit = hits.last().map(|hit| Distance(hit.distance));
        let mut found: Vec<(Distance, u64)> = Vec::new();
        found.try_reserve_exact(hits.len())?;
        for Hit { position, distance } in hits {
            if exact {
                match passes::exact_distance(scan, distance, position, rerank) {
                    Some(distance) => found.push((distance, position)),
                    None => drop(scan.seen.insert(position, rows)?),
                }
            } else if !scan.seen.contains(position) {
                // Rows that this search cannot see are done with: they need no second look.
                match rerank.distance(opened.segment.tid(position)) {
                    Some(distance) => found.push((Distance(distance), position)),
                    None => drop(scan.seen.insert(position, rows)?),
                }
            }
        }
        if !exact {
            found.sort_unstable();
        }
        // Of candidates by estimate only the nearest are safe to return; those behind wait for the next round.
        let safe = found.get(wanted - 1).or(found.last()).map(|(distance, _)| *distance);
        scan.frontier = if exact { last_hit } else { safe }.unwrap_or(Distance(f32::NEG_INFINITY));
        for (distance, position) in found {
            if self.scans[at].seen.insert(position, rows)? {
                self.push(distance, opened.segment.tid(position))?;
            }
        }
        // A search for all rows that did not bring them all will not do so the next time.
        if candidates as u64 >= live_rows && !self.scans[at].exhausted {
            return self.rank_rest(at, query, rerank);
        }
        Ok(())
    }

    /// Ranks every row of the segment that was not found yet by its exact distance.
    fn rank_rest(&mut self, at: usize, query: &[f32], rerank: &mut dyn Rerank) -> Result<(), IndexError> {
        let stores_rows = self.scans[at].opened.segment.index.stores_rows();
        if !(stores_rows && self.rank_pass(at, query, Source::Index, rerank)?) {
            self.rank_pass(at, query, Source::Table, rerank)?;
        }
        Ok(())
    }

    /// Finds the nearest of the rows that were not found yet: as many as there is room for. False: not in this way.
    fn rank_pass(
        &mut self,
        at: usize,
        query: &[f32],
        source: Source,
        rerank: &mut dyn Rerank,
    ) -> Result<bool, IndexError> {
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let mut nearest = Nearest::new(scan.last_ranked, scan.room_rows);
        if !passes::rank(scan, query, source, rerank, &mut nearest)? {
            return Ok(false);
        }
        let (rows, last, is_all) = nearest.finish();
        scan.passes = Some(source);
        scan.exhausted = is_all;
        scan.last_ranked = last;
        scan.frontier = last.map_or(scan.frontier, |(distance, _)| distance);
        if is_all {
            (scan.among, scan.seen) = (None, Positions::default());
        }
        self.pending.try_reserve(rows.len())?;
        let with_tid = |(distance, position)| Reverse((distance, opened.segment.tid(position)));
        self.pending.extend(rows.into_iter().map(with_tid));
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

/// A radius that rows within it do not exceed, however FAISS's sums and the operator's are rounded. The errors grow with
/// the products that are summed up: those of the query with itself are as good a measure as there is before the search.
fn rounded_up(radius: f32, query: Option<&[f32]>) -> f32 {
    let square: f32 = query.unwrap_or_default().iter().map(|value| value * value).sum();
    radius + 1e-4 * (radius.abs() + square.max(square.sqrt()))
}

/// The query in the form that is indexed. None where it has none: a zero vector under cosine is as far from one row as
/// from another.
fn prepare(snapshot: &Snapshot, query: Option<&[f32]>) -> Result<Option<Vec<f32>>, IndexError> {
    let Some(query) = query else {
        return Ok(None);
    };
    if query.len() != snapshot.dims() {
        return Err(IndexError::Dimensions { expected: snapshot.dims(), found: query.len() });
    }
    let mut query = query.to_vec();
    Ok(snapshot.metric.prepare(&mut query).then_some(query))
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
