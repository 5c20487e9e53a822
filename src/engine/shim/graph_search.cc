// One query along the links of a graph: the search of HNSW (Malkov and Yashunin 2018, algorithm 5), with the results of
// faiss::HNSW::search.
//
// IndexHNSW::search itself does not serve. No exception leaves its OpenMP region: one that is thrown for want of memory
// ends the process. It cannot be interrupted within a query, each of its steps looks through the whole queue, and it
// waits for each row that it compares, because it does not fetch rows ahead.

#include "graph_walk.h"
#include "internal.h"

#include <limits>
#include <queue>

namespace vekter {

namespace {

// The longest queue that is a sorted array. Of longer ones, heaps are faster.
constexpr size_t SHORT_QUEUE = 512;
// Steps between two looks at the interrupt flag, each along all links of a row.
constexpr size_t INTERRUPTIBLE_STEPS = 64;

// As ShortQueue, of any length.
class LongQueue {
    const size_t limit;
    // Rows that were not followed, nearest first.
    std::priority_queue<Hit, Hits, std::greater<>> open;
    // Keys of the nearest rows, farthest first.
    std::priority_queue<float> nearest;

public:
    explicit LongQueue(size_t limit) : limit(limit) {}
    void add(float key, Row row) {
        if (nearest.size() == limit) {
            if (!(key < nearest.top())) {
                return;
            }
            nearest.pop();
        }
        nearest.push(key);
        open.push({key, row});
    }
    Row follow_next() {
        if (open.empty() || (nearest.size() == limit && open.top().key > nearest.top())) {
            return -1;
        }
        const Row row = static_cast<Row>(open.top().position);
        open.pop();
        return row;
    }
};

template <class Queue>
class GraphSearch {
    const Graph& graph;
    faiss::DistanceComputer& distances;
    const faiss::IDSelector* alive;
    Marks& marks;
    Walk walk;
    Queue queue;
    BestHits found;

    void meet(Row row, float key) {
        const Hit hit{key, row};
        if (key < std::numeric_limits<float>::infinity() && found.accepts(hit) && (!alive || alive->is_member(row))) {
            found.add(hit);
        }
        queue.add(key, row);
    }

public:
    GraphSearch(
            const faiss::IndexHNSW& index,
            faiss::DistanceComputer& distances,
            const faiss::IDSelector* alive,
            Marks& marks,
            size_t k,
            size_t queue)
            : graph(index.hnsw),
              distances(distances),
              alive(alive),
              marks(marks),
              walk(index, distances, marks),
              queue(queue),
              found(k) {}

    Hits run() {
        Row entry = graph.entry_point;
        float key = distances(entry);
        for (int level = graph.max_level; level > 0; level--) {
            faiss::greedy_update_nearest(graph, distances, level, entry, key);
        }
        marks.add(entry);
        meet(entry, key);
        size_t step = 0;
        for (Row row = queue.follow_next(); row >= 0; row = queue.follow_next()) {
            if (step++ % INTERRUPTIBLE_STEPS == 0) {
                check_interrupts();
            }
            walk.follow(row, 0, [&](Row met, float distance) { meet(met, distance); });
        }
        return found.sorted();
    }
};

} // namespace

Hits search_graph(
        const faiss::IndexHNSW& index,
        const float* query,
        size_t k,
        size_t queue,
        const faiss::IDSelector* alive) {
    if (index.hnsw.entry_point < 0 || k == 0) {
        return {};
    }
    queue = std::max(queue, k);
    const std::unique_ptr<faiss::DistanceComputer> distances = distances_to(index);
    distances->set_query(query);
    Marks own;
    Marks& marks = marks_for(index.ntotal, own);
    marks.begin(index.ntotal);
    if (queue <= SHORT_QUEUE) {
        return GraphSearch<ShortQueue>(index, *distances, alive, marks, k, queue).run();
    }
    return GraphSearch<LongQueue>(index, *distances, alive, marks, k, queue).run();
}

} // namespace vekter
