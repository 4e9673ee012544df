// Small verbs over row-major tiles: masks, top-k candidates, sums.
#pragma once

#include "kernels/math.hpp"
#include "kernels/micro_kernel.hpp"

namespace rk::RK_ISA {

template <class T>
static bool all_finite(const T* p, long n) {
    V<T> zero{};  // x - x is 0 for finite x and NaN otherwise
    for (long i = 0; i < n; i += kLanes<T>) {
        const V<T> x = load_first(p + i, n - i);
        zero += x - x;
    }
    return !any(zero != V<T>{});
}

template <class T>
static void add(T* into, const T* from, long n) {
    for (long i = 0; i < n; i += kLanes<T>)
        store_first(into + i, load_first(into + i, n - i) + load_first(from + i, n - i), n - i);
}

template <class T>
static void add_column_sums(const T* c, long c_row, long rows, long cols, T* sums) {
    for (long j = 0; j < cols; j += kLanes<T>) {
        V<T> sum{};
        for (long r = 0; r < rows; ++r) sum += load_first(c + r * c_row + j, cols - j);
        store_first(sums + j, load_first(sums + j, cols - j) + sum, cols - j);
    }
}

template <class T>
static void mask_tile(T* r, long ld, long rows, long cols, const Mask& mask, long i0, long j0, T value) {
    for (long i = 0; i < rows; ++i) {
        T* row = r + i * ld;
        // The band allows columns [from, to).
        long from = i0 + i - j0 + mask.band.least, to = i0 + i - j0 + mask.band.greatest + 1;
        to = to < 0 ? 0 : to > cols ? cols : to;
        from = from < 0 ? 0 : from > cols ? cols : from;
        for (long j = 0; j < from; ++j) row[j] = value;
        for (long j = to; j < cols; ++j) row[j] = value;
        if (!mask.data) continue;
        const std::uint8_t* allowed = mask.data + (i0 + i) * mask.row_stride + j0 * mask.col_stride;
        if (mask.col_stride == 1)
            for (long j = from; j < to; ++j) row[j] = allowed[j] ? row[j] : value;
        else
            for (long j = from; j < to; ++j) row[j] = allowed[j * mask.col_stride] ? row[j] : value;
    }
}

// `not (r <= threshold)` rather than `r > threshold`: a NaN threshold (fewer than k found) lets every
// column through, and a NaN score comes through to be ranked with care by the caller.
template <class T>
static long candidates(const T* r, long cols, T threshold, std::int32_t* columns) {
    const V<T> bar = broadcast<T>(threshold);
    long found = 0, j = 0;
    const auto take = [&](std::uint32_t left) RK_LAMBDA_INLINE {
        for (; left; left &= left - 1) columns[found++] = (std::int32_t)(j + __builtin_ctz(left));
    };
    for (; j + kLanes<T> <= cols; j += kLanes<T>) {
        const std::uint32_t passed = bits_not_at_most(load(r + j), bar);
        if (__builtin_expect(passed != 0, 0)) take(passed);
    }
    if (j < cols) take(bits_not_at_most(load_first(r + j, cols - j), bar) & ((1u << (cols - j)) - 1u));
    return found;
}

}  // namespace rk::RK_ISA
