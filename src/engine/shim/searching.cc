// Searching an index with one query.
//
// Parameters are applied part by part (transforms, refinement, graph, lists) and not as nested SearchParameters of
// FAISS's: half of its index types accept none, and for these dead rows are filtered afterwards. FAISS's own loops only
// run for moments at a time, since few of them can be interrupted within a query.

#include "internal.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>

#include <faiss/IndexFlat.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFastScan.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/impl/DistanceComputer.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/utils/Heap.h>
#include <faiss/utils/distances.h>

namespace vekter {

namespace {

// Rows of fast-scan codes between two polls of the interrupt flag, some milliseconds' work.
constexpr size_t INTERRUPTIBLE_PACKED_ROWS = size_t{1} << 18;
constexpr size_t INTERRUPTIBLE_CANDIDATES = 1024;

size_t lists_asked_for(const faiss::IndexIVF& inverted, const vekter_search_params& params) {
    return std::min<size_t>(std::max<int64_t>(params.nprobe, 1), inverted.nlist);
}

void distances_to_block(const faiss::IndexFlat& flat, const float* query, size_t start, size_t count, float* distances) {
    const size_t dims = flat.d;
    const float* values = flat.get_xb() + start * dims;
    if (flat.metric_type == faiss::METRIC_INNER_PRODUCT) {
        faiss::fvec_inner_products_ny(distances, query, values, dims, count);
    } else if (flat.metric_type == faiss::METRIC_L1) {
        taxicab_distances(distances, query, values, dims, count);
    } else {
        faiss::fvec_L2sqr_ny(distances, query, values, dims, count);
    }
}

// The k nearest of all rows for which `keeps` holds. `measure` stores the distances of a block of rows.
template <class Keeps, class Measure>
Hits scan_blocks(const Index& index, size_t k, size_t block, Keeps&& keeps, Measure&& measure) {
    const size_t rows = index.ntotal;
    std::vector<float> distances(std::min(block, rows));
    BestHits best(k);
    for (size_t start = 0; start < rows; start += block) {
        check_interrupts();
        const size_t count = std::min(block, rows - start);
        measure(start, count, distances.data());
        for (size_t i = 0; i < count; i++) {
            const Hit hit{key_of(index, distances[i]), static_cast<idx_t>(start + i)};
            if (best.accepts(hit) && keeps(hit.position)) {
                best.add(hit);
            }
        }
    }
    return best.sorted();
}

// IndexFlat::search cannot be interrupted within one query, and drops rows at infinite distance.
template <class Keeps>
Hits scan_floats(const faiss::IndexFlat& flat, const float* query, size_t k, Keeps&& keeps) {
    // About 1 MiB between two polls of the interrupt flag.
    const size_t block = std::max<size_t>(16, (size_t{1} << 18) / flat.d);
    return scan_blocks(flat, k, block, keeps, [&](size_t start, size_t count, float* distances) {
        distances_to_block(flat, query, start, count, distances);
    });
}

// Holds IndexIVF::nprobe of an index at a value: searches that need the same value run at the same time, others wait.
struct NprobeLease {
    std::shared_lock<std::shared_mutex> lock;

    NprobeLease(const Handle& handle, size_t nprobe) : lock(handle.nprobe_mutex) {
        faiss::IndexIVF& lists = *handle.parts.codes.lists;
        while (lists.nprobe != nprobe) {
            lock.unlock();
            {
                std::unique_lock<std::shared_mutex> alone(handle.nprobe_mutex);
                lists.nprobe = nprobe;
            }
            lock.lock();
        }
    }
};

struct Search {
    const Handle& handle;
    const Parts& parts;
    const vekter_search_params& params;
    const Alive alive;
    const bool has_dead;

    Search(const Handle& handle, const vekter_search_params& params)
            : handle(handle), parts(handle.parts), params(params), alive(params), has_dead(params.dead_rows > 0) {}

    bool keeps(idx_t position) const {
        return !has_dead || alive.is_member(position);
    }

