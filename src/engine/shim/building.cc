// What FAISS leaves to its callers while an index grows.

#include "internal.h"

#include <malloc.h>

#include <algorithm>
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
#include <faiss/invlists/InvertedLists.h>

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

// FAISS lets each list grow to twice its size, and with that the whole index, once more than there was room for. Here
// they grow by a sixteenth: what is copied for it is little beside the work of finding the lists.
void grow_lists(faiss::ArrayInvertedLists& lists, const std::vector<idx_t>& list_of_row) {
    std::vector<size_t> rows(lists.nlist);
    for (idx_t list : list_of_row) {
        if (list >= 0) {
            rows[list]++;
        }
    }
    for (size_t list = 0; list < lists.nlist; list++) {
        const size_t wanted = lists.list_size(list) + rows[list];
        if (wanted > lists.ids[list].owned_data.capacity()) {
            const size_t room = std::max<size_t>(wanted + wanted / 16, 16);
            reserve_vector(lists.ids[list], room);
            reserve_vector(lists.codes[list], room * lists.code_size);
        }
    }
}

// IndexIVF::add_with_ids, with room made between finding the lists and filling them.
void add_to_lists(faiss::IndexIVF& inverted, idx_t rows, const float* values) {
    auto* lists = dynamic_cast<faiss::ArrayInvertedLists*>(inverted.invlists);
    if (!lists) {
        inverted.add(rows, values);
        return;
    }
    std::vector<idx_t> list_of_row(rows);
    inverted.quantizer->assign(rows, values, list_of_row.data());
    grow_lists(*lists, list_of_row);
    inverted.add_core(rows, values, nullptr, list_of_row.data());
    // Outgrown lists leave holes of all sizes.
    malloc_trim(0);
}

void train(Index* index, idx_t rows, const float* values, idx_t additive_rows);

// IndexPreTransform::train.
void train_transformed(faiss::IndexPreTransform& transformed, idx_t rows, const float* values, idx_t additive_rows) {
    std::unique_ptr<const float[]> images;
    for (auto* step : transformed.chain) {
        if (!step->is_trained) {
            step->train(rows, values);
        }
        images.reset(step->apply(rows, values));
        values = images.get();
    }
    train(transformed.index, rows, values, additive_rows);
    transformed.is_trained = true;
}

// Index::train, where additive quantisers learn from no more rows than were counted on.
void train(Index* index, idx_t rows, const float* values, idx_t additive_rows) {
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index)) {
        train_transformed(*transformed, rows, values, additive_rows);
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        train(refined->base_index, rows, values, additive_rows);
        refined->refine_index->train(rows, values);
        refined->is_trained = true;
    } else if (additive_quantizer(*index)) {
        train_additive(index, rows, values, additive_rows);
    } else {
        index->train(rows, values);
    }
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
        if (auto* additive = additive_quantizer(*index)) {
            tune_additive(*additive);
        } else if (auto* product = dynamic_cast<faiss::IndexIVFPQ*>(index)) {
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
    } else if (auto* additive = additive_quantizer(*index)) {
        tune_additive(*additive);
    }
}

void train_quietly(Index* index, idx_t rows, const float* values, idx_t additive_rows) {
    QuietOpq quiet(index);
    train(index, rows, values, additive_rows);
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
        add_rows(transformed->index, rows, images);
        transformed->ntotal = transformed->index->ntotal;
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        add_rows(refined->base_index, rows, values);
        refined->refine_index->add(rows, values);
        refined->ntotal = refined->refine_index->ntotal;
    } else if (auto* inverted = dynamic_cast<faiss::IndexIVF*>(index)) {
        add_to_lists(*inverted, rows, values);
    } else {
        index->add(rows, values);
    }
}

} // namespace vekter
