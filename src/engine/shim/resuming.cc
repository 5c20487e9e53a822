// Reopens a written index to add rows to it: in memory of its own, since what was read lies in a map.

#include "internal.h"

#include <cstring>
#include <typeinfo>

#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexLSH.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/VectorTransform.h>
#include <faiss/impl/AdditiveQuantizer.h>
#include <faiss/invlists/BlockInvertedLists.h>
#include <faiss/invlists/InvertedLists.h>

namespace vekter {

namespace {

// ---------------------------------------------------------------- the same factory string

constexpr char OTHER_FACTORY[] = "the index was built after another factory string";

void check_transforms_alike(const Step& like, const Step& read) {
    require(like.transform->d_in == read.transform->d_in && like.transform->d_out == read.transform->d_out, OTHER_FACTORY);
    if (like.pca) {
        require(read.pca && read.pca->eigen_power == like.pca->eigen_power &&
                        read.pca->random_rotation == like.pca->random_rotation,
                OTHER_FACTORY);
    } else if (like.rotation) {
        require(read.rotation, OTHER_FACTORY);
    } else if (like.matrix) {
        // An OPQMatrix is written as the plain matrix that it learnt.
        require(read.matrix && !read.pca && !read.rotation, OTHER_FACTORY);
    } else {
        require(typeid(*like.transform) == typeid(*read.transform), OTHER_FACTORY);
    }
}

void check_graphs_alike(const faiss::IndexHNSW* like, const faiss::IndexHNSW* read) {
    require(!like == !read, OTHER_FACTORY);
    require(!like || (like->hnsw.cum_nneighbor_per_level == read->hnsw.cum_nneighbor_per_level &&
                      like->hnsw.assign_probas == read->hnsw.assign_probas),
            OTHER_FACTORY);
}

void check_rows_alike(const Index& like, const Index& read) {
    require(like.d == read.d, "the index has rows of another dimension");
    require(like.metric_type == read.metric_type, "the index was built for another metric");
}

// FAISS reads some subclasses (of IndexFlat, of IndexRefine) as their base, so types are compared by what they store.
void check_codes_alike(const Codes& like, const Codes& read) {
    require(!like.index == !read.index, OTHER_FACTORY);
    if (!like.index) {
        return;
    }
    check_rows_alike(*like.index, *read.index);
    require(!like.packed == !read.packed && !like.lists == !read.lists && !like.packed_lists == !read.packed_lists &&
                    like.are_floats() == read.are_floats() && !like.product == !read.product &&
                    !like.scalar == !read.scalar && !like.additive == !read.additive && !like.rabitq == !read.rabitq &&
                    !like.signs == !read.signs,
            OTHER_FACTORY);
    require(!like.packed || like.packed->bbs == read.packed->bbs, OTHER_FACTORY);
    require(!like.packed_lists || like.packed_lists->bbs == read.packed_lists->bbs, OTHER_FACTORY);
    require(!like.lists || (like.lists->nlist == read.lists->nlist && like.lists->by_residual == read.lists->by_residual),
            OTHER_FACTORY);
    if (like.product) {
        require(like.product->M == read.product->M && like.product->nbits == read.product->nbits, OTHER_FACTORY);
    } else if (like.scalar) {
        require(like.scalar->qtype == read.scalar->qtype, OTHER_FACTORY);
    } else if (like.additive) {
        require(typeid(*like.index) == typeid(*read.index) && are_additive_alike(*like.additive, *read.additive),
                OTHER_FACTORY);
    } else if (like.signs) {
        require(like.signs->nbits == read.signs->nbits && like.signs->rotate_data == read.signs->rotate_data &&
                        like.signs->train_thresholds == read.signs->train_thresholds,
                OTHER_FACTORY);
    }
}

// Throws unless `read` is an index of the factory string that `like`, a new index, was made after.
void check_alike(const Parts& like, const Parts& read) {
    check_rows_alike(*like.whole, *read.whole);
    check_codes_alike(like.fine, read.fine);
    require(!like.transformed == !read.transformed && like.steps.size() == read.steps.size(), OTHER_FACTORY);
    for (size_t i = 0; i < like.steps.size(); i++) {
        check_transforms_alike(like.steps[i], read.steps[i]);
    }
    check_graphs_alike(like.graph, read.graph);
    check_codes_alike(like.codes, read.codes);
    check_graphs_alike(like.centroid_graph, read.centroid_graph);
    if (like.centroids) {
        check_rows_alike(*like.centroids, *read.centroids);
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

void own_packed_lists(const Codes& codes, bool keeps) {
    faiss::IndexIVFFastScan& fast = *codes.packed_lists;
    // FAISS leaves this pointer empty when it reads.
    if (codes.product) {
        fast.fine_quantizer = codes.product;
    } else {
        fast.fine_quantizer = codes.additive;
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

void own_codes(const Codes& codes, bool keeps) {
    if (!codes.index) {
        return;
    }
    check_interrupts();
    if (codes.packed_lists) {
        own_packed_lists(codes, keeps);
    } else if (codes.lists) {
        own_lists(*codes.lists, keeps);
    } else if (codes.packed) {
        if (!keeps) {
            codes.packed->codes.resize(0);
            codes.packed->ntotal2 = 0;
        }
    } else {
        own(codes.plain->codes, keeps);
    }
    if (codes.additive) {
        own_norms(*codes.additive);
    }
    if (!keeps) {
        codes.index->ntotal = 0;
    }
}

void own_graph(faiss::IndexHNSW& graph, bool keeps) {
    own(graph.hnsw.neighbors, keeps);
    if (keeps) {
        // Not the levels of the first rows once more: FAISS starts every graph with the same seed.
        graph.hnsw.rng = faiss::RandomGenerator(graph.ntotal);
    } else {
        graph.hnsw.reset();
        graph.ntotal = 0;
    }
}

// Copies the rows into memory of the index's own, or drops them; models stay.
void own_rows(const Parts& parts, bool keeps) {
    own_codes(parts.codes, keeps);
    own_codes(parts.fine, keeps);
    if (parts.graph) {
        own_graph(*parts.graph, keeps);
        if (parts.codes.product) {
            // Distances between two codes, which only building needs.
            parts.codes.product->compute_sdc_table();
        }
    }
    if (parts.centroids) {
        own(parts.centroids->codes, true);
    }
    if (parts.centroid_graph) {
        own_graph(*parts.centroid_graph, true);
    }
    if (!keeps) {
        parts.core->ntotal = 0;
        parts.whole->ntotal = 0;
        if (parts.transformed) {
            parts.transformed->ntotal = 0;
        }
    }
}

} // namespace

std::unique_ptr<Handle> resume(const Handle& like, const uint8_t* bytes, size_t length, bool keeps_rows) {
    std::unique_ptr<Handle> read = open_mapped(bytes, length, true);
    check_alike(like.parts, read->parts);
    own_rows(read->parts, keeps_rows);
    read->unlinked.known = read->index->ntotal;
    tune_for_building(read->parts);
    return read;
}

} // namespace vekter
