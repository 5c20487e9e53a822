//! FAISS's k-means, interruptible.

pub use crate::engine::{Clustering, ClusteringPlan};
use crate::index::interruptible::interruptible;
use crate::pg::error::SqlError;

/// Computes the centroids of `rows`, each of `dims` values.
pub fn find(
    plan: &ClusteringPlan,
    rows: &[f32],
    dims: usize,
    threads: usize,
) -> Result<Clustering, SqlError> {
    Ok(interruptible(threads, || Clustering::find(plan, rows, dims))?)
}

/// For each row, the number of its nearest centroid and the distance to it.
pub fn assign(clustering: &Clustering, rows: &[f32], threads: usize) -> Result<Vec<(usize, f64)>, SqlError> {
    Ok(interruptible(threads, || clustering.assign(rows))?)
}
