// An index as one file for FAISS's other users: with ids for labels, ready to be searched as it was here.

#include "internal.h"

#include <algorithm>
#include <memory>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIDMap.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/IndexRefine.h>
#include <faiss/VectorTransform.h>
#include <faiss/index_io.h>

namespace vekter {

void set_search(Index* index, const vekter_written_params& params) {
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index)) {
        set_search(transformed->index, params);
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        refined->k_factor = params.k_factor;
        set_search(refined->base_index, params);
    } else if (auto* graph = dynamic_cast<faiss::IndexHNSW*>(index)) {
        graph->hnsw.efSearch = params.ef_search;
    } else if (auto* inverted = dynamic_cast<faiss::IndexIVF*>(index)) {
        inverted->nprobe = std::min<size_t>(params.nprobe, inverted->nlist);
        if (auto* coarse = dynamic_cast<faiss::IndexHNSW*>(inverted->quantizer)) {
            coarse->hnsw.efSearch = params.quantizer_ef_search;
        }
        if (auto* rabitq = dynamic_cast<faiss::IndexIVFRaBitQ*>(inverted)) {
            rabitq->qb = params.query_bits;
        }
    } else if (auto* rabitq = dynamic_cast<faiss::IndexRaBitQ*>(index)) {
        rabitq->qb = params.query_bits;
    }
}

void write_labelled(const Index& index, const idx_t* labels, bool normalises, faiss::IOWriter* writer) {
    // FAISS's containers want what they contain to be mutable; writing does not change it.
    Index* content = const_cast<Index*>(&index);
    faiss::NormalizationTransform unit(index.d, 2.0f);
    faiss::IndexPreTransform prepared;
    if (normalises) {
        prepared.chain = {&unit};
        prepared.index = content;
        prepared.d = index.d;
        prepared.ntotal = index.ntotal;
        prepared.metric_type = index.metric_type;
        prepared.is_trained = true;
        content = &prepared;
    }
    faiss::IndexIDMap2 labelled;
    labelled.index = content;
    labelled.d = index.d;
    labelled.ntotal = index.ntotal;
    labelled.metric_type = index.metric_type;
    labelled.is_trained = true;
    labelled.id_map.assign(labels, labels + index.ntotal);
    faiss::write_index(&labelled, writer);
}

} // namespace vekter
