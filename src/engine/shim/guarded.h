// The border that no C++ exception crosses; only files that define C functions include it.

#ifndef VEKTER_ENGINE_GUARDED_H
#define VEKTER_ENGINE_GUARDED_H

#include "internal.h"

#include <cstring>
#include <exception>
#include <new>

namespace vekter {

// The sink of a writer has refused a piece.
struct SinkStopped {};

// Stores the text for vekter_message().
void remember(const char* text) noexcept;

// Runs `work` and turns whatever it throws into a code and a message.
template <class Work>
int guarded(Work&& work) noexcept {
    try {
        work();
        return VEKTER_OK;
    } catch (const SinkStopped&) {
        return VEKTER_SINK_STOPPED;
    } catch (const std::bad_alloc&) {
        return VEKTER_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        remember(error.what());
        // FAISS wraps messages of inner calls in outer ones, so the text can stand anywhere.
        return std::strstr(error.what(), INTERRUPTED) ? VEKTER_INTERRUPTED : VEKTER_FAILED;
    } catch (...) {
        remember("unknown exception");
        return VEKTER_FAILED;
    }
}

} // namespace vekter

#endif
