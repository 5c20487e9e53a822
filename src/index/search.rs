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
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::candidates::{Among, Candidates};
use super::error::IndexError;
use super::first_round::FirstRounds;
use super::format::{PointRef, Tid};
use super::opened::OpenedSegment;
use super::{Snapshot, calibration, delta, retry};
use crate::engine::{DEFAULT_RECALL, EngineError, Hit, SearchParams};
use crate::failpoint;
use crate::pg::relation::Rel;

/// Rows that the first round asks for when nobody says how many are wanted: a typical LIMIT with some to spare.
pub const FIRST_ROUND_ROWS: usize = 64;
/// Rows that are read in the end when nobody says how many are wanted: a typical LIMIT, and what recall is measured by.
const TYPICAL_ROWS: usize = 10;
/// A round that would ask for more than this part of a segment ranks all of the segment instead.
const LARGEST_ROUND_PART: u64 = 8;
/// Candidates per wanted row that are ranked by exact distance from the table where codes are lossy, unless
/// vekter.k_factor says so. Less than where FAISS refines by itself, as each of them is a row to fetch.
const DEFAULT_K_FACTOR: f32 = 4.0;
/// Positions that one round of a search without order takes.
const UNORDERED_ROUND_ROWS: u64 = 4096;

/// What is asked of a search beside its query.
#[derive(Clone, Debug)]
pub struct Request {
    /// How many rows will probably be wanted: what the first round asks each segment for.
    pub wanted_rows: usize,
    /// How many of the nearest rows are to be found as surely as the recall says, where that is known.
    pub k: Option<usize>,
    pub params: SearchParams,
    /// What rows are to be found among; None: among all. Others may be found with them.
    pub candidates: Option<Rc<Candidates>>,
    /// Distance beyond which no row is wanted; those that are nearly as near may still come.
    pub radius: Option<f32>,
}

impl Default for Request {
    /// What nobody said anything about.
    fn default() -> Self {
        Request {
            wanted_rows: FIRST_ROUND_ROWS,
            k: None,
            params: SearchParams::default(),
            candidates: None,
            radius: None,
        }
    }
}

impl Request {
    /// For `k` rows and no more. Calibration measured what is found of the nearest ten: of lossy codes fewer candidates
    /// would find less.
    pub fn of(k: usize, params: SearchParams) -> Self {
        Request { wanted_rows: k.max(TYPICAL_ROWS), k: Some(k), params, ..Request::default() }
    }
}

/// What a search for `k` rows of a segment goes by: what was asked for, and else what reaches the recall.
pub fn segment_params(points: &[PointRef], asked: &SearchParams, k: Option<usize>) -> SearchParams {
    let recall = asked.recall.unwrap_or(DEFAULT_RECALL);
    asked.or(calibration::params_for(points, recall, k.unwrap_or(TYPICAL_ROWS)))
}

/// Exact distances from the table.
pub trait Rerank {
    /// Operator distance of the row at `tid`; None if no version of it is visible to the search.
    fn distance(&mut self, tid: Tid) -> Option<f32>;
}

/// A distance that sorts NaN last, as PostgreSQL does.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Distance(f32);

impl Eq for Distance {}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.partial_cmp(&other.0).unwrap_or_else(|| self.0.is_nan().cmp(&other.0.is_nan()))
    }
}

/// How far the search of one segment has come.
struct SegmentScan {
    opened: Arc<OpenedSegment>,
    /// The rows that may be found; None: all that live.
    among: Option<Among>,
    params: SearchParams,
    /// Rows that the next round asks for.
    round_rows: usize,
    /// No row that is still to come is nearer, as far as the last round could see.
    frontier: Distance,
    exhausted: bool,
    /// Where a search without order goes on.
    next_position: u64,
    /// What the first round finds, where that was searched for already.
    first_hits: Option<Vec<Hit>>,
}

/// The delta's rows with their distances, of which the nearest become candidates first.
struct DeltaScan {
    rows: Vec<(Distance, Tid)>,
    /// So many have become candidates, none of them farther than the others.
    taken: usize,
    round_rows: usize,
}

