// An index taken apart once: typed pointers to what the factory strings of the engine put together.
//
// Such an index is a refinement of transforms of a graph, of inverted lists or of plain codes; refinement and
// transforms may be missing. Everything that the other files need to know of FAISS's class tree is found here.

#ifndef VEKTER_ENGINE_PARTS_H
#define VEKTER_ENGINE_PARTS_H

#include <memory>
#include <shared_mutex>
#include <vector>

#include <faiss/Index.h>

namespace faiss {
struct AdditiveQuantizer;
struct IndexFastScan;
struct IndexFlat;
struct IndexFlatCodes;
struct IndexHNSW;
struct IndexIVF;
struct IndexIVFAdditiveQuantizerFastScan;
struct IndexIVFFastScan;
struct IndexIVFFlat;
struct IndexIVFPQ;
struct IndexIVFPQFastScan;
struct IndexLSH;
struct IndexPQ;
struct IndexPreTransform;
struct IndexRaBitQ;
struct IndexRefine;
struct ITQTransform;
struct LinearTransform;
struct NormalizationTransform;
struct OPQMatrix;
struct PCAMatrix;
struct ProductQuantizer;
struct RaBitQuantizer;
struct RandomRotationMatrix;
struct RemapDimensionsTransform;
struct ScalarQuantizer;
struct VectorTransform;
} // namespace faiss

namespace vekter {

using faiss::idx_t;
using faiss::Index;

// The codes of the rows: how they are stored, and what they are. Pointers that do not apply are null.
struct Codes {
    Index* index = nullptr;

    // By position: one after the other, or packed in blocks for fast scan.
    faiss::IndexFlatCodes* plain = nullptr;
    faiss::IndexFastScan* packed = nullptr;
    // In inverted lists, which may also be packed.
    faiss::IndexIVF* lists = nullptr;
    faiss::IndexIVFFastScan* packed_lists = nullptr;

    // Floats.
    faiss::IndexFlat* flat = nullptr;
    faiss::IndexIVFFlat* flat_lists = nullptr;
    // Quantisers, each with the index types that have fields of their own for it.
    faiss::ProductQuantizer* product = nullptr;
    faiss::IndexPQ* product_plain = nullptr;
    faiss::IndexIVFPQ* product_lists = nullptr;
    faiss::IndexIVFPQFastScan* product_packed_lists = nullptr;
    faiss::ScalarQuantizer* scalar = nullptr;
    faiss::AdditiveQuantizer* additive = nullptr;
    faiss::IndexIVFAdditiveQuantizerFastScan* additive_packed_lists = nullptr;
    // The scale of the norms in packed additive codes.
    int* norm_scale = nullptr;
    faiss::RaBitQuantizer* rabitq = nullptr;
    faiss::IndexRaBitQ* rabitq_plain = nullptr;
    // Default bits of a query for RaBitQ.
    uint8_t* query_bits = nullptr;
    faiss::IndexLSH* signs = nullptr;

    bool are_floats() const {
        return flat || flat_lists;
    }

    // IEEE's 16-bit floats of the rows themselves; lists store residuals.
    bool are_halves() const;
};

// One transform.
struct Step {
    faiss::VectorTransform* transform = nullptr;
    // Of these at most one is set, except that PCA, OPQ and random rotations are linear too.
    faiss::LinearTransform* matrix = nullptr;
    faiss::PCAMatrix* pca = nullptr;
    faiss::OPQMatrix* opq = nullptr;
    faiss::RandomRotationMatrix* rotation = nullptr;
    faiss::ITQTransform* itq = nullptr;
    faiss::RemapDimensionsTransform* remap = nullptr;
    faiss::NormalizationTransform* normalisation = nullptr;
};

struct Parts {
    Index* whole = nullptr;
    faiss::IndexRefine* refinement = nullptr;
    faiss::IndexPreTransform* transformed = nullptr;
    std::vector<Step> steps;
    // The graph, the lists or the codes behind the transforms.
    Index* core = nullptr;
    faiss::IndexHNSW* graph = nullptr;
    // Of the core; those of a graph are in its storage.
    Codes codes;
    // Of the refinement.
    Codes fine;
    // The centroids of inverted lists, and the graph over them if there is one.
    faiss::IndexFlat* centroids = nullptr;
    faiss::IndexHNSW* centroid_graph = nullptr;

    // The codes from which rows are read back, and whether transforms are between them and the rows.
    const Codes& stored() const {
        return refinement ? fine : codes;
    }
    bool stores_images() const {
        return !refinement && !steps.empty();
    }
};

// Throws if it is not such an index.
Parts take_apart(Index& index);

// Rows of a graph that were added and have no links yet.
struct Unlinked {
    // The rows of a pass, in the order in which they are linked, and the place of the next.
    std::vector<int32_t> order;
    size_t next = 0;
    // Rows of the graph that are linked, or in `order`.
    size_t known = 0;
};

// An index with its parts.
struct Handle {
    std::unique_ptr<Index> index;
    Parts parts;
    // Guards IndexIVF::nprobe of fast-scan lists of residuals, the one field of an opened index that a search may
    // write.
    mutable std::shared_mutex nprobe_mutex;
    Unlinked unlinked;

    explicit Handle(std::unique_ptr<Index> taken) : index(std::move(taken)), parts(take_apart(*index)) {
        unlinked.known = index->ntotal;
    }
};

} // namespace vekter

#endif
