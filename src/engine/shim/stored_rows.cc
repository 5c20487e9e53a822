// The rows of an index, given back: exactly where they are stored as floats, else as their codes say.

#include "internal.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <faiss/IndexFlat.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexIVFPQFastScan.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRefine.h>
#include <faiss/VectorTransform.h>
#include <faiss/impl/AdditiveQuantizer.h>
#include <faiss/impl/ProductQuantizer.h>
#include <faiss/utils/distances.h>
#include <faiss/utils/prefetch.h>

namespace vekter {

namespace {

// Of a row that is about to be read, and in a line of the processor's cache.
constexpr size_t PREFETCHED_VALUES = 512;
constexpr size_t LINE_VALUES = 16;
// Rows that are compared between two looks at the interrupt flag.
constexpr size_t INTERRUPTIBLE_ROWS = size_t{1} << 14;

// Where an index keeps its rows, and the transforms that stand before them.
struct Store {
    // An IndexFlatCodes, IndexPQFastScan or IndexIVF.
    const Index* codes;
    std::vector<const faiss::VectorTransform*> steps;
};

Store store_of(const Index& index) {
    if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(&index)) {
        return store_of(*refined->refine_index);
    }
    if (auto* graph = dynamic_cast<const faiss::IndexHNSW*>(&index)) {
        return store_of(*graph->storage);
    }
    if (auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(&index)) {
        Store store = store_of(*transformed->index);
        store.steps.insert(store.steps.begin(), transformed->chain.begin(), transformed->chain.end());
        return store;
    }
    return {&index, {}};
}

// Whether A A^T is the identity, so that A^T undoes A as far as that goes; judged by one vector (Freivalds, 1977).
// FAISS's own flag says yes to every matrix that was read: it is set before the dimensions are (impl/index_read.cpp).
bool is_orthonormal(const faiss::LinearTransform& matrix) {
    const size_t d_in = matrix.d_in, d_out = matrix.d_out;
    std::vector<double> probe(d_out), image(d_in);
    for (size_t i = 0; i < d_out; i++) {
        probe[i] = std::cos(static_cast<double>(i * i) + 1);
        for (size_t j = 0; j < d_in; j++) {
            image[j] += probe[i] * matrix.A[i * d_in + j];
        }
    }
    double error = 0, length = 0;
    for (size_t i = 0; i < d_out; i++) {
        double back = 0;
        for (size_t j = 0; j < d_in; j++) {
            back += image[j] * matrix.A[i * d_in + j];
        }
        error += (back - probe[i]) * (back - probe[i]);
        length += probe[i] * probe[i];
    }
    return error <= 1e-6 * length;
}

bool is_reversible(const faiss::VectorTransform* step) {
    if (auto* matrix = dynamic_cast<const faiss::LinearTransform*>(step)) {
        return is_orthonormal(*matrix);
    }
    // Normalisation is taken back as it is: of a row's length nothing is left.
    return dynamic_cast<const faiss::RemapDimensionsTransform*>(step) ||
            dynamic_cast<const faiss::NormalizationTransform*>(step);
}

// One row of fast-scan codes, of `parts` (even) parts, as pq4_pack_codes of faiss/impl/pq4_fast_scan.cpp lays them out:
// blocks of rows, in them pairs of parts, in them groups of 32 rows, 16 bytes for each part. Becomes two parts a byte.
// FAISS's own pq4_get_packed_element knows no second group in a block, and IndexIVFFastScan::sa_decode lacks its
// quantiser in an index that was read.
void unpack(const uint8_t* codes, size_t block, size_t parts, size_t row, uint8_t* code) {
    const size_t in_block = row % block, in_group = in_block % 32, in_half = in_group % 16;
    const uint8_t* group = codes + row / block * (block * parts / 2) + in_block / 32 * 32;
    const size_t byte = in_half < 8 ? 2 * in_half : 2 * in_half - 15;
    const auto part_of = [&](size_t part) {
        const uint8_t pair = group[part / 2 * block + part % 2 * 16 + byte];
        return in_group < 16 ? pair & 15 : pair >> 4;
    };
    for (size_t part = 0; part < parts; part += 2) {
        code[part / 2] = static_cast<uint8_t>(part_of(part) | part_of(part + 1) << 4);
    }
}

// Rows `first` to `first + count` of fast-scan codes, without the centroids that residuals are of.
template <class FastScan, class ProductFastScan>
void decode_packed(const FastScan& fast, const uint8_t* codes, size_t first, size_t count, float* values) {
    auto* product = dynamic_cast<const ProductFastScan*>(&fast);
    std::vector<uint8_t> code(fast.M2 / 2);
    for (size_t i = 0; i < count; i++) {
        unpack(codes, fast.bbs, fast.M2, first + i, code.data());
        if (product) {
            product->pq.decode(code.data(), values + i * fast.d);
        } else {
            additive_quantizer(fast)->decode(code.data(), values + i * fast.d, 1);
        }
    }
}

void add_centroid(const faiss::IndexIVF& inverted, size_t list, size_t count, float* values) {
    std::vector<float> centroid(inverted.d);
    inverted.quantizer->reconstruct(static_cast<idx_t>(list), centroid.data());
    for (size_t i = 0; i < count; i++) {
        faiss::fvec_add(inverted.d, values + i * inverted.d, centroid.data(), values + i * inverted.d);
    }
}

// The parts of the first row of fast-scan codes, two in a byte.
std::vector<uint8_t> first_packed(const uint8_t* codes, size_t block, size_t parts) {
    std::vector<uint8_t> code(parts / 2);
    unpack(codes, block, parts, 0, code.data());
    return code;
}

// Rows `first` to `first + count` of an inverted list, or of the whole index where it has none.
void decode(const Index& codes, size_t list, size_t first, size_t count, float* values) {
    const size_t dims = codes.d;
    if (auto* fast = dynamic_cast<const faiss::IndexFastScan*>(&codes)) {
        decode_packed<faiss::IndexFastScan, faiss::IndexPQFastScan>(*fast, fast->codes.get(), first, count, values);
    } else if (auto* fast = dynamic_cast<const faiss::IndexIVFFastScan*>(&codes)) {
        decode_packed<faiss::IndexIVFFastScan, faiss::IndexIVFPQFastScan>(
                *fast, packed_codes(*fast->invlists, list), first, count, values);
        if (fast->by_residual) {
            add_centroid(*fast, list, count, values);
        }
    } else if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(&codes)) {
        for (size_t i = 0; i < count; i++) {
            inverted->reconstruct_from_offset(list, first + i, values + i * dims);
        }
    } else {
        // IndexLSH leaves the dimensions beyond its bits as they are.
        std::fill_n(values, count * dims, 0.0f);
        codes.reconstruct_n(first, count, values);
    }
}

