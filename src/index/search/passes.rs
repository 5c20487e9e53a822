//! Ranks a whole segment in passes. Each pass finds the nearest rows after those of the previous pass, by distance and
//! position, so a search that continues to the end of a segment needs no more memory than one pass.

use std::collections::HashSet;

use super::exact::ExactDistances;
use super::rounds::{Distance, Query, SegmentScan};
use super::segment_round::not_interrupted;
use crate::engine::Metric;
use crate::index::error::IndexError;
use crate::pg::take_interrupts;

/// Rows whose distances are requested from an index at a time. Inverted lists read all their ids for each call.
const CHUNK_ROWS: usize = 64 << 10;
/// Elements of the rows that are read from an index at a time.
const CHUNK_VALUES: usize = 256 << 10;
/// A set of positions becomes a bitmap when it has more than 1 / this of the segment's rows, because the bitmap is then
/// smaller.
const SPARSE_PART: u64 = 128;

/// The rows by which a pass ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The segment's, which stores them uncompressed.
    Index,
    Table,
}

impl Source {
    /// Whether rows of `scan` are ranked by exact distances rather than by lower bounds.
    pub fn is_exact(self, scan: &SegmentScan) -> bool {
        self == Source::Table
            || (scan.among.is_none() && scan.opened.segment.index.metric() != Metric::Cosine)
    }
}

/// A set of positions of a segment.
pub enum Positions {
    Few(HashSet<u64>),
    Many(Vec<u64>),
}

impl Default for Positions {
    fn default() -> Self {
        Positions::Few(HashSet::new())
    }
}

impl Positions {
    pub fn contains(&self, position: u64) -> bool {
        match self {
            Positions::Few(positions) => positions.contains(&position),
            Positions::Many(words) => words[(position / 64) as usize] >> (position % 64) & 1 == 1,
        }
    }

    /// Adds a position of a segment with `rows` rows. False if it was already in the set.
    pub fn insert(&mut self, position: u64, rows: u64) -> Result<bool, IndexError> {
        if let Positions::Few(positions) = self
            && positions.len() as u64 > rows / SPARSE_PART
        {
            let mut words: Vec<u64> = Vec::new();
            let count = rows.div_ceil(64) as usize;
            words.try_reserve_exact(count)?;
            words.resize(count, 0);
            for position in &*positions {
                words[(position / 64) as usize] |= 1 << (position % 64);
            }
            *self = Positions::Many(words);
        }
        match self {
            Positions::Few(positions) => {
                positions.try_reserve(1)?;
                Ok(positions.insert(position))
            }
            Positions::Many(words) => {
                let (word, bit) = (&mut words[(position / 64) as usize], 1 << (position % 64));
                let is_new = *word & bit == 0;
                *word |= bit;
                Ok(is_new)
            }
        }
    }
}

/// A row as distance and position.
pub type Ranked = (Distance, u64);

/// Collects the nearest rows of one pass.
pub struct Nearest {
    /// The last row of the previous pass.
    after: Option<Ranked>,
    /// Limit on the rows of the pass.
    limit: usize,
    rows: Vec<Ranked>,
    /// Rows after this one are not among the nearest; None if no row has been dropped.
    last: Option<Ranked>,
}

impl Nearest {
    pub fn new(after: Option<Ranked>, limit: usize) -> Self {
        Nearest { after, limit: limit.max(1), rows: Vec::new(), last: None }
    }

    pub fn offer(&mut self, distance: Distance, position: u64) -> Result<(), IndexError> {
        let row = (distance, position);
        if self.after.is_some_and(|after| row <= after) || self.last.is_some_and(|last| row > last) {
            return Ok(());
        }
        self.rows.try_reserve(1)?;
        self.rows.push(row);
        if self.rows.len() >= 2 * self.limit {
            self.cut();
        }
        Ok(())
    }

    fn cut(&mut self) {
        if self.rows.len() > self.limit {
            let (_, last, _) = self.rows.select_nth_unstable(self.limit - 1);
            self.last = Some(*last);
            self.rows.truncate(self.limit);
        }
    }

    /// The rows, unordered; the last of them; and whether no row was dropped.
    pub fn finish(mut self) -> (Vec<Ranked>, Option<Ranked>, bool) {
        self.cut();
        let last = self.last.or_else(|| self.rows.iter().max().copied());
        (self.rows, last, self.last.is_none())
    }
}

/// Offers `nearest` every row of the segment that may be returned and has not been found: with its exact distance if
/// [`Source::is_exact`], else with a lower bound. False if the index cannot compute distances.
pub fn rank(
    scan: &SegmentScan,
    query: &Query,
    source: Source,
    exact: &mut dyn ExactDistances,
    nearest: &mut Nearest,
) -> Result<bool, IndexError> {
    let mut by_table = |position: u64| -> Result<(), IndexError> {
        take_interrupts();
        if !scan.seen.contains(position)
            && let Some(distance) = exact.at(scan.opened.segment.tid(position))
        {
            nearest.offer(Distance(distance), position)?;
        }
        Ok(())
    };
    match (source, &scan.among) {
        (Source::Table, Some(among)) => {
            among.positions.iter().try_for_each(|&position| by_table(position))?
        }
        (Source::Table, None) => scan.opened.live_positions().try_for_each(by_table)?,
        (Source::Index, Some(among)) => {
            return rank_positions(scan, query, &among.positions, exact, nearest);
        }
        (Source::Index, None) => rank_rows(scan, query, exact, nearest)?,
    }
    Ok(true)
}