impl DeltaScan {
    /// As of a segment; None: exhausted.
    fn frontier(&self) -> Option<Distance> {
        let last = self.taken.checked_sub(1).map_or(Distance(f32::NEG_INFINITY), |last| self.rows[last].0);
        (self.taken < self.rows.len()).then_some(last)
    }

    /// Where in `rows` the next nearest are, the farthest of them last.
    fn next_round(&mut self) -> Range<usize> {
        let rest = &mut self.rows[self.taken..];
        let count = self.round_rows.min(rest.len());
        if count > 0 {
            rest.select_nth_unstable(count - 1);
        }
        let round = self.taken..self.taken + count;
        self.taken += count;
        self.round_rows = self.round_rows.saturating_mul(2);
        round
    }
}

impl SegmentScan {
    fn open(opened: Arc<OpenedSegment>, request: &Request) -> Result<Self, IndexError> {
        let among = request.candidates.as_ref().map(|candidates| candidates.among(&opened)).transpose()?;
        let exhausted = among.as_ref().is_some_and(|among| among.positions.is_empty());
        let mut params = segment_params(&opened.reference.points, &request.params, request.k);
        if among.is_some() {
            // The nearest of a few rows can be anywhere. To look at each of them costs less than to look for the list.
            params.nprobe = Some(opened.segment.index.lists().max(1));
            params.max_codes = None;
        }
        Ok(SegmentScan {
            opened,
            among,
            params,
            round_rows: request.wanted_rows.max(1),
            frontier: Distance(f32::NEG_INFINITY),
            exhausted,
            next_position: 0,
            first_hits: None,
        })
    }

    /// Rows that can be found.
    fn rows(&self) -> u64 {
        self.among.as_ref().map_or(self.opened.live_rows(), |among| among.positions.len() as u64)
    }

    /// Bitmap by position of the rows that must not be found.
    fn excluded(&mut self) -> Result<Option<&[u8]>, IndexError> {
        match &mut self.among {
            Some(among) => among.others(self.opened.segment.rows()).map(Some),
            None => Ok(self.opened.dead.as_deref()),
        }
    }
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
            let snapshot = Snapshot::open(rel)?;
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
        let delta = DeltaScan { rows: delta, taken: 0, round_rows: request.wanted_rows.max(1) };
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

/// How many candidates a round for `wanted` rows asks of a segment in which `live_rows` can be found; None: so many that all of it is ranked instead.
pub fn candidates(
    opened: &OpenedSegment,
    live_rows: u64,
    wanted: usize,
    params: &SearchParams,
) -> Option<usize> {
    let index = &opened.segment.index;
    let k_factor = if index.ranks_exactly() { 1.0 } else { params.k_factor.unwrap_or(DEFAULT_K_FACTOR) };
    let candidates = (wanted as f64 * f64::from(k_factor)).min(live_rows as f64) as usize;
    let is_too_much = !index.is_exhaustive() && candidates as u64 > live_rows / LARGEST_ROUND_PART;
    (!is_too_much).then_some(candidates.max(1))
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

/// Every row of the delta with its distance.
fn rank_delta(
    rel: Rel,
    snapshot: &Snapshot,
    query: Option<&[f32]>,
) -> Result<Vec<(Distance, Tid)>, IndexError> {
    let (mut found, mut distances) = (Vec::new(), Vec::new());
    delta::for_each_row(rel, &snapshot.meta, |tids, rows| {
        distances.clear();
        match query {
            Some(query) => snapshot.metric.distances(query, rows, &mut distances),
            None => distances.resize(tids.len(), 0.0),
        }
        found.try_reserve(tids.len())?;
        found.extend(distances.iter().map(|&distance| Distance(distance)).zip(tids.iter().copied()));
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::Distance;

    #[test]
    fn nan_sorts_behind_every_distance() {
        let mut distances = [Distance(f32::NAN), Distance(1.0), Distance(f32::INFINITY), Distance(-1.0)];
        distances.sort_unstable();
        assert_eq!(distances.map(|distance| distance.0)[..3], [-1.0, 1.0, f32::INFINITY]);
    }
}
