// What the C++ files of the engine share; nothing outside them includes it.

#ifndef VEKTER_ENGINE_INTERNAL_H
#define VEKTER_ENGINE_INTERNAL_H

#include "shim.h"

#include <memory>
#include <vector>

#include <faiss/Index.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFastScan.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/invlists/InvertedLists.h>

namespace faiss {
struct AdditiveQuantizer;
struct IndexHNSW;
struct IndexIVFAdditiveQuantizerFastScan;
} // namespace faiss

namespace vekter {

using faiss::idx_t;
using faiss::Index;

// What FAISS throws when its interrupt callback says stop, word for word (faiss/impl/AuxIndexStructures.cpp).
constexpr char INTERRUPTED[] = "computation interrupted";

void check_interrupts();
// Throws `what`, as the reason that a user sees.
void require(bool condition, const char* what);
// Rows and queries come bounded, but a transform that learnt from odd rows may make anything of them.
void require_bounded(const float* values, size_t count, float limit);

// additive_quantizer.cc
// That of an index of additive codes; null for any other.
faiss::AdditiveQuantizer* additive_quantizer(const Index& index);
void tune_additive(faiss::AdditiveQuantizer& quantizer);
// Of the rows, at most `encoder_rows` train the quantiser itself.
void train_additive(Index* index, idx_t rows, const float* values, idx_t encoder_rows);
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
void tune_for_building(Index* index);
void train_quietly(Index* index, idx_t rows, const float* values, idx_t additive_rows);
void reserve_rows(Index* index, size_t rows);
void add_rows(Index* index, idx_t rows, const float* values);

// calibrating.cc
// The list of each row; `lists` has room for all.
void lists_by_position(const Index& index, int32_t* lists);
// The lists whose centroids are nearest, nearest first; -1 where the quantizer finds no more.
void nearest_lists(const Index& index, const float* query, size_t count, int64_t* lists);
// A link of a graph, where it stood and where it led.
struct Link {
    size_t place;
    int32_t row;
};
// Lets no link of a graph lead to the rows of a bitmap any more, but those to its entry. Returns the links that did.
std::vector<Link> remove_links(Index& index, const uint8_t* hidden, size_t hidden_bytes);
void restore_links(Index& index, const std::vector<Link>& links) noexcept;
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
// Refuses index types that the engine does not build, and proportions that would let FAISS read out of bounds.
void check_sizes(const Index* index);

// reading.cc
void register_mapped_lists();
// To be searched, unless it is to be added to.
std::unique_ptr<Index> open_mapped(const uint8_t* bytes, size_t length, bool adds);
// A fast-scan list's codes where they lie, aligned or not; nothing to release.
const uint8_t* packed_codes(const faiss::InvertedLists& lists, size_t list);
// Whether lists lie in a map, and how many bytes of codes a list for fast scan has there.
bool are_mapped(const faiss::InvertedLists& lists);
size_t packed_bytes(const faiss::InvertedLists& lists, size_t list);

// resuming.cc
// `like` is a new index after the factory string that the bytes must have.
std::unique_ptr<Index> resume(const Index& like, const uint8_t* bytes, size_t length, bool keeps_rows);

// exporting.cc
// The parameters of searches that give none themselves.
void set_search(Index* index, const vekter_written_params& params);
// As an index whose labels are `labels`, one for each row; `normalises`: it brings queries to length 1 itself.
void write_labelled(const Index& index, const idx_t* labels, bool normalises, faiss::IOWriter* writer);

// stored_rows.cc
bool stores_rows(const Index& index);
bool can_decode(const Index& index);
// Both need can_decode.
size_t next_rows(const Index& index, vekter_row_cursor& cursor, size_t limit, idx_t* positions, float* values);
void rows_at(const Index& index, size_t count, const idx_t* positions, float* values);
// Of positions that ascend, each once. False where the rows are not held as floats.
bool distances_at(const Index& index, const float* query, size_t count, const idx_t* positions, float* distances);
// The code of the one row that the index has.
std::vector<uint8_t> only_code(const Index& index);
// 0 where there are no inverted lists, or no rows in them.
double imbalance(const Index& index);

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
std::vector<Hit> nearest(const Index& index, const float* query, size_t k, const vekter_search_params& params);
// The inverted lists that a search for the query looks through, and what their scanners want to know of each.
struct Probe {
    idx_t list;
    float centroid_distance;
};
std::vector<Probe> lists_to_scan(const faiss::IndexIVF& inverted, const float* query, const vekter_search_params& params);
// At most `count` lists, nearest first; `queue`: candidates that are kept where a graph finds them.
std::vector<Probe> nearest_centroids(const faiss::IndexIVF& inverted, const float* query, size_t count, size_t queue);
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
std::vector<Hit> search_graph(
        const faiss::IndexHNSW& index,
        const float* query,
        size_t k,
        size_t queue,
        const faiss::IDSelector* alive);

// query_batch.cc
// `nearest` for each of `count` queries, on all of the calling thread's OpenMP threads; `found` has room for each.
void nearest_of_each(
        const Index& index,
        size_t count,
        const float* queries,
        size_t k,
        const vekter_search_params& params,
        std::vector<Hit>* found);
// FAISS's distances of this metric of each of `count` queries and each row, query by query.
void distances_of_each(
        vekter_metric metric, size_t count, const float* queries, size_t rows, const float* values, size_t dims, float* out);

} // namespace vekter

#endif
