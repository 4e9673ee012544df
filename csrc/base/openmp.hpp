// Calls on the OpenMP threads of another library in this process (PyTorch).
//
// These threads spin for some milliseconds after each parallel region, on processors that our own pool would
// need for a call made between two regions. Such a call is faster on the spinning threads themselves.
#pragma once

namespace rk {

// Finds the OpenMP library with which the library at `path`, already loaded, was linked. Returns false, and
// changes nothing, if there is none that can be used.
bool find_openmp(const char* path);

// Sets whether calls made by the current thread run on its OpenMP threads; returns the previous setting.
bool use_openmp(bool use);

// Whether the current thread's calls run on OpenMP threads and there are at least `threads` of them.
bool has_openmp_team(int threads);

// Calls f(data) on each of these threads, including the caller; returns when all have finished. f may not
// throw.
void run_on_openmp_team(void (*f)(void*), void* data);

}  // namespace rk
