// Indexes over bytes that lie in memory.
//
// Inverted lists are read in place: FAISS 1.12 first fills its own lists and then replaces them with views, which
// costs the whole index in private memory. What was read is checked for its proportions before anything walks it,
// because FAISS trusts its bytes.

#include "internal.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <typeinfo>

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
#include <faiss/impl/FaissAssert.h>
#include <faiss/impl/io.h>
#include <faiss/impl/zerocopy_io.h>
#include <faiss/index_io.h>
#include <faiss/invlists/BlockInvertedLists.h>
#include <faiss/invlists/InvertedLists.h>
#include <faiss/invlists/InvertedListsIOHook.h>
#include <faiss/utils/AlignedTable.h>

namespace vekter {

namespace {

// Inverted lists that lie in a map, in FAISS's `ilar` format: for each list its codes, then its ids.
struct MappedInvertedLists : faiss::ReadOnlyInvertedLists {
    struct List {
        const uint8_t* codes;
        size_t rows;
    };
    std::vector<List> lists;

    MappedInvertedLists(size_t nlist, size_t code_size) : ReadOnlyInvertedLists(nlist, code_size), lists(nlist) {}

    size_t list_size(size_t list) const override {
        return lists[list].rows;
    }
    const uint8_t* get_codes(size_t list) const override {
        // The one place inside a scan of many lists where FAISS catches what is thrown.
        throw_if_interrupted();
        return lists[list].codes;
    }
    const idx_t* get_ids(size_t list) const override {
        return reinterpret_cast<const idx_t*>(lists[list].codes + lists[list].rows * code_size);
    }
};

// Fast-scan lists that lie in a map, in FAISS's `ilbl` format: for each list its ids, then its blocks of codes, both
// with their lengths before them.
struct MappedBlockLists : faiss::BlockInvertedLists {
    struct List {
        const uint8_t* ids;
        size_t rows;
        const uint8_t* codes;
        size_t code_bytes;
    };
    std::vector<List> lists;

    size_t list_size(size_t list) const override {
        return lists[list].rows;
    }
    const idx_t* get_ids(size_t list) const override {
        return reinterpret_cast<const idx_t*>(lists[list].ids);
    }
    // FAISS's kernels load aligned words, and the format aligns nothing: a list that is scanned is copied if it must
    // be, for as long as the scan takes. That costs little beside the scan.
    const uint8_t* get_codes(size_t list) const override {
        throw_if_interrupted();
        const List& scanned = lists[list];
        if (faiss::is_aligned_pointer(scanned.codes)) {
            return scanned.codes;
        }
        void* copy = nullptr;
        if (posix_memalign(&copy, 32, std::max<size_t>(scanned.code_bytes, 32)) != 0) {
            throw std::bad_alloc();
        }
        std::memcpy(copy, scanned.codes, scanned.code_bytes);
        return static_cast<const uint8_t*>(copy);
    }
    void release_codes(size_t list, const uint8_t* codes) const override {
        if (codes != lists[list].codes) {
            std::free(const_cast<uint8_t*>(codes));
        }
    }
};

// Reads from a map, where FAISS's own reader of `ilbl` would copy: that is looked up by these four letters, and comes
// before any other, so ours has letters of its own, which are put in their place.
struct MapReader : faiss::ZeroCopyIOReader {
    static constexpr char BLOCKS[] = "ilbl", MAPPED_BLOCKS[] = "ilvb";

    // Numbers of 8 bytes that were read one after the other, the last at the end.
    std::vector<size_t> numbers;

    using ZeroCopyIOReader::ZeroCopyIOReader;

    size_t operator()(void* target, size_t size, size_t count) override {
        check_codebooks(size, count);
        const size_t read = ZeroCopyIOReader::operator()(target, size, count);
        if (size == sizeof(size_t) && count == 1 && read == 1) {
            numbers.push_back(0);
            std::memcpy(&numbers.back(), target, sizeof(size_t));
        } else {
            numbers.clear();
        }
        if (size == 4 && count == 1 && read == 1 && std::memcmp(target, BLOCKS, 4) == 0) {
            std::memcpy(target, MAPPED_BLOCKS, 4);
        }
        return read;
    }

    // Of an additive quantiser FAISS reads the dimension, the number M of codebooks, and a vector of their bits, of which
    // it then walks M elements, however many there are. A vector of one looks like one more number.
    void check_codebooks(size_t size, size_t count) const {
        const size_t before = numbers.size();
        const bool is_vector = size == sizeof(size_t) && count != 1 && before >= 3 && numbers[before - 1] == count;
        const bool was_vector = size == 1 && count == 1 && before >= 4 && numbers[before - 2] == 1;
        FAISS_THROW_IF_NOT_MSG(
                (!is_vector || numbers[before - 2] == count) && (!was_vector || numbers[before - 3] == 1),
                "additive quantiser with another number of codebooks");
    }

