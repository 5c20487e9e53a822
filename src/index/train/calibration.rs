//! Operating points of a segment: rows that are held back while it is made, as queries to measure it by.
//!
//! What is held back is added last, so that the segment has all its rows. Of an index that was made elsewhere and has them
//! already, they are hidden from searches instead. Calibration takes at most about a fifth of the build: with less time it
//! makes do with fewer queries.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::engine::{self, Builder, HoldoutQueries, Metric, OperatingPoint, SearchParams};
use crate::index::error::IndexError;
use crate::index::format::{PointRef, Tid};

/// Queries: with as many, recall is known to half a percent; and of few rows only every so many-th.
const MAX_QUERIES: usize = 1000;
const ROWS_PER_QUERY: u64 = 20;
/// What they may take.
const MAX_QUERY_BYTES: usize = 4 << 20;
/// Under this, what is measured is chance.
const MIN_QUERIES: usize = 32;
/// Rows that are compared with the queries between two looks at the clock.
const COMPARED_ROWS: usize = 1 << 14;
/// Parts of the time so far that comparing may take, and comparing and measuring together.
const COMPARING_PART: f64 = 0.1;
const CALIBRATION_PART: f64 = 0.2;
/// What measuring may always take: of a quick build, a fifth is too short for more than chance.
const MIN_BUDGET: Duration = Duration::from_millis(300);
/// The same where the rows come from elsewhere: the work that they took was done there, and a fifth of what is left here is
/// too short for queues as long as a graph may need.
const MIN_IMPORT_BUDGET: Duration = Duration::from_secs(2);

/// How many rows to hold back of about `rows` of `dims` values.
pub fn wanted_queries(rows: u64, dims: usize) -> usize {
    let most = MAX_QUERIES.min(MAX_QUERY_BYTES / (4 * dims.max(1)));
    most.min(usize::try_from(rows / ROWS_PER_QUERY).unwrap_or(most))
}

/// The rows that are held back, and what is known of their neighbours.
pub struct HeldBack {
    chosen: HashSet<Tid>,
    sample: HoldoutQueries,
    rows: Vec<(Tid, Vec<f32>)>,
    /// Positions of those that the index has already.
    hidden: Vec<u64>,
    started: Instant,
    min_budget: Duration,
    comparing: Duration,
}

impl HeldBack {
    /// `chosen`: prepared rows of the segment that is going to be made; `started`: when the work on it was.
    pub fn new(metric: Metric, dims: usize, chosen: Vec<(Tid, Vec<f32>)>, started: Instant) -> Self {
        let chosen = if chosen.len() < MIN_QUERIES { Vec::new() } else { chosen };
        let queries = chosen.iter().flat_map(|(_, row)| row.iter().copied()).collect();
        HeldBack {
            chosen: chosen.iter().map(|(tid, _)| *tid).collect(),
            sample: HoldoutQueries::new(metric, dims, queries),
            rows: Vec::new(),
            hidden: Vec::new(),
            started,
            min_budget: MIN_BUDGET,
            comparing: Duration::ZERO,
        }
    }

    /// Some of them may be rows that the index has already: see [`HeldBack::hides`].
    pub fn for_import(self) -> Self {
        HeldBack { min_budget: MIN_IMPORT_BUDGET, ..self }
    }

    pub fn none(metric: Metric, dims: usize) -> Self {
        Self::new(metric, dims, Vec::new(), Instant::now())
    }

    /// Takes a row that is to be held back; false: it is to be added.
    pub fn takes(&mut self, tid: Tid, row: &[f32]) -> bool {
        let is_chosen = self.chosen.contains(&tid);
        if is_chosen {
            self.rows.push((tid, row.to_vec()));
        }
        is_chosen
    }

    /// Whether a row that the index has at this position is a query, and so not one of the rows to compare.
    pub fn hides(&mut self, tid: Tid, position: u64) -> bool {
        let is_chosen = self.chosen.contains(&tid);
        if is_chosen {
            self.hidden.push(position);
        }
        is_chosen
    }

    /// Compares rows that were added with the queries. For a worker of FAISS.
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

    /// What the builder's parameters bring. For a worker of FAISS.
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

    /// The same of an index that may have queries among its rows already. It is as it was afterwards.
    pub fn calibrate_hiding(
        &self,
        builder: &mut Builder,
        threads: usize,
    ) -> Result<Vec<PointRef>, IndexError> {
        if self.sample.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = builder.hold_out(&self.hidden)?;
        self.calibrate(&hidden, hidden.dead(), threads)
    }

    /// What comparing has taken so far.
    pub fn comparing(&self) -> Duration {
        self.comparing
    }

    /// The rows that are still to be added.
    pub fn release(self) -> Vec<(Tid, Vec<f32>)> {
        self.rows
    }
}

impl From<&OperatingPoint> for PointRef {
    fn from(point: &OperatingPoint) -> Self {
        let whole = |value: Option<usize>| u32::try_from(value.unwrap_or(0)).unwrap_or(u32::MAX);
        PointRef {
            nprobe: whole(point.params.nprobe),
            ef_search: whole(point.params.ef_search),
            k_factor_hundredths: (point.params.k_factor.unwrap_or(0.0) * 100.0).round() as u32,
            recall_millionths: (point.recall.clamp(0.0, 1.0) * 1e6) as u32,
            cost_ns: (point.cost_us * 1e3) as u32,
        }
    }
}

impl From<&PointRef> for OperatingPoint {
    fn from(point: &PointRef) -> Self {
        let given = |value: u32| (value > 0).then_some(value as usize);
        OperatingPoint {
            params: SearchParams {
                nprobe: given(point.nprobe),
                ef_search: given(point.ef_search),
                k_factor: given(point.k_factor_hundredths).map(|hundredths| hundredths as f32 / 100.0),
                ..SearchParams::default()
            },
            recall: f64::from(point.recall_millionths) / 1e6,
            cost_us: f64::from(point.cost_ns) / 1e3,
        }
    }
}

/// What a search for `k` rows of a segment with these points goes by, for `recall` from 0 to 1.
pub fn params_for(points: &[PointRef], recall: f64, k: usize) -> SearchParams {
    let points: Vec<OperatingPoint> = points.iter().map(OperatingPoint::from).collect();
    engine::choose(&points, recall).map_or_else(SearchParams::default, |point| point.params_for(k))
}
