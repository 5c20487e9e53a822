//! The search cursor: rows in distance order, one after the other, for as long as somebody asks.
//!
//! An access method is not told the LIMIT or the filter, so the cursor works in rounds (as grows the number of rows
//! that a round asks FAISS for) and skips by TID what it has seen. A candidate may leave once no segment can still
//! come up with a nearer one, which for each segment its *frontier* tells: the distance up to which its last search
//! went. When a segment's rounds have grown to a good part of it, the rest of it is ranked by exact distance from the
//! table; so a filtered query returns its full LIMIT whatever FAISS can or cannot reach.
//!
//! What a cursor remembers grows with the rows that it returns. Rust ends the process where memory cannot be had, so
//! growing asks first.
//!
//! An approximate index may find in a later round a row that it should have found in an earlier one. It is returned
//! then, late rather than never.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use super::error::IndexError;
use super::first_round::FirstRounds;
use super::format::Tid;
use super::request::{Request, candidates};
use super::rounds::{DeltaScan, Distance, SegmentScan, rank_delta};
use super::{Snapshot, retry};
use crate::engine::EngineError;
use crate::failpoint;
use crate::pg::relation::Rel;

/// Positions that one round of a search without order takes.
const UNORDERED_ROUND_ROWS: u64 = 4096;

/// Exact distances from the table.
pub trait Rerank {
    /// Operator distance of the row at `tid`; None if no version of it is visible to the search.
    fn distance(&mut self, tid: Tid) -> Option<f32>;
}

