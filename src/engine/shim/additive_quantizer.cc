// Additive quantisers: a row is the sum of one centroid out of each codebook. FAISS's residual quantiser (RQ) chooses
// them one after the other, its local search quantiser (LSQ) all at once; the product forms (PRQ, PLSQ) do so for each
// part of the dimensions.

#include "internal.h"

#include <algorithm>
#include <numeric>

#include <faiss/IndexAdditiveQuantizer.h>
#include <faiss/IndexAdditiveQuantizerFastScan.h>
#include <faiss/IndexIVFAdditiveQuantizer.h>
#include <faiss/IndexIVFAdditiveQuantizerFastScan.h>
#include <faiss/impl/AdditiveQuantizer.h>
#include <faiss/impl/LocalSearchQuantizer.h>
#include <faiss/impl/LookupTableScaler.h>
#include <faiss/impl/ProductAdditiveQuantizer.h>
#include <faiss/impl/ResidualQuantizer.h>
#include <faiss/utils/distances.h>

namespace vekter {

namespace {

using faiss::AdditiveQuantizer;
using faiss::LocalSearchQuantizer;
using faiss::ProductAdditiveQuantizer;
using faiss::ResidualQuantizer;

// LSQ's encoder, in steps that can be interrupted.
struct InterruptibleEncoder : faiss::lsq::IcmEncoder {
    using IcmEncoder::IcmEncoder;

    void set_binary_term() override {
        check_interrupts();
        IcmEncoder::set_binary_term();
        check_interrupts();
    }
    void encode(int32_t* codes, const float* values, std::mt19937& random, size_t rows, size_t rounds) const override {
        for (size_t start = 0; start < rows; start += shared::ENCODED_ROWS) {
            check_interrupts();
            const size_t count = std::min(shared::ENCODED_ROWS, rows - start);
            IcmEncoder::encode(codes + start * lsq->M, values + start * lsq->d, random, count, rounds);
        }
    }
};

struct InterruptibleEncoders : faiss::lsq::IcmEncoderFactory {
    faiss::lsq::IcmEncoder* get(const LocalSearchQuantizer* quantizer) override {
        return new InterruptibleEncoder(quantizer);
    }
};

bool stores_pairs_of_norms(const AdditiveQuantizer& quantizer) {
    return quantizer.search_type == AdditiveQuantizer::ST_norm_lsq2x4 ||
            quantizer.search_type == AdditiveQuantizer::ST_norm_rq2x4;
}

bool looks_norms_up(const AdditiveQuantizer& quantizer) {
    return stores_pairs_of_norms(quantizer) || quantizer.search_type == AdditiveQuantizer::ST_norm_cqint8 ||
            quantizer.search_type == AdditiveQuantizer::ST_norm_cqint4;
}

// For `parts` residual quantisers like this one.
void tune_residual(ResidualQuantizer& quantizer, size_t parts) {
    const size_t centroids = quantizer.total_codebook_size;
    const bool has_products = parts * 2 * centroids * centroids <= shared::PRODUCT_BYTES;
    quantizer.use_beam_LUT = has_products;
    quantizer.max_mem_distances = std::max(shared::BEAM_BYTES, shared::BEAM_ROWS * quantizer.memory_per_point());
    quantizer.cp.min_points_per_centroid = 1;
    quantizer.cp.max_points_per_centroid = shared::ROWS_PER_CENTROID;
    if (quantizer.is_trained) {
        if (has_products) {
            quantizer.compute_codebook_tables();
        }
    } else {
        // Plain k-means: clustering in more and more dimensions takes five times as long and decomposes a matrix, which
        // cannot be interrupted.
        quantizer.train_type = ResidualQuantizer::Train_default;
        if (!has_products) {
            quantizer.train_type |= ResidualQuantizer::Skip_codebook_tables;
        }
    }
}

void tune(AdditiveQuantizer& quantizer, size_t parts) {
    quantizer.verbose = false;
    quantizer.max_mem_distances = shared::BEAM_BYTES;
    if (auto* residual = dynamic_cast<ResidualQuantizer*>(&quantizer)) {
        tune_residual(*residual, parts);
    } else if (auto* search = dynamic_cast<LocalSearchQuantizer*>(&quantizer)) {
        if (!search->icm_encoder_factory) {
            search->icm_encoder_factory = new InterruptibleEncoders;
        }
    } else if (auto* product = dynamic_cast<ProductAdditiveQuantizer*>(&quantizer)) {
        for (AdditiveQuantizer* part : product->quantizers) {
            tune(*part, product->quantizers.size());
        }
    }
}

// Squares of norms are clustered where they are stored as pairs, and k-means writes out of bounds where distances
// overflow. Rows come no longer than that, but a transform may stretch them.
void check_norms(const AdditiveQuantizer& quantizer, size_t rows, const float* values) {
    for (size_t i = 0; stores_pairs_of_norms(quantizer) && i < rows; i++) {
        require(faiss::fvec_norm_L2sqr(values + i * quantizer.d, quantizer.d) <= shared::MAX_LEARNT_NORM * shared::MAX_LEARNT_NORM,
                "the index's transform overflows");
    }
}

// Readers need no products between codebooks.
void write_without_products(AdditiveQuantizer& quantizer) {
    if (auto* residual = dynamic_cast<ResidualQuantizer*>(&quantizer)) {
        residual->train_type |= ResidualQuantizer::Skip_codebook_tables;
    } else if (auto* product = dynamic_cast<ProductAdditiveQuantizer*>(&quantizer)) {
        for (AdditiveQuantizer* part : product->quantizers) {
            write_without_products(*part);
        }
    }
}

// The same rows for the same number of rows, spread over all of them.
std::vector<float> sample_of(const float* values, size_t rows, size_t wanted, size_t dims) {
    std::vector<float> sample;
    sample.reserve(wanted * dims);
    for (size_t i = 0; i < wanted; i++) {
        const float* row = values + i * rows / wanted * dims;
        sample.insert(sample.end(), row, row + dims);
    }
    return sample;
}

// Training rows as an encoder sees them: less the centroids of their lists, if there are lists.
struct EncoderRows {
    size_t count;
    size_t dims;
    const float* values;
    const Index* centroids;
    std::vector<idx_t> list_of_row;

