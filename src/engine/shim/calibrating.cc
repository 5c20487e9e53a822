// What calibration needs beside searches: the order of lists, a graph without some links, and exact answers.

#include "internal.h"

#include <algorithm>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/utils/distances.h>

namespace vekter {

std::vector<Link> remove_links(const Parts& parts, const uint8_t* held_out, size_t held_out_bytes) {
    std::vector<Link> links;
    if (!parts.graph) {
        return links;
    }
    faiss::HNSW* graph = &parts.graph->hnsw;
    const auto is_held_out = [&](int32_t row) {
        const size_t byte = static_cast<size_t>(row) >> 3;
        return row >= 0 && row != graph->entry_point && byte < held_out_bytes && (held_out[byte] >> (row & 7)) & 1;
    };
    auto& neighbors = graph->neighbors;
    for (size_t place = 0; place < neighbors.size(); place++) {
        if (place % (size_t{1} << 24) == 0) {
            check_interrupts();
        }
        if (is_held_out(neighbors[place])) {
            links.push_back({place, neighbors[place]});
        }
    }
    // A link from a row to itself does no harm, while -1 would end the row's links for a search.
    int32_t row = 0;
    for (const Link& link : links) {
        while (link.place >= graph->offsets[row + 1]) {
            row++;
        }
        neighbors[link.place] = row;
    }
    return links;
}

void restore_links(const Parts& parts, const std::vector<Link>& links) noexcept {
    for (const Link& link : links) {
        parts.graph->hnsw.neighbors[link.place] = link.row;
    }
}

void lists_by_position(const Parts& parts, int32_t* lists) {
    require(parts.codes.lists, "the index has no inverted lists");
    const faiss::IndexIVF& inverted = *parts.codes.lists;
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

void nearest_lists(const Parts& parts, const float* query, size_t count, int64_t* lists) {
    require(parts.codes.lists, "the index has no inverted lists");
    require(count <= parts.codes.lists->nlist, "there are fewer lists");
    const Image image(parts, query);
    std::fill_n(lists, count, -1);
    for (const Probe& probe : nearest_centroids(parts, image.values, count, std::max<size_t>(64, 2 * count))) {
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