/// A lower bound on the distance of a row for which FAISS computed `distance`; the exact distance if a sum may have
/// overflowed. None if the row is not visible to the search.
fn at_least(
    scan: &SegmentScan,
    query: &Query,
    (distance, position): (f32, u64),
    exact: &mut dyn ExactDistances,
) -> Option<Distance> {
    let segment = &scan.opened.segment;
    if segment.index.metric().settles(distance) {
        return Some(query.rounding.below(distance));
    }
    exact.at(segment.tid(position)).map(Distance)
}

fn rank_positions(
    scan: &SegmentScan,
    query: &Query,
    positions: &[u64],
    exact: &mut dyn ExactDistances,
    nearest: &mut Nearest,
) -> Result<bool, IndexError> {
    for chunk in positions.chunks(CHUNK_ROWS) {
        take_interrupts();
        let distances = not_interrupted(scan.opened.segment.index.distances_at(&query.prepared, chunk))?;
        let Some(distances) = distances else { return Ok(false) };
        for (&position, distance) in chunk.iter().zip(distances) {
            if !scan.seen.contains(position)
                && let Some(distance) = at_least(scan, query, (distance, position), exact)
            {
                nearest.offer(distance, position)?;
            }
        }
    }
    Ok(true)
}

/// Reads the rows in the index's order, which is the same in each pass, so that each row's distance is bit for bit the
/// same.
fn rank_rows(
    scan: &SegmentScan,
    query: &Query,
    exact: &mut dyn ExactDistances,
    nearest: &mut Nearest,
) -> Result<(), IndexError> {
    let index = &scan.opened.segment.index;
    let is_inserted_form = index.metric() != Metric::Cosine;
    let (mut distances, mut outcome) = (Vec::new(), Ok(()));
    let mut rank_chunk = |positions: &[u64], rows: &[f32]| -> Result<(), IndexError> {
        take_interrupts();
        distances.clear();
        if !is_inserted_form {
            distances.try_reserve(positions.len())?;
            index.metric().distances(&query.prepared, rows, &mut distances);
        }
        for (at, (&position, row)) in positions.iter().zip(rows.chunks_exact(index.dims())).enumerate() {
            if scan.opened.is_dead(position) || scan.seen.contains(position) {
                continue;
            }
            let distance = match is_inserted_form {
                true => Some(Distance(exact.of(row))),
                false => at_least(scan, query, (distances[at], position), exact),
            };
            if let Some(distance) = distance {
                nearest.offer(distance, position)?;
            }
        }
        Ok(())
    };
    let read = index.all_rows((CHUNK_VALUES / index.dims()).max(1), &mut |positions, rows| {
        outcome = rank_chunk(positions, rows);
        outcome.is_ok()
    });
    not_interrupted(read)?;
    outcome
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Distance, Nearest, Positions};

    /// All rows in passes of `limit`, each sorted.
    fn in_passes(rows: &[(Distance, u64)], limit: usize) -> Vec<(Distance, u64)> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let mut nearest = Nearest::new(after, limit);
            rows.iter().for_each(|&(distance, position)| nearest.offer(distance, position).unwrap());
            let (mut found, last, is_all) = nearest.finish();
            assert!(found.len() <= limit && found.capacity() <= 4 * limit.max(4));
            found.sort_unstable();
            assert_eq!(last.map(|row| row.1), found.last().map(|row| row.1));
            all.append(&mut found);
            if is_all {
                return all;
            }
            after = last;
        }
    }

    #[test]
    fn passes_give_each_row_once_and_in_order_whatever_their_length() {
        for count in [0u64, 1, 2, 7, 100, 1000] {
            // Many rows have equal distances, and some have none.
            let mut rows: Vec<(Distance, u64)> = (0..count)
                .map(|position| (Distance(((position * 7919) % 13) as f64), position))
                .map(|(distance, position)| {
                    (if position % 29 == 3 { Distance(f64::NAN) } else { distance }, position)
                })
                .collect();
            for limit in [1, 2, 3, 10, 99, 100, 101, 2000] {
                let found = in_passes(&rows, limit);
                rows.sort_unstable();
                let positions = |rows: &[(Distance, u64)]| rows.iter().map(|row| row.1).collect::<Vec<_>>();
                assert_eq!(positions(&found), positions(&rows), "{count} rows, {limit} at a time");
                rows.sort_unstable_by_key(|&(_, position)| position * 31 % 1009);
            }
        }
    }

    #[test]
    fn positions_are_remembered_by_few_and_by_many() {
        let rows = 10_001;
        let mut seen = Positions::default();
        for position in (0..rows).filter(|position| position % 3 == 0) {
            assert!(!seen.contains(position));
            assert!(seen.insert(position, rows).unwrap());
            assert!(!seen.insert(position, rows).unwrap());
        }
        assert!(matches!(seen, Positions::Many(_)));
        assert!((0..rows).all(|position| seen.contains(position) == (position % 3 == 0)));
    }
}