    // IndexRefine::search counts candidates in float arithmetic, which refuses some large k.
    Hits nearest(const float* query, size_t k) const {
        const size_t rows = parts.whole->ntotal;
        k = std::min(k, rows);
        if (!parts.refinement) {
            return unrefined(query, k);
        }
        const double wanted = std::ceil(static_cast<double>(k) * std::max(1.0f, params.k_factor));
        Hits found = unrefined(query, wanted < static_cast<double>(rows) ? static_cast<size_t>(wanted) : rows);
        if (params.unrefined) {
            return found;
        }
        const Index& fine = *parts.fine.index;
        std::unique_ptr<faiss::DistanceComputer> distance(fine.get_distance_computer());
        distance->set_query(query);
        for (size_t i = 0; i < found.size(); i++) {
            if (i % INTERRUPTIBLE_CANDIDATES == 0) {
                check_interrupts();
            }
            found[i].key = key_of(fine, (*distance)(found[i].position));
        }
        std::sort(found.begin(), found.end());
        return first(k, std::move(found));
    }

    // The nearest by their codes.
    Hits unrefined(const float* query, size_t k) const {
        if (k == 0) {
            return {};
        }
        const Image image(parts, query);
        if (parts.transformed) {
            require_bounded(image.values, parts.core->d, shared::MAX_VALUE);
        }
        if (parts.graph) {
            return checked(*parts.core, search_graph(*parts.graph, image.values, k, graph_width(k), selector()));
        }
        return parts.codes.lists ? scan_lists(image.values, k) : scan_all(image.values, k);
    }

    Hits scan_all(const float* query, size_t k) const {
        const Codes& codes = parts.codes;
        if (codes.flat) {
            return scan_floats(*codes.flat, query, k, [&](idx_t position) { return keeps(position); });
        }
        if (codes.rabitq_plain) {
            const auto query_bits = static_cast<uint8_t>(params.query_bits);
            return scan_codes(*codes.plain, codes.rabitq_plain->get_quantized_distance_computer(query_bits), query, k);
        }
        if (codes.product_plain && compares_bits(*codes.product_plain)) {
            faiss::SearchParametersPQ polysemous;
            polysemous.search_type = faiss::IndexPQ::ST_polysemous;
            polysemous.polysemous_ht = params.hamming_threshold;
            return ask_for_more(query, k, &polysemous);
        }
        if (codes.packed || codes.signs) {
            return ask_for_more(query, k, nullptr);
        }
        return scan_codes(*codes.plain, codes.plain->get_FlatCodesDistanceComputer(), query, k);
    }

    // Whether codes that differ from the query's in too many bits are skipped.
    bool compares_bits(const faiss::IndexPQ& product) const {
        return params.hamming_threshold > 0 && product.pq.nbits == 8 &&
                static_cast<size_t>(params.hamming_threshold) < 8 * product.pq.code_size &&
                product.metric_type == faiss::METRIC_L2;
    }

    faiss::IDSelector* selector() const {
        return has_dead ? const_cast<Alive*>(&alive) : nullptr;
    }

    // For index types without a selector: asks for as many more rows as could be dead.
    Hits ask_for_more(const float* query, size_t k, const faiss::SearchParameters* with) const {
        const Index& index = *parts.core;
        const size_t asked = with_dead(index, k);
        std::vector<float> distances(asked);
        std::vector<idx_t> positions(asked, -1);
        index.search(1, query, static_cast<idx_t>(asked), distances.data(), positions.data(), with);
        return first(k, checked(index, distances, positions));
    }

    size_t with_dead(const Index& index, size_t k) const {
        return std::min<size_t>(k + (has_dead ? params.dead_rows : 0), index.ntotal);
    }

    static Hits first(size_t k, Hits found) {
        if (found.size() > k) {
            found.resize(k);
        }
        return found;
    }

