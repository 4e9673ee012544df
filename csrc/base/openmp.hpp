// The threads of an OpenMP library that another library of this process uses (PyTorch's).
//
// They spin for some milliseconds after each parallel region, on processors that our pool's threads need for
// a call made in between. Such a call is faster on the spinning threads themselves.
#pragma once

namespace rk {

// Finds the OpenMP library that the library at `path`, which must be loaded, was linked with. False, and
// nothing changes, if there is none that can be used.
bool find_openmp(const char* path);

// Whether calls made by the current thread run on its OpenMP threads; returns what it was before.
bool use_openmp(bool use);

// Whether the current thread's calls run on OpenMP threads, of which there are at least `threads`.
bool has_openmp_team(int threads);

// f(data) on each of these threads, the caller among them; returns once all have returned. f may not throw.
void run_on_openmp_team(void (*f)(void*), void* data);

}  // namespace rk
