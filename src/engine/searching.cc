// One query against one index.
//
// Searches take their parameters apart themselves, layer by layer (transform, refinement, graph, lists), instead of
// nesting FAISS's SearchParameters: half of FAISS's indexes refuse parameters altogether, and there dead rows are
// filtered afterwards.

#include "internal.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <faiss/IndexAdditiveQuantizer.h>
#include <faiss/IndexFlat.h>
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
#include <faiss/utils/distances.h>

namespace vekter {

namespace {

using Candidates = std::vector<Candidate>;

// How an index with inverted lists is asked for those that are nearest.
struct Coarse {
    size_t lists;
    faiss::SearchParametersHNSW graph;
    bool is_graph;

    Coarse(const faiss::IndexIVF& inverted, const vekter_search_params& params)
            : lists(std::min<size_t>(std::max<int64_t>(params.nprobe, 1), inverted.nlist)),
              is_graph(dynamic_cast<const faiss::IndexHNSW*>(inverted.quantizer)) {
        const size_t asked = params.quantizer_ef_search > 0 ? static_cast<size_t>(params.quantizer_ef_search)
                                                            : std::max<size_t>(64, 2 * lists);
        graph.efSearch = static_cast<int>(std::min<size_t>(asked, inverted.nlist));
    }

    faiss::SearchParameters* params() {
        return is_graph ? &graph : nullptr;
    }
};

struct Search {
    const vekter_search_params& params;
    const Alive alive;
    const bool has_dead;

    explicit Search(const vekter_search_params& params)
            : params(params), alive(params), has_dead(params.dead_rows > 0) {}

    bool keeps(idx_t position) const {
        return !has_dead || alive.is_member(position);
    }

    Candidates nearest(const Index& index, const float* query, size_t k) const {
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
        if (dynamic_cast<const faiss::IndexHNSW*>(&index)) {
            faiss::SearchParametersHNSW with;
            with.efSearch = graph_width(index, k);
            with.sel = has_dead ? const_cast<Alive*>(&alive) : nullptr;
            return ask(index, query, k, &with);
        }
        if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(&index)) {
            return scan_lists(*inverted, query, k);
        }
        if (auto* additive = dynamic_cast<const faiss::IndexAdditiveQuantizer*>(&index)) {
            return scan_codes(*additive, query, k);
        }
        if (dynamic_cast<const faiss::IndexScalarQuantizer*>(&index) ||
            dynamic_cast<const faiss::IndexRaBitQ*>(&index)) {
            faiss::RaBitQSearchParameters with;
            with.qb = static_cast<uint8_t>(params.query_bits);
            with.sel = has_dead ? const_cast<Alive*>(&alive) : nullptr;
            return ask(index, query, k, &with);
        }
        faiss::SearchParametersPQ polysemous;
        polysemous.search_type = faiss::IndexPQ::ST_polysemous;
        polysemous.polysemous_ht = params.hamming_threshold;
        auto* product = dynamic_cast<const faiss::IndexPQ*>(&index);
        // Whether codes that differ from the query's in too many bits are to be left out.
        const bool by_bits = params.hamming_threshold > 0 && product && product->pq.nbits == 8 &&
                static_cast<size_t>(params.hamming_threshold) < 8 * product->pq.code_size &&
                index.metric_type == faiss::METRIC_L2;
        return ask_for_more(index, query, k, by_bits ? &polysemous : nullptr);
    }

    // Some of FAISS's indexes take no selector: ask for as many more as could be dead.
    Candidates ask_for_more(const Index& index, const float* query, size_t k, const faiss::SearchParameters* with) const {
        const size_t more = std::min<size_t>(k + params.dead_rows, index.ntotal);
        Candidates found = ask(index, query, has_dead ? more : k, with);
        if (found.size() > k) {
            found.resize(k);
        }
        return found;
    }

    Candidates scan_lists(const faiss::IndexIVF& inverted, const float* query, size_t k) const {
        // A SearchParametersIVF for all, to which RaBitQ's scanner adds its own.
        faiss::IVFRaBitQSearchParameters with;
        with.qb = static_cast<uint8_t>(params.query_bits);
        Coarse coarse(inverted, params);
        with.nprobe = coarse.lists;
        with.quantizer_params = coarse.params();
        const bool selects = !dynamic_cast<const faiss::IndexIVFAdditiveQuantizer*>(&inverted);
        with.sel = has_dead && selects ? const_cast<Alive*>(&alive) : nullptr;
        if (!dynamic_cast<const faiss::IndexIVFFastScan*>(&inverted)) {
            with.max_codes = static_cast<size_t>(params.max_codes);
        }
        if (auto* fast = dynamic_cast<const faiss::IndexIVFPQFastScan*>(&inverted); fast && fast->nprobe != with.nprobe) {
            // IndexIVFPQFastScan::compute_LUT of residuals fills tables for the index's nprobe, not the search's.
            const_cast<faiss::IndexIVFPQFastScan*>(fast)->nprobe = with.nprobe;
        }
        return selects ? ask(inverted, query, k, &with) : ask_for_more(inverted, query, k, &with);
    }