    // IndexIVF::search polls the interrupt flag once for each query.
    Hits scan_lists(const float* query, size_t k) const {
        const faiss::IndexIVF& inverted = *parts.codes.lists;
        const std::vector<Probe> probes = lists_to_scan(parts, query, params);
        if (parts.codes.packed_lists) {
            return scan_packed_lists(query, k, probes);
        }
        faiss::IVFRaBitQSearchParameters with;
        with.qb = static_cast<uint8_t>(params.query_bits);
        const bool selects = !parts.codes.additive;
        const size_t kept = selects ? k : with_dead(inverted, k);
        const std::unique_ptr<faiss::InvertedListScanner> scanner(
                inverted.get_InvertedListScanner(false, selects ? selector() : nullptr, &with));
        scanner->set_query(query);
        std::vector<float> distances(kept);
        std::vector<idx_t> positions(kept);
        begin_heap(inverted, kept, distances.data(), positions.data());
        size_t rows_left = params.max_codes > 0 ? static_cast<size_t>(params.max_codes) : inverted.ntotal;
        for (const Probe& probe : probes) {
            const size_t rows = std::min(inverted.invlists->list_size(probe.list), rows_left);
            scan_list(inverted, *scanner, probe, rows, kept, distances.data(), positions.data());
            rows_left -= rows;
            if (rows_left == 0) {
                break;
            }
        }
        return first(k, checked(inverted, distances, positions));
    }

    // IndexIVFFastScan::search never polls it. So some lists at a time, always the same number.
    Hits scan_packed_lists(const float* query, size_t k, const std::vector<Probe>& probes) const {
        const faiss::IndexIVFFastScan& fast = *parts.codes.packed_lists;
        const size_t asked = lists_asked_for(fast, params);
        const double rows_of_list = static_cast<double>(fast.ntotal) / static_cast<double>(fast.nlist);
        const double most = static_cast<double>(INTERRUPTIBLE_PACKED_ROWS) / std::max(rows_of_list, 1.0);
        const size_t slice = std::clamp<size_t>(static_cast<size_t>(most), 1, asked);
        faiss::IVFSearchParameters with;
        with.nprobe = slice;
        with.sel = selector();
        // IndexIVFPQFastScan::compute_LUT of residuals fills tables for the index's nprobe, not the search's.
        std::optional<NprobeLease> lease;
        if (parts.codes.product_packed_lists && fast.by_residual) {
            lease.emplace(handle, slice);
        }
        std::vector<float> distances(k), centroid_distances(slice);
        std::vector<idx_t> positions(k), lists(slice);
        Hits found;
        for (size_t start = 0; start < probes.size(); start += slice) {
            check_interrupts();
            for (size_t i = 0; i < slice; i++) {
                const bool is_there = start + i < probes.size();
                lists[i] = is_there ? probes[start + i].list : -1;
                centroid_distances[i] = is_there ? probes[start + i].centroid_distance : 0;
            }
            std::fill(positions.begin(), positions.end(), -1);
            if (auto* sums = parts.codes.additive_packed_lists) {
                const faiss::IndexIVFFastScan::CoarseQuantized coarse{slice, centroid_distances.data(), lists.data()};
                search_packed_sums(*sums, query, k, distances.data(), positions.data(), coarse, with);
            } else {
                fast.search_preassigned(
                        1, query, static_cast<idx_t>(k), lists.data(), centroid_distances.data(), distances.data(),
                        positions.data(), false, &with, nullptr);
            }
            const Hits more = checked(fast, distances, positions);
            found.insert(found.end(), more.begin(), more.end());
            std::sort(found.begin(), found.end());
            found = first(k, std::move(found));
        }
        return found;
    }

    // Dead rows are in HNSW's queue of candidates but not among its results, so the queue must be longer by their
    // share.
    size_t graph_width(size_t k) const {
        const double rows = static_cast<double>(parts.core->ntotal);
        const double living = std::max(1.0, rows - static_cast<double>(params.dead_rows));
        const double asked = static_cast<double>(std::max<int64_t>(params.ef_search, static_cast<int64_t>(k)));
        return static_cast<size_t>(std::max<double>(static_cast<double>(k), std::min(rows, asked * rows / living)));
    }

