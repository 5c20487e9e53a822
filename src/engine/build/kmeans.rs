//! k-means: centroids learnt from a sample of rows, and the nearest of them for any row.

use super::builder::norm;
use crate::calibrate::nearest_rows;
use crate::shim::constants::ROWS_PER_CENTROID;
use crate::shim::ffi;
use crate::{EngineError, MAX_DIMS, Metric};

/// Longer rows may overflow sums of squared differences, and FAISS would write out of bounds (see `Recipe::max_norm`).
const MAX_NORM: f64 = 1e12;
/// The smallest sample, even for few centroids.
const MIN_SAMPLE_ROWS: usize = 1 << 16;
/// FAISS numbers centroids by 32-bit integers; this many of 16,000 dimensions take 64 GB.
const MAX_CLUSTERS: usize = 1 << 20;
const MAX_ITERATIONS: usize = 1000;
/// Blocks of distances between rows and centroids, and what libraries take once they work.
const WORK_BYTES: u64 = 12 << 20;

/// The parameters of a clustering, within limits.
#[derive(Clone, Copy, Debug)]
pub struct ClusteringPlan {
    clusters: usize,
    metric: Metric,
    iterations: usize,
    seed: u32,
}

impl ClusteringPlan {
    /// `metric`: Euclidean, or cosine (spherical k-means, whose centroids have length 1). `seed`: at most 2^31 - 1.
    pub fn new(clusters: usize, metric: Metric, iterations: usize, seed: u32) -> Result<Self, EngineError> {
        let refuse = |reason: String| Err(EngineError::bad_parameter(reason));
        if !(1..=MAX_CLUSTERS).contains(&clusters) {
            return refuse(format!("clusters must be between 1 and {MAX_CLUSTERS}, not {clusters}"));
        }
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return refuse(format!("iterations must be between 1 and {MAX_ITERATIONS}, not {iterations}"));
        }
        if metric == Metric::InnerProduct {
            return refuse("inner products do not make clusters".into());
        }
        if i32::try_from(seed).is_err() {
            return refuse(format!("seed must be at most {}, not {seed}", i32::MAX));
        }
        Ok(Self { clusters, metric, iterations, seed })
    }

    pub fn clusters(&self) -> usize {
        self.clusters
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// Rows for the sample: more do not improve the centroids.
    pub fn sample_rows(&self) -> usize {
        (self.clusters * ROWS_PER_CENTROID).max(MIN_SAMPLE_ROWS)
    }

    /// Bytes of private memory to cluster `rows` rows of `dims` dimensions, these rows included.
    pub fn bytes(&self, rows: usize, dims: usize) -> u64 {
        // The row; number and distance of its centroid, its place in a shuffle.
        let row = 4 * dims as u64 + 16;
        // Centroids: the result, those at work, those in the index that finds them, and their norms.
        let centroid = 3 * 4 * dims as u64 + 16;
        WORK_BYTES + rows as u64 * row + self.clusters as u64 * centroid
    }
}

/// Centroids.
#[derive(Clone, Debug, PartialEq)]
pub struct Clustering {
    dims: usize,
    metric: Metric,
    /// Row-major.
    centroids: Vec<f32>,
}

impl Clustering {
    /// Whether a prepared row can be clustered: sums over longer rows overflow.
    pub fn accepts(row: &[f32]) -> bool {
        norm(row) <= MAX_NORM
    }

    /// Lloyd's algorithm from centroids drawn by the plan's seed, over prepared rows (row-major) of `dims`
    /// dimensions, at least as many as clusters. The same rows in the same order give the same centroids.
    pub fn find(plan: &ClusteringPlan, rows: &[f32], dims: usize) -> Result<Self, EngineError> {
        let count = check_rows(rows, dims)?;
        if count < plan.clusters {
            return Err(EngineError::UntrainableSample {
                reason: format!("{count} rows do not make {} clusters", plan.clusters),
            });
        }
        let mut centroids = Vec::new();
        let values = plan.clusters * dims;
        centroids.try_reserve_exact(values).map_err(|_| EngineError::OutOfMemory)?;
        centroids.resize(values, 0.0);
        // SAFETY: `rows` holds `count` finite rows of `dims` values, bounded so that no sum overflows, at least one
        // for each cluster, and there is room for that many centroids. The numbers are within the limits above.
        let code = unsafe {
            ffi::vekter_cluster(
                rows.as_ptr(),
                count as i64,
                dims as i32,
                plan.clusters as i32,
                i32::from(plan.metric == Metric::Cosine),
                plan.iterations as i32,
                plan.seed as i32,
                centroids.as_mut_ptr(),
            )
        };
        EngineError::from_code(code, |reason| EngineError::Failed { reason })?;
        Ok(Self { dims, metric: plan.metric, centroids })
    }

    /// The centroids, in order.
    pub fn centroids(&self) -> impl Iterator<Item = &[f32]> {
        self.centroids.chunks_exact(self.dims)
    }

    /// The number of the nearest centroid of each prepared row, from 0 on, and the operator's distance to it.
    pub fn assign(&self, rows: &[f32]) -> Result<Vec<(usize, f64)>, EngineError> {
        let count = check_rows(rows, self.dims)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let (_, nearest) = nearest_rows(self.metric, self.dims, rows, &self.centroids, 1)?;
        std::iter::zip(nearest, rows.chunks_exact(self.dims))
            .map(|(number, row)| {
                let number = usize::try_from(number).unwrap_or(usize::MAX);
                let centroid = self.centroids().nth(number).ok_or_else(|| EngineError::Failed {
                    reason: format!("there is no centroid {number}"),
                })?;
                Ok((number, self.distance(row, centroid)))
            })
            .collect()
    }

    /// In double precision: FAISS's own values lose digits where a row is much nearer than it is long.
    fn distance(&self, row: &[f32], centroid: &[f32]) -> f64 {
        let pairs = std::iter::zip(row, centroid).map(|(&x, &y)| (f64::from(x), f64::from(y)));
        match self.metric {
            Metric::L2 => pairs.map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt(),
            _ => (1.0 - pairs.map(|(x, y)| x * y).sum::<f64>()).clamp(0.0, 2.0),
        }
    }
}

fn check_rows(rows: &[f32], dims: usize) -> Result<usize, EngineError> {
    if dims == 0 || dims > MAX_DIMS || !rows.len().is_multiple_of(dims) {
        return Err(EngineError::bad_parameter(format!("{} values are not rows of {dims}", rows.len())));
    }
    // NaN compares false.
    if !rows.chunks_exact(dims).all(Clustering::accepts) {
        return Err(EngineError::bad_parameter(format!(
            "a row is longer than {MAX_NORM:e}, which overflows in clustering"
        )));
    }
    Ok(rows.len() / dims)
}