    // HNSW keeps dead rows in its queue of candidates but not among its results, so the queue must be as much longer.
    int graph_width(const Index& index, size_t k) const {
        const double rows = static_cast<double>(index.ntotal);
        const double living = std::max(1.0, rows - static_cast<double>(params.dead_rows));
        const double asked = static_cast<double>(std::max<int64_t>(params.ef_search, static_cast<int64_t>(k)));
        return static_cast<int>(std::max<double>(static_cast<double>(k), std::min(rows, asked * rows / living)));
    }

    // FAISS's own search; what it answers is checked, filtered and sorted.
    Candidates ask(const Index& index, const float* query, size_t k, const faiss::SearchParameters* with) const {
        std::vector<float> distances(k);
        std::vector<idx_t> positions(k, -1);
        if (auto* sums = dynamic_cast<const faiss::IndexIVFAdditiveQuantizerFastScan*>(&index)) {
            const auto& lists = dynamic_cast<const faiss::IVFSearchParameters&>(*with);
            search_packed_sums(*sums, query, k, distances.data(), positions.data(), lists);
        } else {
            index.search(1, query, static_cast<idx_t>(k), distances.data(), positions.data(), with);
        }
        Candidates found;
        found.reserve(k);
        for (size_t i = 0; i < k; i++) {
            if (positions[i] == -1) {
                continue;
            }
            require(positions[i] >= 0 && positions[i] < index.ntotal, "search found a row that does not exist");
            if (keeps(positions[i])) {
                found.push_back({key_of(index, distances[i]), positions[i]});
            }
        }
        std::sort(found.begin(), found.end());
        return found;
    }

    // IndexFlat::search cannot be interrupted within one query, and drops rows at infinite distance.
    Candidates scan(const faiss::IndexFlat& flat, const float* query, size_t k) const {
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

    // IndexAdditiveQuantizer::search neither, though it may decode every row; and it takes no selector.
    Candidates scan_codes(const faiss::IndexFlatCodes& codes, const float* query, size_t k) const {
        std::unique_ptr<faiss::FlatCodesDistanceComputer> distance(codes.get_FlatCodesDistanceComputer());
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
    Candidates scan_blocks(const Index& index, size_t k, size_t block, Measure&& measure) const {
        const size_t rows = index.ntotal;
        std::vector<float> distances(std::min(block, rows));
        Candidates heap;
        heap.reserve(k);
        for (size_t start = 0; start < rows; start += block) {
            throw_if_interrupted();
            const size_t count = std::min(block, rows - start);
            measure(start, count, distances.data());
            for (size_t i = 0; i < count; i++) {
                const Candidate candidate{key_of(index, distances[i]), static_cast<idx_t>(start + i)};
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
    Candidates refine(const faiss::IndexRefine& refined, const float* query, size_t k) const {
        const double wanted = std::ceil(static_cast<double>(k) * std::max(1.0f, params.k_factor));
        const size_t rows = refined.ntotal;
        Candidates found = nearest(
                *refined.base_index, query, wanted < static_cast<double>(rows) ? static_cast<size_t>(wanted) : rows);
        if (params.unrefined) {
            return found;
        }
        std::unique_ptr<faiss::DistanceComputer> distance(refined.refine_index->get_distance_computer());
        distance->set_query(query);
        for (Candidate& candidate : found) {
            candidate.key = key_of(*refined.refine_index, (*distance)(candidate.position));
        }
        std::sort(found.begin(), found.end());
        if (found.size() > k) {
            found.resize(k);
        }
        return found;
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

std::vector<Probe> lists_to_scan(
        const faiss::IndexIVF& inverted,
        const float* query,
        const vekter_search_params& params) {
    Coarse coarse(inverted, params);
    std::vector<float> distances(coarse.lists);
    std::vector<idx_t> lists(coarse.lists, -1);
    inverted.quantizer->search(1, query, coarse.lists, distances.data(), lists.data(), coarse.params());
    std::vector<Probe> probes;
    probes.reserve(coarse.lists);
    for (size_t i = 0; i < coarse.lists; i++) {
        if (lists[i] != -1) {
            require(lists[i] >= 0 && static_cast<size_t>(lists[i]) < inverted.nlist, "search found a list that does not exist");
            probes.push_back({lists[i], distances[i]});
        }
    }
    return probes;
}

Candidates nearest(const Index& index, const float* query, size_t k, const vekter_search_params& params) {
    return Search(params).nearest(index, query, k);
}

} // namespace vekter
