// What calibration must know of an index beside its answers, and the exact answers that it judges them by.

#include "internal.h"

#include <algorithm>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRefine.h>
#include <faiss/utils/distances.h>

namespace vekter {

namespace {

// The index that scans lists, inside its wrappers, and the query in its form.
struct Lists {
    const faiss::IndexIVF* inverted = nullptr;
    std::vector<float> query;
};

Lists lists_of(const Index& index, const float* query) {
    Lists lists;
    if (query) {
        lists.query.assign(query, query + index.d);
    }
    const Index* inner = &index;
    while (!lists.inverted) {
        if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(inner)) {
            inner = refined->base_index;
        } else if (auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(inner)) {
            if (query) {
                const float* image = transformed->apply_chain(1, lists.query.data());
                std::unique_ptr<const float[]> owned(image == lists.query.data() ? nullptr : image);
                lists.query = std::vector<float>(image, image + transformed->index->d);
            }
            inner = transformed->index;
        } else {
            lists.inverted = dynamic_cast<const faiss::IndexIVF*>(inner);
            require(lists.inverted, "the index has no inverted lists");
        }
    }
    return lists;
}

} // namespace

void lists_by_position(const Index& index, int32_t* lists) {
    const faiss::IndexIVF& inverted = *lists_of(index, nullptr).inverted;
    std::fill(lists, lists + inverted.ntotal, -1);
    for (size_t list = 0; list < inverted.nlist; list++) {
        throw_if_interrupted();
        const size_t size = inverted.invlists->list_size(list);
        faiss::InvertedLists::ScopedIds ids(inverted.invlists, list);
        for (size_t i = 0; i < size; i++) {
            require(ids[i] >= 0 && ids[i] < inverted.ntotal, "a list holds a row that does not exist");
            lists[ids[i]] = static_cast<int32_t>(list);
        }
    }
}

void nearest_lists(const Index& index, const float* query, size_t count, int64_t* lists) {
    const Lists found = lists_of(index, query);
    const faiss::IndexIVF& inverted = *found.inverted;
    require(count <= inverted.nlist, "there are fewer lists");
    std::vector<float> distances(count);
    faiss::SearchParametersHNSW wide;
    wide.efSearch = static_cast<int>(std::max<size_t>(64, 2 * count));
    const bool by_graph = dynamic_cast<const faiss::IndexHNSW*>(inverted.quantizer);
    inverted.quantizer->search(
            1, found.query.data(), static_cast<idx_t>(count), distances.data(), lists, by_graph ? &wide : nullptr);
}

void nearest_rows(
        const float* queries,
        size_t query_count,
        const float* rows,
        size_t row_count,
        size_t dims,
        bool similarity,
        size_t k,
        float* distances,
        int64_t* positions) {
    if (similarity) {
        faiss::knn_inner_product(queries, rows, dims, query_count, row_count, k, distances, positions);
    } else {
        faiss::knn_L2sqr(queries, rows, dims, query_count, row_count, k, distances, positions);
    }
}

} // namespace vekter
