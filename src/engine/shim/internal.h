// Functions that the C++ files of the engine share; no other file includes it.

#ifndef VEKTER_ENGINE_INTERNAL_H
#define VEKTER_ENGINE_INTERNAL_H

#include "parts.h"
#include "shim.h"

// Written by build.rs from constants.rs.
#include "shared_constants.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include <faiss/Index.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFastScan.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/invlists/InvertedLists.h>

namespace vekter {

// What FAISS throws when its interrupt callback says stop, word for word (faiss/impl/AuxIndexStructures.cpp).
constexpr char INTERRUPTED[] = "computation interrupted";

void check_interrupts();
// Throws `what`, as the reason that a user sees.
void require(bool condition, const char* what);
// Rows and queries come bounded, but a transform that learnt from odd rows may make anything of them.
void require_bounded(const float* values, size_t count, float limit);

// additive_quantizer.cc
void tune_additive(faiss::AdditiveQuantizer& quantizer);
// Of the rows, at most `encoder_rows` train the quantiser itself.
void train_additive(const Codes& codes, idx_t rows, const float* values, idx_t encoder_rows);
void check_additive(const faiss::AdditiveQuantizer& quantizer, size_t dims);
// The same for codes of `parts` times 4 bits, the norm's among them.
void check_packed_additive(const faiss::AdditiveQuantizer& quantizer, size_t dims, faiss::MetricType metric, size_t parts);
bool are_additive_alike(const faiss::AdditiveQuantizer& like, const faiss::AdditiveQuantizer& read);
// Copies what lies in a map.
void own_norms(faiss::AdditiveQuantizer& quantizer);
// Drops what only encoding needs.
void keep_only_decoding(faiss::AdditiveQuantizer& quantizer);
void search_packed_sums(
        const faiss::IndexIVFAdditiveQuantizerFastScan& index,
        const float* query,
        size_t k,
        float* distances,
        idx_t* positions,
        const faiss::IndexIVFFastScan::CoarseQuantized& lists,
        const faiss::IVFSearchParameters& with);

// building.cc
void tune_for_building(const Parts& parts);
// Additive quantisers learn from at most `additive_rows` rows.
void train(const Parts& parts, idx_t rows, const float* values, idx_t additive_rows);
void reserve_rows(const Parts& parts, size_t rows);
// Rows of a graph get no links.
void add_rows(const Parts& parts, idx_t rows, const float* values);

// graph_building.cc
// Rows of a graph that were added and not linked; 0 for other indexes.
size_t unlinked_rows(const Handle& handle);
// Links the next of these, at most `rows`, on the calling thread's OpenMP threads.
void link_rows(Handle& handle, size_t rows);

// calibrating.cc
// The list of each row; `lists` has room for all.
void lists_by_position(const Parts& parts, int32_t* lists);
// The lists whose centroids are nearest, nearest first; -1 where the quantizer finds no more.
void nearest_lists(const Parts& parts, const float* query, size_t count, int64_t* lists);
// A link of a graph: its place among all links, and the row that it led to.
struct Link {
    size_t place;
    int32_t row;
};
// Removes the links to the rows of a bitmap from a graph, except those to its entry point, and returns them.
std::vector<Link> remove_links(const Parts& parts, const uint8_t* held_out, size_t held_out_bytes);
void restore_links(const Parts& parts, const std::vector<Link>& links) noexcept;
// FAISS's exact search, on all threads: k of the rows for each query, best first; -1 where there are no more.
void nearest_rows(
        const float* queries,
        size_t query_count,
        const float* rows,
        size_t row_count,
        size_t dims,
        bool similarity,
        size_t k,
        float* distances,
        int64_t* positions);

// size_checks.cc
// Throws if sizes would let FAISS read out of bounds.
void check_sizes(const Parts& parts);

// reading.cc
void register_mapped_lists();
// `adds`: rows will be added, so that encoding must work.
std::unique_ptr<Handle> open_mapped(const uint8_t* bytes, size_t length, bool adds);
// A fast-scan list's codes where they lie, aligned or not; nothing to release.
const uint8_t* packed_codes(const faiss::InvertedLists& lists, size_t list);
// Whether lists lie in a map, and how many bytes of codes a list for fast scan has there.
bool are_mapped(const faiss::InvertedLists& lists);
size_t packed_bytes(const faiss::InvertedLists& lists, size_t list);

// resuming.cc
// `like` is a new index after the factory string that the bytes must have.
std::unique_ptr<Handle> resume(const Handle& like, const uint8_t* bytes, size_t length, bool keeps_rows);

// exporting.cc
// The parameters of searches that give none themselves.
void set_search(const Parts& parts, const vekter_written_params& params);
// As an index whose labels are `labels`, one for each row; `normalises`: it brings queries to length 1 itself.
void write_labelled(const Index& index, const idx_t* labels, bool normalises, faiss::IOWriter* writer);

// stored_rows.cc
bool can_decode(const Parts& parts);
// Both need can_decode.
size_t next_rows(const Parts& parts, vekter_row_cursor& cursor, size_t limit, idx_t* positions, float* values);
void rows_at(const Parts& parts, size_t count, const idx_t* positions, float* values);
// For positions that ascend, each once. False where the rows are not stored as floats.
bool distances_at(const Parts& parts, const float* query, size_t count, const idx_t* positions, float* distances);
// The code of the only row.
std::vector<uint8_t> only_code(const Parts& parts);
// 0 where there are no inverted lists, or no rows in them.
double imbalance(const Parts& parts);

// kmeans.cc
// `spherical`: rows and centroids of length 1, by inner product; else by Euclidean distance.
void cluster(
        const float* rows,
        size_t count,
        size_t dims,
        size_t clusters,
        bool spherical,
        int iterations,
        int seed,
        float* centroids);

// searching.cc
// A row that a search found.
struct Hit {
    // Smaller is nearer: a squared distance, or a negated inner product.
    float key;
    idx_t position;

