// Products of a few rows of one tile with a few rows of another, which belong to the same row of a relation:
// the weights of its heads and the values of its relations (relational_attention). Rows are read in place,
// with unit stride.
#pragma once

#include "kernels/table.hpp"
#include "simd/simd.hpp"

namespace rk::RK_ISA {

// sums(r, c) += <a_r, b_c> for R x C rows of n values: chains by lane, then across lanes. Nine chains hide
// the latency of the multiply-add.
static constexpr int kDotRows = 3;

template <class T, int R, int C>
RK_INLINE void dot_block(const T* a, long a_row, const T* b, long b_row, long n, T* sums, long sums_row) {
    V<T> acc[R][C] = {};
    const auto step = [&](long j, long left) RK_LAMBDA_INLINE {
        V<T> v[C];
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) v[c] = load_first(b + c * b_row + j, left);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const V<T> u = load_first(a + r * a_row + j, left);
#pragma GCC unroll 4
            for (int c = 0; c < C; ++c) acc[r][c] = fma(u, v[c], acc[r][c]);
        }
    };
    long j = 0;
    for (; j + kLanes<T> <= n; j += kLanes<T>) step(j, kLanes<T>);
    if (j < n) step(j, n - j);  // adds zeros past the end
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[r * sums_row + c] += sum_lanes<T>(acc[r][c]);
}

// The same for any numbers of rows. A sum does not depend on the other rows.
template <class T>
static void dot_rows(const T* a, long a_row, long rows, const T* b, long b_row, long count, long n, T* sums,
                     long sums_row) {
    for (long r = 0; r < rows; r += kDotRows)
        for (long c = 0; c < count; c += kDotRows) {
            const T *at_a = a + r * a_row, *at_b = b + c * b_row;
            T* to = sums + r * sums_row + c;
            const auto block = [&]<int R, int C>() RK_LAMBDA_INLINE {
                dot_block<T, R, C>(at_a, a_row, at_b, b_row, n, to, sums_row);
            };
            const auto of_rows = [&]<int R>() RK_LAMBDA_INLINE {
                switch (count - c) {
                    case 1: return block.template operator()<R, 1>();
                    case 2: return block.template operator()<R, 2>();
                    default: return block.template operator()<R, 3>();
                }
            };
            switch (rows - r) {
                case 1: of_rows.template operator()<1>(); break;
                case 2: of_rows.template operator()<2>(); break;
                default: of_rows.template operator()<3>();
            }
        }
}

// out(r, :) += sum over c of w(r, c) in(c, :), rows of n values, in the order of c.
template <class T>
static void mix_rows(const T* w, long w_row, long w_col, long rows, long count, const T* in, long in_row,
                     long n, T* out, long out_row) {
    constexpr int kRows = 4, kVectors = 2;
    const auto block = [&]<int R>(long r, long j, long left) RK_LAMBDA_INLINE {
        V<T> acc[R][kVectors] = {};
        const auto each = [&](const auto& f) RK_LAMBDA_INLINE {
#pragma GCC unroll 4
            for (int i = 0; i < R; ++i)
#pragma GCC unroll 2
                for (int v = 0; v < kVectors; ++v)
                    if (left > v * kLanes<T>) f(i, v, j + v * kLanes<T>, left - v * kLanes<T>);
        };
        each([&](int i, int v, long at, long n_left)
                 RK_LAMBDA_INLINE { acc[i][v] = load_first(out + (r + i) * out_row + at, n_left); });
        for (long c = 0; c < count; ++c)
            each([&](int i, int v, long at, long n_left) RK_LAMBDA_INLINE {
                const V<T> weight = broadcast<T>(w[(r + i) * w_row + c * w_col]);
                acc[i][v] = fma(weight, load_first(in + c * in_row + at, n_left), acc[i][v]);
            });
        each([&](int i, int v, long at, long n_left)
                 RK_LAMBDA_INLINE { store_first(out + (r + i) * out_row + at, acc[i][v], n_left); });
    };
    constexpr long kWhole = kVectors * kLanes<T>;
    const auto of_rows = [&]<int R>(long r) RK_LAMBDA_INLINE {
        long j = 0;
        for (; j + kWhole <= n; j += kWhole) block.template operator()<R>(r, j, kWhole);
        if (j < n) block.template operator()<R>(r, j, n - j);
    };
    long r = 0;
    for (; r + kRows <= rows; r += kRows) of_rows.template operator()<kRows>(r);
    for (; r < rows; ++r) of_rows.template operator()<1>(r);
}

}  // namespace rk::RK_ISA
