// Indexes over bytes that lie in memory.
//
// Inverted lists are read in place: FAISS 1.12 first fills its own lists and then replaces them with views, which
// costs the whole index in private memory. What was read is checked before anything walks it (size_checks.cc).

#include "internal.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <typeinfo>

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
        check_interrupts();
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
        check_interrupts();
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

    // Of an additive quantiser FAISS reads the dimension, the number M of codebooks, and a vector of their bits, of
    // which it then walks M elements, however many there are. A vector of one looks like one more number.
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

} // namespace

void register_mapped_lists() {
    faiss::InvertedListsIOHook::add_callback(new MappedInvertedListsHook());
    faiss::InvertedListsIOHook::add_callback(new MappedBlockListsHook());
}

const uint8_t* packed_codes(const faiss::InvertedLists& lists, size_t list) {
    auto* mapped = dynamic_cast<const MappedBlockLists*>(&lists);
    return mapped ? mapped->lists[list].codes : lists.get_codes(list);
}

bool are_mapped(const faiss::InvertedLists& lists) {
    return dynamic_cast<const MappedInvertedLists*>(&lists) || dynamic_cast<const MappedBlockLists*>(&lists);
}

size_t packed_bytes(const faiss::InvertedLists& lists, size_t list) {
    auto* mapped = dynamic_cast<const MappedBlockLists*>(&lists);
    return mapped ? mapped->lists[list].code_bytes : 0;
}

std::unique_ptr<Handle> open_mapped(const uint8_t* bytes, size_t length, bool adds) {
    MapReader reader(bytes, length);
    std::unique_ptr<Index> read(faiss::read_index(&reader, mapped_io_flags()));
    require(reader.rp_ == length, "bytes do not end where the index does");
    require(read != nullptr, "part of an index is missing");
    auto opened = std::make_unique<Handle>(std::move(read));
    check_sizes(opened->parts);
    if (!adds && opened->parts.codes.additive) {
        keep_only_decoding(*opened->parts.codes.additive);
    }
    return opened;
}

} // namespace vekter