    bool operator<(const Hit& other) const {
        return key < other.key || (key == other.key && position < other.position);
    }
    bool operator>(const Hit& other) const {
        return other < *this;
    }
};
using Hits = std::vector<Hit>;
// The k nearest hits so far, the farthest in front.
class BestHits {
    size_t k;
    Hits heap;

public:
    explicit BestHits(size_t k) : k(k) {
        heap.reserve(k);
    }
    float worst() const {
        return heap.size() < k ? std::numeric_limits<float>::infinity() : heap.front().key;
    }
    bool accepts(const Hit& hit) const {
        return heap.size() < k || hit < heap.front();
    }
    // Only what it accepts.
    void add(const Hit& hit) {
        if (heap.size() == k) {
            std::pop_heap(heap.begin(), heap.end());
            heap.back() = hit;
        } else {
            heap.push_back(hit);
        }
        std::push_heap(heap.begin(), heap.end());
    }
    // Nearest first; leaves nothing behind.
    Hits sorted() {
        std::sort_heap(heap.begin(), heap.end());
        return std::move(heap);
    }
};
// A query behind the transforms of an index.
struct Image {
    const float* values;
    std::unique_ptr<const float[]> owned;

    Image(const Parts& parts, const float* query);
};
void taxicab_distances(float* out, const float* query, const float* values, size_t dims, size_t rows);
// FAISS's distance as a key.
float key_of(const Index& index, float distance);
struct Alive : faiss::IDSelector {
    const vekter_search_params& params;

    explicit Alive(const vekter_search_params& params) : params(params) {}

    bool is_member(idx_t position) const override {
        const size_t byte = static_cast<size_t>(position) >> 3;
        return byte >= params.dead_bytes || !((params.dead[byte] >> (position & 7)) & 1);
    }
};
Hits nearest(const Handle& handle, const float* query, size_t k, const vekter_search_params& params);
// An inverted list that a search scans, with the distance that its scanner needs.
struct Probe {
    idx_t list;
    float centroid_distance;
};
// Both take the image of a query.
std::vector<Probe> lists_to_scan(const Parts& parts, const float* query, const vekter_search_params& params);
// At most `count` lists, nearest first; `queue`: length of the queue of candidates in a graph over the centroids.
std::vector<Probe> nearest_centroids(const Parts& parts, const float* query, size_t count, size_t queue);

// list_scan.cc
// The first `rows` rows of a list, into a heap of k that begin_heap began.
void begin_heap(const faiss::IndexIVF& inverted, size_t k, float* distances, idx_t* positions);
void scan_list(
        const faiss::IndexIVF& inverted,
        faiss::InvertedListScanner& scanner,
        const Probe& probe,
        size_t rows,
        size_t k,
        float* distances,
        idx_t* positions);

// graph_search.cc
// The nearest rows with their keys, nearest first. `queue`: candidates that are kept; `alive`: null if all rows are.
Hits search_graph(
        const faiss::IndexHNSW& index,
        const float* query,
        size_t k,
        size_t queue,
        const faiss::IDSelector* alive);

// query_batch.cc
// `nearest` for each of `count` queries, on the calling thread's OpenMP threads; `found` has room for each.
void nearest_of_each(
        const Handle& handle,
        size_t count,
        const float* queries,
        size_t k,
        const vekter_search_params& params,
        Hits* found);
// FAISS's distances of this metric of each of `count` queries and each row, query by query.
void distances_of_each(
        vekter_metric metric, size_t count, const float* queries, size_t rows, const float* values, size_t dims, float* out);

} // namespace vekter

#endif
