// One query along the links of a graph: the search of HNSW (Malkov and Yashunin 2018, algorithm 5), with the results of
// faiss::HNSW::search.
//
// IndexHNSW::search itself does not serve. No exception leaves its OpenMP region: one that is thrown for want of memory
// ends the process. It cannot be interrupted within a query, each of its steps looks through the whole queue, and it
// waits for each row that it compares, because it does not fetch rows ahead.

#include "internal.h"

#include <algorithm>
#include <limits>
#include <queue>

#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/impl/DistanceComputer.h>
#include <faiss/utils/prefetch.h>

namespace vekter {

namespace {

using Graph = faiss::HNSW;
using Row = Graph::storage_idx_t;

// The longest queue that is a sorted array. Of longer ones, heaps are faster.
constexpr size_t SHORT_QUEUE = 512;
// Steps between two looks at the interrupt flag, each along all links of a row.
constexpr size_t INTERRUPTIBLE_STEPS = 64;
// A thread keeps its marks between searches for at most this many rows, a byte for each.
constexpr size_t KEPT_MARKS = size_t{16} << 20;
// The beginning of a row that is fetched ahead. The processor fetches what follows by itself.
constexpr size_t PREFETCH_BYTES = 512;
constexpr size_t CACHE_LINE_BYTES = 64;

std::unique_ptr<faiss::DistanceComputer> distances_to(const faiss::IndexHNSW& index) {
    std::unique_ptr<faiss::DistanceComputer> distances(index.storage->get_distance_computer());
    if (index.metric_type == faiss::METRIC_INNER_PRODUCT) {
        distances = std::make_unique<faiss::NegativeDistanceComputer>(distances.release());
    }
    return distances;
}

// The rows that a search has met: the mark of a row is the number of the last search that met it. So the marks are
// cleared once in 255 searches.
class Marks {
    std::vector<uint8_t> marks;
    uint8_t search = 0;

public:
    void begin(size_t rows) {
        if (marks.size() < rows) {
            marks.assign(rows, 0);
            search = 0;
        }
        if (++search == 0) {
            std::fill(marks.begin(), marks.end(), uint8_t{0});
            search = 1;
        }
    }
    void prefetch(Row row) const {
        prefetch_L2(marks.data() + row);
    }
    // False if the row has a mark already.
    bool add(Row row) {
        const bool is_new = marks[row] != search;
        marks[row] = search;
        return is_new;
    }
};

// The nearest rows that were met, as many as there is room for, nearest first. A row that was followed is stored as its
// complement.
class ShortQueue {
    struct Candidate {
        float key;
        Row row;
    };
    const size_t limit;
    std::vector<Candidate> sorted;
    // All candidates before it were followed.
    size_t next = 0;

public:
    explicit ShortQueue(size_t limit) : limit(limit) {
        sorted.reserve(limit);
    }
    void add(float key, Row row) {
        if (sorted.size() == limit) {
            if (!(key < sorted.back().key)) {
                return;
            }
            sorted.pop_back();
        }
        const auto is_before = [](float nearer, const Candidate& candidate) { return nearer < candidate.key; };
        const auto at = std::upper_bound(sorted.begin(), sorted.end(), key, is_before);
        next = std::min<size_t>(next, at - sorted.begin());
        sorted.insert(at, {key, row});
    }
    // The nearest row that was not followed; -1 if there is none.
    Row follow_next() {
        while (next < sorted.size() && sorted[next].row < 0) {
            next++;
        }
        if (next == sorted.size()) {
            return -1;
        }
        const Row row = sorted[next].row;
        sorted[next].row = ~row;
        return row;
    }
};

// The same for a queue of any length.
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
    // Of the rows; null where they have no codes of equal length.
    const uint8_t* codes = nullptr;
    size_t code_bytes = 0;
    const faiss::IDSelector* alive;
    Marks& marks;
    Queue queue;
    BestHits found;
    std::vector<Row> met;

    void prefetch(Row row) const {
        const uint8_t* code = codes + static_cast<size_t>(row) * code_bytes;
        for (size_t at = 0; at < std::min(code_bytes, PREFETCH_BYTES); at += CACHE_LINE_BYTES) {
            prefetch_L1(code + at);
        }
    }

    void meet(Row row, float key) {
        const Hit hit{key, row};
        if (key < std::numeric_limits<float>::infinity() && found.accepts(hit) && (!alive || alive->is_member(row))) {
            found.add(hit);
        }
        queue.add(key, row);
    }

    // Meets the rows that `row` links to, four at a time.
    void follow(Row row) {
        size_t begin, end;
        graph.neighbor_range(row, 0, &begin, &end);
        const Row* const links = graph.neighbors.data();
        for (size_t at = begin; at < end && links[at] >= 0; at++) {
            marks.prefetch(links[at]);
        }
        met.clear();
        for (size_t at = begin; at < end && links[at] >= 0; at++) {
            if (marks.add(links[at])) {
                met.push_back(links[at]);
                prefetch(links[at]);
            }
        }
        size_t at = 0;
        for (; at + 4 <= met.size(); at += 4) {
            const Row* const rows = met.data() + at;
            float keys[4];
            distances.distances_batch_4(rows[0], rows[1], rows[2], rows[3], keys[0], keys[1], keys[2], keys[3]);
            for (size_t i = 0; i < 4; i++) {
                meet(rows[i], keys[i]);
            }
        }
        for (; at < met.size(); at++) {
            meet(met[at], distances(met[at]));
        }
    }

public:
    GraphSearch(
            const faiss::IndexHNSW& index,
            faiss::DistanceComputer& distances,
            const faiss::IDSelector* alive,
            Marks& marks,
            size_t k,
            size_t queue)
            : graph(index.hnsw), distances(distances), alive(alive), marks(marks), queue(queue), found(k) {
        if (const auto* flat = dynamic_cast<const faiss::IndexFlatCodes*>(index.storage)) {
            codes = flat->codes.data();
            code_bytes = flat->code_size;
        }
        met.reserve(graph.nb_neighbors(0));
    }

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
            follow(row);
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
    static thread_local Marks kept;
    Marks own;
    Marks& marks = static_cast<size_t>(index.ntotal) <= KEPT_MARKS ? kept : own;
    marks.begin(index.ntotal);
    if (queue <= SHORT_QUEUE) {
        return GraphSearch<ShortQueue>(index, *distances, alive, marks, k, queue).run();
    }
    return GraphSearch<LongQueue>(index, *distances, alive, marks, k, queue).run();
}

} // namespace vekter
