//! Operating points: search parameters with their measured recall and cost, and the choice of one for a target recall.

use crate::search::SearchParams;

/// The default target recall of an index.
pub const DEFAULT_RECALL: f64 = 0.95;
/// The most operating points of an index.
pub const MAX_POINTS: usize = RECALL_LEVELS.len() + 1;
/// Levels of recall for which the cheapest parameters are kept; denser where users usually aim.
const RECALL_LEVELS: [f64; 22] = [
    0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99,
    0.9925, 0.995, 0.9975, 0.999, 1.0,
];
/// The k of the measured recall.
const CALIBRATED_K: f64 = 10.0;
/// Exponent of nprobe's growth with k at equal recall. Measured: twice the lists for 100 neighbours instead of 10
/// (`IVF512,Flat` at 0.91, `tests/engine/measure.rs`).
const LISTS_EXPONENT: f64 = 0.3;

/// Search parameters with their recall@10 and the time of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// `nprobe` or `ef_search`, and `k_factor` where candidates are ranked again.
    pub params: SearchParams,
    /// Lower confidence bound of recall@10 over the sample: see [`margin`].
    pub recall: f64,
    /// Microseconds of one query on one thread, on the machine and at the time of the build.
    pub cost_us: f64,
}

/// The Pareto front of recall and cost, thinned: for each level the cheapest point that reaches it, and the point of
/// highest recall. Ascending in recall and cost.
pub(super) fn pareto_front(mut points: Vec<OperatingPoint>) -> Vec<OperatingPoint> {
    points.sort_by(|a, b| a.cost_us.total_cmp(&b.cost_us).then(b.recall.total_cmp(&a.recall)));
    let mut front: Vec<OperatingPoint> = Vec::new();
    let best =
        points.iter().copied().reduce(|best, point| if point.recall > best.recall { point } else { best });
    let levels =
        RECALL_LEVELS.iter().filter_map(|level| points.iter().find(|point| point.recall >= *level)).copied();
    for point in levels.chain(best) {
        if front.last().is_none_or(|last| point.recall > last.recall) {
            front.push(point);
        }
    }
    front
}

/// The cheapest of `points` (as [`super::calibrate`] returns them) that reaches `recall`, or else the one of highest
/// recall.
pub fn choose(points: &[OperatingPoint], recall: f64) -> Option<&OperatingPoint> {
    points.iter().find(|point| point.recall >= recall).or(points.last())
}

impl OperatingPoint {
    /// Its parameters for a search for `k` rows: farther neighbours lie in more lists. A graph's queue is at least k
    /// anyway, and k_factor multiplies k.
    pub fn params_for(&self, k: usize) -> SearchParams {
        let growth = (k as f64 / CALIBRATED_K).max(1.0).powf(LISTS_EXPONENT);
        let nprobe = self.params.nprobe.map(|nprobe| (nprobe as f64 * growth).ceil() as usize);
        SearchParams { nprobe, ..self.params }
    }
}

/// Margin of error of a recall that was measured on `queries` queries: one and a half standard errors. The recall of a
/// single query varies about half as much as that of a single neighbour, which is found or not.
pub(super) fn margin(recall: f64, queries: usize) -> f64 {
    1.5 * 0.5 * (recall * (1.0 - recall) / queries.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn point(nprobe: usize, recall: f64, cost_us: f64) -> OperatingPoint {
        let params = SearchParams { nprobe: Some(nprobe), ..SearchParams::default() };
        OperatingPoint { params, recall, cost_us }
    }

    #[test]
    fn the_front_ascends_and_holds_no_point_that_another_beats() {
        let points =
            (1..400).map(|n| point(n, 1.0 - 1.0 / f64::from(n as u32 + 1), f64::from(n as u32))).collect();
        let front = pareto_front(points);
        assert!(front.len() <= MAX_POINTS);
        assert!(front.windows(2).all(|two| two[0].recall < two[1].recall && two[0].cost_us < two[1].cost_us));
        let clumsy =
            super::pareto_front(vec![point(1, 0.95, 10.0), point(2, 0.96, 5.0), point(3, 0.99, 20.0)]);
        assert_eq!(clumsy, [point(2, 0.96, 5.0), point(3, 0.99, 20.0)]);
    }

    #[test]
    fn the_cheapest_that_reaches_the_recall_is_chosen_or_the_best_there_is() {
        let points = [point(1, 0.8, 1.0), point(4, 0.9, 2.0), point(9, 0.97, 3.0)];
        let nprobe = |recall| choose(&points, recall).unwrap().params.nprobe.unwrap();
        assert_eq!([0.1, 0.8, 0.81, 0.95, 0.99, 1.0].map(nprobe), [1, 1, 4, 9, 9, 9]);
        assert_eq!(choose(&[], 0.9), None);
    }

    #[test]
    fn more_neighbours_take_more_lists() {
        let point = point(16, 0.9, 1.0);
        let nprobe = |k| point.params_for(k).nprobe.unwrap();
        assert_eq!([nprobe(1), nprobe(10), nprobe(100)], [16, 16, 32]);
    }
}
