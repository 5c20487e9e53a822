// What FAISS leaves to its callers while an index grows.

#include "internal.h"

#include <utility>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRefine.h>
#include <faiss/IndexScalarQuantizer.h>
#include <faiss/VectorTransform.h>

namespace vekter {

namespace {

// OPQ trains a product quantiser in every round, with the same warnings: it gets one that is quiet.
struct QuietOpq {
    std::vector<std::pair<faiss::OPQMatrix*, std::unique_ptr<faiss::ProductQuantizer>>> steps;

    explicit QuietOpq(Index* index) {
        if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
            index = refined->base_index;
        }
        auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index);
        for (size_t i = 0; transformed && i < transformed->chain.size(); i++) {
            if (auto* opq = dynamic_cast<faiss::OPQMatrix*>(transformed->chain[i])) {
                // 8 bits, as OPQMatrix::train chooses itself.
                auto pq = std::make_unique<faiss::ProductQuantizer>(opq->d_out, opq->M, 8);
                pq->cp.min_points_per_centroid = 1;
                opq->pq = pq.get();
                steps.emplace_back(opq, std::move(pq));
            }
        }
    }
    ~QuietOpq() {
        for (auto& [opq, pq] : steps) {
            opq->pq = nullptr;
        }
    }
};

template <class T>
void reserve_vector(faiss::MaybeOwnedVector<T>& vector, size_t elements) {
    vector.owned_data.reserve(elements);
    vector.c_ptr = vector.owned_data.data();
}

// See Recipe::max_norm in recipe.rs.
float largest_value(const Index* index) {
    const faiss::ScalarQuantizer* sq = nullptr;
    if (auto* graph = dynamic_cast<const faiss::IndexHNSW*>(index)) {
        return largest_value(graph->storage);
    } else if (auto* scalar = dynamic_cast<const faiss::IndexScalarQuantizer*>(index)) {
        sq = &scalar->sq;
    } else if (auto* inverted = dynamic_cast<const faiss::IndexIVFScalarQuantizer*>(index)) {
        sq = &inverted->sq;
    }
    return sq && sq->qtype == faiss::ScalarQuantizer::QT_fp16 ? 3e4f : 1e16f;
}

} // namespace

// FAISS's own efConstruction, 40, suits graphs that are built in one call, which inserts the upper levels of all rows
// first. In batches that order is lost, and with 40 candidates whole clusters of clustered rows end up out of reach.
constexpr int MIN_EF_CONSTRUCTION = 100;

// FAISS warns on stderr about small training sets; how many rows train an index is the caller's decision.
// Polysemous training permutes codes for a search that is never asked for, and cannot be interrupted for seconds.
void tune_for_building(Index* index) {
    index->verbose = false;
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index)) {
        for (auto* step : transformed->chain) {
            // Whitening divides by the deviations, which may be zero.
            if (auto* pca = dynamic_cast<faiss::PCAMatrix*>(step)) {
                pca->epsilon = 1e-12;
            }
        }
        tune_for_building(transformed->index);
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        tune_for_building(refined->base_index);
        tune_for_building(refined->refine_index);
    } else if (auto* graph = dynamic_cast<faiss::IndexHNSW*>(index)) {
        graph->hnsw.efConstruction = std::max(graph->hnsw.efConstruction, MIN_EF_CONSTRUCTION);
        tune_for_building(graph->storage);
    } else if (auto* inverted = dynamic_cast<faiss::IndexIVF*>(index)) {
        inverted->cp.min_points_per_centroid = 1;
        if (auto* product = dynamic_cast<faiss::IndexIVFPQ*>(index)) {
            product->pq.cp.min_points_per_centroid = 1;
            product->do_polysemous_training = false;
        } else if (auto* fast = dynamic_cast<faiss::IndexIVFPQFastScan*>(index)) {
            fast->pq.cp.min_points_per_centroid = 1;
        }
    } else if (auto* product = dynamic_cast<faiss::IndexPQ*>(index)) {
        product->pq.cp.min_points_per_centroid = 1;
        product->do_polysemous_training = false;
    } else if (auto* fast = dynamic_cast<faiss::IndexPQFastScan*>(index)) {
        fast->pq.cp.min_points_per_centroid = 1;
    }
}

void train_quietly(Index* index, idx_t rows, const float* values) {
    QuietOpq quiet(index);
    index->train(rows, values);
}

void reserve_rows(Index* index, size_t rows) {
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index)) {
        reserve_rows(transformed->index, rows);
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        reserve_rows(refined->base_index, rows);
        reserve_rows(refined->refine_index, rows);
    } else if (auto* graph = dynamic_cast<faiss::IndexHNSW*>(index)) {
        reserve_rows(graph->storage, rows);
        faiss::HNSW& links = graph->hnsw;
        links.levels.reserve(rows);
        links.offsets.reserve(rows + 1);
        // Row r reaches level l with probability M^-l, so upper levels hold M / (M - 1) links a row on average;
        // 3 % more covers the spread.
        const size_t base = links.nb_neighbors(0);
        reserve_vector(links.neighbors, rows * (base + 2) + rows * base / 32);
    } else if (auto* codes = dynamic_cast<faiss::IndexFlatCodes*>(index)) {
        reserve_vector(codes->codes, rows * codes->code_size);
    }
}

void add_rows(Index* index, idx_t rows, const float* values) {
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index)) {
        const float* images = transformed->apply_chain(rows, values);
        std::unique_ptr<const float[]> owned(images == values ? nullptr : images);
        require_bounded(images, rows * transformed->index->d, largest_value(transformed->index));
        transformed->index->add(rows, images);
        transformed->ntotal = transformed->index->ntotal;
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        add_rows(refined->base_index, rows, values);
        refined->refine_index->add(rows, values);
        refined->ntotal = refined->refine_index->ntotal;
    } else {
        index->add(rows, values);
    }
}

} // namespace vekter
