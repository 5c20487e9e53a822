// Checks the sizes of an index's parts against each other: FAISS trusts its bytes, and would read out of bounds
// otherwise.

#include "internal.h"

#include <algorithm>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFAdditiveQuantizerFastScan.h>
#include <faiss/IndexLSH.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/IndexRefine.h>
#include <faiss/VectorTransform.h>
#include <faiss/invlists/BlockInvertedLists.h>
#include <faiss/invlists/InvertedLists.h>

namespace vekter {

namespace {

constexpr char MISFITTING_TRANSFORMS[] = "transforms do not fit";

void check_quantizer(const faiss::ProductQuantizer& pq, size_t dims) {
    require(pq.d == dims && pq.M > 0 && pq.M * pq.dsub == dims, "product quantiser of another dimension");
    require(pq.nbits >= 1 && pq.nbits <= shared::MAX_PRODUCT_BITS && pq.code_size == (pq.nbits * pq.M + 7) / 8,
            "product quantiser with an impossible number of bits");
    require(pq.centroids.size() == dims * pq.ksub, "product quantiser without its centroids");
}

void check_scalar_quantizer(const faiss::ScalarQuantizer& sq, size_t dims) {
    require(sq.d == dims && sq.qtype >= 0 && sq.qtype <= faiss::ScalarQuantizer::QT_8bit_direct_signed,
            "scalar quantiser of another dimension");
    size_t trained = 0;
    switch (sq.qtype) {
        case faiss::ScalarQuantizer::QT_8bit:
        case faiss::ScalarQuantizer::QT_6bit:
        case faiss::ScalarQuantizer::QT_4bit:
            trained = 2 * dims;
            break;
        case faiss::ScalarQuantizer::QT_8bit_uniform:
        case faiss::ScalarQuantizer::QT_4bit_uniform:
            trained = 2;
            break;
        default:
            break;
    }
    require(sq.trained.size() >= trained, "scalar quantiser without its ranges");
}

void check_graph(const faiss::HNSW& graph, size_t rows) {
    require(graph.levels.size() == rows && graph.offsets.size() == rows + 1, "graph of another number of rows");
    require(graph.offsets.front() == 0 && graph.offsets.back() == graph.neighbors.size(), "graph without its links");
    const auto& per_level = graph.cum_nneighbor_per_level;
    require(!per_level.empty() && per_level.front() == 0 && std::is_sorted(per_level.begin(), per_level.end()),
            "graph without levels");
    int highest = 0;
    for (size_t row = 0; row < rows; row++) {
        const int levels = graph.levels[row];
        require(levels >= 1 && static_cast<size_t>(levels) < per_level.size(), "graph with an impossible level");
        require(graph.offsets[row + 1] >= graph.offsets[row] &&
                        graph.offsets[row + 1] - graph.offsets[row] == static_cast<size_t>(per_level[levels]),
                "graph with links out of place");
        highest = std::max(highest, levels);
    }
    if (rows > 0) {
        require(graph.entry_point >= 0 && static_cast<size_t>(graph.entry_point) < rows, "graph without an entry");
        require(graph.max_level >= 0 && graph.max_level < graph.levels[graph.entry_point] && graph.max_level < highest,
                "graph whose entry is not on its highest level");
    }
}

void check_matrix(const faiss::LinearTransform& matrix) {
    const size_t d_in = matrix.d_in, d_out = matrix.d_out;
    require(matrix.is_trained && matrix.A.size() == d_in * d_out, "a transform without its matrix");
    require(!matrix.have_bias || matrix.b.size() == d_out, "a transform without its bias");
}

void check_step(const Step& step, int width) {
    const faiss::VectorTransform& transform = *step.transform;
    require(transform.d_in == width && transform.d_out >= 1 && transform.is_trained, MISFITTING_TRANSFORMS);
    if (step.matrix) {
        check_matrix(*step.matrix);
    } else if (step.itq) {
        const auto& matrix = step.itq->pca_then_itq;
        check_matrix(matrix);
        require(step.itq->mean.size() == static_cast<size_t>(width) && matrix.d_in == width &&
                        matrix.d_out == transform.d_out,
                MISFITTING_TRANSFORMS);
    } else if (step.remap) {
        require(step.remap->map.size() == static_cast<size_t>(transform.d_out), MISFITTING_TRANSFORMS);
        for (int from : step.remap->map) {
            require(from >= -1 && from < width, MISFITTING_TRANSFORMS);
        }
    } else {
        require(step.normalisation && transform.d_out == width, "a transform that is not supported");
    }
}

void check_rabitq(const faiss::RaBitQuantizer& quantizer, const Index& index, uint8_t query_bits) {
    const size_t dims = index.d;
    // Signs and two factors: faiss/impl/RaBitQuantizer.cpp.
    require(quantizer.d == dims && quantizer.code_size == (dims + 7) / 8 + 8 &&
                    quantizer.metric_type == index.metric_type && query_bits <= 8,
            "RaBitQ codes of another dimension");
}

// The quantiser of codes that are not packed. Returns the size of a code.
size_t check_quantiser(const Codes& codes) {
    const Index& index = *codes.index;
    const size_t dims = index.d;
    if (codes.are_floats()) {
        return dims * sizeof(float);
    }
    if (codes.product) {
        check_quantizer(*codes.product, dims);
        return codes.product->code_size;
    }
    if (codes.scalar) {
        check_scalar_quantizer(*codes.scalar, dims);
        return codes.scalar->code_size;
    }
    if (codes.rabitq) {
        check_rabitq(*codes.rabitq, index, *codes.query_bits);
        return codes.rabitq->code_size;
    }
    if (codes.additive) {
        check_additive(*codes.additive, dims);
        return codes.additive->code_size;
    }
    const faiss::IndexLSH& signs = *codes.signs;
    require(signs.nbits >= 1 && signs.nbits <= index.d, "signs of another dimension");
    if (signs.rotate_data) {
        require(signs.rrot.d_in == index.d && signs.rrot.d_out == signs.nbits, "signs of another dimension");
        check_matrix(signs.rrot);
    }
    require(!signs.train_thresholds || signs.thresholds.size() == static_cast<size_t>(signs.nbits),
            "signs without their thresholds");
    return (signs.nbits + 7) / 8;
}

// Codes for fast scan, by position or in lists: blocks of 32 or 64 codes of two 4-bit parts a byte, and no kernel but
// the default.
template <class FastScan>
void check_fast_scan(const FastScan& fast, const Codes& codes) {
    constexpr char IMPOSSIBLE[] = "fast-scan codes of an impossible form";
    require(fast.nbits == 4 && fast.ksub == 16 && fast.implem == 0 && fast.qbs == 0 &&
                    (fast.bbs == 32 || fast.bbs == 64) && fast.M2 == (fast.M + 1) / 2 * 2,
            IMPOSSIBLE);
    if (codes.product) {
        check_quantizer(*codes.product, fast.d);
        require(codes.product->M == fast.M, IMPOSSIBLE);
    } else {
        check_packed_additive(*codes.additive, fast.d, fast.metric_type, fast.M);
    }
}

void check_packed_lists(const Codes& codes) {
    const faiss::IndexIVFFastScan& fast = *codes.packed_lists;
    check_fast_scan(fast, codes);
    auto* blocks = dynamic_cast<const faiss::BlockInvertedLists*>(fast.invlists);
    require(fast.qbs2 == 0 && fast.bbs == 32 && blocks && are_mapped(*blocks) &&
                    blocks->n_per_block == static_cast<size_t>(fast.bbs) &&
                    blocks->block_size == fast.bbs * fast.M2 / 2,
            "fast-scan lists of another form");
    for (size_t list = 0; list < blocks->nlist; list++) {
        const size_t filled = (blocks->list_size(list) + blocks->n_per_block - 1) / blocks->n_per_block;
        require(packed_bytes(*blocks, list) >= filled * blocks->block_size, "inverted lists without their codes");
    }
}

void check_lists(const Codes& codes) {
    const faiss::IndexIVF& lists = *codes.lists;
    require(lists.nlist >= 1 && static_cast<size_t>(lists.quantizer->ntotal) == lists.nlist,
            "coarse quantiser without its centroids");
    require(lists.invlists && lists.invlists->nlist == lists.nlist, "inverted lists are missing");
    if (codes.packed_lists) {
        check_packed_lists(codes);
    } else {
        const size_t code_size = check_quantiser(codes);
        const bool has_blocks = dynamic_cast<const faiss::BlockInvertedLists*>(lists.invlists);
        require(are_mapped(*lists.invlists) && !has_blocks && lists.code_size == code_size &&
                        lists.invlists->code_size == code_size,
                "inverted lists of another code");
    }
    require(lists.invlists->compute_ntotal() == static_cast<size_t>(lists.ntotal), "inverted lists do not hold all rows");
}

void check_codes(const Codes& codes) {
    constexpr char MISFITTING[] = "codes do not fit the row count";
    const size_t rows = codes.index->ntotal;
    if (codes.packed) {
        const faiss::IndexFastScan& fast = *codes.packed;
        check_fast_scan(fast, codes);
        require(fast.ntotal2 >= rows && fast.ntotal2 % fast.bbs == 0 &&
                        fast.ntotal2 - rows < static_cast<size_t>(fast.bbs) &&
                        fast.codes.size() >= fast.ntotal2 * fast.M2 / 2,
                MISFITTING);
        return;
    }
    require(!codes.product_plain || codes.product_plain->search_type == faiss::IndexPQ::ST_PQ,
            "product codes that are searched in an unknown way");
    require(!codes.rabitq_plain || codes.rabitq_plain->center.size() == static_cast<size_t>(codes.index->d),
            "RaBitQ codes without their centre");
    const size_t code_size = check_quantiser(codes);
    const auto& bytes = codes.plain->codes;
    require(codes.plain->code_size == code_size && bytes.size() / code_size == rows && bytes.size() % code_size == 0,
            MISFITTING);
}

// An index by itself; `has_l1`: it is one of those for which FAISS has taxicab distance (see
// Recipe::has_taxicab_distance).
void check_header(const Index& index, bool has_l1) {
    require(index.d >= 1 && index.d <= (1 << 16) && index.ntotal >= 0, "impossible dimension or row count");
    require(index.metric_type == faiss::METRIC_L2 || index.metric_type == faiss::METRIC_INNER_PRODUCT ||
                    (index.metric_type == faiss::METRIC_L1 && has_l1),
            "unknown metric");
    require(index.is_trained, "index was not trained");
}

// A part that has the rows of the index around it.
void check_part(const Index& part, const Index& around, const char* reason, bool has_l1) {
    check_header(part, has_l1);
    require(part.d == around.d && part.ntotal == around.ntotal && part.metric_type == around.metric_type, reason);
}

void check_graph_part(const faiss::IndexHNSW& graph, bool is_flat) {
    check_header(graph, true);
    check_part(*graph.storage, graph, "graph without its vectors", is_flat);
    check_graph(graph.hnsw, graph.ntotal);
}

void check_core(const Parts& parts) {
    const Codes& codes = parts.codes;
    if (parts.graph) {
        check_graph_part(*parts.graph, codes.are_floats());
        check_codes(codes);
        return;
    }
    check_header(*parts.core, codes.are_floats());
    if (!codes.lists) {
        check_codes(codes);
        return;
    }
    check_header(*parts.centroids, true);
    if (parts.centroid_graph) {
        check_graph_part(*parts.centroid_graph, true);
    }
    Codes centroids;
    centroids.index = centroids.plain = centroids.flat = parts.centroids;
    check_codes(centroids);
    require(codes.lists->quantizer->d == parts.core->d, "coarse quantiser of another dimension");
    check_lists(codes);
}

} // namespace

void check_sizes(const Parts& parts) {
    check_header(*parts.whole, parts.refinement || parts.transformed || parts.graph || parts.codes.are_floats());
    const Index* base = parts.whole;
    if (parts.refinement) {
        constexpr char MISFITTING[] = "refinement does not fit its base";
        base = parts.refinement->base_index;
        check_part(*base, *parts.whole, MISFITTING, true);
        check_part(*parts.fine.index, *parts.whole, MISFITTING, parts.fine.are_floats());
        check_codes(parts.fine);
    }
    if (parts.transformed) {
        int width = base->d;
        for (const Step& step : parts.steps) {
            check_step(step, width);
            width = step.transform->d_out;
        }
        require(parts.core->d == width && parts.core->ntotal == base->ntotal &&
                        parts.core->metric_type == base->metric_type,
                MISFITTING_TRANSFORMS);
    }
    check_core(parts);
}

} // namespace vekter
