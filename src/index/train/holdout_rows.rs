//! Calibration: measures the operating points of a segment with holdout queries.
//!
//! Holdout rows are added to the segment last, so it has all rows in the end. An external index already contains them;
//! they are unlinked temporarily instead. Calibration takes at most about a fifth of the build time; with less time, it
//! uses fewer queries.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::engine::{self, Builder, HoldoutQueries, Metric};
use crate::index::error::IndexError;
use crate::index::format::{PointRef, Tid};

/// Maximum number of queries: enough to measure recall to half a percent. In small tables, one of every
/// `ROWS_PER_QUERY` rows.
const MAX_QUERIES: usize = 1000;
const ROWS_PER_QUERY: u64 = 20;
/// Limit on the memory of the queries.
const MAX_QUERY_BYTES: usize = 4 << 20;
/// With fewer queries, the measurement would be noise.
const MIN_QUERIES: usize = 32;
/// Rows compared with the queries between two checks of the time.
const COMPARED_ROWS: usize = 1 << 14;
/// Limits on the share of the build time so far: for comparing, and for comparing and measuring together.
const COMPARING_PART: f64 = 0.1;
const CALIBRATION_PART: f64 = 0.2;
/// Minimum time for measuring: a fifth of a quick build is too short for a useful result.
const MIN_BUDGET: Duration = Duration::from_millis(300);
/// The same for imports: most of the work was done elsewhere, and a fifth of the remaining time is too short for the
/// long queues that a graph may need.
const MIN_IMPORT_BUDGET: Duration = Duration::from_secs(2);

/// Number of holdout queries for about `rows` rows of `dims` values.
pub fn wanted_queries(rows: u64, dims: usize) -> usize {
    let most = MAX_QUERIES.min(MAX_QUERY_BYTES / (4 * dims.max(1)));
    most.min(usize::try_from(rows / ROWS_PER_QUERY).unwrap_or(most))
}

/// The holdout rows of a segment, and their exact neighbours found so far.
pub struct HoldoutRows {
    chosen: HashSet<Tid>,
    sample: HoldoutQueries,
    rows: Vec<(Tid, Vec<f32>)>,
    /// Positions of holdout rows that the index already contains.
    held_positions: Vec<u64>,
    started: Instant,
    min_budget: Duration,
    comparing: Duration,
}

impl HoldoutRows {
    /// `chosen`: prepared rows of the future segment; `started`: start of the work on it.
    pub fn new(metric: Metric, dims: usize, chosen: Vec<(Tid, Vec<f32>)>, started: Instant) -> Self {
        let chosen = if chosen.len() < MIN_QUERIES { Vec::new() } else { chosen };
        let queries = chosen.iter().flat_map(|(_, row)| row.iter().copied()).collect();
        HoldoutRows {
            chosen: chosen.iter().map(|(tid, _)| *tid).collect(),
            sample: HoldoutQueries::new(metric, dims, queries),
            rows: Vec::new(),
            held_positions: Vec::new(),
            started,
            min_budget: MIN_BUDGET,
            comparing: Duration::ZERO,
        }
    }

    /// For an external index, which may already contain holdout rows: see [`HoldoutRows::hold_out_position`].
    pub fn for_import(self) -> Self {
        HoldoutRows { min_budget: MIN_IMPORT_BUDGET, ..self }
    }

    pub fn none(metric: Metric, dims: usize) -> Self {
        Self::new(metric, dims, Vec::new(), Instant::now())
    }

    /// Stores the row if it is a holdout row; false if it must be added to the index.
    pub fn hold_out(&mut self, tid: Tid, row: &[f32]) -> bool {
        let is_chosen = self.chosen.contains(&tid);
        if is_chosen {
            self.rows.push((tid, row.to_vec()));
        }
        is_chosen
    }

    /// Records the position if the index already contains this holdout row; false if it must be compared instead.
    pub fn hold_out_position(&mut self, tid: Tid, position: u64) -> bool {
        let is_chosen = self.chosen.contains(&tid);
        if is_chosen {
            self.held_positions.push(position);
        }
        is_chosen
    }

    /// Compares added rows with the queries. Runs on a worker thread.
    pub fn compare(&mut self, positions: &[u64], rows: &[f32]) -> Result<(), IndexError> {
        let dims = rows.len() / positions.len().max(1);
        for (positions, rows) in positions.chunks(COMPARED_ROWS).zip(rows.chunks(COMPARED_ROWS * dims.max(1)))
        {
            if self.sample.is_empty() {
                break;
            }
            let start = Instant::now();
            self.sample.add(positions, rows)?;
            self.comparing += start.elapsed();
            if self.comparing > self.started.elapsed().mul_f64(COMPARING_PART)
                && self.comparing > self.min_budget
                && self.sample.len() >= 2 * MIN_QUERIES
            {
                self.sample.truncate(self.sample.len() / 2);
            }
        }
        Ok(())
    }

    /// Measures the builder's operating points. Runs on a worker thread.
    pub fn calibrate(
        &self,
        builder: &Builder,
        dead: Option<&[u8]>,
        threads: usize,
    ) -> Result<Vec<PointRef>, IndexError> {
        let work = self.started.elapsed().saturating_sub(self.comparing);
        let budget = work.mul_f64(CALIBRATION_PART).saturating_sub(self.comparing).max(self.min_budget);
        let points = engine::calibrate(builder, &self.sample, dead, threads, budget)?;
        Ok(points.iter().map(PointRef::from).collect())
    }

    /// As `calibrate`, for an index that may already contain holdout rows: they are unlinked during the measurement.
    pub fn calibrate_with_holdout(
        &self,
        builder: &mut Builder,
        threads: usize,
    ) -> Result<Vec<PointRef>, IndexError> {
        if self.sample.is_empty() {
            return Ok(Vec::new());
        }
        let without = builder.hold_out(&self.held_positions)?;
        self.calibrate(&without, without.dead(), threads)
    }

    /// Time spent in `compare` so far.
    pub fn comparing(&self) -> Duration {
        self.comparing
    }

    /// The holdout rows, to be added to the index.
    pub fn release(self) -> Vec<(Tid, Vec<f32>)> {
        self.rows
    }
}