// Takes the transforms back, last first; `images` are rows of the store, and become rows of the index.
void reverse(const Store& store, size_t rows, std::vector<float> images, float* values) {
    for (size_t i = store.steps.size(); i-- > 0;) {
        const faiss::VectorTransform* step = store.steps[i];
        std::vector<float> before(i == 0 ? 0 : rows * step->d_in);
        float* target = i == 0 ? values : before.data();
        if (auto* matrix = dynamic_cast<const faiss::LinearTransform*>(step)) {
            matrix->transform_transpose(rows, images.data(), target);
        } else {
            step->reverse_transform(rows, images.data(), target);
        }
        images = std::move(before);
    }
}

// Where to decode to: the images of transforms, or the values themselves.
struct Target {
    std::vector<float> images;
    float* start;
    size_t dims;

    Target(const Store& store, size_t rows, float* values)
            : images(store.steps.empty() ? 0 : rows * store.codes->d),
              start(store.steps.empty() ? values : images.data()),
              dims(store.codes->d) {}

    float* row(size_t number) {
        return start + number * dims;
    }
};

void decode_from_lists(const faiss::IndexIVF& inverted, size_t count, const idx_t* positions, Target& target) {
    std::vector<std::pair<idx_t, size_t>> wanted(count);
    for (size_t i = 0; i < count; i++) {
        wanted[i] = {positions[i], i};
    }
    std::sort(wanted.begin(), wanted.end());
    std::vector<bool> is_done(count);
    for (size_t list = 0; list < inverted.nlist; list++) {
        check_interrupts();
        const size_t rows = inverted.invlists->list_size(list);
        faiss::InvertedLists::ScopedIds ids(inverted.invlists, list);
        for (size_t i = 0; i < rows; i++) {
            const std::pair<idx_t, size_t> first{ids[i], 0};
            for (auto found = std::lower_bound(wanted.begin(), wanted.end(), first);
                 found != wanted.end() && found->first == ids[i];
                 ++found) {
                decode(inverted, list, i, 1, target.row(found->second));
                is_done[found->second] = true;
            }
        }
    }
    require(std::find(is_done.begin(), is_done.end(), false) == is_done.end(), "a row is in no inverted list");
}

// A row that is stored as floats, and its number among those that are asked for.
struct Placed {
    const float* values;
    size_t number;
};

