// The C face of FAISS, as ffi.rs declares it.
//
// Every function that can fail returns a vekter_code and leaves a message for vekter_message() of the same thread.
// No C++ exception leaves a function. Nothing here checks what its Rust callers promise: row counts that fit the
// slices, k between 1 and the rows, a trained index before an add.

#ifndef VEKTER_ENGINE_SHIM_H
#define VEKTER_ENGINE_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum vekter_code {
    VEKTER_OK = 0,
    VEKTER_FAILED = 1,
    VEKTER_INTERRUPTED = 2,
    VEKTER_OUT_OF_MEMORY = 3,
    // The sink of vekter_index_write said stop.
    VEKTER_SINK_STOPPED = 4,
};

// A faiss::Index with its parts.
typedef struct vekter_index vekter_index;
// Links that were removed from a graph.
typedef struct vekter_removed_links vekter_removed_links;

// faiss::MetricType, for those that are used.
enum vekter_metric { VEKTER_INNER_PRODUCT = 0, VEKTER_L2 = 1, VEKTER_L1 = 2 };

typedef struct {
    int64_t rows;
    // Inverted lists of the index that scans them; 0 where there are none.
    int64_t lists;
    int32_t dims;
    int32_t metric;
    int32_t is_trained;
    // Every row is compared with every query.
    int32_t scans_all;
    int32_t searches_graph;
    int32_t refines;
    // The rows are stored as floats, without a transform, so that searches return exact distances.
    int32_t stores_rows;
    // The rows are stored as 16-bit floats, neither transformed nor as residuals.
    int32_t stores_halves;
} vekter_description;

typedef struct {
    int64_t nprobe;
    int64_t ef_search;
    float k_factor;
    // 0: chosen by nprobe.
    int64_t quantizer_ef_search;
    // 0: no limit.
    int64_t max_codes;
    // Of polysemous codes; 0: all are compared.
    int32_t hamming_threshold;
    int32_t query_bits;
    // Hits come in the order of their codes, and more exact ones that are stored beside are not looked at.
    int32_t unrefined;
    // Bitmap by position, least significant bit first, 1 = dead; rows beyond its end are alive.
    const uint8_t* dead;
    size_t dead_bytes;
    int64_t dead_rows;
} vekter_search_params;

// Parameters of searches that are written with an index.
typedef struct {
    int64_t nprobe;
    int32_t ef_search;
    int32_t quantizer_ef_search;
    float k_factor;
    uint8_t query_bits;
} vekter_written_params;

// Where the next row of an index is; starts at zeros.
typedef struct {
    // 0 for all rows of an index without inverted lists.
    size_t list;
    size_t offset;
} vekter_row_cursor;

// Installs FAISS's interrupt callback and the inverted lists that point into a map. Once per process.
int vekter_initialise(bool (*interrupted)(void));
// The calling thread's share of OpenMP.
void vekter_set_threads(int threads);
// As vekter_set_threads, and starts those threads.
void vekter_start_openmp_threads(int threads);
// Lowers the priority of the calling thread and of those that it starts.
void vekter_lower_priority(void);
// Makes a later exit(3) of the calling thread end the process with this status before any destructor that was
// registered earlier, be it of thread-local or static objects, and before functions that were registered with
// atexit(3).
void vekter_skip_destructors(int status);
const char* vekter_message(void);

// Blocks all signals for the calling thread; the mask before goes to `previous`.
int vekter_block_signals(void* previous, size_t previous_bytes);
int vekter_restore_signals(const void* previous);

// An empty index after a factory string.
int vekter_index_new(const char* factory, int32_t dims, int32_t metric, vekter_index** index);
// An index over serialised bytes, which must outlive it.
int vekter_index_open(const uint8_t* bytes, size_t length, vekter_index** index);
// An index over serialised bytes, trained as it was, to be added to: in memory of its own, with its rows or without.
// `like` is a new index after the same factory string.
int vekter_index_resume(
        const vekter_index* like,
        const uint8_t* bytes,
        size_t length,
        int keeps_rows,
        vekter_index** index);
void vekter_index_free(vekter_index* index);

