//! The parameter grid: how many neighbours each combination of search parameters found, and the operating points that
//! follow.

use super::exact_neighbours::NEIGHBOURS;
use super::operating_points::{OperatingPoint, margin};
use crate::search::SearchParams;

/// The grid's values of k_factor: about a factor of the square root of two apart.
pub const FACTORS: [f32; 15] =
    [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0];

/// One row of the grid: a value of nprobe or efSearch with the neighbours found by each of [`FACTORS`].
#[derive(Clone)]
pub struct GridRow {
    pub params: SearchParams,
    /// Microseconds of one search, without the ranking of candidates.
    pub cost_us: f64,
    /// Neighbours found by each of [`FACTORS`].
    pub found: [u32; FACTORS.len()],
}

impl GridRow {
    pub fn new(params: SearchParams) -> Self {
        Self { params, cost_us: 0.0, found: [0; FACTORS.len()] }
    }

    /// Counts a found neighbour of this rank.
    pub fn count(&mut self, rank: usize) {
        for (found, factor) in self.found.iter_mut().zip(FACTORS) {
            *found += u32::from((rank as f32) < factor * NEIGHBOURS as f32);
        }
    }

    pub fn most(&self) -> u32 {
        self.found[FACTORS.len() - 1]
    }

    pub fn lists(&self) -> usize {
        self.params.nprobe.unwrap_or(0)
    }

    /// Counts the neighbours among a query's candidates. `candidates` are in order; each has the rank of its list, and
    /// whether it is a neighbour. Candidates in lists beyond this row's nprobe are skipped.
    pub fn count_listed(&mut self, candidates: &[(usize, bool)]) {
        let mut rank = 0;
        for &(list_rank, is_neighbour) in candidates {
            if list_rank >= self.lists() {
                continue;
            }
            if is_neighbour {
                self.count(rank);
            }
            rank += 1;
        }
    }
}

pub struct ParameterGrid {
    pub steps: Vec<GridRow>,
    pub queries: usize,
    /// Neighbours of all queries together: the maximum of `found`.
    pub neighbours: usize,
}

impl ParameterGrid {
    /// The operating points of the grid: one for each row, or, where candidates are ranked again (`ranking_us` is the
    /// time per candidate), one for each row and factor.
    pub fn points(&self, ranking_us: Option<f64>) -> Vec<OperatingPoint> {
        let (steps, factors) = (self.between(), if ranking_us.is_some() { FACTORS.len() } else { 1 });
        let mut points = Vec::with_capacity(steps.len() * factors);
        for (params, cost_us, found) in steps {
            for (at, &factor) in FACTORS[..factors].iter().enumerate() {
                let candidates = f64::from(factor) * NEIGHBOURS as f64;
                if params.ef_search.is_some_and(|queue| factor > 1.0 && candidates > queue as f64) {
                    continue;
                }
                let share = found[at] / self.neighbours.max(1) as f64;
                points.push(OperatingPoint {
                    params: SearchParams { k_factor: ranking_us.map(|_| factor), ..params },
                    recall: share - margin(share, self.queries),
                    cost_us: cost_us + candidates * ranking_us.unwrap_or(0.0),
                });
            }
        }
        points
    }

    /// The rows, and between the queue lengths of a graph further ones, by linear interpolation over the logarithm.
    fn between(&self) -> Vec<(SearchParams, f64, [f64; FACTORS.len()])> {
        const PARTS: usize = 4;
        let mut all = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            all.push((step.params, step.cost_us, step.found.map(f64::from)));
            let (Some(next), Some(low)) = (self.steps.get(at + 1), step.params.ef_search) else { continue };
            let high = next.params.ef_search.unwrap_or(low);
            for part in (1..PARTS).map(|part| part as f64 / PARTS as f64) {
                let queue = (low as f64 * (high as f64 / low as f64).powf(part)).round() as usize;
                let mut found = [0.0; FACTORS.len()];
                for (value, (low, high)) in found.iter_mut().zip(step.found.iter().zip(next.found)) {
                    *value = f64::from(*low) * (1.0 - part) + f64::from(high) * part;
                }
                let params = SearchParams { ef_search: Some(queue), ..step.params };
                all.push((params, step.cost_us * (1.0 - part) + next.cost_us * part, found));
            }
        }
        all
    }
}

/// Whole numbers from `least` to `most`, each about `factor` times the previous one.
pub fn geometric_values(least: usize, most: usize, factor: f64) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(least), move |&at| {
        let next = ((at as f64 * factor).round() as usize).max(at + 1);
        (at < most).then_some(next.min(most))
    })
}

#[cfg(test)]
mod tests {
    use super::geometric_values;

    #[test]
    fn a_ladder_ends_where_it_should_and_has_no_rung_twice() {
        assert_eq!(geometric_values(1, 10, 1.5).collect::<Vec<_>>(), [1, 2, 3, 5, 8, 10]);
        assert_eq!(geometric_values(10, 10, 1.4).collect::<Vec<_>>(), [10]);
        assert_eq!(geometric_values(1, 512, 1.1).last(), Some(512));
    }
}
