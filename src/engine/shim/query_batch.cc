// Batches of queries, on all of the calling thread's OpenMP threads.
//
// The answers equal those of `nearest`, distances to the bit (of rows at the same distance, an index with inverted
// lists may keep another one). No exception may leave an OpenMP region: it would end the process.

#include "internal.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <limits>

#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/utils/distances.h>

// BLAS, as FAISS links it: C := alpha op(A) op(B) + beta C, all stored by columns.
extern "C" int sgemm_(
        const char* op_a,
        const char* op_b,
        const int* m,
        const int* n,
        const int* k,
        const float* alpha,
        const float* a,
        const int* lda,
        const float* b,
        const int* ldb,
        const float* beta,
        float* c,
        const int* ldc);

namespace vekter {

namespace {

// Queries that share one pass over the rows, and rows of one matrix product: together 1 MiB of products.
constexpr size_t BLOCK_QUERIES = 256, BLOCK_ROWS = 1024;
// Values of such a block of rows: 1 MiB, so at most some milliseconds between two polls of the interrupt flag.
constexpr size_t BLOCK_VALUES = size_t{1} << 18;
// Fewer queries than this are faster one by one.
constexpr size_t MIN_SHARED_QUERIES = 8;
// Up to so many dimensions FAISS has kernels whose rounding depends on the number of rows.
constexpr size_t MAX_SPECIAL_DIMS = 12;

// Runs `work` for 0 to `count` - 1 on all threads. The first exception ends the rest and goes on from here.
template <class Work>
void on_all_threads(size_t count, const Work& work) {
    std::exception_ptr failure;
    std::atomic<bool> failed{false};
#pragma omp parallel
    {
        // FAISS uses this thread alone, as in a single search. The setting ends with the region.
        omp_set_num_threads(1);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < static_cast<int64_t>(count); i++) {
            if (failed.load(std::memory_order_relaxed)) {
                continue;
            }
            try {
                check_interrupts();
                work(static_cast<size_t>(i));
            } catch (...) {
#pragma omp critical(vekter_batch_failure)
                if (!failure) {
                    failure = std::current_exception();
                }
                failed.store(true, std::memory_order_relaxed);
            }
        }
    }
    if (failure) {
        std::rethrow_exception(failure);
    }
}

// An exact scan of all rows for a block of queries. A matrix product approximates the distances by |q - y|^2 = |q|^2 +
// |y|^2 - 2 <q, y>. With a bound of its error it excludes rows that cannot be among the nearest; only the others are
// compared one by one. Measured on two busy cores, 1,000 queries: 13 times as fast as queries one by one (20,000 rows
// of 384 dimensions), 9 times (50,000 of 96).
//
// The bound: sums of d products are off by at most g = d u / (1 - d u) of the sum of their absolute values, u = 2^-24
// (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), whatever their order. So each squared norm is
// off by at most g of itself, and <q, y> by g |q| |y| <= g (|q|^2 + |y|^2) / 2; the distance computed by itself is off
// by a little more than g of at most 2 (|q|^2 + |y|^2). That is 4 g (|q|^2 + |y|^2) in all, taken as 5, and for the
// last roundings d + 8 instead of d.
struct BlockScan {
    const faiss::IndexFlat& flat;
    const Alive alive;
    const float* queries;
    size_t count;
    bool similarity;
    float error_share;
    std::vector<float> query_norms, row_norms, products;
    std::vector<BestHits> best;

    BlockScan(const Parts& parts, const vekter_search_params& params, const float* queries, size_t count, size_t k)
            : flat(*parts.codes.flat),
              alive(params),
              queries(queries),
              count(count),
              similarity(flat.metric_type == faiss::METRIC_INNER_PRODUCT),
              error_share(5 * static_cast<float>(flat.d + 8) * std::ldexp(1.0f, -24)),
              query_norms(count) {
        best.reserve(count);
        for (size_t query = 0; query < count; query++) {
            best.emplace_back(k);
        }
        faiss::fvec_norms_L2sqr(query_norms.data(), queries, flat.d, count);
    }

    void run() {
        const size_t dims = flat.d, rows = flat.ntotal;
        const size_t block = std::max<size_t>(16, std::min(BLOCK_ROWS, BLOCK_VALUES / dims));
        row_norms.resize(block);
        products.resize(block * count);
        for (size_t start = 0; start < rows; start += block) {
            check_interrupts();
            compare(start, std::min(block, rows - start));
        }
    }

    void compare(size_t start, size_t rows) {
        const float* values = flat.get_xb() + start * flat.d;
        faiss::fvec_norms_L2sqr(row_norms.data(), values, flat.d, rows);
        const int m = static_cast<int>(rows), n = static_cast<int>(count), dims = flat.d;
        const float one = 1, zero = 0;
        sgemm_("T", "N", &m, &n, &dims, &one, values, &dims, queries, &dims, &zero, products.data(), &m);
        for (size_t query = 0; query < count; query++) {
            const float* products_of = products.data() + query * rows;
            BestHits& nearest = best[query];
            for (size_t row = 0; row < rows; row++) {
                const auto position = static_cast<idx_t>(start + row);
                if (is_farther(query_norms[query] + row_norms[row], products_of[row], nearest.worst()) ||
                    !alive.is_member(position)) {
                    continue;
                }
                const Hit hit{key(query, values + row * flat.d), position};
                if (nearest.accepts(hit)) {
                    nearest.add(hit);
                }
            }
        }
    }

    // Once, after the scan.
    Hits found(size_t query) {
        return best[query].sorted();
    }

