// Rows divided by their Euclidean length, and the gradient of that.
//
// Where squares of the largest magnitude could overflow, or lose bits to underflow, the row is first
// multiplied by a power of two, which is exact. A row of zeros stays as it is, with a gradient of zero.
#pragma once

#include "simd/lanes.hpp"

namespace rk::RK_ISA {

// Magnitudes from `least` to `most` are squared as they are; others are multiplied by `up` or by `down`.
template <class T>
struct SquareRange;
template <>
struct SquareRange<float> {
    static constexpr float least = 0x1p-50f, most = 0x1p50f, up = 0x1p100f, down = 0x1p-100f;
};
template <>
struct SquareRange<double> {
    static constexpr double least = 0x1p-450, most = 0x1p450, up = 0x1p600, down = 0x1p-600;
};

// The length of `scale` times a row.
template <class T>
struct RowLength {
    T scale, length;
};

template <class T>
RK_INLINE RowLength<T> row_length(const T* z, long cols) {
    using Range = SquareRange<T>;
    V<T> sum{}, largest{};
    for (long j = 0; j < cols; j += kLanes<T>) {
        const V<T> v = load_first(z + j, cols - j);
        sum = fma(v, v, sum);
        largest = max(largest, abs(v));
    }
    const T most = max_lanes<T>(largest);
    T scale = T(1);
    if (most > Range::most || (most < Range::least && most > T(0))) {
        scale = most > T(1) ? Range::down : Range::up;
        sum = V<T>{};
        for (long j = 0; j < cols; j += kLanes<T>) {
            const V<T> v = load_first(z + j, cols - j) * scale;
            sum = fma(v, v, sum);
        }
    }
    return {scale, sqrt(broadcast<T>(sum_lanes<T>(sum)))[0]};
}

// out <- z / |z|, row by row; out may be z.
template <class T>
static void normalize(const T* z, long ldz, long rows, long cols, T* out, long ldo) {
    for (long i = 0; i < rows; ++i) {
        const T* from = z + i * ldz;
        T* to = out + i * ldo;
        const RowLength<T> r = row_length(from, cols);
        const bool zero = r.length == T(0);
        const V<T> scale = broadcast<T>(zero ? T(1) : r.scale), length = broadcast<T>(zero ? T(1) : r.length);
        for (long j = 0; j < cols; j += kLanes<T>)
            store_first(to + j, load_first(from + j, cols - j) * scale / length, cols - j);
    }
}

// grad <- (grad - f <f, grad>) / |z| with f = z / |z|.
template <class T>
static void normalize_vjp(const T* z, long ldz, T* grad, long ldg, long rows, long cols) {
    for (long i = 0; i < rows; ++i) {
        const T* from = z + i * ldz;
        T* to = grad + i * ldg;
        const RowLength<T> r = row_length(from, cols);
        if (r.length == T(0)) {
            for (long j = 0; j < cols; ++j) to[j] = T(0);
            continue;
        }
        const auto feature = [&](long j) RK_LAMBDA_INLINE {
            return load_first(from + j, cols - j) * r.scale / r.length;
        };
        V<T> sum{};
        for (long j = 0; j < cols; j += kLanes<T>) sum = fma(feature(j), load_first(to + j, cols - j), sum);
        const V<T> along = broadcast<T>(-sum_lanes<T>(sum));
        for (long j = 0; j < cols; j += kLanes<T>) {
            const V<T> across = fma(feature(j), along, load_first(to + j, cols - j));
            store_first(to + j, across / r.length * r.scale, cols - j);
        }
    }
}

}  // namespace rk::RK_ISA
