// Reading the rows of an index back: exactly where they are stored as floats, else decoded.

#include "internal.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <faiss/IndexFlat.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/VectorTransform.h>
#include <faiss/impl/AdditiveQuantizer.h>
#include <faiss/impl/ProductQuantizer.h>
#include <faiss/utils/distances.h>
#include <faiss/utils/prefetch.h>

namespace vekter {

namespace {

// Values of a row that are prefetched, and values in a cache line.
constexpr size_t PREFETCHED_VALUES = 512;
constexpr size_t LINE_VALUES = 16;
// Rows that are compared between two polls of the interrupt flag.
constexpr size_t INTERRUPTIBLE_ROWS = size_t{1} << 14;

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

bool is_reversible(const Step& step) {
    // Normalisation counts: the length is lost, but the direction is not.
    return step.matrix ? is_orthonormal(*step.matrix) : step.remap || step.normalisation;
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

// Rows `first` to `first + count` of fast-scan codes, without the centroids that residuals are added to.
template <class FastScan>
void decode_packed(const Codes& codes, const FastScan& fast, const uint8_t* bytes, size_t first, size_t count, float* values) {
    std::vector<uint8_t> code(fast.M2 / 2);
    for (size_t i = 0; i < count; i++) {
        unpack(bytes, fast.bbs, fast.M2, first + i, code.data());
        if (codes.product) {
            codes.product->decode(code.data(), values + i * fast.d);
        } else {
            codes.additive->decode(code.data(), values + i * fast.d, 1);
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
void decode(const Codes& codes, size_t list, size_t first, size_t count, float* values) {
    const size_t dims = codes.index->d;
    if (codes.packed) {
        decode_packed(codes, *codes.packed, codes.packed->codes.get(), first, count, values);
    } else if (const faiss::IndexIVFFastScan* fast = codes.packed_lists) {
        decode_packed(codes, *fast, packed_codes(*fast->invlists, list), first, count, values);
        if (fast->by_residual) {
            add_centroid(*fast, list, count, values);
        }
    } else if (codes.lists) {
        for (size_t i = 0; i < count; i++) {
            codes.lists->reconstruct_from_offset(list, first + i, values + i * dims);
        }
    } else {
        // IndexLSH leaves the dimensions beyond its bits as they are.
        std::fill_n(values, count * dims, 0.0f);
        codes.index->reconstruct_n(first, count, values);
    }
}

// Decoded rows on their way back through the transforms; without transforms they are decoded into their final place.
struct DecodedRows {
    const std::vector<Step> steps;
    std::vector<float> images;
    float* final_values;
    size_t dims;

    DecodedRows(const Parts& parts, size_t rows, float* values)
            : steps(parts.stores_images() ? parts.steps : std::vector<Step>()),
              images(steps.empty() ? 0 : rows * parts.stored().index->d),
              final_values(values),
              dims(parts.stored().index->d) {}

    float* row(size_t number) {
        return (steps.empty() ? final_values : images.data()) + number * dims;
    }

    // Undoes the transforms of the first `rows` rows, last transform first.
    void reverse_transforms(size_t rows) {
        for (size_t i = steps.size(); i-- > 0;) {
            const Step& step = steps[i];
            std::vector<float> before(i == 0 ? 0 : rows * step.transform->d_in);
            float* target = i == 0 ? final_values : before.data();
            if (step.matrix) {
                step.matrix->transform_transpose(rows, images.data(), target);
            } else {
                step.transform->reverse_transform(rows, images.data(), target);
            }
            images = std::move(before);
        }
    }
};

void decode_from_lists(const Codes& codes, size_t count, const idx_t* positions, DecodedRows& decoded) {
    const faiss::IndexIVF& inverted = *codes.lists;
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
                decode(codes, list, i, 1, decoded.row(found->second));
                is_done[found->second] = true;
            }
        }
    }
    require(std::find(is_done.begin(), is_done.end(), false) == is_done.end(), "a row is in no inverted list");
}

// The floats of a row, and its number among the requested ones.
struct RowValues {
    const float* values;
    size_t number;
};

// Lists are not adjacent, and the processor's own prefetching notices the next one too late.
void prefetch_ids(const faiss::InvertedLists& lists, size_t list) {
    constexpr size_t LINE_IDS = 64 / sizeof(idx_t), PREFETCHED_IDS = 512;
    faiss::InvertedLists::ScopedIds ids(&lists, list);
    for (size_t i = 0; i < std::min(lists.list_size(list), PREFETCHED_IDS); i += LINE_IDS) {
        prefetch_L2(ids.get() + i);
    }
}

// Where the rows at positions (ascending, each once) lie in inverted lists, list by list: one walk over the ids of all
// rows.
std::vector<RowValues> place_in_lists(const faiss::IndexIVFFlat& inverted, size_t count, const idx_t* positions) {
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
    std::vector<RowValues> placed;
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
        // Rows are not adjacent, so the processor does not prefetch the next one.
        for (size_t next = i + 4; next < std::min(count, i + 8); next++) {
            for (size_t line = 0; line < std::min(dims, PREFETCHED_VALUES); line += LINE_VALUES) {
                prefetch_L2(row(next).values + line);
            }
        }
        const RowValues at[] = {row(i), row(i + 1), row(i + 2), row(i + 3)};
        float found[4];
        four(query, at[0].values, at[1].values, at[2].values, at[3].values, dims, found[0], found[1], found[2], found[3]);
        for (size_t k = 0; k < 4; k++) {
            distances[at[k].number] = found[k];
        }
    }
    for (; i < count; i++) {
        const RowValues last = row(i);
        distances[last.number] = one(query, last.values, dims);
    }
}

} // namespace

bool can_decode(const Parts& parts) {
    return !parts.stores_images() || std::all_of(parts.steps.begin(), parts.steps.end(), is_reversible);
}

size_t next_rows(const Parts& parts, vekter_row_cursor& cursor, size_t limit, idx_t* positions, float* values) {
    const Codes& codes = parts.stored();
    const faiss::IndexIVF* inverted = codes.lists;
    const size_t lists = inverted ? inverted->nlist : 1;
    DecodedRows decoded(parts, limit, values);
    size_t found = 0;
    while (found < limit && cursor.list < lists) {
        check_interrupts();
        const size_t rows = inverted ? inverted->invlists->list_size(cursor.list) : codes.index->ntotal;
        const size_t count = std::min(limit - found, rows - std::min(rows, cursor.offset));
        if (count > 0) {
            decode(codes, cursor.list, cursor.offset, count, decoded.row(found));
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
    decoded.reverse_transforms(found);
    return found;
}

void rows_at(const Parts& parts, size_t count, const idx_t* positions, float* values) {
    const Codes& codes = parts.stored();
    DecodedRows decoded(parts, count, values);
    if (codes.lists) {
        decode_from_lists(codes, count, positions, decoded);
    } else {
        for (size_t i = 0; i < count; i++) {
            decode(codes, 0, positions[i], 1, decoded.row(i));
        }
    }
    decoded.reverse_transforms(count);
}

bool distances_at(const Parts& parts, const float* query, size_t count, const idx_t* positions, float* distances) {
    const Codes& codes = parts.stored();
    if (parts.stores_images() || !codes.are_floats() || codes.index->metric_type == faiss::METRIC_L1) {
        return false;
    }
    if (const faiss::IndexFlat* flat = codes.flat) {
        const auto row = [values = flat->get_xb(), dims = flat->d, positions](size_t i) {
            return RowValues{values + static_cast<size_t>(positions[i]) * dims, i};
        };
        measure(*flat, query, count, row, distances);
    } else {
        const std::vector<RowValues> placed = place_in_lists(*codes.flat_lists, count, positions);
        measure(*codes.flat_lists, query, count, [&placed](size_t i) { return placed[i]; }, distances);
    }
    return true;
}

// The code of the first row.
static std::vector<uint8_t> first_code(const Codes& codes) {
    if (const faiss::IndexIVF* lists = codes.lists) {
        size_t list = 0;
        while (list < lists->nlist && lists->invlists->list_size(list) == 0) {
            list++;
        }
        require(list < lists->nlist, "the row is in no inverted list");
        if (const faiss::IndexIVFFastScan* fast = codes.packed_lists) {
            return first_packed(packed_codes(*fast->invlists, list), fast->bbs, fast->M2);
        }
        faiss::InvertedLists::ScopedCodes bytes(lists->invlists, list);
        return {bytes.get(), bytes.get() + lists->code_size};
    }
    if (const faiss::IndexFastScan* fast = codes.packed) {
        return first_packed(fast->codes.get(), fast->bbs, fast->M2);
    }
    const auto& bytes = codes.plain->codes;
    require(bytes.size() >= codes.plain->code_size, "this index type has no codes");
    return {bytes.data(), bytes.data() + codes.plain->code_size};
}

std::vector<uint8_t> only_code(const Parts& parts) {
    std::vector<uint8_t> code = first_code(parts.codes);
    if (parts.refinement) {
        const std::vector<uint8_t> finer = first_code(parts.fine);
        code.insert(code.end(), finer.begin(), finer.end());
    }
    return code;
}

double imbalance(const Parts& parts) {
    const faiss::IndexIVF* lists = parts.codes.lists;
    return lists && lists->ntotal > 0 ? lists->invlists->imbalance_factor() : 0;
}

} // namespace vekter
