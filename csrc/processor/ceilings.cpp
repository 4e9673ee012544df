#include "processor/ceilings.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>

#include "base/threads.hpp"
#include "kernels/table.hpp"
#include "processor/isa.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rk {

namespace {

// A task takes long compared with dispatching it (a microsecond) and short compared with a time slice, and
// there are enough tasks that no thread idles for long at the end.
constexpr long kTasks = 64;           // a thread, of multiply-adds
constexpr long kIterations = 20'000;  // some 50 to 100 microseconds
constexpr long kPiece = 256 * 1024;   // values of memory a task: 1 MiB
constexpr std::size_t kHugePage = 2u << 20;

// Prevents the optimizer from removing a loop whose result is unused.
std::atomic<double> sink;

// Units of work per second, in the best of the rounds that fit into `seconds`.
double best_rate(int threads, double seconds, long tasks, double work_of_round,
                 const std::function<void(long)>& task) {
    using Clock = std::chrono::steady_clock;
    const Team team(threads);
    team.for_each(tasks, task);  // threads awake, pages present, clock frequency up
    const Clock::time_point begin = Clock::now();
    double best = 0;
    do {
        const Clock::time_point start = Clock::now();
        team.for_each(tasks, task);
        const std::chrono::duration<double> took = Clock::now() - start;
        best = std::max(best, work_of_round / took.count());
    } while (std::chrono::duration<double>(Clock::now() - begin).count() < seconds);
    return best;
}

template <class T>
double chains_rate(T (*chains)(long, T), long flops, int threads, double seconds) {
    const long tasks = kTasks * threads;
    return best_rate(threads, seconds, tasks, double(tasks) * double(kIterations) * double(flops),
                     [=](long task) { sink = double(chains(kIterations, T(task))); });
}

// Huge pages where the system gives them: the ceiling is that of memory, not of the page tables.
std::unique_ptr<float[], decltype(&std::free)> buffer(std::size_t bytes) {
    void* p = std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage);
    if (!p) throw std::bad_alloc();
#if defined(__linux__)
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return {static_cast<float*>(p), &std::free};
}

double memory_rate(const std::string& name, int threads, long bytes, double seconds) {
    const CeilingKernels& k = ceiling_kernels();
    const long pieces = std::max(1L, bytes / long(kPiece * sizeof(float)));
    const auto memory = buffer(std::size_t(pieces) * kPiece * sizeof(float));
    float* p = memory.get();
    const double work = double(pieces) * double(kPiece * sizeof(float));
    const auto write = [&](bool past_cache) {
        return [&k, p, past_cache](long i) { k.write(p + i * kPiece, kPiece, 1.0f, past_cache); };
    };
    if (name != "read") return best_rate(threads, seconds, pieces, work, write(name == "stream"));
    Team(threads).for_each(pieces, write(false));
    return best_rate(threads, seconds, pieces, work,
                     [&](long i) { sink = double(k.read(p + i * kPiece, kPiece)); });
}

bool has_bf16() {
    for (const auto& [name, present] : cpu_features())
        if (name == "avx512_bf16") return present;
    return false;
}

}  // namespace

std::optional<double> measure_ceiling(const std::string& name, int threads, long bytes, double seconds) {
    const CeilingKernels& k = ceiling_kernels();
    if (name == "fma_float32") return chains_rate(k.fma_float, k.fma_float_flops, threads, seconds);
    if (name == "fma_float64") return chains_rate(k.fma_double, k.fma_double_flops, threads, seconds);
    if (name == "bf16_dot") {
        if (!k.bf16 || !has_bf16()) return std::nullopt;
        return chains_rate(k.bf16, k.bf16_flops, threads, seconds);
    }
    if (name == "read" || name == "write" || name == "stream")
        return memory_rate(name, threads, bytes, seconds);
    throw std::invalid_argument("expected fma_float32, fma_float64, bf16_dot, read, write or stream, got '" +
                                name + "'");
}

}  // namespace rk
