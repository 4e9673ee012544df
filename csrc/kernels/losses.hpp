// Losses over a tile of pairs, with R the inner products, T the targets and w the weights:
//
//   squared    w (R - T)^2                            dR = 2 w (R - T)
//   logistic   w (softplus(R) - T R)                  dR = w (sigmoid(R) - T)
//   hinge      w max(0, 1 - s R), s = 2T - 1          dR = -w s [1 - s R > 0]
//   softmax    w_i (lse_i - sum_j T_ij R_ij / mass_i)  dR = w_i (exp(R - lse_i) - T_ij / mass_i)
//
// The tile of R is overwritten with dR. Sums over a row of the tile are taken in T, by lane and then
// across lanes, and added in double: the value of a row of pairs does not depend on other rows. The caller
// adds the lse_i of the softmax once per row.
#pragma once

#include "kernels/math.hpp"
#include "kernels/micro_kernel.hpp"

namespace rk::RK_ISA {

// kLanes values of a strided row; lanes from n on are zero.
template <class T>
RK_INLINE V<T> gather_first(const T* p, long stride, long n) {
    if (stride == 1) return load_first(p, n);
    V<T> v{};
    if (stride == 0) {
        v = broadcast<T>(*p);
    } else {
        for (int l = 0; l < kLanes<T>; ++l)
            if (l < n) v[l] = p[l * stride];
    }
    return v;
}

template <class T>
RK_INLINE V<T> targets_of(const PairTargets<T>& t, long i, long j, long n) {
    if (t.target) return gather_first<T>(t.target + i * t.target_row + j * t.target_col, t.target_col, n);
    T same[kLanes<T>] = {};
    const std::int64_t row = t.row_label[i];
    const long count = n < kLanes<T> ? n : (long)kLanes<T>;
    for (long l = 0; l < count; ++l) same[l] = t.col_label[j + l] == row ? T(1) : T(0);
    return load(same);
}

template <class T, Loss kind>
RK_INLINE void loss_tile(T* r, long ld, long rows, long cols, const PairTargets<T>& t, double* values) {
    for (long i = 0; i < rows; ++i) {
        V<T> value{};
        for (long j = 0; j < cols; j += kLanes<T>) {
            const long n = cols - j;
            T* at = r + i * ld + j;
            const V<T> x = load_first(at, n);
            const V<T> target = targets_of<T>(t, i, j, n);
            V<T> w = broadcast<T>(t.factor);
            if (t.weight)
                w *= gather_first<T>(t.weight + i * t.weight_row + j * t.weight_col, t.weight_col, n);
            V<T> l, d;
            if constexpr (kind == Loss::squared) {
                const V<T> difference = x - target;
                l = difference * difference;
                d = difference + difference;
            } else if constexpr (kind == Loss::logistic) {
                l = softplus<T>(x) - target * x;
                d = sigmoid<T>(x) - target;
            } else if constexpr (kind == Loss::hinge) {
                const V<T> sign = target + target - T(1);
                const V<T> margin = T(1) - sign * x;
                l = margin <= V<T>{} ? V<T>{} : margin;
                d = margin <= V<T>{} ? V<T>{} : (margin == margin ? -sign : margin);
            } else {
                const V<T> share = target * broadcast<T>(t.inverse_mass[i]);
                l = -share * x;
                d = exp<T>(x - broadcast<T>(t.lse[i])) - share;
            }
            store_first(at, w * d, n);
            value += first_lanes<T>(n) ? w * l : V<T>{};
        }
        values[i] += (double)sum_lanes<T>(value);
    }
}

template <class T>
static void loss_vjp(Loss kind, T* r, long ld, long rows, long cols, const PairTargets<T>& t,
                     double* values) {
    switch (kind) {
        case Loss::squared: return loss_tile<T, Loss::squared>(r, ld, rows, cols, t, values);
        case Loss::logistic: return loss_tile<T, Loss::logistic>(r, ld, rows, cols, t, values);
        case Loss::hinge: return loss_tile<T, Loss::hinge>(r, ld, rows, cols, t, values);
        case Loss::softmax: return loss_tile<T, Loss::softmax>(r, ld, rows, cols, t, values);
    }
}

}  // namespace rk::RK_ISA
