// The C functions over the process and its threads: messages, interrupts, OpenMP, signals, exit. shim.h documents each.

#include "guarded.h"

#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <mutex>

#include <faiss/IndexIVFPQ.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/FaissAssert.h>
#include <faiss/impl/ProductQuantizer.h>
#include <faiss/utils/distances.h>

namespace {

thread_local char message[1024];

std::atomic<bool (*)(void)> interrupted_callback{nullptr};

bool asked_to_stop() {
    auto callback = interrupted_callback.load(std::memory_order_relaxed);
    return callback && callback();
}

struct Interrupts : faiss::InterruptCallback {
    bool want_interrupt() override {
        return asked_to_stop();
    }
};

// Ends the process when the thread's objects are destroyed.
struct ProcessEnd {
    int status;

    explicit ProcessEnd(int status) : status(status) {}
    ~ProcessEnd() {
        _exit(status);
    }
};

} // namespace

void vekter::remember(const char* text) noexcept {
    std::snprintf(message, sizeof message, "%s", text);
}

void vekter::check_interrupts() {
    if (asked_to_stop()) {
        FAISS_THROW_MSG(INTERRUPTED);
    }
}

const char* vekter_message(void) {
    return message;
}

int vekter_initialise(bool (*interrupted)(void)) {
    return vekter::guarded([&] {
        interrupted_callback.store(interrupted, std::memory_order_relaxed);
        static std::once_flag once;
        std::call_once(once, [] {
            faiss::InterruptCallback::instance = std::make_unique<Interrupts>();
            vekter::register_mapped_lists();
            // Tables of IVFPQ are private memory of each process: beyond this size they are computed per list.
            faiss::precomputed_table_max_bytes = size_t{2} << 20;
            // Blocks of distances from matrix products take 4 MiB instead of 16, and tables are for 256 rows at once
            // instead of 262,144, which take gigabytes. No slower.
            faiss::distance_compute_blas_query_bs = vekter::shared::DISTANCE_BLOCK_ROWS;
            faiss::product_quantizer_compute_codes_bs = vekter::shared::TABLE_ROWS;
        });
    });
}

void vekter_set_threads(int threads) {
    omp_set_num_threads(std::max(1, threads));
}

void vekter_start_openmp_threads(int threads) {
    vekter_set_threads(threads);
    // libgomp keeps a team's threads for the next region of the same size. An empty one would be left out.
    std::atomic<int> started{0};
#pragma omp parallel
    started.fetch_add(1, std::memory_order_relaxed);
}

void vekter_lower_priority() {
#ifdef __linux__
    // Here priorities are of threads, and 0 is the calling one; elsewhere they are of processes. If the system refuses,
    // the work is done all the same.
    constexpr int BACKGROUND_PRIORITY = 10;
    setpriority(PRIO_PROCESS, 0, BACKGROUND_PRIORITY);
#endif
}

void vekter_skip_destructors(int status) {
    // exit(3) destroys the calling thread's objects before anything else, the latest first. Among them are open
    // indexes.
    thread_local ProcessEnd end(status);
    end.status = status;
}

int vekter_block_signals(void* previous, size_t previous_bytes) {
    if (previous_bytes < sizeof(sigset_t)) {
        return VEKTER_FAILED;
    }
    sigset_t all;
    sigfillset(&all);
    return pthread_sigmask(SIG_SETMASK, &all, static_cast<sigset_t*>(previous)) == 0 ? VEKTER_OK : VEKTER_FAILED;
}

int vekter_restore_signals(const void* previous) {
    return pthread_sigmask(SIG_SETMASK, static_cast<const sigset_t*>(previous), nullptr) == 0 ? VEKTER_OK
                                                                                            : VEKTER_FAILED;
}
