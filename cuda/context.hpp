// The context of a call: the device, the caller's stream, and workspace from the caller's memory pool. Also
// turns errors of the CUDA runtime into exceptions.
#pragma once

#include <functional>
#include <new>
#include <string>

#include "arrays.hpp"

namespace rk::cuda {

class Error : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Context {
    int device = 0;
    Stream stream{};
    // Allocates this many bytes, aligned to 256; they stay valid until the call's work on the stream has
    // finished.
    std::function<char*(long)> allocate;
    int multiprocessors = 1;
    long shared_bytes = 0;  // the most that a block may use

    template <class T>
    T* take(long count) const {
        return count > 0 ? reinterpret_cast<T*>(allocate(count * long(sizeof(T)))) : nullptr;
    }
};

#ifdef RK_CUDA_EMULATED

inline void check_launch(const char*) {}

// Few, so that small tests cover both ways of cutting columns.
inline int multiprocessors_of(int) { return 2; }
inline long shared_bytes_of(int) { return 163 * 1024; }  // sm_80

class DeviceGuard {
   public:
    explicit DeviceGuard(int) {}
};

#else

inline void check(cudaError_t status, const char* call) {
    if (status == cudaSuccess) return;
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // not a sticky error: the device stays usable
        throw std::bad_alloc();
    }
    throw Error(std::string("relkernels.") + call + ": " + cudaGetErrorString(status));
}
inline void check_launch(const char* call) { check(cudaGetLastError(), call); }

inline int multiprocessors_of(int device) {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cuda");
    return count;
}

inline long shared_bytes_of(int device) {
    int bytes = 0;
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cuda");
    return bytes;
}

// Makes the device of the call current, and the caller's device again at the end.
class DeviceGuard {
   public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "cuda");
        if (before_ != device) check(cudaSetDevice(device), "cuda");
        changed_ = before_ != device;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

   private:
    int before_ = 0;
    bool changed_ = false;
};

#endif

}  // namespace rk::cuda