    // Columns `first` to `first + width - 1` of the rows from `start` on.
    void copy(size_t start, size_t rows, size_t first, size_t width, float* to) const {
        std::vector<float> residual(dims);
        for (size_t i = 0; i < rows; i++) {
            const float* row = values + (start + i) * dims;
            if (centroids) {
                centroids->compute_residual(row, residual.data(), list_of_row[start + i]);
                row = residual.data();
            }
            std::copy_n(row + first, width, to + i * width);
        }
    }
};

// Squared norms of what the codes of rows stand for.
std::vector<float> decoded_norms(const ProductAdditiveQuantizer& product, const EncoderRows& rows) {
    std::vector<float> norms(rows.count);
    std::vector<float> batch;
    std::vector<int32_t> codes;
    for (size_t start = 0; start < rows.count; start += shared::NORM_ROWS) {
        check_interrupts();
        const size_t count = std::min(shared::NORM_ROWS, rows.count - start);
        batch.resize(count * rows.dims);
        codes.resize(count * product.M);
        rows.copy(start, count, 0, rows.dims, batch.data());
        product.compute_unpacked_codes(batch.data(), codes.data(), count, nullptr);
        product.decode_unpacked(codes.data(), batch.data(), count);
        faiss::fvec_norms_L2sqr(norms.data() + start, batch.data(), rows.dims, count);
    }
    return norms;
}

// ProductAdditiveQuantizer::train in less memory: each part sees its own columns only, products between codebooks are
// computed after all parts, and norms are learnt from the codes of a few rows at a time.
void train_product(ProductAdditiveQuantizer& product, const EncoderRows& rows) {
    size_t first = 0;
    product.codebooks.reserve(product.total_codebook_size * product.quantizers.front()->d);
    for (AdditiveQuantizer* part : product.quantizers) {
        std::vector<float> columns(rows.count * part->d);
        rows.copy(0, rows.count, first, part->d, columns.data());
        if (auto* residual = dynamic_cast<ResidualQuantizer*>(part)) {
            residual->train_type |= ResidualQuantizer::Skip_codebook_tables;
        }
        part->train(rows.count, columns.data());
        product.codebooks.insert(product.codebooks.end(), part->codebooks.begin(), part->codebooks.end());
        first += part->d;
    }
    for (AdditiveQuantizer* part : product.quantizers) {
        auto* residual = dynamic_cast<ResidualQuantizer*>(part);
        if (residual && residual->use_beam_LUT) {
            residual->compute_codebook_tables();
        }
    }
    product.is_trained = true;
    product.train_norm(rows.count, decoded_norms(product, rows).data());
}

// Codebooks fit their bits and dimensions, for a quantiser that is not a product of others.
void check_codebooks(const AdditiveQuantizer& quantizer, size_t dims) {
    require(quantizer.d == dims && quantizer.is_trained && quantizer.M > 0 && quantizer.nbits.size() == quantizer.M,
            "additive quantiser of another dimension");
    for (size_t bits : quantizer.nbits) {
        require(bits >= 1 && bits <= shared::MAX_ADDITIVE_BITS, "additive quantiser with an impossible number of bits");
    }
    if (auto* search = dynamic_cast<const LocalSearchQuantizer*>(&quantizer)) {
        require(search->K == size_t{1} << quantizer.nbits[0] && search->chunk_size > 0 && search->nperts <= search->M &&
                        search->M * search->K == quantizer.total_codebook_size,
                "additive quantiser with an impossible number of bits");
    } else if (auto* residual = dynamic_cast<const ResidualQuantizer*>(&quantizer)) {
        require(residual->max_beam_size >= 1 && residual->max_beam_size <= 64, "additive quantiser with a strange beam");
    }
}

} // namespace

void tune_additive(AdditiveQuantizer& quantizer) {
    tune(quantizer, 1);
}

void train_additive(const Codes& codes, idx_t rows, const float* values, idx_t encoder_rows) {
    Index& index = *codes.index;
    const size_t dims = index.d;
    const idx_t count = std::min(rows, encoder_rows);
    faiss::IndexIVF* lists = codes.lists;
    if (lists) {
        lists->train_q1(rows, values, false, lists->metric_type);
    }
    check_interrupts();
    check_norms(*codes.additive, rows, values);
    std::vector<float> sample;
    if (count < rows) {
        sample = sample_of(values, rows, count, dims);
        values = sample.data();
    }
    std::vector<idx_t> list_of_row;
    if (lists && lists->by_residual) {
        list_of_row.resize(count);
        lists->quantizer->assign(count, values, list_of_row.data());
    }
    auto* product = dynamic_cast<ProductAdditiveQuantizer*>(codes.additive);
    // Fast scan learns a scale for norms too.
    if (product && !codes.norm_scale) {
        const Index* centroids = list_of_row.empty() ? nullptr : lists->quantizer;
        train_product(*product, {static_cast<size_t>(count), dims, values, centroids, std::move(list_of_row)});
    } else if (!lists) {
        index.train(count, values);
    } else if (lists->by_residual) {
        std::vector<float> residuals(count * dims);
        lists->quantizer->compute_residual_n(count, values, residuals.data(), list_of_row.data());
        std::vector<float>().swap(sample);
        lists->train_encoder(count, residuals.data(), list_of_row.data());
    } else {
        lists->train_encoder(count, values, nullptr);
    }
    index.is_trained = true;
    write_without_products(*codes.additive);
    // Of rows that are all equal no scale is learnt.
    if (codes.norm_scale) {
        *codes.norm_scale = std::max(*codes.norm_scale, 1);
    }
}

void check_additive(const AdditiveQuantizer& quantizer, size_t dims) {
    size_t width = dims;
    if (auto* product = dynamic_cast<const ProductAdditiveQuantizer*>(&quantizer)) {
        const size_t parts = product->quantizers.size();
        require(parts > 0 && product->nsplits == parts && product->d == dims && dims % parts == 0 &&
                        product->is_trained && product->nbits.size() == product->M,
                "additive quantiser of another dimension");
        width = dims / parts;
        std::vector<size_t> bits;
        for (const AdditiveQuantizer* part : product->quantizers) {
            check_codebooks(*part, width);
            require(part->codebooks.size() == part->total_codebook_size * width, "additive quantiser without its centroids");
            bits.insert(bits.end(), part->nbits.begin(), part->nbits.end());
        }
        require(bits == product->nbits, "additive quantiser with an impossible number of bits");
    } else {
        check_codebooks(quantizer, dims);
    }
    require(quantizer.codebooks.size() == quantizer.total_codebook_size * width, "additive quantiser without its centroids");
    require(quantizer.search_type != AdditiveQuantizer::ST_norm_from_LUT &&
                    quantizer.search_type <= AdditiveQuantizer::ST_norm_rq2x4,
            "additive codes that are searched in an unknown way");
    require(!looks_norms_up(quantizer) ||
                    (static_cast<size_t>(quantizer.qnorm.ntotal) == size_t{1} << quantizer.norm_bits &&
                     quantizer.qnorm.codes.size() == sizeof(float) << quantizer.norm_bits),
            "additive quantiser without its norms");
    require(!stores_pairs_of_norms(quantizer) || quantizer.norm_tabs.size() == 2 * 16, "additive quantiser without its norms");
}

void check_packed_additive(const AdditiveQuantizer& quantizer, size_t dims, faiss::MetricType metric, size_t parts) {
    check_additive(quantizer, dims);
    const bool has_norms = metric == faiss::METRIC_L2;
    require(std::all_of(quantizer.nbits.begin(), quantizer.nbits.end(), [](size_t bits) { return bits == 4; }) &&
                    stores_pairs_of_norms(quantizer) == has_norms && parts == quantizer.M + (has_norms ? 2 : 0),
            "fast-scan codes of an impossible form");
}

bool are_additive_alike(const AdditiveQuantizer& like, const AdditiveQuantizer& read) {
    auto* product = dynamic_cast<const ProductAdditiveQuantizer*>(&like);
    auto* other = dynamic_cast<const ProductAdditiveQuantizer*>(&read);
    return typeid(like) == typeid(read) && like.nbits == read.nbits && like.search_type == read.search_type &&
            (!product || product->nsplits == other->nsplits);
}

void own_norms(AdditiveQuantizer& quantizer) {
    auto& codes = quantizer.qnorm.codes;
    if (!codes.is_owned) {
        codes = faiss::MaybeOwnedVector<uint8_t>(std::vector<uint8_t>(codes.data(), codes.data() + codes.size()));
    }
}

void keep_only_decoding(AdditiveQuantizer& quantizer) {
    if (auto* product = dynamic_cast<ProductAdditiveQuantizer*>(&quantizer)) {
        for (AdditiveQuantizer* part : product->quantizers) {
            std::vector<float>().swap(part->codebooks);
        }
    }
}

// IndexIVFAdditiveQuantizerFastScan::search takes no parameters; what it calls does.
void search_packed_sums(
        const faiss::IndexIVFAdditiveQuantizerFastScan& index,
        const float* query,
        size_t k,
        float* distances,
        idx_t* positions,
        const faiss::IndexIVFFastScan::CoarseQuantized& lists,
        const faiss::IVFSearchParameters& with) {
    const faiss::NormTableScaler scaler(index.norm_scale);
    const bool has_scale = index.rescale_norm && index.norm_scale > 1 && index.metric_type == faiss::METRIC_L2;
    index.search_dispatch_implem(
            1, query, static_cast<idx_t>(k), distances, positions, lists, has_scale ? &scaler : nullptr, &with);
}

} // namespace vekter
