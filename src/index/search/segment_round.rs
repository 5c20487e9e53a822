//! One round of a cursor in one segment: FAISS's search, exact ranking of the rest, or rows without order.

use std::cmp::Reverse;

use super::cursor::Cursor;
use super::exact::ExactDistances;
use super::passes::{self, Nearest, Positions, Source};
use super::request::candidates;
use super::rounds::{Distance, Found, Query};
use crate::engine::{EngineError, Hit, Metric};
use crate::index::error::IndexError;
use crate::index::segment::OpenedSegment;
use crate::pg::take_interrupts;

/// Rows of a round of a search without order.
const UNORDERED_ROUND_ROWS: u64 = 4096;
/// Vector elements read from an index per call.
const READ_VALUES: usize = 64 << 10;

impl Cursor {
    pub(super) fn add_unordered(&mut self, at: usize) -> Result<(), IndexError> {
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

    pub(super) fn search_round(
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
    pub(super) fn rank_rest(
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
