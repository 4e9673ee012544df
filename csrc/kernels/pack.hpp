// Packing: any strided matrix into panels, and transposition of row-major blocks.
//
// Panels are described in kernels.hpp. The two layouts that matter are read with vectors: columns with
// unit stride are copied; depth with unit stride (rows of features) goes through a transposition of
// kLanes x kLanes values in registers. Any other strides are read one value at a time.
#pragma once

#include "kernels/micro_kernel.hpp"

namespace rk::RK_ISA {

// One stage of the transposition network: swaps the off-diagonal blocks of distance D.
template <class T, int D>
RK_INLINE void exchange(V<T>& a, V<T>& b) {
    I<T> low{}, high{};
    for (int l = 0; l < kLanes<T>; ++l) {
        low[l] = (l & D) ? kLanes<T> + (l ^ D) : l;
        high[l] = (l & D) ? kLanes<T> + l : l + D;
    }
    const V<T> x = __builtin_shuffle(a, b, low);
    b = __builtin_shuffle(a, b, high);
    a = x;
}

template <class T, int D>
RK_INLINE void transpose_stages(V<T>* v) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i)
        if (!(i & D)) exchange<T, D>(v[i], v[i + D]);
    if constexpr (D > 1) transpose_stages<T, D / 2>(v);
}

// v[i][l] <-> v[l][i]
template <class T>
RK_INLINE void transpose_registers(V<T>* v) {
    transpose_stages<T, kLanes<T> / 2>(v);
}

// Reads `rows` rows of `cols` values (at most kLanes each) and writes them transposed; what is missing
// counts as zero, and kLanes values are written in each of the cols output rows if `padded`.
template <class T, bool padded>
RK_INLINE void transpose_block(const T* src, long src_row, long rows, long cols, T* dst, long dst_row) {
    V<T> v[kLanes<T>];
    if (rows == kLanes<T> && cols == kLanes<T>) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<T>; ++i) v[i] = load(src + i * src_row);
        transpose_registers<T>(v);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<T>; ++i) store(dst + i * dst_row, v[i]);
        return;
    }
    for (int i = 0; i < kLanes<T>; ++i) v[i] = i < rows ? load_first(src + i * src_row, cols) : V<T>{};
    transpose_registers<T>(v);
    for (int i = 0; i < kLanes<T>; ++i)
        if (i < cols) store_first(dst + i * dst_row, v[i], padded ? (long)kLanes<T> : rows);
}

template <class T>
static void transpose(const T* src, long src_row, long rows, long cols, T* dst, long dst_row) {
    for (long i = 0; i < rows; i += kLanes<T>)
        for (long j = 0; j < cols; j += kLanes<T>)
            transpose_block<T, false>(
                src + i * src_row + j, src_row, rows - i < kLanes<T> ? rows - i : (long)kLanes<T>,
                cols - j < kLanes<T> ? cols - j : (long)kLanes<T>, dst + j * dst_row + i, dst_row);
}

template <class T>
static void pack(const T* src, long depth_stride, long col_stride, long depth, long cols, T* panels,
                 long panel_stride) {
    for (long j = 0; j < cols; j += kPanel<T>, panels += panel_stride) {
        const T* column = src + j * col_stride;
        const long width = cols - j < kPanel<T> ? cols - j : (long)kPanel<T>;
        if (col_stride == 1) {
            for (long k = 0; k < depth; ++k)
                for (long v = 0; v < kPanelVectors; ++v) {
                    const long left = width - v * kLanes<T>;
                    store(panels + k * kPanel<T> + v * kLanes<T>,
                          left > 0 ? load_first(column + k * depth_stride + v * kLanes<T>, left) : V<T>{});
                }
        } else if (depth_stride == 1) {
            for (long v = 0; v < kPanelVectors; ++v) {
                const long left = width - v * kLanes<T>;
                const long rows = left < 0 ? 0 : left < kLanes<T> ? left : (long)kLanes<T>;
                for (long k = 0; k < depth; k += kLanes<T>)
                    transpose_block<T, true>(column + v * kLanes<T> * col_stride + k, col_stride, rows,
                                             depth - k < kLanes<T> ? depth - k : (long)kLanes<T>,
                                             panels + k * kPanel<T> + v * kLanes<T>, kPanel<T>);
            }
        } else {
            for (long k = 0; k < depth; ++k)
                for (long c = 0; c < kPanel<T>; ++c)
                    panels[k * kPanel<T> + c] = c < width ? column[k * depth_stride + c * col_stride] : T(0);
        }
    }
}

}  // namespace rk::RK_ISA
