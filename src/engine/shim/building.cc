// What FAISS leaves to its callers while an index grows.

#include "internal.h"

#include <malloc.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRefine.h>
#include <faiss/VectorTransform.h>
#include <faiss/invlists/InvertedLists.h>

namespace vekter {

namespace {

// OPQ trains a product quantiser in every round, and FAISS's own warns on stderr about small samples. This one is
// quiet.
struct QuietOpq {
    std::vector<std::pair<faiss::OPQMatrix*, std::unique_ptr<faiss::ProductQuantizer>>> quantizers;

    explicit QuietOpq(const Parts& parts) {
        for (const Step& step : parts.steps) {
            if (faiss::OPQMatrix* opq = step.opq) {
                // 8 bits, as OPQMatrix::train chooses itself.
                auto pq = std::make_unique<faiss::ProductQuantizer>(opq->d_out, opq->M, 8);
                pq->cp.min_points_per_centroid = 1;
                opq->pq = pq.get();
                quantizers.emplace_back(opq, std::move(pq));
            }
        }
    }
    ~QuietOpq() {
        for (auto& [opq, pq] : quantizers) {
            opq->pq = nullptr;
        }
    }
};

template <class T>
void reserve_vector(faiss::MaybeOwnedVector<T>& vector, size_t elements) {
    vector.owned_data.reserve(elements);
    vector.c_ptr = vector.owned_data.data();
}

// Makes room in the lists for new rows. FAISS would double lists that are full, and so take memory for the whole index
// twice. Here they grow by a sixteenth: the copying is little beside the work of finding the lists.
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

// As IndexPreTransform::train, IndexRefine::train and Index::train, but additive quantisers learn from at most
// `additive_rows` rows, as was estimated.
void train_parts(const Parts& parts, idx_t rows, const float* values, idx_t additive_rows) {
    std::unique_ptr<const float[]> images;
    const float* inputs = values;
    for (const Step& step : parts.steps) {
        if (!step.transform->is_trained) {
            step.transform->train(rows, inputs);
        }
        images.reset(step.transform->apply(rows, inputs));
        inputs = images.get();
    }
    if (parts.codes.additive) {
        train_additive(parts.codes, rows, inputs, additive_rows);
    } else {
        parts.core->train(rows, inputs);
    }
    if (parts.transformed) {
        parts.transformed->is_trained = true;
    }
    images.reset();
    if (parts.refinement) {
        parts.fine.index->train(rows, values);
        parts.refinement->is_trained = true;
    }
}

// FAISS warns on stderr about small training sets; the caller decides how many rows train an index. Polysemous training
// permutes codes, for seconds in which it cannot be interrupted.
void tune_codes(const Codes& codes) {
    if (!codes.index) {
        return;
    }
    codes.index->verbose = false;
    if (codes.lists) {
        codes.lists->cp.min_points_per_centroid = 1;
    }
    if (codes.product) {
        codes.product->cp.min_points_per_centroid = 1;
    }
    if (codes.product_plain) {
        codes.product_plain->do_polysemous_training = false;
    }
    if (codes.product_lists) {
        codes.product_lists->do_polysemous_training = false;
    }
    if (codes.additive) {
        tune_additive(*codes.additive);
    }
}

void reserve_codes(const Codes& codes, size_t rows) {
    if (codes.plain) {
        reserve_vector(codes.plain->codes, rows * codes.plain->code_size);
    }
}

// FAISS's local search quantiser adds up its times in one map of the process, without a lock
// (faiss/impl/LocalSearchQuantizer.cpp). So additive quantisers learn and encode one at a time.
std::unique_lock<std::mutex> lock_additive(const Parts& parts) {
    static std::mutex mutex;
    return parts.codes.additive || parts.fine.additive ? std::unique_lock(mutex) : std::unique_lock<std::mutex>();
}

// See Recipe::max_norm in recipe.rs.
float largest_value(const Codes& codes) {
    const bool are_halves = codes.scalar && codes.scalar->qtype == faiss::ScalarQuantizer::QT_fp16;
    return are_halves ? shared::MAX_HALF_NORM : shared::MAX_VALUE;
}

} // namespace

void tune_for_building(const Parts& parts) {
    parts.whole->verbose = parts.core->verbose = false;
    if (parts.transformed) {
        parts.transformed->verbose = false;
    }
    for (const Step& step : parts.steps) {
        // Whitening divides by the deviations, which may be zero.
        if (step.pca) {
            step.pca->epsilon = 1e-12;
        }
    }
    tune_codes(parts.codes);
    tune_codes(parts.fine);
}

void train(const Parts& parts, idx_t rows, const float* values, idx_t additive_rows) {
    const auto lock = lock_additive(parts);
    QuietOpq quiet(parts);
    train_parts(parts, rows, values, additive_rows);
}

void reserve_rows(const Parts& parts, size_t rows) {
    reserve_codes(parts.codes, rows);
    reserve_codes(parts.fine, rows);
    if (parts.graph) {
        faiss::HNSW& links = parts.graph->hnsw;
        links.levels.reserve(rows);
        links.offsets.reserve(rows + 1);
        // Row r reaches level l with probability M^-l, so upper levels hold M / (M - 1) links a row on average;
        // 3 % more covers the spread.
        const size_t base = links.nb_neighbors(0);
        reserve_vector(links.neighbors, rows * (base + 2) + rows * base / 32);
    }
}

void add_rows(const Parts& parts, idx_t rows, const float* values) {
    const auto lock = lock_additive(parts);
    const float* images = values;
    std::unique_ptr<const float[]> owned;
    if (parts.transformed) {
        images = parts.transformed->apply_chain(rows, values);
        owned.reset(images == values ? nullptr : images);
        require_bounded(images, rows * parts.core->d, largest_value(parts.codes));
    }
    if (parts.graph) {
        parts.graph->storage->add(rows, images);
        parts.graph->hnsw.prepare_level_tab(rows);
        parts.graph->ntotal = parts.graph->storage->ntotal;
    } else if (parts.codes.lists) {
        add_to_lists(*parts.codes.lists, rows, images);
    } else {
        parts.core->add(rows, images);
    }
    if (parts.transformed) {
        parts.transformed->ntotal = parts.core->ntotal;
    }
    if (parts.refinement) {
        parts.fine.index->add(rows, values);
        parts.refinement->ntotal = parts.fine.index->ntotal;
    }
}

} // namespace vekter
