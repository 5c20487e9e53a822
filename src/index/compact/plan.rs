//! Which segments compaction merges next: a size-tiered log-structured merge tree, as in Cassandra or Lucene.
//!
//! Segments of one tier (`format::Tiers`) have about as many rows; when there are `MERGE_WIDTH` of them they become one,
//! and those of lower tiers go along. So there are at most `MERGE_WIDTH - 1` for each power of `TIER_FACTOR`, and a row
//! is written again O(log n) times.

use crate::index::format::{SMALL_SEGMENT_ROWS, SegmentRef, Tiers};
use crate::index::train::{ChosenFactory, FactoryOption, UNTRAINED_FACTORY};

/// Segments of one tier that are merged into one.
const MERGE_WIDTH: usize = 4;
/// A segment with more than this share of dead rows is written anew.
const MAX_DEAD_PERCENT: u64 = 25;
/// A segment with no more than this share of dead rows may be added to instead: its dead go along.
const MAX_DEAD_PERCENT_OF_BASE: u64 = 10;
/// The quantiser is trained again when the index has grown so many times since.
const RETRAIN_GROWTH: u64 = 10;
/// FAISS's imbalance factor (faiss/invlists/InvertedLists.cpp: 1 for lists of one length; a search costs so many times
/// more than then) above which lists are badly unbalanced, if it has also doubled since training.
const MAX_IMBALANCE_PERCENT: u32 = 400;
const MAX_IMBALANCE_GROWTH: u32 = 2;

/// How much compaction is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// What keeps the number of segments and of dead rows small.
    Tiers,
    /// One segment without dead rows.
    Everything,
}

/// What is out of the question for now: it was tried, or cannot be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Quantisers may be trained again.
    pub retrains: bool,
    /// Segments of this tier and above are left alone.
    pub below_tier: u32,
}

impl Limits {
    pub const NONE: Limits = Limits { retrains: true, below_tier: u32::MAX };

    /// Without a plan that came to nothing, and all like it.
    #[must_use]
    pub fn without(self, failed: &Plan, segments: &[SegmentRef], tiers: Tiers) -> Self {
        if failed.retrain {
            return Limits { retrains: false, ..self };
        }
        let highest = failed.sources.iter().map(|&at| tiers.tier(segments[at].live_rows())).max();
        Limits { below_tier: highest.unwrap_or(0), ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Positions in the manifest.
    pub sources: Vec<usize>,
    /// The source whose FAISS index the others' rows are added to, dead rows and all; None: a new one is built.
    pub base: Option<usize>,
    /// Factory string of the result, and why `auto` chose it.
    pub factory: String,
    pub reason: String,
    /// Train on the rows, even if a segment has a quantiser for this factory.
    pub retrain: bool,
    /// Live rows.
    pub rows: u64,
}

/// The next merge, or None if all is as it should be. `imbalance_percent`: of each segment's lists now, 0 where it has
/// none.
pub fn next(
    segments: &[SegmentRef],
    imbalance_percent: &[u32],
    tiers: Tiers,
    option: &FactoryOption,
    effort: Effort,
    limits: Limits,
) -> Option<Plan> {
    let total_rows = live_rows(segments, 0..segments.len());
    let retrain = limits.retrains && needs_training(segments, imbalance_percent, total_rows);
    let sources: Vec<usize> = match effort {
        Effort::Everything => {
            let is_done = segments.len() == 1
                && segments[0].dead_rows == 0
                && segments[0].factory == option.choose_again(segments, &[0], total_rows, retrain).factory;
            if is_done && !retrain { Vec::new() } else { (0..segments.len()).collect() }
        }
        Effort::Tiers if retrain => (0..segments.len()).collect(),
        Effort::Tiers => {
            let with_tiers: Vec<(&SegmentRef, u32)> =
                segments.iter().map(|segment| (segment, tiers.tier(segment.live_rows()))).collect();
            full_tier(&with_tiers, limits).or_else(|| mostly_dead(&with_tiers, limits)).unwrap_or_default()
        }
    };
    if sources.is_empty() {
        return None;
    }
    let rows = live_rows(segments, sources.iter().copied());
    // A small segment is Flat, unless the user asked for one segment; a larger one is what the index is to be.
    let ChosenFactory { factory, reason } = match effort {
        Effort::Tiers if rows < SMALL_SEGMENT_ROWS => {
            ChosenFactory { factory: UNTRAINED_FACTORY.into(), reason: String::new() }
        }
        _ => option.choose_again(segments, &sources, rows, retrain),
    };
    let keeps_dead = effort == Effort::Tiers;
    let base = if retrain { None } else { base(segments, &sources, &factory, keeps_dead) };
    Some(Plan { sources, base, factory, reason, retrain, rows })
}

fn live_rows(segments: &[SegmentRef], which: impl IntoIterator<Item = usize>) -> u64 {
    which.into_iter().map(|at| segments[at].live_rows()).sum()
}

/// Whether the newest quantiser is out of date.
fn needs_training(segments: &[SegmentRef], imbalance_percent: &[u32], total_rows: u64) -> bool {
    let trained = segments.iter().zip(imbalance_percent).filter(|(segment, _)| segment.trained_rows > 0);
    // Of those that share it the largest: in a small one lists are uneven by chance.
    let newest = trained.max_by_key(|(segment, _)| (segment.trained_rows, segment.live_rows()));
    newest.is_some_and(|(segment, &imbalance)| {
        let has_grown = total_rows >= segment.trained_rows.saturating_mul(RETRAIN_GROWTH);
        let at_training = segment.trained_imbalance_percent;
        let is_unbalanced =
            imbalance > MAX_IMBALANCE_PERCENT && imbalance > at_training.saturating_mul(MAX_IMBALANCE_GROWTH);
        has_grown || is_unbalanced
    })
}

/// The segments of the highest tier that is full, and of those below it.
fn full_tier(segments: &[(&SegmentRef, u32)], limits: Limits) -> Option<Vec<usize>> {
    let tiers = || segments.iter().map(|&(_, tier)| tier);
    let is_full = |&tier: &u32| {
        tier < limits.below_tier && tiers().filter(|&other| other == tier).count() >= MERGE_WIDTH
    };
    let full = tiers().filter(is_full).max()?;
    Some((0..segments.len()).filter(|&at| segments[at].1 <= full).collect())
}

/// The segment with the most dead rows, if they are too many.
fn mostly_dead(segments: &[(&SegmentRef, u32)], limits: Limits) -> Option<Vec<usize>> {
    let has_too_many = |segment: &SegmentRef| segment.dead_rows * 100 > segment.rows * MAX_DEAD_PERCENT;
    let is_candidate = |&at: &usize| segments[at].1 < limits.below_tier && has_too_many(segments[at].0);
    let worst = (0..segments.len()).filter(is_candidate).max_by_key(|&at| segments[at].0.dead_rows)?;
    Some(vec![worst])
}

/// The largest source, if the result can grow from it.
fn base(segments: &[SegmentRef], sources: &[usize], factory: &str, keeps_dead: bool) -> Option<usize> {
    let largest = sources.iter().copied().max_by_key(|&at| segments[at].live_rows())?;
    let segment = &segments[largest];
    let max_dead_percent = if keeps_dead { MAX_DEAD_PERCENT_OF_BASE } else { 0 };
    let has_few_dead = segment.dead_rows * 100 <= segment.rows * max_dead_percent;
    (sources.len() > 1 && segment.factory == factory && has_few_dead).then_some(largest)
}

#[cfg(test)]
mod tests;
