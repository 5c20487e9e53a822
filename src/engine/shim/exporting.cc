// Writing an index for other users of FAISS: with ids as labels, and with the search parameters that it has here.

#include "internal.h"

#include <algorithm>
#include <memory>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIDMap.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRefine.h>
#include <faiss/VectorTransform.h>
#include <faiss/index_io.h>

namespace vekter {

void set_search(const Parts& parts, const vekter_written_params& params) {
    if (parts.refinement) {
        parts.refinement->k_factor = params.k_factor;
    }
    if (parts.graph) {
        parts.graph->hnsw.efSearch = params.ef_search;
    }
    if (faiss::IndexIVF* lists = parts.codes.lists) {
        lists->nprobe = std::min<size_t>(params.nprobe, lists->nlist);
    }
    if (parts.centroid_graph) {
        parts.centroid_graph->hnsw.efSearch = params.quantizer_ef_search;
    }
    if (parts.codes.query_bits) {
        *parts.codes.query_bits = params.query_bits;
    }
}

void write_labelled(const Index& index, const idx_t* labels, bool normalises, faiss::IOWriter* writer) {
    // FAISS's containers point to mutable indexes; writing does not change them.
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
