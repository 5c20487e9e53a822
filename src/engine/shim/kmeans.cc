// k-means over rows.

#include "internal.h"

#include <algorithm>

#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>

namespace vekter {

void cluster(
        const float* rows,
        size_t count,
        size_t dims,
        size_t clusters,
        bool spherical,
        int iterations,
        int seed,
        float* centroids) {
    faiss::ClusteringParameters how;
    how.niter = iterations;
    how.seed = seed;
    how.spherical = spherical;
    // How many rows train is the caller's decision: no share of them, and no warning on stderr.
    how.min_points_per_centroid = 1;
    how.max_points_per_centroid = static_cast<int>(std::min<size_t>(count / clusters + 1, 1 << 30));
    faiss::Clustering clustering(static_cast<int>(dims), static_cast<int>(clusters), how);
    const auto metric = spherical ? faiss::METRIC_INNER_PRODUCT : faiss::METRIC_L2;
    faiss::IndexFlat nearest(static_cast<idx_t>(dims), metric);
    clustering.train(static_cast<idx_t>(count), rows, nearest);
    std::copy(clustering.centroids.begin(), clustering.centroids.end(), centroids);
}

} // namespace vekter