    // FAISS's answer without dead rows, sorted.
    Hits checked(
            const Index& index,
            const std::vector<float>& distances,
            const std::vector<idx_t>& positions) const {
        Hits found;
        found.reserve(positions.size());
        for (size_t i = 0; i < positions.size(); i++) {
            if (positions[i] != -1) {
                found.push_back({key_of(index, distances[i]), positions[i]});
            }
        }
        return checked(index, std::move(found));
    }

    Hits checked(const Index& index, Hits found) const {
        for (const Hit& candidate : found) {
            require(candidate.position >= 0 && candidate.position < index.ntotal,
                    "search found a row that does not exist");
        }
        const auto is_dead = [&](const Hit& candidate) { return !keeps(candidate.position); };
        found.erase(std::remove_if(found.begin(), found.end(), is_dead), found.end());
        std::sort(found.begin(), found.end());
        return found;
    }

    // FAISS's searches of codes cannot be interrupted either, and some have no selector. Owns the computer.
    Hits scan_codes(
            const faiss::IndexFlatCodes& codes,
            faiss::FlatCodesDistanceComputer* computer,
            const float* query,
            size_t k) const {
        const std::unique_ptr<faiss::FlatCodesDistanceComputer> distance(computer);
        distance->set_query(query);
        const auto is_kept = [&](idx_t position) { return keeps(position); };
        return scan_blocks(codes, k, 1024, is_kept, [&](size_t start, size_t count, float* distances) {
            for (size_t i = 0; i < count; i++) {
                if (keeps(static_cast<idx_t>(start + i))) {
                    distances[i] = distance->distance_to_code(codes.codes.data() + (start + i) * codes.code_size);
                }
            }
        });
    }
};

} // namespace

Image::Image(const Parts& parts, const float* query) : values(query) {
    if (parts.transformed) {
        values = parts.transformed->apply_chain(1, query);
        owned.reset(values == query ? nullptr : values);
    }
}

void taxicab_distances(float* out, const float* query, const float* values, size_t dims, size_t rows) {
    for (size_t i = 0; i < rows; i++) {
        out[i] = faiss::fvec_L1(query, values + i * dims, dims);
    }
}

float key_of(const Index& index, float distance) {
    const float key = index.metric_type == faiss::METRIC_INNER_PRODUCT ? -distance : distance;
    // NaN (from overflow) is not ordered: it comes last.
    return std::isnan(key) ? std::numeric_limits<float>::infinity() : key;
}

std::vector<Probe> nearest_centroids(const Parts& parts, const float* query, size_t count, size_t queue) {
    const size_t lists = parts.codes.lists->nlist;
    const auto keeps_all = [](idx_t) { return true; };
    const Hits found = parts.centroid_graph
            ? search_graph(*parts.centroid_graph, query, count, queue, nullptr)
            : scan_floats(*parts.centroids, query, std::min(count, lists), keeps_all);
    const bool similarity = parts.codes.lists->quantizer->metric_type == faiss::METRIC_INNER_PRODUCT;
    std::vector<Probe> probes;
    probes.reserve(found.size());
    for (const Hit& hit : found) {
        require(hit.position >= 0 && static_cast<size_t>(hit.position) < lists, "search found a list that does not exist");
        probes.push_back({hit.position, similarity ? -hit.key : hit.key});
    }
    return probes;
}

std::vector<Probe> lists_to_scan(const Parts& parts, const float* query, const vekter_search_params& params) {
    const size_t lists = lists_asked_for(*parts.codes.lists, params);
    const size_t queue = params.quantizer_ef_search > 0 ? static_cast<size_t>(params.quantizer_ef_search)
                                                        : std::max<size_t>(64, 2 * lists);
    return nearest_centroids(parts, query, lists, std::min(queue, parts.codes.lists->nlist));
}

Hits nearest(const Handle& handle, const float* query, size_t k, const vekter_search_params& params) {
    return Search(handle, params).nearest(query, k);
}

} // namespace vekter
