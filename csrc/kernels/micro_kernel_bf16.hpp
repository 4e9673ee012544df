// Inner-product micro-kernel on factors rounded to bfloat16, in pairs along the depth, sums in float.
//
//   c(r, j) += a(r, 2k) b(2k, j) + a(r, 2k+1) b(2k+1, j)
//
// One step is VDPBF16PS where the processor has it (64 operations an instruction, twice a float
// multiply-add), else two multiply-adds on the halves of each pair, widened: the same products, exact in
// float, with other rounding of their sums. Tile shapes and contract are those of micro_kernel.hpp; the
// instruction flushes subnormal factors and sums to zero. Every element is one chain in the order of the
// pairs.
#pragma once

#include "kernels/micro_kernel.hpp"
#include "kernels/pack.hpp"

namespace rk::RK_ISA {

// Lane l holds the pair (2k, 2k + 1) of one row or column: the first in the lower half.
RK_INLINE Vf dot_pairs(Vf sum, If a, If b) {
#if defined(RK_ISA_AVX512_BF16)
    return (Vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    const std::int32_t upper = (std::int32_t)0xffff0000;
    sum = fma((Vf)(a << 16), (Vf)(b << 16), sum);
    return fma((Vf)(a & upper), (Vf)(b & upper), sum);
#endif
}

// To nearest, ties to even; NaN stays NaN. The result is in the lower half of each lane. The instruction
// takes subnormal numbers for zero, as that which multiplies them does.
RK_INLINE If round_to_bf16(Vf x) {
#if defined(RK_ISA_AVX512_BF16)
    return (If)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    const If bits = (If)x;
    const If rounded = (If)(((U<float>)(bits + (0x7fff + ((bits >> 16) & 1)))) >> 16);
    const If quiet = (If)(((U<float>)bits) >> 16) | 0x40;
    return x == x ? rounded : quiet;
#endif
}

RK_INLINE bfloat16 round_to_bf16(float x) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    if (x != x) return (bfloat16)(bits >> 16 | 0x40);
    return (bfloat16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The 16 bits of a lane's value in bfloat16 each, in order.
RK_INLINE void store_bf16(bfloat16* to, Vf x) {
#if defined(RK_ISA_AVX512_BF16)
    _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#elif defined(RK_ISA_AVX512)
    _mm256_storeu_si256((__m256i*)to, _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)round_to_bf16(x)));
#else
    const If v = round_to_bf16(x);
    for (int l = 0; l < kLanes<float>; ++l) to[l] = (bfloat16)v[l];
#endif
}

static void convert_bf16(const float* src, long row, long col, long rows, long depth, long padded,
                         bfloat16* dst, long dst_row) {
    for (long r = 0; r < rows; ++r) {
        const float* from = src + r * row;
        bfloat16* to = dst + r * dst_row;
        long k = 0;
        if (col == 1)
            for (; k + kLanes<float> <= depth; k += kLanes<float>) store_bf16(to + k, load(from + k));
        for (; k < depth; ++k) to[k] = round_to_bf16(from[k * col]);
        for (; k < padded; ++k) to[k] = 0;
    }
}

// The two rows of a pair side by side: (2k, j) below (2k + 1, j) in each lane.
RK_INLINE void store_pairs(bfloat16* panel, Vf first, Vf second) {
    const If pairs = round_to_bf16(first) | (round_to_bf16(second) << 16);
    __builtin_memcpy(panel, &pairs, sizeof pairs);
}

static void pack_bf16(const float* src, long depth_stride, long col_stride, long depth, long padded,
                      long cols, bfloat16* panels, long panel_stride) {
    constexpr int kPair = 2 * kPanel<float>;
    for (long j = 0; j < cols; j += kPanel<float>, panels += panel_stride)
        for (long v = 0; v < kPanelVectors; ++v) {
            const long column = j + v * kLanes<float>, left = cols - column;
            const long count = left < 0 ? 0 : left < kLanes<float> ? left : (long)kLanes<float>;
            const float* from = src + column * col_stride;
            if (depth_stride == 1) prefetch_rows(from, col_stride, count, depth);
            for (long k0 = 0; k0 < padded; k0 += kLanes<float>) {
                const long n = padded - k0 < kLanes<float> ? padded - k0 : (long)kLanes<float>;
                // Rows k0 .. k0 + n - 1 of the vector of columns.
                Vf rows[kLanes<float>] = {};
                if (col_stride == 1) {
                    for (long k = 0; k < n; ++k)
                        if (k0 + k < depth) rows[k] = load_first(from + (k0 + k) * depth_stride, count);
                } else if (depth_stride == 1) {
                    for (long c = 0; c < count; ++c) {
                        rows[c] = load_first(from + c * col_stride + k0, depth - k0 > 0 ? depth - k0 : 0);
                    }
                    transpose_registers<float>(rows);
                } else {
                    for (long k = 0; k < n && k0 + k < depth; ++k)
                        for (long c = 0; c < count; ++c)
                            rows[k][c] = from[(k0 + k) * depth_stride + c * col_stride];
                }
                for (long k = 0; k < n; k += 2)
                    store_pairs(panels + (k0 + k) / 2 * kPair + 2 * v * kLanes<float>, rows[k], rows[k + 1]);
            }
        }
}

template <int R, int W>
RK_INLINE void micro_tile_bf16(const bfloat16* a, long a_row, const bfloat16* b, long pairs, float* c,
                               long c_row, long cols, const Epilogue<float>& e) {
    Vf acc[R][W];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < W; ++v) acc[r][v] = Vf{};
    if (e.finish.fetch) prefetch_tile<float, R, W>(c, c_row);
    const bfloat16* row[(R + 3) / 4];
#pragma GCC unroll 4
    for (int g = 0; g < (R + 3) / 4; ++g) row[g] = a + 4 * g * a_row;
    for (long k = 0; k < pairs; ++k) {
        If column[W];
#pragma GCC unroll 2
        for (int v = 0; v < W; ++v) __builtin_memcpy(&column[v], b + 2 * v * kLanes<float>, sizeof(If));
        prefetch_panels(b, 2 * kPanel<float> * sizeof(bfloat16));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            std::int32_t pair;
            __builtin_memcpy(&pair, row[r / 4] + (r % 4) * a_row, sizeof pair);
            const If x = pair - If{};
#pragma GCC unroll 2
            for (int v = 0; v < W; ++v) acc[r][v] = dot_pairs(acc[r][v], x, column[v]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < (R + 3) / 4; ++g) row[g] += 2;
        b += 2 * kPanel<float>;
    }
    finish_tile<float, R, W>(acc, c, c_row, cols, e);
}

