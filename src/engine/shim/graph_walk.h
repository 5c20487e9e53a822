// Walks along the links of a graph, for searches and for building.

#ifndef VEKTER_ENGINE_GRAPH_WALK_H
#define VEKTER_ENGINE_GRAPH_WALK_H

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/impl/DistanceComputer.h>
#include <faiss/utils/prefetch.h>

namespace vekter {

using Graph = faiss::HNSW;
using Row = Graph::storage_idx_t;

// Smaller is nearer: squared distances, or negated inner products.
inline std::unique_ptr<faiss::DistanceComputer> distances_to(const faiss::IndexHNSW& index) {
    std::unique_ptr<faiss::DistanceComputer> distances(index.storage->get_distance_computer());
    if (index.metric_type == faiss::METRIC_INNER_PRODUCT) {
        distances = std::make_unique<faiss::NegativeDistanceComputer>(distances.release());
    }
    return distances;
}

// The rows that a walk has met: the mark of a row is the number of the last walk that met it. So the marks are cleared
// once in 255 walks.
class Marks {
    std::vector<uint8_t> marks;
    uint8_t walk = 0;

public:
    void begin(size_t rows) {
        if (marks.size() < rows) {
            marks.assign(rows, 0);
            walk = 0;
        }
        if (++walk == 0) {
            std::fill(marks.begin(), marks.end(), uint8_t{0});
            walk = 1;
        }
    }
    void prefetch(Row row) const {
        prefetch_L2(marks.data() + row);
    }
    // False if the row has a mark already.
    bool add(Row row) {
        const bool is_new = marks[row] != walk;
        marks[row] = walk;
        return is_new;
    }
};

// The nearest rows that were met, as many as there is room for, nearest first. A row that was followed is stored as its
// complement.
class ShortQueue {
public:
    struct Candidate {
        float key;
        Row row;
    };

private:
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
    void clear() {
        sorted.clear();
        next = 0;
    }
    const std::vector<Candidate>& candidates() const {
        return sorted;
    }
    static Row row_of(const Candidate& candidate) {
        return candidate.row < 0 ? ~candidate.row : candidate.row;
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

// The marks of this thread, which it keeps between walks. Those of a graph with more than KEPT_MARKS rows are `own`.
inline Marks& marks_for(size_t rows, Marks& own) {
    // A byte for each row.
    constexpr size_t KEPT_MARKS = size_t{16} << 20;
    static thread_local Marks kept;
    return rows <= KEPT_MARKS ? kept : own;
}

// While a graph is built, links are read without a lock. Each is read once: it may be another the next time.
inline Row link_at(const Row* place) {
    return __atomic_load_n(place, __ATOMIC_RELAXED);
}
inline void set_link(Row* place, Row row) {
    __atomic_store_n(place, row, __ATOMIC_RELAXED);
}

class Walk {
    // The beginning of a row that is fetched ahead. The processor fetches what follows by itself.
    static constexpr size_t PREFETCH_BYTES = 512;
    static constexpr size_t CACHE_LINE_BYTES = 64;

    const Graph& graph;
    faiss::DistanceComputer& distances;
    // Of the rows; null where they have no codes of equal length.
    const uint8_t* codes = nullptr;
    size_t code_bytes = 0;
    Marks& marks;
    std::vector<Row> met;

    void prefetch(Row row) const {
        const uint8_t* code = codes + static_cast<size_t>(row) * code_bytes;
        for (size_t at = 0; at < std::min(code_bytes, PREFETCH_BYTES); at += CACHE_LINE_BYTES) {
            prefetch_L1(code + at);
        }
    }

public:
    Walk(const faiss::IndexHNSW& index, faiss::DistanceComputer& distances, Marks& marks)
            : graph(index.hnsw), distances(distances), marks(marks) {
        if (const auto* flat = dynamic_cast<const faiss::IndexFlatCodes*>(index.storage)) {
            codes = flat->codes.data();
            code_bytes = flat->code_size;
        }
        met.reserve(graph.nb_neighbors(0));
    }

    // Calls `meet` with each row that `row` links to on this level and that has no mark yet, and its key. Distances are
    // computed four at a time.
    template <class Meet>
    void follow(Row row, int level, Meet&& meet) {
        size_t begin, end;
        graph.neighbor_range(row, level, &begin, &end);
        const Row* const links = graph.neighbors.data();
        met.clear();
        for (size_t at = begin; at < end; at++) {
            const Row linked = link_at(links + at);
            if (linked < 0) {
                break;
            }
            marks.prefetch(linked);
            met.push_back(linked);
        }
        const auto has_mark = [&](Row linked) { return !marks.add(linked); };
        met.erase(std::remove_if(met.begin(), met.end(), has_mark), met.end());
        for (Row linked : met) {
            prefetch(linked);
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
};

} // namespace vekter

#endif
