//! What is asked of a search beside its query, and what that comes to for a segment.

use std::rc::Rc;

use super::candidates::Candidates;
use crate::engine::{DEFAULT_RECALL, SearchParams};
use crate::index::format::PointRef;
use crate::index::segment::OpenedSegment;
use crate::index::train::calibration;

/// Rows that the first round asks for when nobody says how many are wanted: a typical LIMIT with some to spare.
pub const FIRST_ROUND_ROWS: usize = 64;
/// Rows that are read in the end when nobody says how many are wanted: a typical LIMIT, and what recall is measured by.
const TYPICAL_ROWS: usize = 10;
/// A round that would ask for more than this part of a segment ranks all of the segment instead.
const LARGEST_ROUND_PART: u64 = 8;
/// Candidates per wanted row that are ranked by exact distance from the table where codes are lossy, unless
/// vekter.k_factor says so. Less than where FAISS refines by itself, as each of them is a row to fetch.
const DEFAULT_K_FACTOR: f32 = 4.0;

/// What is asked.
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
    pub radius: Option<f64>,
    /// Whether all rows will be read: then they are ranked by exact distance from the start.
    pub reads_all: bool,
    pub order: Order,
}

/// What becomes of a row that an approximate search finds after it has returned a farther one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// It is left out: PostgreSQL relies on the order of an index scan.
    Strict,
    /// It is returned late. Whoever asks for it sorts.
    #[default]
    Relaxed,
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
            reads_all: false,
            order: Order::default(),
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