void vekter_index_describe(const vekter_index* index, vekter_description* description);
// Makes room for `rows` rows in all, so that adding does not grow arrays by copying them.
int vekter_index_reserve(vekter_index* index, int64_t rows);
// An additive quantiser learns from at most `additive_rows` of them.
int vekter_index_train(vekter_index* index, int64_t rows, const float* values, int64_t additive_rows);
// Rows of a graph get no links, and no search finds them before vekter_index_link.
int vekter_index_add(vekter_index* index, int64_t rows, const float* values);
int64_t vekter_index_unlinked_rows(const vekter_index* index);
// Links at most `rows` of them, on the calling thread's OpenMP threads.
int vekter_index_link(vekter_index* index, int64_t rows);
// FAISS's serialised form, in pieces; a non-zero return of `sink` stops it.
int vekter_index_write(const vekter_index* index, int (*sink)(void*, const uint8_t*, size_t), void* context);
// The parameters of searches that give none themselves; what the index does not know it ignores.
void vekter_index_set_search(vekter_index* index, const vekter_written_params* params);
// As vekter_index_write, but as an index whose labels are `labels`, one for each row. `normalises`: it brings queries
// to length 1 itself.
int vekter_index_write_labelled(
        const vekter_index* index,
        const int64_t* labels,
        int normalises,
        int (*sink)(void*, const uint8_t*, size_t),
        void* context);
// At most k pairs of FAISS's distance value and position go to the arrays (of k elements each), best first.
int vekter_index_search(
        const vekter_index* index,
        const float* query,
        int64_t k,
        const vekter_search_params* params,
        float* distances,
        int64_t* positions,
        int64_t* found);
// The same for each of `count` queries, on all of the calling thread's OpenMP threads: k elements of the arrays, and
// one number found, for each.
int vekter_index_search_each(
        const vekter_index* index,
        size_t count,
        const float* queries,
        int64_t k,
        const vekter_search_params* params,
        float* distances,
        int64_t* positions,
        int64_t* found);

// Whether the two below work: codes can be decoded and transforms taken back.
int vekter_index_can_decode(const vekter_index* index, int32_t* can);
// The next rows, at most `limit` (and fewer only at the end), in the order in which they are stored.
int vekter_index_next_rows(
        const vekter_index* index,
        vekter_row_cursor* cursor,
        size_t limit,
        int64_t* positions,
        float* values,
        size_t* found);
// The rows at positions, which exist.
int vekter_index_rows_at(const vekter_index* index, size_t count, const int64_t* positions, float* values);
// Distances, in FAISS's terms, of a query to the rows at positions, which exist and ascend, each once; *can = 0 and
// none where the index does not hold its rows as floats. In lists, it takes a walk over the ids of all rows.
int vekter_index_distances_at(
        const vekter_index* index,
        const float* query,
        size_t count,
        const int64_t* positions,
        float* distances,
        int32_t* can);
// The code of an index's only row, without the number of its inverted list; with refinement, its code behind it. At
// most `room` bytes go to `code`, and how many there are to `length`.
int vekter_index_only_code(const vekter_index* index, uint8_t* code, size_t room, size_t* length);
// FAISS's imbalance factor of the inverted lists; 0 where there are none, or no rows in them.
int vekter_index_imbalance(const vekter_index* index, double* factor);

// The list of each row of an index that has lists.
int vekter_index_lists_by_position(const vekter_index* index, int32_t* lists);
// The `count` lists that a search would scan first; -1 where there are no more.
int vekter_index_nearest_lists(const vekter_index* index, const float* query, int64_t count, int64_t* lists);
// Takes every link to the rows in `hidden` (a bitmap by position, least significant bit first) out of a graph that is
// being built, but those to its entry; an index without a graph stays as it is. `links` is what brings them back.
int vekter_index_remove_links(vekter_index* index, const uint8_t* hidden, size_t hidden_bytes, vekter_removed_links** links);
// Puts them back where they were, and frees `links`. No row was added meanwhile.
void vekter_index_restore_links(vekter_index* index, vekter_removed_links* links);
// For each query the k nearest rows by FAISS's distance value, on all threads; position -1 where there are no more.
int vekter_nearest_rows(
        const float* queries,
        int64_t query_count,
        const float* rows,
        int64_t row_count,
        int32_t dims,
        int32_t metric,
        int64_t k,
        float* distances,
        int64_t* positions);
// k-means over `rows` rows: `clusters` centroids (at most as many as rows) go to `centroids`. `spherical`: of rows of
// length 1, by inner product. The same rows, parameters and seed (>= 0) give the same centroids.
int vekter_cluster(
        const float* values,
        int64_t rows,
        int32_t dims,
        int32_t clusters,
        int spherical,
        int32_t iterations,
        int32_t seed,
        float* centroids);

// Squared Euclidean distances, taxicab distances and inner products of one query and `rows` rows.
void vekter_squared_distances(float* out, const float* query, const float* values, size_t dims, size_t rows);
void vekter_taxicab_distances(float* out, const float* query, const float* values, size_t dims, size_t rows);
void vekter_inner_products(float* out, const float* query, const float* values, size_t dims, size_t rows);
// Those of each of `count` queries, query by query, on all of the calling thread's OpenMP threads.
int vekter_distances_each(
        float* out,
        int32_t metric,
        size_t count,
        const float* queries,
        const float* values,
        size_t dims,
        size_t rows);

#ifdef __cplusplus
}
#endif

#endif
