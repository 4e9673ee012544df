// Streaming softmax over tiles of R: the consumer's state is (max, sum, weighted sum) for each row.
//
//   accept   m' = max(m, max_j r_j),  p_j = exp(r_j - m'),  c = exp(m - m'),
//            sum <- c sum + sum_j p_j,  acc <- c acc  (the caller then adds p . v)
//   merge    likewise, with the other state's max instead of the tile's
//   finish   acc / sum,  lse = m + log(sum)
//
// Milakov & Gimelshein 2018 (arXiv 1805.02867). A row that has seen only -inf keeps m = -inf and sum = 0: 0
// is then subtracted in the exponents, so that exp(-inf) = 0 and no inf - inf arises. NaN never becomes the
// maximum; it enters through p and sum, so it spoils only its own row.
#pragma once

#include "kernels/math.hpp"
#include "kernels/micro_kernel.hpp"

namespace rk::RK_ISA {

template <class T>
RK_INLINE T exp_one(T x) {
    return exp<T>(broadcast<T>(x))[0];
}

// The value to subtract before exp: the maximum, or 0 if there is none yet.
template <class T>
RK_INLINE T exponent_origin(T max) {
    return max == -kInfinity<T> ? T(0) : max;
}

// Maximum of a row, ignoring NaN; -inf for an empty one.
template <class T>
RK_INLINE T row_maximum(const T* r, long cols) {
    // Four chains: one would wait for the latency of each comparison.
    V<T> best = broadcast<T>(-kInfinity<T>), best1 = best, best2 = best, best3 = best;
    long j = 0;
    for (; j + 4 * kLanes<T> <= cols; j += 4 * kLanes<T>) {
        best = max(load(r + j), best);
        best1 = max(load(r + j + kLanes<T>), best1);
        best2 = max(load(r + j + 2 * kLanes<T>), best2);
        best3 = max(load(r + j + 3 * kLanes<T>), best3);
    }
    best = max(max(best1, best), max(best3, best2));
    for (; j + kLanes<T> <= cols; j += kLanes<T>) best = max(load(r + j), best);
    if (j < cols) {
        const V<T> tail = load_first(r + j, cols - j);
        best = max(first_lanes<T>(cols - j) ? tail : best, best);
    }
    return max_lanes<T>(best);
}

// r <- exp(r - origin); returns the sum, in lanes by column, then across lanes.
template <class T>
RK_INLINE T exponentiate_row(T* r, long cols, T origin) {
    const V<T> shift = broadcast<T>(origin);
    V<T> sum{};
    long j = 0;
    for (; j + kLanes<T> <= cols; j += kLanes<T>) {
        const V<T> p = exp<T>(load(r + j) - shift);
        store(r + j, p);
        sum += p;
    }
    if (j < cols) {
        const V<T> p = exp<T>(load_first(r + j, cols - j) - shift);
        store_first(r + j, p, cols - j);
        sum += first_lanes<T>(cols - j) ? p : V<T>{};
    }
    return sum_lanes<T>(sum);
}

template <class T>
RK_INLINE void scale_row(T* x, long n, T factor) {
    for (long j = 0; j < n; j += kLanes<T>) store_first(x + j, load_first(x + j, n - j) * factor, n - j);
}

template <class T>
static void softmax_accept(T* r, long ld, long rows, long cols, T* max, T* sum, T* acc, long acc_row,
                           long width) {
    // All maxima of a strip before the first exp: the cross-lane latency of one row overlaps with the work of
    // the next.
    for (; rows > 0; rows -= kTileRows) {
        const int n = rows < kTileRows ? (int)rows : kTileRows;
        T new_max[kTileRows];
        for (int i = 0; i < n; ++i) {
            const T tile_max = row_maximum(r + i * ld, cols);
            new_max[i] = tile_max > max[i] ? tile_max : max[i];
        }
        for (int i = 0; i < n; ++i) {
            const T origin = exponent_origin(new_max[i]);
            const T tile_sum = exponentiate_row(r + i * ld, cols, origin);
            if (new_max[i] > max[i]) {
                const T correction = exp_one<T>(max[i] - origin);
                sum[i] *= correction;
                scale_row(acc + i * acc_row, width, correction);
                max[i] = new_max[i];
            }
            sum[i] += tile_sum;
        }
        r += n * ld, max += n, sum += n, acc += n * acc_row;
    }
}

template <class T>
static void softmax_merge(T* max, T* sum, T* acc, const T* max_b, const T* sum_b, const T* acc_b, long rows,
                          long width) {
    for (long i = 0; i < rows; ++i) {
        const T new_max = max_b[i] > max[i] ? max_b[i] : max[i];
        const T origin = exponent_origin(new_max);
        const T a = exp_one<T>(max[i] - origin), b = exp_one<T>(max_b[i] - origin);
        max[i] = new_max;
        sum[i] = sum[i] * a + sum_b[i] * b;
        for (long j = 0; j < width; j += kLanes<T>) {
            T* to = acc + i * width + j;
            const V<T> from = load_first(acc_b + i * width + j, width - j);
            store_first(to, load_first(to, width - j) * a + from * b, width - j);
        }
    }
}

template <class T>
static void softmax_finish(const T* max, const T* sum, const T* acc, long rows, long width, T* out,
                           long out_row, T* lse) {
    for (long i = 0; i < rows; ++i) {
        for (long j = 0; j < width; j += kLanes<T>) {
            const V<T> v = load_first(acc + i * width + j, width - j);
            store_first(out + i * out_row + j, sum[i] == T(0) ? V<T>{} : v / sum[i], width - j);
        }
        if (lse) lse[i] = exponent_origin(max[i]) + log<T>(broadcast<T>(sum[i]))[0];
    }
}

template <class T>
static void row_max(const T* r, long ld, long rows, long cols, T* max) {
    for (long i = 0; i < rows; ++i) {
        const T m = row_maximum(r + i * ld, cols);
        if (m > max[i]) max[i] = m;
    }
}

template <class T>
static void softmax_rows(T* r, long ld, long rows, long cols, const T* max) {
    for (long i = 0; i < rows; ++i) {
        T* row = r + i * ld;
        const T sum = exponentiate_row(row, cols, exponent_origin(max[i]));
        if (sum == T(0)) continue;  // nothing to attend to: exp gave zeros
        for (long j = 0; j < cols; j += kLanes<T>)
            store_first(row + j, load_first(row + j, cols - j) / sum, cols - j);
    }
}

// P = exp(R - lse) and dR = P * (dP - delta), delta_i = sum_j P_ij dP_ij = <dO_i, O_i>
// (Dao et al. 2022, FlashAttention, algorithm 4).
template <class T>
static void softmax_vjp(T* p, T* dp, long ld, long rows, long cols, const T* lse, const T* delta) {
    for (long i = 0; i < rows; ++i) {
        // exp(r - inf) = 0: nothing was attended
        const V<T> origin = broadcast<T>(lse[i] == -kInfinity<T> ? kInfinity<T> : lse[i]);
        const V<T> mean = broadcast<T>(delta[i]);
        for (long j = 0; j < cols; j += kLanes<T>) {
            const long n = cols - j;
            T *at_p = p + i * ld + j, *at_dp = dp + i * ld + j;
            const V<T> weight = exp<T>(load_first(at_p, n) - origin);
            store_first(at_p, weight, n);
            store_first(at_dp, weight * (load_first(at_dp, n) - mean), n);
        }
    }
}

}  // namespace rk::RK_ISA
