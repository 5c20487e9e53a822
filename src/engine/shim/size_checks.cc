// Whether an index that was read is one that the engine builds, of parts that fit each other: FAISS trusts its bytes,
// and proportions that do not hold would let it read out of bounds.

#include "internal.h"

#include <algorithm>

#include <faiss/IndexAdditiveQuantizer.h>
#include <faiss/IndexAdditiveQuantizerFastScan.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFAdditiveQuantizer.h>
#include <faiss/IndexIVFAdditiveQuantizerFastScan.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexLSH.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/IndexRefine.h>
#include <faiss/IndexScalarQuantizer.h>
#include <faiss/VectorTransform.h>
#include <faiss/invlists/BlockInvertedLists.h>
#include <faiss/invlists/InvertedLists.h>

namespace vekter {

namespace {

void check_quantizer(const faiss::ProductQuantizer& pq, size_t dims) {
    require(pq.d == dims && pq.M > 0 && pq.M * pq.dsub == dims, "product quantiser of another dimension");
    require(pq.nbits >= 1 && pq.nbits <= 12 && pq.code_size == (pq.nbits * pq.M + 7) / 8, "product quantiser with an impossible number of bits");
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

void check_transform(const faiss::VectorTransform* step, int width) {
    require(step && step->d_in == width && step->d_out >= 1 && step->is_trained, "transforms do not fit");
    if (auto* matrix = dynamic_cast<const faiss::LinearTransform*>(step)) {
        check_matrix(*matrix);
    } else if (auto* itq = dynamic_cast<const faiss::ITQTransform*>(step)) {
        const auto& matrix = itq->pca_then_itq;
        check_matrix(matrix);
        require(itq->mean.size() == static_cast<size_t>(width) && matrix.d_in == width && matrix.d_out == step->d_out,
                "transforms do not fit");
    } else if (auto* remap = dynamic_cast<const faiss::RemapDimensionsTransform*>(step)) {
        require(remap->map.size() == static_cast<size_t>(step->d_out), "transforms do not fit");
        for (int from : remap->map) {
            require(from >= -1 && from < width, "transforms do not fit");
        }
    } else {
        require(dynamic_cast<const faiss::NormalizationTransform*>(step) && step->d_out == width,
                "a transform that is not supported");
    }
}

void check_rabitq(const faiss::RaBitQuantizer& quantizer, const Index& index, size_t code_size, uint8_t query_bits) {
    const size_t dims = index.d;
    // Signs and two factors: faiss/impl/RaBitQuantizer.cpp.
    require(quantizer.d == dims && quantizer.code_size == (dims + 7) / 8 + 8 && code_size == quantizer.code_size &&
                    quantizer.metric_type == index.metric_type && query_bits <= 8,
            "RaBitQ codes of another dimension");
}

// Fast-scan kernels: blocks of 32 or 64 codes of two 4-bit parts a byte, and no kernel but the default; the codes are
// those of a product quantiser (Product) or additive.
template <class Product, class FastScan>
void check_fast_scan(const FastScan& fast) {
    require(fast.nbits == 4 && fast.ksub == 16 && fast.implem == 0 && fast.qbs == 0 && (fast.bbs == 32 || fast.bbs == 64) &&
                    fast.M2 == (fast.M + 1) / 2 * 2,
            "fast-scan codes of an impossible form");
    if (auto* product = dynamic_cast<const Product*>(&fast)) {
        check_quantizer(product->pq, fast.d);
        require(product->pq.M == fast.M, "fast-scan codes of an impossible form");
    } else {
        auto* additive = additive_quantizer(fast);
        require(additive, "an index type that is not supported");
        check_packed_additive(*additive, fast.d, fast.metric_type, fast.M);
    }
}

void check_packed_lists(const faiss::IndexIVFFastScan& fast) {
    check_fast_scan<faiss::IndexIVFPQFastScan>(fast);
    auto* blocks = dynamic_cast<const faiss::BlockInvertedLists*>(fast.invlists);
    require(fast.qbs2 == 0 && fast.bbs == 32 && blocks && are_mapped(*blocks) &&
                    blocks->n_per_block == static_cast<size_t>(fast.bbs) && blocks->block_size == fast.bbs * fast.M2 / 2,
            "fast-scan lists of another form");
    for (size_t list = 0; list < blocks->nlist; list++) {
        const size_t filled = (blocks->list_size(list) + blocks->n_per_block - 1) / blocks->n_per_block;
        require(packed_bytes(*blocks, list) >= filled * blocks->block_size, "inverted lists without their codes");
    }
}

void check_packed_codes(const faiss::IndexFastScan& fast) {
    check_fast_scan<faiss::IndexPQFastScan>(fast);
    const size_t rows = fast.ntotal;
    require(fast.ntotal2 >= rows && fast.ntotal2 % fast.bbs == 0 &&
                    fast.ntotal2 - rows < static_cast<size_t>(fast.bbs) && fast.codes.size() >= fast.ntotal2 * fast.M2 / 2,
            "codes do not fit the row count");
}

void check_lists(const faiss::IndexIVF& index) {
    const size_t dims = index.d;
    size_t code_size = 0;
    if (auto* product = dynamic_cast<const faiss::IndexIVFPQ*>(&index)) {
        check_quantizer(product->pq, dims);
        code_size = product->pq.code_size;
    } else if (auto* fast = dynamic_cast<const faiss::IndexIVFFastScan*>(&index)) {
        check_packed_lists(*fast);
        return;
    } else if (auto* additive = additive_quantizer(index)) {
        check_additive(*additive, dims);
        code_size = additive->code_size;
    } else if (auto* scalar = dynamic_cast<const faiss::IndexIVFScalarQuantizer*>(&index)) {
        check_scalar_quantizer(scalar->sq, dims);
        code_size = scalar->sq.code_size;
    } else if (auto* rabitq = dynamic_cast<const faiss::IndexIVFRaBitQ*>(&index)) {
        check_rabitq(rabitq->rabitq, index, rabitq->code_size, rabitq->qb);
        code_size = rabitq->code_size;
    } else {
        require(dynamic_cast<const faiss::IndexIVFFlat*>(&index), "an index type that is not supported");
        code_size = dims * sizeof(float);
    }
    const bool has_blocks = dynamic_cast<const faiss::BlockInvertedLists*>(index.invlists);
    require(index.invlists && are_mapped(*index.invlists) && !has_blocks && index.code_size == code_size &&
                    index.invlists->code_size == code_size,
            "inverted lists of another code");
}

void check_codes(const Index& index) {
    const size_t dims = index.d;
    const size_t rows = index.ntotal;
    size_t code_size = 0;
    if (auto* fast = dynamic_cast<const faiss::IndexFastScan*>(&index)) {
        check_packed_codes(*fast);
        return;
    }
    if (dynamic_cast<const faiss::IndexFlat*>(&index)) {
        code_size = dims * sizeof(float);
    } else if (auto* product = dynamic_cast<const faiss::IndexPQ*>(&index)) {
        check_quantizer(product->pq, dims);
        require(product->search_type == faiss::IndexPQ::ST_PQ, "product codes that are searched in an unknown way");
        code_size = product->pq.code_size;
    } else if (auto* scalar = dynamic_cast<const faiss::IndexScalarQuantizer*>(&index)) {
        check_scalar_quantizer(scalar->sq, dims);
        code_size = scalar->sq.code_size;
    } else if (auto* signs = dynamic_cast<const faiss::IndexLSH*>(&index)) {
        require(signs->nbits >= 1 && signs->nbits <= index.d, "signs of another dimension");
        require(!signs->rotate_data || (signs->rrot.d_in == index.d && signs->rrot.d_out == signs->nbits),
                "signs of another dimension");
        if (signs->rotate_data) {
            check_matrix(signs->rrot);
        }
        require(!signs->train_thresholds || signs->thresholds.size() == static_cast<size_t>(signs->nbits),
                "signs without their thresholds");
        code_size = (signs->nbits + 7) / 8;
    } else if (auto* rabitq = dynamic_cast<const faiss::IndexRaBitQ*>(&index)) {
        check_rabitq(rabitq->rabitq, index, rabitq->code_size, rabitq->qb);
        require(rabitq->center.size() == dims, "RaBitQ codes without their centre");
        code_size = rabitq->code_size;
    } else if (auto* additive = additive_quantizer(index)) {
        check_additive(*additive, dims);
        code_size = additive->code_size;
    }
    auto* flat = dynamic_cast<const faiss::IndexFlatCodes*>(&index);
    require(flat && code_size > 0, "an index type that is not supported");
    require(flat->code_size == code_size && flat->codes.size() / code_size == rows &&
                    flat->codes.size() % code_size == 0,
            "codes do not fit the row count");
}

// As Recipe::has_taxicab_distance of recipe.rs.
bool knows_taxicab_distance(const Index& index) {
    return dynamic_cast<const faiss::IndexFlat*>(&index) || dynamic_cast<const faiss::IndexIVFFlat*>(&index) ||
            dynamic_cast<const faiss::IndexHNSW*>(&index) || dynamic_cast<const faiss::IndexPreTransform*>(&index) ||
            dynamic_cast<const faiss::IndexRefine*>(&index);
}

} // namespace

void check_sizes(const Index* index) {
    require(index != nullptr, "part of an index is missing");
    require(index->d >= 1 && index->d <= (1 << 16) && index->ntotal >= 0, "impossible dimension or row count");
    require(index->metric_type == faiss::METRIC_L2 || index->metric_type == faiss::METRIC_INNER_PRODUCT ||
                    (index->metric_type == faiss::METRIC_L1 && knows_taxicab_distance(*index)),
            "unknown metric");
    require(index->is_trained, "index was not trained");
    if (auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(index)) {
        int width = index->d;
        for (auto* step : transformed->chain) {
            check_transform(step, width);
            width = step->d_out;
        }
        check_sizes(transformed->index);
        require(transformed->index->d == width && transformed->index->ntotal == index->ntotal &&
                        transformed->index->metric_type == index->metric_type,
                "transforms do not fit");
    } else if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(index)) {
        check_sizes(refined->base_index);
        check_sizes(refined->refine_index);
        for (auto* part : {refined->base_index, refined->refine_index}) {
            require(part->d == index->d && part->ntotal == index->ntotal && part->metric_type == index->metric_type,
                    "refinement does not fit its base");
        }
        require(dynamic_cast<const faiss::IndexFlatCodes*>(refined->refine_index), "refinement without codes");
    } else if (auto* graph = dynamic_cast<const faiss::IndexHNSW*>(index)) {
        check_sizes(graph->storage);
        require(dynamic_cast<const faiss::IndexFlatCodes*>(graph->storage) && graph->storage->d == index->d &&
                        graph->storage->ntotal == index->ntotal && graph->storage->metric_type == index->metric_type,
                "graph without its vectors");
        check_graph(graph->hnsw, index->ntotal);
    } else if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(index)) {
        check_sizes(inverted->quantizer);
        require(inverted->quantizer->d == index->d, "coarse quantiser of another dimension");
        require(inverted->nlist >= 1 && static_cast<size_t>(inverted->quantizer->ntotal) == inverted->nlist,
                "coarse quantiser without its centroids");
        require(inverted->invlists && inverted->invlists->nlist == inverted->nlist, "inverted lists are missing");
        check_lists(*inverted);
        require(inverted->invlists->compute_ntotal() == static_cast<size_t>(index->ntotal),
                "inverted lists do not hold all rows");
    } else {
        check_codes(*index);
    }
}

} // namespace vekter