template <int W, int R>
static void row_strip_bf16(const bfloat16* a, long a_row, const bfloat16* b, long rows, long pairs, float* c,
                           long c_row, long cols, const Epilogue<float>& e) {
    for (; rows >= R; rows -= R, a += R * a_row, c += R * c_row)
        micro_tile_bf16<R, W>(a, a_row, b, pairs, c, c_row, cols, e);
    if constexpr (R > 1)
        if (rows > 0) row_strip_bf16<W, R - 1>(a, a_row, b, rows, pairs, c, c_row, cols, e);
}

[[maybe_unused]] static void product_bf16(const bfloat16* a, long a_row, const bfloat16* panels,
                                          long panel_stride, long rows, long cols, long depth, float* c,
                                          long c_row, const Finish<float>& finish) {
    for (long j = 0; j < cols; j += kPanel<float>) {
        const Epilogue<float> e{finish, finish.bias ? finish.bias + j : nullptr, finish.accumulate, true};
        const bfloat16* b = panels + j / kPanel<float> * panel_stride;
        if (cols - j > kLanes<float>)
            row_strip_bf16<2, kTileRows>(a, a_row, b, rows, depth / 2, c + j, c_row, cols - j, e);
        else
            row_strip_bf16<1, kTileRows>(a, a_row, b, rows, depth / 2, c + j, c_row, cols - j, e);
    }
    if (finish.stream) stream_fence();
}

}  // namespace rk::RK_ISA