pub struct Cursor {
    /// In the form that is indexed; None: every row, in no order.
    query: Option<Vec<f32>>,
    delta: DeltaScan,
    scans: Vec<SegmentScan>,
    pending: BinaryHeap<Reverse<(Distance, Tid)>>,
    /// Everything that was ever pending.
    seen: HashSet<Tid>,
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
        let scans = snapshot.segments.into_iter().map(|opened| SegmentScan::open(opened, request));
        Ok(Self::new(query, delta, scans.collect::<Result<_, _>>()?, request))
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
        Ok(Self::new(rounds.prepared(at).map(<[f32]>::to_vec), delta, scans, request))
    }

    fn new(
        query: Option<Vec<f32>>,
        mut delta: Vec<(Distance, Tid)>,
        scans: Vec<SegmentScan>,
        request: &Request,
    ) -> Self {
        if let Some(mut lookup) = request.candidates.as_ref().map(|candidates| candidates.lookup()) {
            delta.retain(|(_, tid)| lookup.contains(*tid));
        }
        let delta = DeltaScan::new(delta, request);
        let end = request.radius.map_or(f32::INFINITY, |radius| rounded_up(radius, query.as_deref()));
        let (pending, seen) = Default::default();
        Cursor { query, delta, scans, pending, seen, end: Distance(end) }
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

    fn add(&mut self, distance: Distance, tid: Tid) -> Result<(), IndexError> {
        self.pending.try_reserve(1)?;
        if self.see(tid)? {
            self.pending.push(Reverse((distance, tid)));
        }
        Ok(())
    }

    /// Whether the row is new.
    fn see(&mut self, tid: Tid) -> Result<bool, IndexError> {
        self.seen.try_reserve(1)?;
        Ok(self.seen.insert(tid))
    }

    /// One more round for every segment that holds candidates back.
    fn advance(&mut self, bound: Distance, rerank: &mut dyn Rerank) -> Result<(), IndexError> {
        if self.delta.frontier().is_some_and(|frontier| frontier <= bound) {
            self.add_delta()?;
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

    fn add_delta(&mut self) -> Result<(), IndexError> {
        let round = self.delta.next_round();
        for at in round {
            let (distance, tid) = self.delta.rows[at];
            self.add(distance, tid)?;
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
            self.add(Distance(0.0), opened.segment.tid(position))?;
        }
        Ok(())
    }

    fn search_round(&mut self, at: usize, query: &[f32], rerank: &mut dyn Rerank) -> Result<(), IndexError> {
        if self.scans[at].among.is_some() {
            if self.rank_among(at, query)? {
                return Ok(());
            }
            let index = &self.scans[at].opened.segment.index;
            if !index.is_exhaustive() && index.lists() == 0 {
                // A graph has no short way to a few of its rows.
                return self.rank_all(at, rerank);
            }
        }
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let (index, live_rows) = (&opened.segment.index, scan.rows());
        let exact = index.ranks_exactly();
        let wanted = scan.round_rows;
        let Some(candidates) = candidates(&opened, live_rows, wanted, &scan.params) else {
            return self.rank_all(at, rerank);
        };
        let params = scan.params;
        let hits = match scan.first_hits.take() {
            Some(hits) => hits,
            None => match index.search(query, candidates, &params, scan.excluded()?) {
                // A query so long that FAISS's sums would overflow.
                Err(EngineError::BadParameter { .. }) => return self.rank_all(at, rerank),
                hits => not_interrupted(hits)?,
            },
        };
        scan.exhausted = hits.len() as u64 >= live_rows;
        scan.round_rows = wanted.saturating_mul(2);
        scan.params = index.widen(&scan.params);

        let mut found: Vec<(Distance, Tid)> = Vec::new();
        found.try_reserve_exact(hits.len())?;
        for hit in &hits {
            let tid = opened.segment.tid(hit.position);
            if exact {
                found.push((Distance(hit.distance), tid));
            } else if !self.seen.contains(&tid) {
                // Rows that this search cannot see are done with: they need no second look.
                match rerank.distance(tid) {
                    Some(distance) => found.push((Distance(distance), tid)),
                    None => drop(self.see(tid)?),
                }
            }
        }
        if !exact {
            found.sort_unstable();
        }
        // Of candidates by estimate only the nearest are safe to return; those behind wait for the next round.
        let frontier = if exact { found.last() } else { found.get(wanted - 1).or(found.last()) };
        self.scans[at].frontier = frontier.map_or(Distance(f32::NEG_INFINITY), |(distance, _)| *distance);
        for (distance, tid) in found {
            self.add(distance, tid)?;
        }
        // A search for all rows that did not bring them all will not do so the next time.
        if candidates as u64 >= live_rows && !self.scans[at].exhausted {
            return self.rank_all(at, rerank);
        }
        Ok(())
    }

    /// Ranks every row of the segment that was not found yet by its exact distance.
    fn rank_all(&mut self, at: usize, rerank: &mut dyn Rerank) -> Result<(), IndexError> {
        let opened = self.scans[at].opened.clone();
        self.scans[at].exhausted = true;
        let mut rank = |cursor: &mut Self, position| {
            pgrx::check_for_interrupts!();
            let tid = opened.segment.tid(position);
            if !cursor.seen.contains(&tid)
                && let Some(distance) = rerank.distance(tid)
            {
                cursor.add(Distance(distance), tid)?;
            }
            Ok(())
        };
        match self.scans[at].among.take() {
            Some(among) => among.positions.iter().try_for_each(|&position| rank(self, position)),
            None => opened.live_positions().try_for_each(|position| rank(self, position)),
        }
    }

    /// Ranks every candidate in the segment by its exact distance, if the segment holds its rows as they are.
    fn rank_among(&mut self, at: usize, query: &[f32]) -> Result<bool, IndexError> {
        let scan = &mut self.scans[at];
        let opened = scan.opened.clone();
        let Some(among) = &scan.among else {
            return Ok(false);
        };
        let Some(distances) = not_interrupted(opened.segment.index.distances_at(query, &among.positions))?
        else {
            return Ok(false);
        };
        let mut found: Vec<Reverse<(Distance, Tid)>> = Vec::new();
        found.try_reserve_exact(distances.len())?;
        let tids = among.positions.iter().map(|&position| opened.segment.tid(position));
        found.extend(distances.into_iter().map(Distance).zip(tids).map(Reverse));
        scan.exhausted = true;
        scan.among = None;
        if !self.seen.is_empty() {
            found.retain(|Reverse((_, tid))| !self.seen.contains(tid));
        }
        self.pending.try_reserve(found.len())?;
        // A live row is in one segment once, so that nobody needs to remember these.
        self.pending.append(&mut BinaryHeap::from(found));
        Ok(true)
    }
}

/// Raises PostgreSQL's own error where the engine was interrupted: PostgreSQL knows why.
fn not_interrupted<T>(outcome: Result<T, EngineError>) -> Result<T, EngineError> {
    if matches!(outcome, Err(EngineError::Interrupted)) {
        pgrx::check_for_interrupts!();
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