    size_t rest() const {
        return rp_ < total_ ? total_ - rp_ : 0;
    }
    size_t number() {
        size_t value = 0;
        FAISS_THROW_IF_NOT_MSG((*this)(&value, sizeof value, 1) == 1, "inverted lists reach beyond the end of the bytes");
        return value;
    }
    // An array of elements of this size, after its length.
    const uint8_t* array(size_t element_bytes, size_t& length) {
        length = number();
        FAISS_THROW_IF_NOT_MSG(length <= rest() / element_bytes, "inverted lists reach beyond the end of the bytes");
        const uint8_t* start = data_ + rp_;
        rp_ += length * element_bytes;
        return start;
    }
};

struct MappedBlockListsHook : faiss::InvertedListsIOHook {
    MappedBlockListsHook() : InvertedListsIOHook(MapReader::MAPPED_BLOCKS, typeid(MappedBlockLists).name()) {}

    void write(const faiss::InvertedLists*, faiss::IOWriter*) const override {
        FAISS_THROW_MSG("mapped inverted lists are read-only");
    }
    faiss::InvertedLists* read(faiss::IOReader* reader, int) const override {
        auto* map = dynamic_cast<MapReader*>(reader);
        FAISS_THROW_IF_NOT_MSG(map, "inverted lists are not in a map");
        auto lists = std::make_unique<MappedBlockLists>();
        lists->nlist = map->number();
        lists->code_size = map->number();
        lists->n_per_block = map->number();
        lists->block_size = map->number();
        FAISS_THROW_IF_NOT_MSG(
                lists->nlist <= map->rest() / (2 * sizeof(size_t)), "inverted lists reach beyond the end of the bytes");
        lists->lists.resize(lists->nlist);
        for (auto& list : lists->lists) {
            list.ids = map->array(sizeof(idx_t), list.rows);
            list.codes = map->array(1, list.code_bytes);
        }
        return lists.release();
    }
};

// FAISS's seam for other representations of `ilar`: see InvertedListsIOHook::read_ArrayInvertedLists.
struct MappedInvertedListsHook : faiss::InvertedListsIOHook {
    static constexpr const char* KEY = "ilvm";

    MappedInvertedListsHook() : InvertedListsIOHook(KEY, typeid(MappedInvertedLists).name()) {}