    // Whether a row's key, as computed by itself, is certainly above `worst`. What overflows to infinity or NaN is not
    // certain; denormal values are off by more than their share, but far less than 1e-30.
    bool is_farther(float norms, float product, float worst) const {
        const float estimate = similarity ? -product : norms - 2 * product;
        return estimate - (error_share * norms + 1e-30f) > worst;
    }

    float key(size_t query, const float* row) const {
        float distance;
        if (similarity) {
            faiss::fvec_inner_products_ny(&distance, queries + query * flat.d, row, flat.d, 1);
        } else {
            faiss::fvec_L2sqr_ny(&distance, queries + query * flat.d, row, flat.d, 1);
        }
        return key_of(flat, distance);
    }
};

// How many queries each thread takes at a time.
size_t block_of(size_t count) {
    const size_t threads = omp_get_max_threads();
    return std::min(BLOCK_QUERIES, (count + threads - 1) / threads);
}

// A scan of inverted lists for a block of queries, list by list, so that a list's rows come from memory once and then
// from the processor's cache. Measured on two busy cores, 1,000 queries with nprobe = 32: three times as fast as
// queries one by one (256 lists, 50,000 rows of 384 dimensions), twice (512 lists, 100,000 of 96).
struct ListScan {
    const Parts& parts;
    const faiss::IndexIVFFlat& inverted;
    const vekter_search_params& params;
    const float* queries;
    size_t count, k;
    std::vector<float> distances;
    std::vector<idx_t> positions;

    ListScan(const Parts& parts, const vekter_search_params& params, const float* queries, size_t count, size_t k)
            : parts(parts),
              inverted(*parts.codes.flat_lists),
              params(params),
              queries(queries),
              count(count),
              k(k),
              distances(count * k),
              positions(count * k) {
        for (size_t query = 0; query < count; query++) {
            begin_heap(inverted, k, &distances[query * k], &positions[query * k]);
        }
    }

    void run() {
        struct Visit {
            Probe probe;
            size_t query;
        };
        std::vector<Visit> visits;
        for (size_t query = 0; query < count; query++) {
            for (const Probe& probe : lists_to_scan(parts, queries + query * inverted.d, params)) {
                visits.push_back({probe, query});
            }
        }
        std::sort(visits.begin(), visits.end(), [](const Visit& one, const Visit& other) {
            return one.probe.list < other.probe.list;
        });
        const Alive alive(params);
        const std::unique_ptr<faiss::InvertedListScanner> scanner(
                inverted.get_InvertedListScanner(false, params.dead_rows > 0 ? &alive : nullptr, nullptr));
        for (const Visit& visit : visits) {
            const size_t rows = inverted.invlists->list_size(visit.probe.list), at = visit.query * k;
            scanner->set_query(queries + visit.query * inverted.d);
            scan_list(inverted, *scanner, visit.probe, rows, k, &distances[at], &positions[at]);
        }
    }

    Hits found(size_t query) const {
        Hits found;
        found.reserve(k);
        for (size_t i = query * k; i < (query + 1) * k; i++) {
            if (positions[i] != -1) {
                require(positions[i] >= 0 && positions[i] < inverted.ntotal, "search found a row that does not exist");
                found.push_back({key_of(inverted, distances[i]), positions[i]});
            }
        }
        std::sort(found.begin(), found.end());
        return found;
    }
};

// Has a `Scan` of the index answer each block of queries.
template <class Scan>
void scan_in_blocks(
        const Parts& parts,
        size_t count,
        const float* queries,
        size_t k,
        const vekter_search_params& params,
        Hits* found) {
    const size_t block = block_of(count);
    on_all_threads((count + block - 1) / block, [&](size_t at) {
        const size_t start = at * block, queries_left = count - start;
        Scan scan(parts, params, queries + start * parts.whole->d, std::min(block, queries_left), k);
        scan.run();
        for (size_t i = 0; i < scan.count; i++) {
            found[start + i] = scan.found(i);
        }
    });
}

} // namespace

void nearest_of_each(
        const Handle& handle,
        size_t count,
        const float* queries,
        size_t k,
        const vekter_search_params& params,
        Hits* found) {
    if (count == 0) {
        return;
    }
    const Parts& parts = handle.parts;
    // The scans below are of indexes that are nothing but floats, in lists or by position.
    const bool is_bare = parts.core == parts.whole && !parts.graph;
    if (is_bare && block_of(count) >= MIN_SHARED_QUERIES) {
        const bool by_products = parts.whole->metric_type != faiss::METRIC_L1;
        if (parts.codes.flat && by_products && static_cast<size_t>(parts.whole->d) > MAX_SPECIAL_DIMS) {
            return scan_in_blocks<BlockScan>(parts, count, queries, k, params, found);
        }
        // A limit of rows counts them in the order of each query's lists.
        if (parts.codes.flat_lists && params.max_codes == 0) {
            return scan_in_blocks<ListScan>(parts, count, queries, k, params, found);
        }
    }
    on_all_threads(count, [&](size_t i) { found[i] = nearest(handle, queries + i * parts.whole->d, k, params); });
}

void distances_of_each(
        vekter_metric metric, size_t count, const float* queries, size_t rows, const float* values, size_t dims, float* out) {
    on_all_threads(count, [&](size_t i) {
        if (metric == VEKTER_INNER_PRODUCT) {
            faiss::fvec_inner_products_ny(out + i * rows, queries + i * dims, values, dims, rows);
        } else if (metric == VEKTER_L1) {
            taxicab_distances(out + i * rows, queries + i * dims, values, dims, rows);
        } else {
            faiss::fvec_L2sqr_ny(out + i * rows, queries + i * dims, values, dims, rows);
        }
    });
}

} // namespace vekter
