// The C functions over an index; shim.h documents each. Those over the process are in process.cc.

#include "guarded.h"
#include "internal.h"

#include <malloc.h>

#include <algorithm>
#include <cmath>

#include <faiss/impl/FaissAssert.h>
#include <faiss/impl/io.h>
#include <faiss/index_factory.h>
#include <faiss/index_io.h>
#include <faiss/utils/distances.h>

namespace {

using faiss::Index;
using vekter::guarded;

struct SinkWriter : faiss::IOWriter {
    int (*sink)(void*, const uint8_t*, size_t);
    void* context;

    SinkWriter(int (*sink)(void*, const uint8_t*, size_t), void* context) : sink(sink), context(context) {}

    size_t operator()(const void* values, size_t size, size_t count) override {
        if (size * count > 0 && sink(context, static_cast<const uint8_t*>(values), size * count) != 0) {
            throw vekter::SinkStopped();
        }
        return count;
    }
};

// The handle of the C interface.
vekter_index* wrap(std::unique_ptr<vekter::Handle> handle) {
    return reinterpret_cast<vekter_index*>(handle.release());
}

vekter::Handle& unwrap(vekter_index* index) {
    return *reinterpret_cast<vekter::Handle*>(index);
}

const vekter::Handle& unwrap(const vekter_index* index) {
    return *reinterpret_cast<const vekter::Handle*>(index);
}

// Stores the hits of a search.
void store(
        const Index& index,
        const vekter::Hits& nearest,
        float* distances,
        int64_t* positions,
        int64_t* found) {
    const bool similarity = index.metric_type == faiss::METRIC_INNER_PRODUCT;
    for (size_t i = 0; i < nearest.size(); i++) {
        distances[i] = similarity ? -nearest[i].key : nearest[i].key;
        positions[i] = nearest[i].position;
    }
    *found = static_cast<int64_t>(nearest.size());
}

} // namespace

void vekter::require(bool condition, const char* what) {
    FAISS_THROW_IF_NOT_FMT(condition, "failed: %s", what);
}

void vekter::require_bounded(const float* values, size_t count, float limit) {
    for (size_t i = 0; i < count; i++) {
        require(std::fabs(values[i]) <= limit, "the index's transform overflows");
    }
}

int vekter_index_new(const char* factory, int32_t dims, int32_t metric, vekter_index** index) {
    return guarded([&] {
        const auto type = static_cast<faiss::MetricType>(metric);
        std::unique_ptr<Index> built(faiss::index_factory(dims, factory, type));
        vekter::require(built && built->d == dims, "the factory string made an index of another dimension");
        vekter::require(built->metric_type == type, "this index type has no such metric");
        auto handle = std::make_unique<vekter::Handle>(std::move(built));
        vekter::tune_for_building(handle->parts);
        *index = wrap(std::move(handle));
    });
}

int vekter_index_open(const uint8_t* bytes, size_t length, vekter_index** index) {
    return guarded([&] {
        *index = wrap(vekter::open_mapped(bytes, length, false));
    });
}

int vekter_index_resume(
        const vekter_index* like,
        const uint8_t* bytes,
        size_t length,
        int keeps_rows,
        vekter_index** index) {
    return guarded([&] { *index = wrap(vekter::resume(unwrap(like), bytes, length, keeps_rows != 0)); });
}

void vekter_index_free(vekter_index* index) {
    delete reinterpret_cast<vekter::Handle*>(index);
}

void vekter_index_describe(const vekter_index* index, vekter_description* description) {
    const vekter::Parts& parts = unwrap(index).parts;
    const Index& whole = *parts.whole;
    *description = {};
    description->rows = whole.ntotal;
    description->lists = parts.codes.lists ? static_cast<int64_t>(parts.codes.lists->nlist) : 0;
    description->dims = whole.d;
    description->metric = whole.metric_type;
    description->is_trained = whole.is_trained;
    description->scans_all = !parts.graph && !parts.codes.lists;
    description->searches_graph = parts.graph != nullptr;
    description->refines = parts.refinement != nullptr;
    description->stores_rows = parts.stored().are_floats() && !parts.stores_images();
    description->stores_halves = parts.stored().are_halves() && !parts.stores_images();
}

