//! The parameters of a search besides its query, and their values for one segment.

use std::rc::Rc;

use super::candidates::Candidates;
use crate::engine::{self, DEFAULT_RECALL, OperatingPoint, SearchParams};
use crate::index::format::PointRef;
use crate::index::segment::OpenedSegment;

/// Rows of the first round if the number of rows is unknown: a typical LIMIT with over-fetch.
pub const FIRST_ROUND_ROWS: usize = 64;
/// Rows returned in the end if their number is unknown: a typical LIMIT, and the k of measured recall.
const TYPICAL_K: usize = 10;
/// A round for more than 1 / this of a segment's rows ranks the whole segment instead.
const LARGEST_ROUND_PART: u64 = 8;
/// Over-fetch for lossy codes: candidates per wanted row that are re-ranked by exact distance from the table, unless
/// vekter.k_factor is set. Less than in FAISS's own refinement, because each candidate is a row to fetch.
const DEFAULT_K_FACTOR: f32 = 4.0;

/// The parameters of a search.
#[derive(Clone, Debug)]
pub struct Request {
    /// Estimate of the rows needed; the first round searches each segment for this many.
    pub wanted_rows: usize,
    /// Number of nearest rows to which the recall applies, if known.
    pub k: Option<usize>,
    pub params: SearchParams,
    /// The rows to search among; None: all. Others may be returned too.
    pub candidates: Option<Rc<Candidates>>,
    /// Largest distance of wanted rows; rows that exceed it only by rounding may be returned.
    pub radius: Option<f64>,
    /// Whether all rows will be read; they are then ranked by exact distance from the start.
    pub reads_all: bool,
    pub order: Order,
}

/// Treatment of rows that an approximate search finds after it has returned a farther one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// They are left out: PostgreSQL relies on the order of an index scan.
    Strict,
    /// They are returned late; the caller sorts.
    #[default]
    Relaxed,
}

impl Default for Request {
    /// Defaults of a plain ORDER BY scan.
    fn default() -> Self {
        Request {
            wanted_rows: FIRST_ROUND_ROWS,
            k: None,
            params: SearchParams::default(),
            candidates: None,
            radius: None,
            reads_all: false,
            order: Order::default(),
        }
    }
}

impl Request {
    /// A search for exactly `k` rows, but at least as many as calibration measured: with lossy codes, fewer candidates
    /// would give a lower recall.
    pub fn of(k: usize, params: SearchParams) -> Self {
        Request { wanted_rows: k.max(TYPICAL_K), k: Some(k), params, ..Request::default() }
    }
}

/// The search parameters for `k` rows of a segment: the requested ones, completed by those that reach the recall.
pub fn segment_params(points: &[PointRef], asked: &SearchParams, k: Option<usize>) -> SearchParams {
    let points: Vec<OperatingPoint> = points.iter().map(OperatingPoint::from).collect();
    let point = engine::choose(&points, asked.recall.unwrap_or(DEFAULT_RECALL));
    asked.or(point.map_or_else(SearchParams::default, |point| point.params_for(k.unwrap_or(TYPICAL_K))))
}

/// The number of candidates for a round of `wanted` rows, in a segment in which `live_rows` can be found; None if it is
/// so large that the whole segment is ranked instead.
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
