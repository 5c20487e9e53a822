//! What search parameters bring and cost, as calibration measured it, and which of them reach a recall that is asked.

use crate::engine::search::SearchParams;

/// The recall that is asked of an index unless somebody says otherwise.
pub const DEFAULT_RECALL: f64 = 0.95;
/// The most operating points of an index.
pub const MAX_POINTS: usize = RUNGS.len() + 1;
/// For each of these the cheapest parameters that reach it are kept: close to each other where recall is usually asked.
const RUNGS: [f64; 22] = [
    0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99,
    0.9925, 0.995, 0.9975, 0.999, 1.0,
];
/// Neighbours that recall was measured by.
const CALIBRATED_K: f64 = 10.0;
/// Exponent by which nprobe grows with k at the same recall: measured, 2.0 times the lists for 100 neighbours instead
/// of 10 (`IVF512,Flat` at 0.91, `tests/engine/measure.rs`).
const LISTS_EXPONENT: f64 = 0.3;

/// Search parameters with the recall@10 and the time of a search that they bring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// `nprobe` or `ef_search`, and `k_factor` where candidates are ranked again.
    pub params: SearchParams,
    /// Recall@10 over the sample, less what may be chance.
    pub recall: f64,
    /// Of one query on one thread, as estimated in the hour of the build.
    pub cost_us: f64,
}

/// The cheapest for each rung of recall that some point reaches, and the best there is: ascending in recall and cost.
pub(super) fn front(mut points: Vec<OperatingPoint>) -> Vec<OperatingPoint> {
    points.sort_by(|a, b| a.cost_us.total_cmp(&b.cost_us).then(b.recall.total_cmp(&a.recall)));
    let mut front: Vec<OperatingPoint> = Vec::new();
    let best =
        points.iter().copied().reduce(|best, point| if point.recall > best.recall { point } else { best });
    let rungs = RUNGS.iter().filter_map(|rung| points.iter().find(|point| point.recall >= *rung)).copied();
    for point in rungs.chain(best) {
        if front.last().is_none_or(|last| point.recall > last.recall) {
            front.push(point);
        }
    }
    front
}

/// Of points as [`super::calibrate`] returns them the cheapest that reaches `recall`, or else the best.
pub fn choose(points: &[OperatingPoint], recall: f64) -> Option<&OperatingPoint> {
    points.iter().find(|point| point.recall >= recall).or(points.last())
}

impl OperatingPoint {
    /// Its parameters for a search for `k` rows: farther neighbours lie in more lists. A graph's queue grows with k by
    /// itself, and candidates are counted by k.
    pub fn params_for(&self, k: usize) -> SearchParams {
        let growth = (k as f64 / CALIBRATED_K).max(1.0).powf(LISTS_EXPONENT);
        let nprobe = self.params.nprobe.map(|nprobe| (nprobe as f64 * growth).ceil() as usize);
        SearchParams { nprobe, ..self.params }
    }
}

/// By how much a recall that was measured on `queries` queries may be too high by chance: one and a half times its
/// standard error. Recall varies between queries with about half the deviation of a coin that shows each time whether a
/// neighbour was found.
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
        let front = front(points);
        assert!(front.len() <= MAX_POINTS);
        assert!(front.windows(2).all(|two| two[0].recall < two[1].recall && two[0].cost_us < two[1].cost_us));
        let clumsy = super::front(vec![point(1, 0.95, 10.0), point(2, 0.96, 5.0), point(3, 0.99, 20.0)]);
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
