// An index that was written, taken up again to be added to: in memory of its own, since what was read lies in a map.

#include "internal.h"

#include <cstring>
#include <typeinfo>

#include <faiss/IndexFlat.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
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
#include <faiss/impl/AdditiveQuantizer.h>
#include <faiss/invlists/BlockInvertedLists.h>
#include <faiss/invlists/InvertedLists.h>

namespace vekter {

namespace {

// ---------------------------------------------------------------- is it the index that was asked for?

constexpr char OTHER_FACTORY[] = "the index was built after another factory string";

// `read` as the type that `like` has.
template <class T>
const T& same_type(const T*, const Index& read) {
    auto* same = dynamic_cast<const T*>(&read);
    require(same, OTHER_FACTORY);
    return *same;
}

void check_quantizers_alike(const faiss::ProductQuantizer& like, const faiss::ProductQuantizer& read) {
    require(like.M == read.M && like.nbits == read.nbits, OTHER_FACTORY);
}

void check_additive_alike(const Index& like, const faiss::AdditiveQuantizer& quantizer, const Index& read) {
    require(typeid(like) == typeid(read) && are_additive_alike(quantizer, *additive_quantizer(read)), OTHER_FACTORY);
}

void check_transforms_alike(const faiss::VectorTransform* like, const faiss::VectorTransform* read) {
    require(like->d_in == read->d_in && like->d_out == read->d_out, OTHER_FACTORY);
    if (auto* pca = dynamic_cast<const faiss::PCAMatrix*>(like)) {
        auto* same = dynamic_cast<const faiss::PCAMatrix*>(read);
        require(same && same->eigen_power == pca->eigen_power && same->random_rotation == pca->random_rotation,
                OTHER_FACTORY);
    } else if (dynamic_cast<const faiss::RandomRotationMatrix*>(like)) {
        require(dynamic_cast<const faiss::RandomRotationMatrix*>(read), OTHER_FACTORY);
    } else if (dynamic_cast<const faiss::LinearTransform*>(like)) {
        // An OPQMatrix is written as the plain matrix that it learnt.
        require(dynamic_cast<const faiss::LinearTransform*>(read) && !dynamic_cast<const faiss::PCAMatrix*>(read) &&
                        !dynamic_cast<const faiss::RandomRotationMatrix*>(read),
                OTHER_FACTORY);
    } else {
        require(typeid(*like) == typeid(*read), OTHER_FACTORY);
    }
}

void check_alike(const Index& like, const Index& read);

void check_lists_alike(const faiss::IndexIVF& like, const faiss::IndexIVF& read) {
    require(like.nlist == read.nlist, OTHER_FACTORY);
    check_alike(*like.quantizer, *read.quantizer);
    if (auto* additive = additive_quantizer(like)) {
        check_additive_alike(like, *additive, read);
        require(like.by_residual == read.by_residual, OTHER_FACTORY);
    } else if (auto* product = dynamic_cast<const faiss::IndexIVFPQ*>(&like)) {
        check_quantizers_alike(product->pq, same_type(product, read).pq);
        require(product->by_residual == read.by_residual, OTHER_FACTORY);
    } else if (auto* fast = dynamic_cast<const faiss::IndexIVFPQFastScan*>(&like)) {
        check_quantizers_alike(fast->pq, same_type(fast, read).pq);
        require(fast->bbs == same_type(fast, read).bbs && fast->by_residual == read.by_residual, OTHER_FACTORY);
    } else if (auto* scalar = dynamic_cast<const faiss::IndexIVFScalarQuantizer*>(&like)) {
        require(scalar->sq.qtype == same_type(scalar, read).sq.qtype && scalar->by_residual == read.by_residual,
                OTHER_FACTORY);
    } else if (auto* rabitq = dynamic_cast<const faiss::IndexIVFRaBitQ*>(&like)) {
        same_type(rabitq, read);
    } else {
        same_type(dynamic_cast<const faiss::IndexIVFFlat*>(&like), read);
    }
}

void check_codes_alike(const Index& like, const Index& read) {
    if (auto* additive = additive_quantizer(like)) {
        check_additive_alike(like, *additive, read);
    } else if (auto* fast = dynamic_cast<const faiss::IndexPQFastScan*>(&like)) {
        check_quantizers_alike(fast->pq, same_type(fast, read).pq);
        require(fast->bbs == same_type(fast, read).bbs, OTHER_FACTORY);
    } else if (auto* product = dynamic_cast<const faiss::IndexPQ*>(&like)) {
        check_quantizers_alike(product->pq, same_type(product, read).pq);
    } else if (auto* scalar = dynamic_cast<const faiss::IndexScalarQuantizer*>(&like)) {
        require(scalar->sq.qtype == same_type(scalar, read).sq.qtype, OTHER_FACTORY);
    } else if (auto* signs = dynamic_cast<const faiss::IndexLSH*>(&like)) {
        const auto& same = same_type(signs, read);
        require(signs->nbits == same.nbits && signs->rotate_data == same.rotate_data &&
                        signs->train_thresholds == same.train_thresholds,
                OTHER_FACTORY);
    } else if (auto* rabitq = dynamic_cast<const faiss::IndexRaBitQ*>(&like)) {
        same_type(rabitq, read);
    } else {
        same_type(dynamic_cast<const faiss::IndexFlat*>(&like), read);
    }
}

// Whether `read` is what `like`, a new index after the factory string, would become.
void check_alike(const Index& like, const Index& read) {
    require(like.d == read.d, "the index has rows of another dimension");
    require(like.metric_type == read.metric_type, "the index was built for another metric");
    if (auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(&like)) {
        const auto& same = same_type(transformed, read);
        require(transformed->chain.size() == same.chain.size(), OTHER_FACTORY);
        for (size_t i = 0; i < same.chain.size(); i++) {
            check_transforms_alike(transformed->chain[i], same.chain[i]);
        }
        check_alike(*transformed->index, *same.index);
    } else if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(&like)) {
        const auto& same = same_type(refined, read);
        check_alike(*refined->base_index, *same.base_index);
        check_alike(*refined->refine_index, *same.refine_index);
    } else if (auto* graph = dynamic_cast<const faiss::IndexHNSW*>(&like)) {
        const auto& same = same_type(graph, read);
        require(graph->hnsw.cum_nneighbor_per_level == same.hnsw.cum_nneighbor_per_level &&
                        graph->hnsw.assign_probas == same.hnsw.assign_probas,
                OTHER_FACTORY);
        check_alike(*graph->storage, *same.storage);
    } else if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(&like)) {
        check_lists_alike(*inverted, same_type(inverted, read));
    } else {
        check_codes_alike(like, read);
    }
}

