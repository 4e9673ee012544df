// Arrays on a device, for host code and for kernels: a pointer, a shape, strides in elements, and a dtype
// known at run time. Mirrors csrc/base/arrays.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "device.cuh"

namespace rk::cuda {

RK_HOST_DEVICE long ceil_div(long n, long by) { return (n + by - 1) / by; }
RK_HOST_DEVICE long round_up(long n, long multiple) { return ceil_div(n, multiple) * multiple; }

// The integers begin <= i < end.
struct Span {
    long begin, end;
};

enum class Dtype : int { float32, float64, bfloat16, float16, boolean, int64 };

inline long size_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32: return 4;
        case Dtype::float64:
        case Dtype::int64: return 8;
        case Dtype::bfloat16:
        case Dtype::float16: return 2;
        case Dtype::boolean: return 1;
    }
    return 0;
}

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
    static constexpr Dtype value = Dtype::float32;
};
template <>
struct DtypeOf<double> {
    static constexpr Dtype value = Dtype::float64;
};
template <>
struct DtypeOf<bfloat16> {
    static constexpr Dtype value = Dtype::bfloat16;
};
template <>
struct DtypeOf<float16> {
    static constexpr Dtype value = Dtype::float16;
};

// An array argument. The leading dimensions are a batch, equal for all arrays of a call (broadcast ones have
// stride 0).
struct Array {
    char* data = nullptr;
    std::vector<long> shape, stride;
    Dtype dtype = Dtype::float32;

    bool empty() const { return shape.empty(); }  // an argument that is absent
    int ndim() const { return int(shape.size()); }
    long dim(int from_end) const { return shape[shape.size() - std::size_t(from_end)]; }
    long step(int from_end) const { return stride[stride.size() - std::size_t(from_end)]; }
    char* at(long element) const { return data + element * size_of(dtype); }
    long batch(int core) const {
        long count = 1;
        for (int i = 0; i < ndim() - core; ++i) count *= shape[std::size_t(i)];
        return count;
    }
};

// The last two dimensions exchanged.
inline Array transposed(const Array& a) {
    Array t = a;
    std::swap(t.shape[t.shape.size() - 1], t.shape[t.shape.size() - 2]);
    std::swap(t.stride[t.stride.size() - 1], t.stride[t.stride.size() - 2]);
    return t;
}

// ---- Batches

inline constexpr int kMaxLead = 6;

// The leading dimensions of a call. Dimensions that continue each other in every array are fused into one.
struct Lead {
    int dims = 0;
    unsigned size[kMaxLead] = {};  // 32 bits: GPUs divide 64-bit integers by a function call

    RK_HOST_DEVICE long items() const {
        long count = 1;
        for (int i = 0; i < dims; ++i) count *= size[i];
        return count;
    }
};

// The strides of an array over these dimensions.
struct LeadStride {
    long step[kMaxLead] = {};

    RK_HOST_DEVICE long offset(const Lead& lead, unsigned item) const {
        long elements = 0;
#ifdef __CUDA_ARCH__  // the host's compiler does not know the pragma
#pragma unroll 1
#endif
        for (int i = lead.dims - 1; i >= 0; --i) {
            elements += long(item % lead.size[i]) * step[i];
            item /= lead.size[i];
        }
        return elements;
    }
};

// Fuses the leading dimensions `shape` of several arrays; strides[a][i] is the stride of array a in dimension
// i.
inline Lead collapse(const std::vector<long>& shape, std::vector<std::vector<long>> strides,
                     std::vector<LeadStride>& out) {
    std::vector<long> sizes;
    std::vector<std::vector<long>> kept(strides.size());
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (shape[i] == 1) continue;
        bool continues = !sizes.empty();
        for (std::size_t a = 0; continues && a < strides.size(); ++a)
            continues = kept[a].back() == strides[a][i] * shape[i];
        if (continues) {
            sizes.back() *= shape[i];
            for (std::size_t a = 0; a < strides.size(); ++a) kept[a].back() = strides[a][i];
        } else {
            sizes.push_back(shape[i]);
            for (std::size_t a = 0; a < strides.size(); ++a) kept[a].push_back(strides[a][i]);
        }
    }
    if (sizes.size() > std::size_t(kMaxLead))
        throw std::invalid_argument("expected at most 6 leading dimensions that do not continue each other");
    Lead lead;
    lead.dims = int(sizes.size());
    long items = 1;
    for (int i = 0; i < lead.dims; ++i) {
        items *= sizes[std::size_t(i)];
        if (items > 0x7fffffffL)
            throw std::invalid_argument("expected leading dimensions of fewer than 2^31 items");
        lead.size[i] = unsigned(sizes[std::size_t(i)]);
    }
    out.assign(strides.size(), {});
    for (std::size_t a = 0; a < strides.size(); ++a) std::copy(kept[a].begin(), kept[a].end(), out[a].step);
    return lead;
}

inline std::vector<long> leading(const std::vector<long>& v, int core) {
    return {v.begin(), v.end() - std::min(core, int(v.size()))};
}

// ---- Elements of a dtype known at run time: a branch that all threads take alike. Only float64 arrays have
// float64 sums.

// Calls f with an element of the dtype, whose value has no meaning.
template <class Sum, class F>
RK_DEVICE void with_element(Dtype dtype, const F& f) {
    if constexpr (sizeof(Sum) == 8) {
        f(double());
    } else {
        switch (dtype) {
            case Dtype::bfloat16: return f(bfloat16());
            case Dtype::float16: return f(float16());
            default: return f(float());
        }
    }
}

template <class Sum>
RK_DEVICE Sum load_element(const void* data, Dtype dtype, long at) {
    Sum value = 0;
    with_element<Sum>(dtype,
                      [&](auto element) { value = widen(static_cast<const decltype(element)*>(data)[at]); });
    return value;
}

template <class Sum>
RK_DEVICE void store_element(void* data, Dtype dtype, long at, Sum value) {
    with_element<Sum>(dtype, [&](auto element) { narrow(value, static_cast<decltype(element)*>(data)[at]); });
}

}  // namespace rk::cuda