    void write(const faiss::InvertedLists*, faiss::IOWriter*) const override {
        FAISS_THROW_MSG("mapped inverted lists are read-only");
    }
    faiss::InvertedLists* read(faiss::IOReader*, int) const override {
        FAISS_THROW_MSG("mapped inverted lists have no format of their own");
    }
    faiss::InvertedLists* read_ArrayInvertedLists(
            faiss::IOReader* reader,
            int,
            size_t nlist,
            size_t code_size,
            const std::vector<size_t>& sizes) const override {
        auto* map = dynamic_cast<faiss::ZeroCopyIOReader*>(reader);
        FAISS_THROW_IF_NOT_MSG(map, "inverted lists are not in a map");
        FAISS_THROW_IF_NOT_MSG(map->rp_ <= map->total_, "inverted lists begin after the end of the bytes");
        FAISS_THROW_IF_NOT_MSG(code_size < (size_t{1} << 32), "inverted lists have codes of an impossible size");
        const size_t row_bytes = code_size + sizeof(idx_t);
        auto lists = std::make_unique<MappedInvertedLists>(nlist, code_size);
        for (size_t list = 0; list < nlist; list++) {
            FAISS_THROW_IF_NOT_MSG(
                    sizes[list] <= (map->total_ - map->rp_) / row_bytes,
                    "inverted lists reach beyond the end of the bytes");
            lists->lists[list] = {map->data_ + map->rp_, sizes[list]};
            map->rp_ += sizes[list] * row_bytes;
        }
        return lists.release();
    }
};

int mapped_io_flags() {
    const int key = static_cast<int>(faiss::fourcc(MappedInvertedListsHook::KEY));
    return faiss::IO_FLAG_SKIP_IVF_DATA | (key & 0xffff0000) | faiss::IO_FLAG_PQ_SKIP_SDC_TABLE;
}

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

// Fast-scan kernels: blocks of 32 or 64 codes of two 4-bit parts a byte, and no kernel but the default.
template <class FastScan>
void check_fast_scan(const FastScan& fast) {
    require(fast.nbits == 4 && fast.ksub == 16 && fast.implem == 0 && fast.qbs == 0 && (fast.bbs == 32 || fast.bbs == 64) &&
                    fast.M2 == (fast.M + 1) / 2 * 2,
            "fast-scan codes of an impossible form");
    if (auto* additive = additive_quantizer(fast)) {
        check_packed_additive(*additive, fast.d, fast.metric_type, fast.M);
    }
}

void check_packed_lists(const faiss::IndexIVFFastScan& fast) {
    check_fast_scan(fast);
    if (auto* product = dynamic_cast<const faiss::IndexIVFPQFastScan*>(&fast)) {
        check_quantizer(product->pq, fast.d);
        require(product->pq.M == fast.M, "fast-scan codes of an impossible form");
    } else {
        require(additive_quantizer(fast), "an index type that is not supported");
    }
    auto* blocks = dynamic_cast<const MappedBlockLists*>(fast.invlists);
    require(fast.qbs2 == 0 && fast.bbs == 32 && blocks && blocks->n_per_block == static_cast<size_t>(fast.bbs) &&
                    blocks->block_size == fast.bbs * fast.M2 / 2,
            "fast-scan lists of another form");
    for (const auto& list : blocks->lists) {
        const size_t filled = (list.rows + blocks->n_per_block - 1) / blocks->n_per_block;
        require(list.code_bytes >= filled * blocks->block_size, "inverted lists without their codes");
    }
}

void check_packed_codes(const faiss::IndexFastScan& fast) {
    check_fast_scan(fast);
    if (auto* product = dynamic_cast<const faiss::IndexPQFastScan*>(&fast)) {
        check_quantizer(product->pq, fast.d);
        require(product->pq.M == fast.M, "fast-scan codes of an impossible form");
    } else {
        require(additive_quantizer(fast), "an index type that is not supported");
    }
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
    require(dynamic_cast<const MappedInvertedLists*>(index.invlists) && index.code_size == code_size &&
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

// Refuses index types that the engine does not build, and proportions that would let FAISS read out of bounds.
void check_proportions(const Index* index) {
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
        check_proportions(transformed->index);
        require(transformed->index->d == width && transformed->index->ntotal == index->ntotal &&
                        transformed->index->metric_type == index->metric_type,
                "transforms do not fit");
    } else if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(index)) {
        check_proportions(refined->base_index);
        check_proportions(refined->refine_index);
        for (auto* part : {refined->base_index, refined->refine_index}) {
            require(part->d == index->d && part->ntotal == index->ntotal && part->metric_type == index->metric_type,
                    "refinement does not fit its base");
        }
        require(dynamic_cast<const faiss::IndexFlatCodes*>(refined->refine_index), "refinement without codes");
    } else if (auto* graph = dynamic_cast<const faiss::IndexHNSW*>(index)) {
        check_proportions(graph->storage);
        require(dynamic_cast<const faiss::IndexFlatCodes*>(graph->storage) && graph->storage->d == index->d &&
                        graph->storage->ntotal == index->ntotal && graph->storage->metric_type == index->metric_type,
                "graph without its vectors");
        check_graph(graph->hnsw, index->ntotal);
    } else if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(index)) {
        check_proportions(inverted->quantizer);
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

void forget_encoding(Index* index) {
    if (auto* transformed = dynamic_cast<faiss::IndexPreTransform*>(index)) {
        forget_encoding(transformed->index);
    } else if (auto* refined = dynamic_cast<faiss::IndexRefine*>(index)) {
        forget_encoding(refined->base_index);
    } else if (auto* additive = additive_quantizer(*index)) {
        keep_only_decoding(*additive);
    }
}

} // namespace

void register_mapped_lists() {
    faiss::InvertedListsIOHook::add_callback(new MappedInvertedListsHook());
    faiss::InvertedListsIOHook::add_callback(new MappedBlockListsHook());
}

const uint8_t* packed_codes(const faiss::InvertedLists& lists, size_t list) {
    auto* mapped = dynamic_cast<const MappedBlockLists*>(&lists);
    return mapped ? mapped->lists[list].codes : lists.get_codes(list);
}

std::unique_ptr<Index> open_mapped(const uint8_t* bytes, size_t length, bool adds) {
    MapReader reader(bytes, length);
    std::unique_ptr<Index> opened(faiss::read_index(&reader, mapped_io_flags()));
    require(reader.rp_ == length, "bytes do not end where the index does");
    check_proportions(opened.get());
    if (!adds) {
        forget_encoding(opened.get());
    }
    return opened;
}

} // namespace vekter