int vekter_index_reserve(vekter_index* index, int64_t rows) {
    return guarded([&] { vekter::reserve_rows(unwrap(index).parts, static_cast<size_t>(rows)); });
}

int vekter_index_train(vekter_index* index, int64_t rows, const float* values, int64_t additive_rows) {
    return guarded([&] {
        vekter::check_interrupts();
        vekter::train(unwrap(index).parts, rows, values, additive_rows);
        // What training freed stays with the allocator otherwise, beside the rows that come now.
        malloc_trim(0);
    });
}

int vekter_index_add(vekter_index* index, int64_t rows, const float* values) {
    return guarded([&] {
        vekter::check_interrupts();
        vekter::add_rows(unwrap(index).parts, rows, values);
    });
}

int64_t vekter_index_unlinked_rows(const vekter_index* index) {
    return static_cast<int64_t>(vekter::unlinked_rows(unwrap(index)));
}

int vekter_index_link(vekter_index* index, int64_t rows) {
    return guarded([&] {
        vekter::check_interrupts();
        vekter::link_rows(unwrap(index), static_cast<size_t>(rows));
    });
}

int vekter_index_write(const vekter_index* index, int (*sink)(void*, const uint8_t*, size_t), void* context) {
    return guarded([&] {
        vekter::require(vekter::unlinked_rows(unwrap(index)) == 0, "rows of the graph have no links");
        SinkWriter writer(sink, context);
        faiss::write_index(unwrap(index).index.get(), &writer);
    });
}

void vekter_index_set_search(vekter_index* index, const vekter_written_params* params) {
    vekter::set_search(unwrap(index).parts, *params);
}

int vekter_index_write_labelled(
        const vekter_index* index,
        const int64_t* labels,
        int normalises,
        int (*sink)(void*, const uint8_t*, size_t),
        void* context) {
    return guarded([&] {
        SinkWriter writer(sink, context);
        vekter::write_labelled(*unwrap(index).index, labels, normalises != 0, &writer);
    });
}

int vekter_index_search(
        const vekter_index* index,
        const float* query,
        int64_t k,
        const vekter_search_params* params,
        float* distances,
        int64_t* positions,
        int64_t* found) {
    return guarded([&] {
        vekter::check_interrupts();
        const vekter::Handle& handle = unwrap(index);
        const vekter::Hits hits = vekter::nearest(handle, query, static_cast<size_t>(k), *params);
        store(*handle.index, hits, distances, positions, found);
    });
}

int vekter_index_search_each(
        const vekter_index* index,
        size_t count,
        const float* queries,
        int64_t k,
        const vekter_search_params* params,
        float* distances,
        int64_t* positions,
        int64_t* found) {
    return guarded([&] {
        const vekter::Handle& handle = unwrap(index);
        std::vector<vekter::Hits> nearest(count);
        vekter::nearest_of_each(handle, count, queries, static_cast<size_t>(k), *params, nearest.data());
        for (size_t query = 0; query < count; query++) {
            store(*handle.index, nearest[query], distances + query * k, positions + query * k, found + query);
        }
    });
}

int vekter_index_can_decode(const vekter_index* index, int32_t* can) {
    return guarded([&] { *can = vekter::can_decode(unwrap(index).parts); });
}

int vekter_index_next_rows(
        const vekter_index* index,
        vekter_row_cursor* cursor,
        size_t limit,
        int64_t* positions,
        float* values,
        size_t* found) {
    return guarded([&] { *found = vekter::next_rows(unwrap(index).parts, *cursor, limit, positions, values); });
}

