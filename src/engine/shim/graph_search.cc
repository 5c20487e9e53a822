// One query along the links of a graph.
//
// IndexHNSW::search would do, but for its OpenMP region, which no exception leaves: one that is thrown for want of
// memory ends the process. And it can neither be interrupted within a query, nor does it suit long queues: each of its
// steps looks through the whole queue (HNSW::MinimaxHeap), so that time grows with the square of its length.

#include "internal.h"

#include <algorithm>
#include <limits>
#include <queue>

#include <faiss/IndexHNSW.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/DistanceComputer.h>
#include <faiss/impl/ResultHandler.h>
#include <faiss/utils/prefetch.h>

namespace vekter {

namespace {

using Graph = faiss::HNSW;

// Up to here FAISS's queue is the faster one.
constexpr size_t SHORT_QUEUE = 384;
// And up to so many values of rows that are compared, about a tenth of a second's work, nobody need be able to
// interrupt it.
constexpr size_t SHORT_SEARCH_VALUES = size_t{1} << 28;
// Steps between two looks at the interrupt flag, each along all links of a row.
constexpr size_t INTERRUPTIBLE_STEPS = 64;

std::unique_ptr<faiss::DistanceComputer> distances_to(const faiss::IndexHNSW& index) {
    std::unique_ptr<faiss::DistanceComputer> distances(index.storage->get_distance_computer());
    if (index.metric_type == faiss::METRIC_INNER_PRODUCT) {
        distances = std::make_unique<faiss::NegativeDistanceComputer>(distances.release());
    }
    return distances;
}

// FAISS's own.
Hits search_shortly(
        const Graph& graph,
        faiss::DistanceComputer& distances,
        faiss::VisitedTable& visited,
        size_t k,
        size_t queue,
        const faiss::IDSelector* alive) {
    faiss::SearchParametersHNSW with;
    with.efSearch = static_cast<int>(queue);
    with.sel = const_cast<faiss::IDSelector*>(alive);
    using Results = faiss::HeapBlockResultHandler<Graph::C>;
    std::vector<float> keys(k);
    std::vector<idx_t> positions(k, -1);
    Results results(1, keys.data(), positions.data(), k);
    Results::SingleResultHandler result(results);
    result.begin(0);
    graph.search(distances, result, visited, &with);
    result.end();
    Hits found;
    found.reserve(k);
    for (size_t i = 0; i < k; i++) {
        if (positions[i] != -1) {
            found.push_back({keys[i], positions[i]});
        }
    }
    return found;
}

// The same with queues that are heaps.
struct LongSearch {
    const Graph& graph;
    faiss::DistanceComputer& distances;
    faiss::VisitedTable& visited;
    const faiss::IDSelector* alive;
    const size_t k, queue;
    // Rows whose links were not followed yet, nearest first.
    std::priority_queue<Hit, Hits, std::greater<>> open;
    // Keys of the nearest so far, dead or alive, farthest first: a row behind as many as the queue holds is of no use.
    std::priority_queue<float> nearest;
    // The nearest living rows so far, farthest first.
    std::priority_queue<Hit> found;

    void meet(idx_t row, float key) {
        if ((!alive || alive->is_member(row)) && key < std::numeric_limits<float>::infinity()) {
            const Hit candidate{key, row};
            if (found.size() < k) {
                found.push(candidate);
            } else if (candidate < found.top()) {
                found.pop();
                found.push(candidate);
            }
        }
        if (nearest.size() == queue) {
            if (!(key < nearest.top())) {
                return;
            }
            nearest.pop();
        }
        nearest.push(key);
        open.push({key, row});
    }

    // Meets the rows that `row` links to, four at a time.
    void follow(idx_t row) {
        size_t begin, end;
        graph.neighbor_range(row, 0, &begin, &end);
        const auto& links = graph.neighbors;
        for (size_t at = begin; at < end && links[at] >= 0; at++) {
            prefetch_L2(visited.visited.data() + links[at]);
        }
        idx_t rows[4];
        float keys[4];
        size_t count = 0;
        for (size_t at = begin; at < end && links[at] >= 0; at++) {
            const int32_t next = links[at];
            rows[count] = next;
            count += !visited.get(next);
            visited.set(next);
            if (count == 4) {
                distances.distances_batch_4(rows[0], rows[1], rows[2], rows[3], keys[0], keys[1], keys[2], keys[3]);
                for (size_t i = 0; i < 4; i++) {
                    meet(rows[i], keys[i]);
                }
                count = 0;
            }
        }
        for (size_t i = 0; i < count; i++) {
            meet(rows[i], distances(rows[i]));
        }
    }

    void run() {
        int32_t entry = graph.entry_point;
        float key = distances(entry);
        for (int level = graph.max_level; level > 0; level--) {
            faiss::greedy_update_nearest(graph, distances, level, entry, key);
        }
        visited.set(entry);
        meet(entry, key);
        for (size_t step = 0; !open.empty(); step++) {
            if (step % INTERRUPTIBLE_STEPS == 0) {
                check_interrupts();
            }
            const Hit next = open.top();
            if (nearest.size() == queue && next.key > nearest.top()) {
                break;
            }
            open.pop();
            follow(next.position);
        }
    }

    Hits sorted() {
        Hits sorted(found.size());
        for (size_t i = sorted.size(); i-- > 0;) {
            sorted[i] = found.top();
            found.pop();
        }
        return sorted;
    }
};

} // namespace

Hits search_graph(
        const faiss::IndexHNSW& index,
        const float* query,
        size_t k,
        size_t queue,
        const faiss::IDSelector* alive) {
    const Graph& graph = index.hnsw;
    if (graph.entry_point < 0 || k == 0) {
        return {};
    }
    queue = std::max(queue, k);
    const std::unique_ptr<faiss::DistanceComputer> distances = distances_to(index);
    distances->set_query(query);
    faiss::VisitedTable visited(static_cast<int>(index.ntotal));
    const size_t values = queue * static_cast<size_t>(graph.nb_neighbors(0)) * static_cast<size_t>(index.d);
    if (queue <= SHORT_QUEUE && values <= SHORT_SEARCH_VALUES) {
        return search_shortly(graph, *distances, visited, k, queue, alive);
    }
    LongSearch search{graph, *distances, visited, alive, k, queue, {}, {}, {}};
    search.run();
    return search.sorted();
}

} // namespace vekter
