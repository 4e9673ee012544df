// As in_place.hpp, for products of a few rows with operands that are stored in bfloat16.
//
// Invariant: each element is the chain that product_bf16 makes of the same operands packed
// (micro_kernel_bf16.hpp), to the last bit.
#pragma once

#include "kernels/half.hpp"
#include "kernels/micro_kernel_bf16.hpp"

namespace rk::RK_ISA {

// The first n values from p on, in pairs; the others are zero and not read.
RK_INLINE Vf load_pairs(const bfloat16* p, long n) {
    Vf v;
    if (n >= 2 * kLanes<float>) {
        __builtin_memcpy(&v, p, sizeof v);
    } else {
        bfloat16 first[2 * kLanes<float>] = {};
        for (int l = 0; l < 2 * kLanes<float>; ++l)
            if (l < n) first[l] = p[l];
        __builtin_memcpy(&v, first, sizeof v);
    }
    return v;
}

// R rows against at most kLanes columns, which are rows of b: kLanes x kLanes pairs of these are transposed
// in registers, and used there.
template <int R>
static void few_rows_tile_bf16(const bfloat16* a, long a_row, const bfloat16* b, long b_row, long cols,
                               long depth, float* c, long c_row, const Epilogue<float>& e) {
    constexpr int kLane = kLanes<float>;
    Vf acc[R][1] = {};
    for (long k0 = 0; k0 < depth; k0 += 2 * kLane, b += 2 * kLane) {
        const long n = depth - k0;
        Vf v[kLane];
        if (n >= 2 * kLane && cols >= kLane) {
#pragma GCC unroll 16
            for (int j = 0; j < kLane; ++j) v[j] = load_pairs(b + j * b_row, 2 * kLane);
        } else {
#pragma GCC unroll 16
            for (int j = 0; j < kLane; ++j) v[j] = j < cols ? load_pairs(b + j * b_row, n) : Vf{};
        }
        transpose_registers<float>(v);
#pragma GCC unroll 16
        for (int k = 0; k < kLane; ++k) {
            if (2 * k >= n) break;
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                std::int32_t pair;
                __builtin_memcpy(&pair, a + r * a_row + k0 + 2 * k, sizeof pair);
                acc[r][0] = dot_pairs(acc[r][0], pair - If{}, (If)v[k]);
            }
        }
    }
    finish_tile<float, R, 1>(acc, c, c_row, cols, e);
}

template <int R>
static void few_rows_strip_bf16(const bfloat16* a, long a_row, const bfloat16* b, long b_row, long rows,
                                long cols, long depth, float* c, long c_row, const Finish<float>& finish) {
    if constexpr (R > 1)
        if (rows < R)
            return few_rows_strip_bf16<R - 1>(a, a_row, b, b_row, rows, cols, depth, c, c_row, finish);
    for (long j = 0; j < cols; j += kLanes<float>) {
        const long left = cols - j;
        prefetch_rows(b + j * b_row, b_row, left < kLanes<float> ? left : (long)kLanes<float>, depth);
        const Epilogue<float> e{finish, finish.bias ? finish.bias + j : nullptr, finish.accumulate, true};
        few_rows_tile_bf16<R>(a, a_row, b + j * b_row, b_row, left, depth, c + j, c_row, e);
    }
}

[[maybe_unused]] static void product_of_rows_bf16(const bfloat16* a, long a_row, const bfloat16* b,
                                                  long b_row, long rows, long cols, long depth, float* c,
                                                  long c_row, const Finish<float>& finish) {
    for (; rows > 0; rows -= kFewRows, a += kFewRows * a_row, c += kFewRows * c_row)
        few_rows_strip_bf16<kFewRows>(a, a_row, b, b_row, rows, cols, depth, c, c_row, finish);
}

// The first n values from p on, each in the lower half of a lane; the others are zero and not read.
RK_INLINE If load_first_words(const bfloat16* p, long n) {
    return (If)((U<float>)load_first_half(p, n) >> 16);
}

// A group of G vectors of columns for one row. The values of two rows make the pairs.
template <int G>
static void weighted_group_bf16(const bfloat16* p, const bfloat16* values, long values_row, long count,
                                long width, float* acc) {
    Vf sum[G] = {};
    for (long j = 0; j < count; j += 2) {
        std::int32_t weights;
        __builtin_memcpy(&weights, p + j, sizeof weights);
        const bfloat16 *first = values + j * values_row, *second = first + values_row;
        __builtin_prefetch((const void*)((std::uintptr_t)(first) + (16 << 10)), 0, 2);
        __builtin_prefetch((const void*)((std::uintptr_t)(second) + (16 << 10)), 0, 2);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            const long at = g * kLanes<float>, left = width - at;
            if (left <= 0) continue;
            If pairs = load_first_words(first + at, left);
            if (j + 1 < count) pairs |= load_first_words(second + at, left) << 16;
            sum[g] = dot_pairs(sum[g], weights - If{}, pairs);
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
        const long at = g * kLanes<float>, left = width - at;
        if (left > 0) store_first(acc + at, load_first(acc + at, left) + sum[g], left);
    }
}

[[maybe_unused]] static void weighted_rows_bf16(const bfloat16* p, long p_row, const bfloat16* values,
                                                long values_row, long rows, long count, long width,
                                                float* acc) {
    constexpr int kGroup = 4;
    for (long i = 0; i < rows; ++i)
        for (long c = 0; c < width; c += kGroup * kLanes<float>)
            weighted_group_bf16<kGroup>(p + i * p_row, values + c, values_row, count, width - c,
                                        acc + i * width + c);
}

}  // namespace rk::RK_ISA