// ---------------------------------------------------------------- out of the map

template <class T>
void own(faiss::MaybeOwnedVector<T>& vector, bool keeps) {
    std::vector<T> owned;
    if (keeps) {
        if (vector.is_owned) {
            return;
        }
        // By bytes, since a map aligns nothing.
        owned.resize(vector.size());
        if (!owned.empty()) {
            std::memcpy(owned.data(), vector.data(), vector.byte_size());
        }
    }
    vector = faiss::MaybeOwnedVector<T>(std::move(owned));
}

void own_packed_lists(faiss::IndexIVFFastScan& fast, bool keeps) {
    // FAISS leaves this pointer empty when it reads.
    if (auto* product = dynamic_cast<faiss::IndexIVFPQFastScan*>(&fast)) {
        fast.fine_quantizer = &product->pq;
    } else {
        fast.fine_quantizer = additive_quantizer(fast);
    }
    auto lists = std::make_unique<faiss::BlockInvertedLists>(fast.nlist, fast.get_CodePacker());
    for (size_t list = 0; keeps && list < fast.nlist; list++) {
        const size_t rows = fast.invlists->list_size(list);
        if (rows > 0) {
            lists->resize(list, rows);
            std::memcpy(lists->ids[list].data(), fast.invlists->get_ids(list), rows * sizeof(idx_t));
            std::memcpy(lists->codes[list].data(), packed_codes(*fast.invlists, list), lists->codes[list].size());
        }
    }
    fast.replace_invlists(lists.release(), true);
}

void own_lists(faiss::IndexIVF& inverted, bool keeps) {
    if (auto* fast = dynamic_cast<faiss::IndexIVFFastScan*>(&inverted)) {
        own_packed_lists(*fast, keeps);
        return;
    }
    auto lists = std::make_unique<faiss::ArrayInvertedLists>(inverted.nlist, inverted.code_size);
    for (size_t list = 0; keeps && list < inverted.nlist; list++) {
        const size_t rows = inverted.invlists->list_size(list);
        if (rows > 0) {
            faiss::InvertedLists::ScopedIds ids(inverted.invlists, list);
            faiss::InvertedLists::ScopedCodes codes(inverted.invlists, list);
            lists->add_entries(list, rows, ids.get(), codes.get());
        }
    }
    inverted.replace_invlists(lists.release(), true);
}

// Puts the rows into memory of their own, or drops them; models stay.
void own_rows(Index* index, bool keeps) {
    check_interrupts();
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index)) {
        own_rows(transformed->index, keeps);
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        own_rows(refined->base_index, keeps);
        own_rows(refined->refine_index, keeps);
    } else if (auto* graph = dynamic_cast<faiss::IndexHNSW*>(index)) {
        own_rows(graph->storage, keeps);
        own(graph->hnsw.neighbors, keeps);
        if (keeps) {
            // Not the levels of the first rows once more: FAISS starts every graph with the same seed.
            graph->hnsw.rng = faiss::RandomGenerator(graph->ntotal);
        } else {
            graph->hnsw.reset();
        }
        if (auto* product = dynamic_cast<faiss::IndexPQ*>(graph->storage)) {
            // Distances between two codes, which only building needs.
            product->pq.compute_sdc_table();
        }
    } else if (auto* inverted = dynamic_cast<faiss::IndexIVF*>(index)) {
        own_rows(inverted->quantizer, true);
        own_lists(*inverted, keeps);
    } else if (auto* fast = dynamic_cast<faiss::IndexFastScan*>(index)) {
        if (!keeps) {
            fast->codes.resize(0);
            fast->ntotal2 = 0;
        }
    } else if (auto* codes = dynamic_cast<faiss::IndexFlatCodes*>(index)) {
        own(codes->codes, keeps);
    }
    if (auto* additive = additive_quantizer(*index)) {
        own_norms(*additive);
    }
    if (!keeps) {
        index->ntotal = 0;
    }
}

} // namespace

std::unique_ptr<Index> resume(const Index& like, const uint8_t* bytes, size_t length, bool keeps_rows) {
    std::unique_ptr<Index> index = open_mapped(bytes, length, true);
    check_alike(like, *index);
    own_rows(index.get(), keeps_rows);
    tune_for_building(index.get());
    return index;
}

} // namespace vekter
