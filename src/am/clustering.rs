//! FAISS's k-means, interruptible.

pub use crate::engine::{Clustering, ClusteringPlan};
use crate::index::interruptible::interruptible;
use crate::pg::error::SqlError;

/// Finds the centroids of `rows` of `dims` values.
pub fn find(
    plan: &ClusteringPlan,
    rows: &[f32],
    dims: usize,
    threads: usize,
) -> Result<Clustering, SqlError> {
    Ok(interruptible(threads, || Clustering::find(plan, rows, dims))?)
}

/// Number of the nearest centroid of each row, and its distance.
pub fn assign(clustering: &Clustering, rows: &[f32], threads: usize) -> Result<Vec<(usize, f64)>, SqlError> {
    Ok(interruptible(threads, || clustering.assign(rows))?)
}
