// One query against one index.
//
// Searches take their parameters apart themselves, layer by layer (transform, refinement, graph, lists), instead of
// nesting FAISS's SearchParameters: half of FAISS's indexes refuse parameters altogether, and there dead rows are
// filtered afterwards. And they go through FAISS's own loops only where these take moments: within a query, few of them
// can be interrupted.

#include "internal.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <faiss/IndexAdditiveQuantizer.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFAdditiveQuantizer.h>
#include <faiss/IndexIVFAdditiveQuantizerFastScan.h>
#include <faiss/IndexIVFFastScan.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/IndexRefine.h>
#include <faiss/IndexScalarQuantizer.h>
#include <faiss/impl/DistanceComputer.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/utils/Heap.h>
#include <faiss/utils/distances.h>

namespace vekter {

namespace {

using Hits = std::vector<Hit>;

// Bytes of codes of one list between two looks at the interrupt flag, some milliseconds' work.
constexpr size_t INTERRUPTIBLE_BYTES = size_t{4} << 20;
// The same of fast-scan codes, in rows, since lists are scanned there several at a time.
constexpr size_t INTERRUPTIBLE_PACKED_ROWS = size_t{1} << 18;
constexpr size_t INTERRUPTIBLE_CANDIDATES = 1024;

size_t lists_asked_for(const faiss::IndexIVF& inverted, const vekter_search_params& params) {
    return std::min<size_t>(std::max<int64_t>(params.nprobe, 1), inverted.nlist);
}

struct Search {
    const vekter_search_params& params;
    const Alive alive;
    const bool has_dead;

    explicit Search(const vekter_search_params& params)
            : params(params), alive(params), has_dead(params.dead_rows > 0) {}

    bool keeps(idx_t position) const {
        return !has_dead || alive.is_member(position);
    }

    Hits nearest(const Index& index, const float* query, size_t k) const {
        k = std::min<size_t>(k, index.ntotal);
        if (k == 0) {
            return {};
        }
        if (auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(&index)) {
            const float* image = transformed->apply_chain(1, query);
            std::unique_ptr<const float[]> owned(image == query ? nullptr : image);
            require_bounded(image, transformed->index->d, 1e16f);
            return nearest(*transformed->index, image, k);
        }
        if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(&index)) {
            return refine(*refined, query, k);
        }
        if (auto* flat = dynamic_cast<const faiss::IndexFlat*>(&index)) {
            return scan(*flat, query, k);
        }
        if (auto* graph = dynamic_cast<const faiss::IndexHNSW*>(&index)) {
            return checked(index, search_graph(*graph, query, k, graph_width(index, k), selector()));
        }
        if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(&index)) {
            return scan_lists(*inverted, query, k);
        }
        if (auto* rabitq = dynamic_cast<const faiss::IndexRaBitQ*>(&index)) {
            const auto query_bits = static_cast<uint8_t>(params.query_bits);
            return scan_codes(*rabitq, rabitq->get_quantized_distance_computer(query_bits), query, k);
        }
        if (auto* product = dynamic_cast<const faiss::IndexPQ*>(&index); product && compares_bits(*product)) {
            faiss::SearchParametersPQ polysemous;
            polysemous.search_type = faiss::IndexPQ::ST_polysemous;
            polysemous.polysemous_ht = params.hamming_threshold;
            return ask_for_more(index, query, k, &polysemous);
        }
        if (dynamic_cast<const faiss::IndexPQ*>(&index) || dynamic_cast<const faiss::IndexScalarQuantizer*>(&index) ||
            dynamic_cast<const faiss::IndexAdditiveQuantizer*>(&index)) {
            auto& codes = dynamic_cast<const faiss::IndexFlatCodes&>(index);
            return scan_codes(codes, codes.get_FlatCodesDistanceComputer(), query, k);
        }
        return ask_for_more(index, query, k, nullptr);
    }

    // Whether codes that differ from the query's in too many bits are to be left out.
    bool compares_bits(const faiss::IndexPQ& product) const {
        return params.hamming_threshold > 0 && product.pq.nbits == 8 &&
                static_cast<size_t>(params.hamming_threshold) < 8 * product.pq.code_size &&
                product.metric_type == faiss::METRIC_L2;
    }

    faiss::IDSelector* selector() const {
        return has_dead ? const_cast<Alive*>(&alive) : nullptr;
    }

