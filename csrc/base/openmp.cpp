#include "base/openmp.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <mutex>

namespace rk {

namespace {

// GOMP_parallel, to which GCC compiles `#pragma omp parallel`; LLVM's and Intel's libraries have it too. With
// `threads` 0 the team has the size of the calling thread's other regions: a team of another size would end
// threads or start new ones.
using Parallel = void (*)(void (*f)(void*), void* data, unsigned threads, unsigned flags);
using MaxThreads = int (*)();

std::atomic<Parallel> parallel{nullptr};
std::atomic<MaxThreads> max_threads{nullptr};
thread_local bool used = false;

// Searches as the dynamic linker does: the global scope, then the library and its dependencies.
template <class Function>
Function symbol(void* library, const char* name) {
    void* found = dlsym(RTLD_DEFAULT, name);
    return reinterpret_cast<Function>(found ? found : dlsym(library, name));
}

}  // namespace

bool find_openmp(const char* path) {
#if defined(__SANITIZE_THREAD__)
    (void)path;
    return false;  // the sanitizer does not know the synchronisation of OpenMP's barriers
#else
    void* library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return false;
    const auto run = symbol<Parallel>(library, "GOMP_parallel");
    const auto most = symbol<MaxThreads>(library, "omp_get_max_threads");
    dlclose(library);  // whoever loaded it keeps it loaded
    if (!run || !most) return false;
    // A forked child has none of the team's threads, and the library waits for them.
    static std::once_flag registered;
    std::call_once(registered, [] { pthread_atfork(nullptr, nullptr, [] { parallel = nullptr; }); });
    max_threads = most;
    parallel = run;
    return true;
#endif
}

bool use_openmp(bool use) {
    const bool before = used;
    used = use;
    return before;
}

bool has_openmp_team(int threads) { return used && parallel.load() && max_threads.load()() >= threads; }

void run_on_openmp_team(void (*f)(void*), void* data) { parallel.load()(f, data, 0, 0); }

}  // namespace rk
