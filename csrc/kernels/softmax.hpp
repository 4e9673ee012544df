// Scores of attention, and streaming softmax over tiles of them. The consumer's state is (max, sum, weighted
// sum) for each row.
//
//   accept   m' = max(m, max_j r_j),  p_j = exp(r_j - m'),  c = exp(m - m'),
//            sum <- c sum + sum_j p_j,  acc <- c acc  (the caller then adds p . v)
//   merge    likewise, with the other state's max instead of the tile's
//   finish   acc / sum,  lse = m + log(sum)
//
// Milakov & Gimelshein 2018 (arXiv 1805.02867). A row that has seen only -inf keeps m = -inf and sum = 0: 0
// is then subtracted in the exponents, so that exp(-inf) = 0 and no inf - inf arises. NaN never becomes the
// maximum; it enters through p and sum, so it spoils only its own row.
//
// A row with a score of +inf has max = +inf, weights of NaN, and lse = +inf unless it also has a NaN: its sum
// is +inf, or NaN.
#pragma once

#include "kernels/activations.hpp"
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

// What a row adds to its sum if the maximum is +inf.
template <class T>
RK_INLINE T sum_with_infinity(const T* r, long cols) {
    T sum = 0;
    for (long j = 0; j < cols; ++j) sum += r[j] < kInfinity<T> ? T(0) : r[j];
    return sum;
}

// exp(max - origin), and 1 for a maximum of +inf.
template <class T>
RK_INLINE T rescaling(T max, T origin) {
    return max == kInfinity<T> ? T(1) : exp_one<T>(max - origin);
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

// The scores of a row. Returns the lanes in which a pair is forbidden.
template <class T, bool kBias, bool kCap>
RK_INLINE I<T> score_row(T* r, long cols, const T* bias, long col, T cap, T* slope) {
    I<T> forbidden{};
    for (long j = 0; j < cols; j += kLanes<T>) {
        const long n = cols - j;
        V<T> s = load_first(r + j, n);
        I<T> here{};
        if constexpr (kBias) {
            V<T> b{};
            if (col == 1)
                b = load_first(bias + j, n);
            else
                for (int l = 0; l < kLanes<T>; ++l) b[l] = bias[(l < n ? j + l : j) * col];
            here = b == broadcast<T>(-kInfinity<T>);
            forbidden |= here;
            s += b;
        }
        if constexpr (kCap) {
            const V<T> z = s / cap;
            s = tanh<T>(z) * cap;
            if (slope) store_first(slope + j, here ? V<T>{} : Tanh<T>{}.derivative(z), n);
        }
        if constexpr (kBias) s = here ? broadcast<T>(-kInfinity<T>) : s;
        store_first(r + j, s, n);
    }
    return forbidden;
}

template <class T>
static bool score(T* r, long ld, long rows, long cols, const Bias<T>& bias, T cap, T* slope) {
    I<T> forbidden{};
    for (long i = 0; i < rows; ++i, r += ld, slope += slope ? ld : 0) {
        const T* of_row = bias.data + i * bias.row;
        if (!bias.data)
            score_row<T, false, true>(r, cols, nullptr, 0, cap, slope);
        else if (cap == T(0))
            forbidden |= score_row<T, true, false>(r, cols, of_row, bias.col, cap, slope);
        else
            forbidden |= score_row<T, true, true>(r, cols, of_row, bias.col, cap, slope);
    }
    return any(forbidden);
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
            const T infinite = origin == kInfinity<T> ? sum_with_infinity(r + i * ld, cols) : T(0);
            const T tile_sum = exponentiate_row(r + i * ld, cols, origin);
            if (max[i] == -kInfinity<T>) {  // so far the sums have only zeros and NaN, which a factor leaves
                max[i] = new_max[i];
            } else if (new_max[i] > max[i]) {
                const T correction = exp_one<T>(max[i] - origin);
                sum[i] *= correction;
                scale_row(acc + i * acc_row, width, correction);
                max[i] = new_max[i];
            }
            sum[i] += origin == kInfinity<T> ? infinite : tile_sum;
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
        const T a = rescaling(max[i], origin), b = rescaling(max_b[i], origin);
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

// P = exp(S - lse) and dS = P * (dP - delta), delta_i = sum_j P_ij dP_ij = <dO_i, O_i>
// (Dao et al. 2022, FlashAttention, algorithm 4), and dS * slope.
template <class T>
static void softmax_vjp(T* p, T* dp, const T* slope, long ld, long rows, long cols, const T* lse,
                        const T* delta) {
    for (long i = 0; i < rows; ++i) {
        // exp(s - inf) = 0: nothing was attended. The weights of a row with a score of +inf are NaN.
        const bool none = lse[i] == -kInfinity<T>, infinite = lse[i] == kInfinity<T>;
        const V<T> origin = broadcast<T>(none ? kInfinity<T> : infinite ? T(__builtin_nanf("")) : lse[i]);
        const V<T> mean = broadcast<T>(delta[i]);
        for (long j = 0; j < cols; j += kLanes<T>) {
            const long n = cols - j;
            T *at_p = p + i * ld + j, *at_dp = dp + i * ld + j;
            const V<T> weight = exp<T>(load_first(at_p, n) - origin);
            store_first(at_p, weight, n);
            V<T> change = weight * (load_first(at_dp, n) - mean);
            if (slope) change *= load_first(slope + i * ld + j, n);
            store_first(at_dp, change, n);
        }
    }
}

}  // namespace rk::RK_ISA
