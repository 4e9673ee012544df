// Preloaded into a process: makes chosen allocations fail, and threads that cannot be created (glibc).
//
// Allocations count from when starve_arm is called, those alone that the code between the addresses of
// starve_region asks for: the extension and libstdc++ (operator new). Python and NumPy keep their memory.
#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

extern "C" {

void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

static std::atomic<long> allocations{0}, failing{0};
static std::atomic<bool> onwards{false}, armed{false};
static std::atomic<int> threads_left{-1};
static std::uintptr_t regions[16][2];
static int region_count = 0;

int starve_region(std::uintptr_t begin, std::uintptr_t end) {
    if (region_count == 16) return -1;
    regions[region_count][0] = begin;
    regions[region_count][1] = end;
    return region_count++;
}

// The allocation of this number fails, counted from 1; with `all_after`, those after it too.
void starve_arm(long number, int all_after) {
    allocations = 0;
    failing = number;
    onwards = all_after != 0;
    armed = true;
}

// How many were asked for.
long starve_disarm() {
    armed = false;
    return allocations;
}

// So many threads may still be created; any number for -1.
void starve_threads(int left) { threads_left = left; }

static bool fails(const void* caller) {
    if (!armed.load(std::memory_order_relaxed)) return false;
    const auto at = reinterpret_cast<std::uintptr_t>(caller);
    bool counts = false;
    for (int i = 0; i < region_count; ++i) counts = counts || (regions[i][0] <= at && at < regions[i][1]);
    if (!counts) return false;
    const long number = ++allocations;
    if (number != failing && !(onwards && number > failing)) return false;
    errno = ENOMEM;
    return true;
}

void* malloc(std::size_t n) { return fails(__builtin_return_address(0)) ? nullptr : __libc_malloc(n); }
void* calloc(std::size_t n, std::size_t size) {
    return fails(__builtin_return_address(0)) ? nullptr : __libc_calloc(n, size);
}
void* realloc(void* p, std::size_t n) {
    return fails(__builtin_return_address(0)) ? nullptr : __libc_realloc(p, n);
}
void* aligned_alloc(std::size_t alignment, std::size_t n) {
    return fails(__builtin_return_address(0)) ? nullptr : __libc_memalign(alignment, n);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*f)(void*), void* argument) {
    using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    static const Create create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
    for (int left = threads_left; left >= 0;) {
        if (left == 0) return EAGAIN;
        if (threads_left.compare_exchange_weak(left, left - 1)) break;
    }
    return create(thread, attributes, f, argument);
}
}