    // Some of FAISS's indexes take no selector: ask for as many more as could be dead.
    Hits ask_for_more(const Index& index, const float* query, size_t k, const faiss::SearchParameters* with) const {
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

    // IndexIVF::search looks at the interrupt flag once for each query.
    Hits scan_lists(const faiss::IndexIVF& inverted, const float* query, size_t k) const {
        const std::vector<Probe> probes = lists_to_scan(inverted, query, params);
        if (auto* fast = dynamic_cast<const faiss::IndexIVFFastScan*>(&inverted)) {
            return scan_packed_lists(*fast, query, k, probes);
        }
        faiss::IVFRaBitQSearchParameters with;
        with.qb = static_cast<uint8_t>(params.query_bits);
        const bool selects = !dynamic_cast<const faiss::IndexIVFAdditiveQuantizer*>(&inverted);
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

    // IndexIVFFastScan::search looks at it never. So some lists at a time, and always as many, since a batch's searches
    // share what IndexIVFPQFastScan keeps of their number.
    Hits scan_packed_lists(
            const faiss::IndexIVFFastScan& fast,
            const float* query,
            size_t k,
            const std::vector<Probe>& probes) const {
        const size_t asked = lists_asked_for(fast, params);
        const double rows_of_list = static_cast<double>(fast.ntotal) / static_cast<double>(fast.nlist);
        const double most = static_cast<double>(INTERRUPTIBLE_PACKED_ROWS) / std::max(rows_of_list, 1.0);
        const size_t slice = std::clamp<size_t>(static_cast<size_t>(most), 1, asked);
        faiss::IVFSearchParameters with;
        with.nprobe = slice;
        with.sel = selector();
        if (auto* product = dynamic_cast<const faiss::IndexIVFPQFastScan*>(&fast); product && product->nprobe != slice) {
            // IndexIVFPQFastScan::compute_LUT of residuals fills tables for the index's nprobe, not the search's.
            const_cast<faiss::IndexIVFPQFastScan*>(product)->nprobe = slice;
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
            if (auto* sums = dynamic_cast<const faiss::IndexIVFAdditiveQuantizerFastScan*>(&fast)) {
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

    // HNSW keeps dead rows in its queue of candidates but not among its results, so the queue must be as much longer.
    size_t graph_width(const Index& index, size_t k) const {
        const double rows = static_cast<double>(index.ntotal);
        const double living = std::max(1.0, rows - static_cast<double>(params.dead_rows));
        const double asked = static_cast<double>(std::max<int64_t>(params.ef_search, static_cast<int64_t>(k)));
        return static_cast<size_t>(std::max<double>(static_cast<double>(k), std::min(rows, asked * rows / living)));
    }

    // What FAISS answered, without dead rows and sorted.
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

    // IndexFlat::search cannot be interrupted within one query, and drops rows at infinite distance.
    Hits scan(const faiss::IndexFlat& flat, const float* query, size_t k) const {
        const size_t dims = flat.d;
        // About 1 MiB between two looks at the interrupt flag.
        const size_t block = std::max<size_t>(16, (size_t{1} << 18) / dims);
        return scan_blocks(flat, k, block, [&](size_t start, size_t count, float* distances) {
            const float* values = flat.get_xb() + start * dims;
            if (flat.metric_type == faiss::METRIC_INNER_PRODUCT) {
                faiss::fvec_inner_products_ny(distances, query, values, dims, count);
            } else if (flat.metric_type == faiss::METRIC_L1) {
                taxicab_distances(distances, query, values, dims, count);
            } else {
                faiss::fvec_L2sqr_ny(distances, query, values, dims, count);
            }
        });
    }

    // Nor can FAISS's searches of codes, some of which take no selector either. Takes the computer over.
    Hits scan_codes(
            const faiss::IndexFlatCodes& codes,
            faiss::FlatCodesDistanceComputer* computer,
            const float* query,
            size_t k) const {
        const std::unique_ptr<faiss::FlatCodesDistanceComputer> distance(computer);
        distance->set_query(query);
        return scan_blocks(codes, k, 1024, [&](size_t start, size_t count, float* distances) {
            for (size_t i = 0; i < count; i++) {
                if (keeps(static_cast<idx_t>(start + i))) {
                    distances[i] = distance->distance_to_code(codes.codes.data() + (start + i) * codes.code_size);
                }
            }
        });
    }

    // The k nearest of all rows, whose distances `measure` stores for a block of them at a time.
    template <class Measure>
    Hits scan_blocks(const Index& index, size_t k, size_t block, Measure&& measure) const {
        const size_t rows = index.ntotal;
        std::vector<float> distances(std::min(block, rows));
        Hits heap;
        heap.reserve(k);
        for (size_t start = 0; start < rows; start += block) {
            check_interrupts();
            const size_t count = std::min(block, rows - start);
            measure(start, count, distances.data());
            for (size_t i = 0; i < count; i++) {
                const Hit candidate{key_of(index, distances[i]), static_cast<idx_t>(start + i)};
                if (heap.size() == k && !(candidate < heap.front())) {
                    continue;
                }
                if (!keeps(candidate.position)) {
                    continue;
                }
                if (heap.size() == k) {
                    std::pop_heap(heap.begin(), heap.end());
                    heap.back() = candidate;
                } else {
                    heap.push_back(candidate);
                }
                std::push_heap(heap.begin(), heap.end());
            }
        }
        std::sort_heap(heap.begin(), heap.end());
        return heap;
    }

    // IndexRefine::search counts candidates in float arithmetic, which refuses some large k.
    Hits refine(const faiss::IndexRefine& refined, const float* query, size_t k) const {
        const double wanted = std::ceil(static_cast<double>(k) * std::max(1.0f, params.k_factor));
        const size_t rows = refined.ntotal;
        Hits found = nearest(
                *refined.base_index, query, wanted < static_cast<double>(rows) ? static_cast<size_t>(wanted) : rows);
        if (params.unrefined) {
            return found;
        }
        std::unique_ptr<faiss::DistanceComputer> distance(refined.refine_index->get_distance_computer());
        distance->set_query(query);
        for (size_t i = 0; i < found.size(); i++) {
            if (i % INTERRUPTIBLE_CANDIDATES == 0) {
                check_interrupts();
            }
            found[i].key = key_of(*refined.refine_index, (*distance)(found[i].position));
        }
        std::sort(found.begin(), found.end());
        return first(k, std::move(found));
    }
};

} // namespace

void taxicab_distances(float* out, const float* query, const float* values, size_t dims, size_t rows) {
    for (size_t i = 0; i < rows; i++) {
        out[i] = faiss::fvec_L1(query, values + i * dims, dims);
    }
}

float key_of(const Index& index, float distance) {
    const float key = index.metric_type == faiss::METRIC_INNER_PRODUCT ? -distance : distance;
    // NaN (from overflow) has no place in an order: it comes last.
    return std::isnan(key) ? std::numeric_limits<float>::infinity() : key;
}

std::vector<Probe> nearest_centroids(const faiss::IndexIVF& inverted, const float* query, size_t count, size_t queue) {
    const Index& centroids = *inverted.quantizer;
    auto* graph = dynamic_cast<const faiss::IndexHNSW*>(&centroids);
    const Hits found =
            graph ? search_graph(*graph, query, count, queue, nullptr) : Search({}).nearest(centroids, query, count);
    const bool similarity = centroids.metric_type == faiss::METRIC_INNER_PRODUCT;
    std::vector<Probe> probes;
    probes.reserve(found.size());
    for (const Hit& candidate : found) {
        require(candidate.position >= 0 && static_cast<size_t>(candidate.position) < inverted.nlist,
                "search found a list that does not exist");
        probes.push_back({candidate.position, similarity ? -candidate.key : candidate.key});
    }
    return probes;
}

std::vector<Probe> lists_to_scan(
        const faiss::IndexIVF& inverted,
        const float* query,
        const vekter_search_params& params) {
    const size_t lists = lists_asked_for(inverted, params);
    const size_t queue = params.quantizer_ef_search > 0 ? static_cast<size_t>(params.quantizer_ef_search)
                                                        : std::max<size_t>(64, 2 * lists);
    return nearest_centroids(inverted, query, lists, std::min(queue, inverted.nlist));
}

void begin_heap(const faiss::IndexIVF& inverted, size_t k, float* distances, idx_t* positions) {
    if (inverted.metric_type == faiss::METRIC_INNER_PRODUCT) {
        faiss::minheap_heapify(k, distances, positions);
    } else {
        faiss::maxheap_heapify(k, distances, positions);
    }
}

void scan_list(
        const faiss::IndexIVF& inverted,
        faiss::InvertedListScanner& scanner,
        const Probe& probe,
        size_t rows,
        size_t k,
        float* distances,
        idx_t* positions) {
    if (rows == 0) {
        return;
    }
    const size_t list = probe.list, code_size = inverted.code_size;
    const size_t piece = std::max<size_t>(1024, INTERRUPTIBLE_BYTES / code_size);
    faiss::InvertedLists::ScopedCodes codes(inverted.invlists, list);
    faiss::InvertedLists::ScopedIds ids(inverted.invlists, list);
    scanner.set_list(probe.list, probe.centroid_distance);
    for (size_t start = 0; start < rows; start += piece) {
        check_interrupts();
        const size_t count = std::min(piece, rows - start);
        scanner.scan_codes(count, codes.get() + start * code_size, ids.get() + start, distances, positions, k);
    }
}

Hits nearest(const Index& index, const float* query, size_t k, const vekter_search_params& params) {
    return Search(params).nearest(index, query, k);
}

} // namespace vekter
