// Scanning one inverted list for one query.

#include "internal.h"

#include <algorithm>

#include <faiss/IndexIVF.h>
#include <faiss/invlists/InvertedLists.h>
#include <faiss/utils/Heap.h>

namespace vekter {

namespace {

// Bytes of codes in one list between two polls of the interrupt flag, some milliseconds' work.
constexpr size_t INTERRUPTIBLE_BYTES = size_t{4} << 20;

} // namespace

void begin_heap(const faiss::IndexIVF& inverted, size_t k, float* distances, idx_t* positions) {
    if (inverted.metric_type == faiss::METRIC_INNER_PRODUCT) {
        faiss::minheap_heapify(k, distances, positions);
    } else {
        faiss::maxheap_heapify(k, distances, positions);
    }
}

void scan_list(
        const faiss::IndexIVF& inverted,
        faiss::InvertedListScanner& scanner,
        const Probe& probe,
        size_t rows,
        size_t k,
        float* distances,
        idx_t* positions) {
    if (rows == 0) {
        return;
    }
    const size_t list = probe.list, code_size = inverted.code_size;
    const size_t piece = std::max<size_t>(1024, INTERRUPTIBLE_BYTES / code_size);
    faiss::InvertedLists::ScopedCodes codes(inverted.invlists, list);
    faiss::InvertedLists::ScopedIds ids(inverted.invlists, list);
    scanner.set_list(probe.list, probe.centroid_distance);
    for (size_t start = 0; start < rows; start += piece) {
        check_interrupts();
        const size_t count = std::min(piece, rows - start);
        scanner.scan_codes(count, codes.get() + start * code_size, ids.get() + start, distances, positions, k);
    }
}

} // namespace vekter