// Lists lie apart, and the processor notices late where the next one begins.
void prefetch_ids(const faiss::InvertedLists& lists, size_t list) {
    constexpr size_t LINE_IDS = 64 / sizeof(idx_t), PREFETCHED_IDS = 512;
    faiss::InvertedLists::ScopedIds ids(&lists, list);
    for (size_t i = 0; i < std::min(lists.list_size(list), PREFETCHED_IDS); i += LINE_IDS) {
        prefetch_L2(ids.get() + i);
    }
}

// Where the rows at positions (ascending, each once) lie in inverted lists, list by list: one walk over the ids of all
// rows.
std::vector<Placed> place_in_lists(const faiss::IndexIVFFlat& inverted, size_t count, const idx_t* positions) {
    constexpr size_t WORD_BITS = 64;
    // Which positions are asked for, and how many of them are before each word.
    std::vector<uint64_t> words(inverted.ntotal / WORD_BITS + 1);
    for (size_t i = 0; i < count; i++) {
        words[positions[i] / WORD_BITS] |= uint64_t{1} << positions[i] % WORD_BITS;
    }
    std::vector<size_t> before(words.size());
    for (size_t i = 1; i < words.size(); i++) {
        before[i] = before[i - 1] + __builtin_popcountll(words[i - 1]);
    }
    std::vector<Placed> placed;
    placed.reserve(count);
    for (size_t list = 0; list < inverted.nlist; list++) {
        check_interrupts();
        const size_t rows = inverted.invlists->list_size(list);
        faiss::InvertedLists::ScopedIds ids(inverted.invlists, list);
        faiss::InvertedLists::ScopedCodes codes(inverted.invlists, list);
        if (list + 1 < inverted.nlist) {
            prefetch_ids(*inverted.invlists, list + 1);
        }
        const auto* values = reinterpret_cast<const float*>(codes.get());
        for (size_t i = 0; i < rows; i++) {
            const auto position = static_cast<size_t>(ids[i]);
            if (position >= static_cast<size_t>(inverted.ntotal)) {
                require(false, "a list holds a row that does not exist");
            }
            const uint64_t word = words[position / WORD_BITS], bit = uint64_t{1} << position % WORD_BITS;
            if (word & bit) {
                const size_t number = before[position / WORD_BITS] + __builtin_popcountll(word & (bit - 1));
                placed.push_back({values + i * inverted.d, number});
            }
        }
    }
    require(placed.size() == count, "a row is in no inverted list, or in several");
    return placed;
}

// FAISS's distances of a query to `count` rows, of which row(i) says where each is.
template <class Row>
void measure(const Index& index, const float* query, size_t count, Row&& row, float* distances) {
    const size_t dims = index.d;
    const bool by_product = index.metric_type == faiss::METRIC_INNER_PRODUCT;
    auto* four = by_product ? faiss::fvec_inner_product_batch_4 : faiss::fvec_L2sqr_batch_4;
    auto* one = by_product ? faiss::fvec_inner_product : faiss::fvec_L2sqr;
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        if (i % INTERRUPTIBLE_ROWS == 0) {
            check_interrupts();
        }
        // Rows lie apart, and the processor sees only each one's own course.
        for (size_t next = i + 4; next < std::min(count, i + 8); next++) {
            for (size_t line = 0; line < std::min(dims, PREFETCHED_VALUES); line += LINE_VALUES) {
                prefetch_L2(row(next).values + line);
            }
        }
        const Placed at[] = {row(i), row(i + 1), row(i + 2), row(i + 3)};
        float found[4];
        four(query, at[0].values, at[1].values, at[2].values, at[3].values, dims, found[0], found[1], found[2], found[3]);
        for (size_t k = 0; k < 4; k++) {
            distances[at[k].number] = found[k];
        }
    }
    for (; i < count; i++) {
        const Placed last = row(i);
        distances[last.number] = one(query, last.values, dims);
    }
}

} // namespace

bool stores_rows(const Index& index) {
    if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(&index)) {
        return stores_rows(*refined->refine_index);
    }
    auto* graph = dynamic_cast<const faiss::IndexHNSW*>(&index);
    const Index* codes = graph ? graph->storage : &index;
    return dynamic_cast<const faiss::IndexFlat*>(codes) || dynamic_cast<const faiss::IndexIVFFlat*>(codes);
}

bool can_decode(const Index& index) {
    const Store store = store_of(index);
    return std::all_of(store.steps.begin(), store.steps.end(), is_reversible);
}

