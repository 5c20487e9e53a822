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

// The graph inside the wrappers of an index; null where there is none.
faiss::HNSW* graph_of(Index& index) {
    if (auto* refined = dynamic_cast<faiss::IndexRefine*>(&index)) {
        return graph_of(*refined->base_index);
    }
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(&index)) {
        return graph_of(*transformed->index);
    }
    auto* graph = dynamic_cast<faiss::IndexHNSW*>(&index);
    return graph ? &graph->hnsw : nullptr;
}

} // namespace

std::vector<Link> remove_links(Index& index, const uint8_t* hidden, size_t hidden_bytes) {
    std::vector<Link> links;
    faiss::HNSW* graph = graph_of(index);
    if (!graph) {
        return links;
    }
    const auto is_hidden = [&](int32_t row) {
        const size_t byte = static_cast<size_t>(row) >> 3;
        return row >= 0 && row != graph->entry_point && byte < hidden_bytes && (hidden[byte] >> (row & 7)) & 1;
    };
    auto& neighbors = graph->neighbors;
    for (size_t place = 0; place < neighbors.size(); place++) {
        if (place % (size_t{1} << 24) == 0) {
            check_interrupts();
        }
        if (is_hidden(neighbors[place])) {
            links.push_back({place, neighbors[place]});
        }
    }
    // A search ends a row's links at the first that leads nowhere, but passes over one from a row to itself.
    int32_t row = 0;
    for (const Link& link : links) {
        while (link.place >= graph->offsets[row + 1]) {
            row++;
        }
        neighbors[link.place] = row;
    }
    return links;
}

void restore_links(Index& index, const std::vector<Link>& links) noexcept {
    faiss::HNSW* graph = graph_of(index);
    for (const Link& link : links) {
        graph->neighbors[link.place] = link.row;
    }
}

void lists_by_position(const Index& index, int32_t* lists) {
    const faiss::IndexIVF& inverted = *lists_of(index, nullptr).inverted;
    std::fill(lists, lists + inverted.ntotal, -1);
    for (size_t list = 0; list < inverted.nlist; list++) {
        check_interrupts();
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
    std::fill_n(lists, count, -1);
    for (const Probe& probe : nearest_centroids(inverted, found.query.data(), count, std::max<size_t>(64, 2 * count))) {
        *lists++ = probe.list;
    }
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
