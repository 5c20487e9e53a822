//! Chooses the segments of the next merge: a size-tiered log-structured merge tree, as in Cassandra or Lucene.
//!
//! Segments of one tier (`format::Tiers`) have a similar number of rows. When a tier has `MERGE_WIDTH` segments, they
//! are merged into one together with those of all lower tiers. So there are at most `MERGE_WIDTH - 1` segments for each
//! power of `TIER_FACTOR`, and a row is rewritten O(log n) times.

use crate::index::format::{SMALL_SEGMENT_ROWS, SegmentRef, Tiers};
use crate::index::train::{ChosenFactory, RequestedFactory, UNTRAINED_FACTORY};

/// Number of segments that fills a tier.
const MERGE_WIDTH: usize = 4;
/// A segment with a larger share of dead rows is rewritten.
const MAX_DEAD_PERCENT: u64 = 25;
/// Largest share of dead rows in a segment that is used as base, which keeps its dead rows.
const MAX_DEAD_PERCENT_OF_BASE: u64 = 10;
/// The quantiser is retrained after the index has grown by this factor.
const RETRAIN_GROWTH: u64 = 10;
/// Limit on FAISS's imbalance factor (faiss/invlists/InvertedLists.cpp: 1 for lists of equal length; the cost of a
/// search is proportional to it). The quantiser is retrained if the factor is above this limit and has doubled since
/// training.
const MAX_IMBALANCE_PERCENT: u32 = 400;
const MAX_IMBALANCE_GROWTH: u32 = 2;

/// The goal of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Bound the number of segments and the share of dead rows.
    Tiers,
    /// One segment without dead rows.
    Everything,
}

/// Merges that are excluded for now because they failed or are impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Whether quantisers may be retrained.
    pub retrains: bool,
    /// Only segments below this tier are merged.
    pub below_tier: u32,
}

impl Limits {
    pub const NONE: Limits = Limits { retrains: true, below_tier: u32::MAX };

    /// The same limits without a plan that failed and similar ones.
    #[must_use]
    pub fn without(self, failed: &MergePlan, segments: &[SegmentRef], tiers: Tiers) -> Self {
        if failed.retrain {
            return Limits { retrains: false, ..self };
        }
        let highest = failed.sources.iter().map(|&at| tiers.tier(segments[at].live_rows())).max();
        Limits { below_tier: highest.unwrap_or(0), ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergePlan {
    /// Positions in the manifest.
    pub sources: Vec<usize>,
    /// The source that the others' rows are added to, dead rows included; None: build a new index.
    pub base: Option<usize>,
    /// Factory string of the result, and why `auto` chose it.
    pub factory: String,
    pub reason: String,
    /// Train a new quantiser even if a segment has one for this factory.
    pub retrain: bool,
    /// Live rows of the sources.
    pub rows: u64,
}

/// The next merge, or None if none is due. `imbalance_percent`: current imbalance factor of each segment's lists, 0 if
/// it has none.
pub fn next(
    segments: &[SegmentRef],
    imbalance_percent: &[u32],
    tiers: Tiers,
    option: &RequestedFactory,
    goal: Goal,
    limits: Limits,
) -> Option<MergePlan> {
    let total_rows = live_rows(segments, 0..segments.len());
    let retrain = limits.retrains && needs_training(segments, imbalance_percent, total_rows);
    let sources: Vec<usize> = match goal {
        Goal::Everything => {
            let is_done = segments.len() == 1
                && segments[0].dead_rows == 0
                && segments[0].factory == option.choose_again(segments, &[0], total_rows, retrain).factory;
            if is_done && !retrain { Vec::new() } else { (0..segments.len()).collect() }
        }
        Goal::Tiers if retrain => (0..segments.len()).collect(),
        Goal::Tiers => {
            let with_tiers: Vec<(&SegmentRef, u32)> =
                segments.iter().map(|segment| (segment, tiers.tier(segment.live_rows()))).collect();
            full_tier(&with_tiers, limits).or_else(|| mostly_dead(&with_tiers, limits)).unwrap_or_default()
        }
    };
    if sources.is_empty() {
        return None;
    }
    let rows = live_rows(segments, sources.iter().copied());
    // A small segment is Flat, unless the user asked for one segment; a larger one has the index's factory.
    let ChosenFactory { factory, reason } = match goal {
        Goal::Tiers if rows < SMALL_SEGMENT_ROWS => {
            ChosenFactory { factory: UNTRAINED_FACTORY.into(), reason: String::new() }
        }
        _ => option.choose_again(segments, &sources, rows, retrain),
    };
    let keeps_dead = goal == Goal::Tiers;
    let base = if retrain { None } else { base(segments, &sources, &factory, keeps_dead) };
    Some(MergePlan { sources, base, factory, reason, retrain, rows })
}

fn live_rows(segments: &[SegmentRef], which: impl IntoIterator<Item = usize>) -> u64 {
    which.into_iter().map(|at| segments[at].live_rows()).sum()
}

/// Whether the newest quantiser is out of date.
fn needs_training(segments: &[SegmentRef], imbalance_percent: &[u32], total_rows: u64) -> bool {
    let trained = segments.iter().zip(imbalance_percent).filter(|(segment, _)| segment.trained_rows > 0);
    // Among segments that share it, look at the largest: in a small one, lists are uneven by chance.
    let newest = trained.max_by_key(|(segment, _)| (segment.trained_rows, segment.live_rows()));
    newest.is_some_and(|(segment, &imbalance)| {
        let has_grown = total_rows >= segment.trained_rows.saturating_mul(RETRAIN_GROWTH);
        let at_training = segment.trained_imbalance_percent;
        let is_unbalanced =
            imbalance > MAX_IMBALANCE_PERCENT && imbalance > at_training.saturating_mul(MAX_IMBALANCE_GROWTH);
        has_grown || is_unbalanced
    })
}

/// The segments of the highest full tier and of all lower tiers.
fn full_tier(segments: &[(&SegmentRef, u32)], limits: Limits) -> Option<Vec<usize>> {
    let tiers = || segments.iter().map(|&(_, tier)| tier);
    let is_full = |&tier: &u32| {
        tier < limits.below_tier && tiers().filter(|&other| other == tier).count() >= MERGE_WIDTH
    };
    let full = tiers().filter(is_full).max()?;
    Some((0..segments.len()).filter(|&at| segments[at].1 <= full).collect())
}

/// The segment with the most dead rows, if it exceeds the limit.
fn mostly_dead(segments: &[(&SegmentRef, u32)], limits: Limits) -> Option<Vec<usize>> {
    let has_too_many = |segment: &SegmentRef| segment.dead_rows * 100 > segment.rows * MAX_DEAD_PERCENT;
    let is_candidate = |&at: &usize| segments[at].1 < limits.below_tier && has_too_many(segments[at].0);
    let worst = (0..segments.len()).filter(is_candidate).max_by_key(|&at| segments[at].0.dead_rows)?;
    Some(vec![worst])
}

/// The largest source, if the result can be built by adding rows to it.
fn base(segments: &[SegmentRef], sources: &[usize], factory: &str, keeps_dead: bool) -> Option<usize> {
    let largest = sources.iter().copied().max_by_key(|&at| segments[at].live_rows())?;
    let segment = &segments[largest];
    let max_dead_percent = if keeps_dead { MAX_DEAD_PERCENT_OF_BASE } else { 0 };
    let has_few_dead = segment.dead_rows * 100 <= segment.rows * max_dead_percent;
    (sources.len() > 1 && segment.factory == factory && has_few_dead).then_some(largest)
}

#[cfg(test)]
mod tests;