size_t next_rows(const Index& index, vekter_row_cursor& cursor, size_t limit, idx_t* positions, float* values) {
    const Store store = store_of(index);
    auto* inverted = dynamic_cast<const faiss::IndexIVF*>(store.codes);
    const size_t lists = inverted ? inverted->nlist : 1;
    Target target(store, limit, values);
    size_t found = 0;
    while (found < limit && cursor.list < lists) {
        check_interrupts();
        const size_t rows = inverted ? inverted->invlists->list_size(cursor.list) : store.codes->ntotal;
        const size_t count = std::min(limit - found, rows - std::min(rows, cursor.offset));
        if (count > 0) {
            decode(*store.codes, cursor.list, cursor.offset, count, target.row(found));
            if (inverted) {
                faiss::InvertedLists::ScopedIds ids(inverted->invlists, cursor.list);
                std::memcpy(positions + found, ids.get() + cursor.offset, count * sizeof(idx_t));
            } else {
                for (size_t i = 0; i < count; i++) {
                    positions[found + i] = static_cast<idx_t>(cursor.offset + i);
                }
            }
        }
        found += count;
        cursor.offset += count;
        if (cursor.offset >= rows) {
            cursor = {cursor.list + 1, 0};
        }
    }
    reverse(store, found, std::move(target.images), values);
    return found;
}

void rows_at(const Index& index, size_t count, const idx_t* positions, float* values) {
    const Store store = store_of(index);
    Target target(store, count, values);
    if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(store.codes)) {
        decode_from_lists(*inverted, count, positions, target);
    } else {
        for (size_t i = 0; i < count; i++) {
            decode(*store.codes, 0, positions[i], 1, target.row(i));
        }
    }
    reverse(store, count, std::move(target.images), values);
}

bool distances_at(const Index& index, const float* query, size_t count, const idx_t* positions, float* distances) {
    const Store store = store_of(index);
    if (!store.steps.empty() || store.codes->metric_type == faiss::METRIC_L1) {
        return false;
    }
    if (auto* flat = dynamic_cast<const faiss::IndexFlat*>(store.codes)) {
        const auto row = [values = flat->get_xb(), dims = flat->d, positions](size_t i) {
            return Placed{values + static_cast<size_t>(positions[i]) * dims, i};
        };
        measure(*flat, query, count, row, distances);
        return true;
    }
    if (auto* inverted = dynamic_cast<const faiss::IndexIVFFlat*>(store.codes)) {
        const std::vector<Placed> placed = place_in_lists(*inverted, count, positions);
        measure(*inverted, query, count, [&placed](size_t i) { return placed[i]; }, distances);
        return true;
    }
    return false;
}

std::vector<uint8_t> only_code(const Index& index) {
    if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(&index)) {
        std::vector<uint8_t> code = only_code(*refined->base_index);
        const std::vector<uint8_t> finer = only_code(*refined->refine_index);
        code.insert(code.end(), finer.begin(), finer.end());
        return code;
    }
    const Store store = store_of(index);
    if (auto* inverted = dynamic_cast<const faiss::IndexIVF*>(store.codes)) {
        size_t list = 0;
        while (list < inverted->nlist && inverted->invlists->list_size(list) == 0) {
            list++;
        }
        require(list < inverted->nlist, "the row is in no inverted list");
        if (auto* fast = dynamic_cast<const faiss::IndexIVFFastScan*>(inverted)) {
            return first_packed(packed_codes(*fast->invlists, list), fast->bbs, fast->M2);
        }
        faiss::InvertedLists::ScopedCodes codes(inverted->invlists, list);
        return {codes.get(), codes.get() + inverted->code_size};
    }
    if (auto* fast = dynamic_cast<const faiss::IndexFastScan*>(store.codes)) {
        return first_packed(fast->codes.get(), fast->bbs, fast->M2);
    }
    auto* flat = dynamic_cast<const faiss::IndexFlatCodes*>(store.codes);
    require(flat && flat->codes.size() >= flat->code_size, "this index type has no codes");
    return {flat->codes.data(), flat->codes.data() + flat->code_size};
}

double imbalance(const Index& index) {
    if (auto* transformed = dynamic_cast<const faiss::IndexPreTransform*>(&index)) {
        return imbalance(*transformed->index);
    }
    if (auto* refined = dynamic_cast<const faiss::IndexRefine*>(&index)) {
        return imbalance(*refined->base_index);
    }
    auto* inverted = dynamic_cast<const faiss::IndexIVF*>(&index);
    return inverted && inverted->ntotal > 0 ? inverted->invlists->imbalance_factor() : 0;
}

} // namespace vekter