int vekter_index_rows_at(const vekter_index* index, size_t count, const int64_t* positions, float* values) {
    return guarded([&] { vekter::rows_at(unwrap(index).parts, count, positions, values); });
}

int vekter_index_distances_at(
        const vekter_index* index,
        const float* query,
        size_t count,
        const int64_t* positions,
        float* distances,
        int32_t* can) {
    return guarded([&] { *can = vekter::distances_at(unwrap(index).parts, query, count, positions, distances); });
}

int vekter_index_only_code(const vekter_index* index, uint8_t* code, size_t room, size_t* length) {
    return guarded([&] {
        const auto bytes = vekter::only_code(unwrap(index).parts);
        std::copy_n(bytes.begin(), std::min(room, bytes.size()), code);
        *length = bytes.size();
    });
}

int vekter_index_imbalance(const vekter_index* index, double* factor) {
    return guarded([&] { *factor = vekter::imbalance(unwrap(index).parts); });
}

int vekter_index_lists_by_position(const vekter_index* index, int32_t* lists) {
    return guarded([&] { vekter::lists_by_position(unwrap(index).parts, lists); });
}

int vekter_index_nearest_lists(const vekter_index* index, const float* query, int64_t count, int64_t* lists) {
    return guarded([&] { vekter::nearest_lists(unwrap(index).parts, query, static_cast<size_t>(count), lists); });
}

int vekter_index_remove_links(vekter_index* index, const uint8_t* hidden, size_t hidden_bytes, vekter_removed_links** links) {
    return guarded([&] {
        auto taken = std::make_unique<std::vector<vekter::Link>>();
        *taken = vekter::remove_links(unwrap(index).parts, hidden, hidden_bytes);
        *links = reinterpret_cast<vekter_removed_links*>(taken.release());
    });
}

void vekter_index_restore_links(vekter_index* index, vekter_removed_links* links) {
    const std::unique_ptr<std::vector<vekter::Link>> taken(reinterpret_cast<std::vector<vekter::Link>*>(links));
    vekter::restore_links(unwrap(index).parts, *taken);
}

int vekter_nearest_rows(
        const float* queries,
        int64_t query_count,
        const float* rows,
        int64_t row_count,
        int32_t dims,
        int32_t metric,
        int64_t k,
        float* distances,
        int64_t* positions) {
    return guarded([&] {
        vekter::check_interrupts();
        vekter::nearest_rows(
                queries,
                static_cast<size_t>(query_count),
                rows,
                static_cast<size_t>(row_count),
                static_cast<size_t>(dims),
                metric == VEKTER_INNER_PRODUCT,
                static_cast<size_t>(k),
                distances,
                positions);
    });
}

int vekter_cluster(
        const float* values,
        int64_t rows,
        int32_t dims,
        int32_t clusters,
        int spherical,
        int32_t iterations,
        int32_t seed,
        float* centroids) {
    return guarded([&] {
        vekter::check_interrupts();
        vekter::cluster(values, rows, dims, clusters, spherical != 0, iterations, seed, centroids);
    });
}

void vekter_squared_distances(float* out, const float* query, const float* values, size_t dims, size_t rows) {
    faiss::fvec_L2sqr_ny(out, query, values, dims, rows);
}

void vekter_taxicab_distances(float* out, const float* query, const float* values, size_t dims, size_t rows) {
    vekter::taxicab_distances(out, query, values, dims, rows);
}

void vekter_inner_products(float* out, const float* query, const float* values, size_t dims, size_t rows) {
    faiss::fvec_inner_products_ny(out, query, values, dims, rows);
}

int vekter_distances_each(
        float* out,
        int32_t metric,
        size_t count,
        const float* queries,
        const float* values,
        size_t dims,
        size_t rows) {
    return guarded([&] {
        vekter::distances_of_each(static_cast<vekter_metric>(metric), count, queries, rows, values, dims, out);
    });
}
