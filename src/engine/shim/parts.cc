// The one walk over FAISS's class tree.

#include "internal.h"

#include <faiss/IndexAdditiveQuantizer.h>
#include <faiss/IndexAdditiveQuantizerFastScan.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
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

namespace vekter {

namespace {

constexpr char UNSUPPORTED[] = "an index type that is not supported";
constexpr char MISSING[] = "part of an index is missing";

template <class T>
bool is(Index& index, T*& part) {
    part = dynamic_cast<T*>(&index);
    return part != nullptr;
}

Codes codes_in_lists(faiss::IndexIVF& lists) {
    Codes codes;
    codes.index = codes.lists = &lists;
    faiss::IndexIVFScalarQuantizer* scalar;
    faiss::IndexIVFAdditiveQuantizer* additive;
    faiss::IndexIVFRaBitQ* rabitq;
    is(lists, codes.packed_lists);
    if (is(lists, codes.product_packed_lists)) {
        codes.product = &codes.product_packed_lists->pq;
    } else if (is(lists, codes.additive_packed_lists)) {
        codes.additive = codes.additive_packed_lists->aq;
        codes.norm_scale = &codes.additive_packed_lists->norm_scale;
    } else if (is(lists, codes.product_lists)) {
        codes.product = &codes.product_lists->pq;
    } else if (is(lists, additive)) {
        codes.additive = additive->aq;
    } else if (is(lists, scalar)) {
        codes.scalar = &scalar->sq;
    } else if (is(lists, rabitq)) {
        codes.rabitq = &rabitq->rabitq;
        codes.query_bits = &rabitq->qb;
    } else {
        require(is(lists, codes.flat_lists), UNSUPPORTED);
    }
    return codes;
}

Codes codes_by_position(Index& index) {
    Codes codes;
    codes.index = &index;
    faiss::IndexPQFastScan* product_packed;
    faiss::IndexAdditiveQuantizerFastScan* additive_packed;
    faiss::IndexScalarQuantizer* scalar;
    faiss::IndexAdditiveQuantizer* additive;
    is(index, codes.plain);
    is(index, codes.packed);
    if (is(index, product_packed)) {
        codes.product = &product_packed->pq;
    } else if (is(index, additive_packed)) {
        codes.additive = additive_packed->aq;
        codes.norm_scale = &additive_packed->norm_scale;
    } else if (is(index, codes.product_plain)) {
        codes.product = &codes.product_plain->pq;
    } else if (is(index, scalar)) {
        codes.scalar = &scalar->sq;
    } else if (is(index, codes.rabitq_plain)) {
        codes.rabitq = &codes.rabitq_plain->rabitq;
        codes.query_bits = &codes.rabitq_plain->qb;
    } else if (is(index, additive)) {
        codes.additive = additive->aq;
    } else if (!is(index, codes.signs)) {
        require(is(index, codes.flat), UNSUPPORTED);
    }
    return codes;
}

Step step_of(faiss::VectorTransform* transform) {
    require(transform, MISSING);
    Step step;
    step.transform = transform;
    step.matrix = dynamic_cast<faiss::LinearTransform*>(transform);
    step.pca = dynamic_cast<faiss::PCAMatrix*>(transform);
    step.opq = dynamic_cast<faiss::OPQMatrix*>(transform);
    step.rotation = dynamic_cast<faiss::RandomRotationMatrix*>(transform);
    step.itq = dynamic_cast<faiss::ITQTransform*>(transform);
    step.remap = dynamic_cast<faiss::RemapDimensionsTransform*>(transform);
    step.normalisation = dynamic_cast<faiss::NormalizationTransform*>(transform);
    return step;
}

// The centroids of lists, and the graph over them.
void take_centroids(Parts& parts) {
    Index* quantizer = parts.codes.lists->quantizer;
    require(quantizer, MISSING);
    if (is(*quantizer, parts.centroid_graph)) {
        quantizer = parts.centroid_graph->storage;
        require(quantizer, MISSING);
    }
    require(is(*quantizer, parts.centroids), UNSUPPORTED);
}

} // namespace

bool Codes::are_halves() const {
    return plain && scalar && scalar->qtype == faiss::ScalarQuantizer::QT_fp16;
}

Parts take_apart(Index& index) {
    Parts parts;
    parts.whole = parts.core = &index;
    if (is(index, parts.refinement)) {
        require(parts.refinement->base_index && parts.refinement->refine_index, MISSING);
        parts.core = parts.refinement->base_index;
        parts.fine = codes_by_position(*parts.refinement->refine_index);
        require(parts.fine.plain, "refinement without codes");
    }
    if (is(*parts.core, parts.transformed)) {
        require(parts.transformed->index, MISSING);
        parts.core = parts.transformed->index;
        for (faiss::VectorTransform* transform : parts.transformed->chain) {
            parts.steps.push_back(step_of(transform));
        }
    }
    if (is(*parts.core, parts.graph)) {
        require(parts.graph->storage, MISSING);
        parts.codes = codes_by_position(*parts.graph->storage);
        require(parts.codes.plain, "graph without its vectors");
    } else if (faiss::IndexIVF * lists; is(*parts.core, lists)) {
        parts.codes = codes_in_lists(*lists);
        take_centroids(parts);
    } else {
        parts.codes = codes_by_position(*parts.core);
    }
    return parts;
}

} // namespace vekter
