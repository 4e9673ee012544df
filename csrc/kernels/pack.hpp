// Packing of strided matrices into panels, and transposition of row-major blocks.
//
// Panels are described in table.hpp. The two layouts that matter are read with vectors: columns with
// unit stride are copied; depth with unit stride (rows of features) goes through a transposition of
// kLanes x kLanes values in registers. Any other strides are read one value at a time.
#pragma once

#include "kernels/micro_kernel.hpp"
#include "simd/lanes.hpp"

namespace rk::RK_ISA {

// One stage of the transposition network: swaps the off-diagonal blocks of distance D.
template <class T, int D>
RK_INLINE void exchange(V<T>& a, V<T>& b) {
    I<T> low{}, high{};
    for (int l = 0; l < kLanes<T>; ++l) {
        low[l] = (l & D) ? kLanes<T> + (l ^ D) : l;
        high[l] = (l & D) ? kLanes<T> + l : l + D;
    }
    const V<T> x = shuffle<T>(a, b, low);
    b = shuffle<T>(a, b, high);
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

// Reads `rows` rows of `cols` values (at most kLanes each) and writes them transposed. If `padded`, kLanes
// values are written in each of the cols output rows, with zeros for missing ones.
template <class T, bool padded>
RK_INLINE void transpose_block(const T* src, long src_row, long rows, long cols, T* dst, long dst_row,
                               bool streams = false) {
    V<T> v[kLanes<T>];
    if (rows == kLanes<T> && cols == kLanes<T>) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<T>; ++i) v[i] = load(src + i * src_row);
        transpose_registers<T>(v);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<T>; ++i)
            streams ? stream(dst + i * dst_row, v[i]) : store(dst + i * dst_row, v[i]);
        return;
    }
    for (int i = 0; i < kLanes<T>; ++i) v[i] = i < rows ? load_first(src + i * src_row, cols) : V<T>{};
    transpose_registers<T>(v);
    for (int i = 0; i < kLanes<T>; ++i)
        if (i < cols) store_first(dst + i * dst_row, v[i], padded ? (long)kLanes<T> : rows);
}

template <class T>
static void copy(const T* src, long src_row, long rows, long cols, T* dst, long dst_row, bool streams) {
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < cols; j += kLanes<T>) {
            const V<T> v = load_first(src + i * src_row + j, cols - j);
            T* to = dst + i * dst_row + j;
            streams&& cols - j >= kLanes<T> ? stream(to, v) : store_first(to, v, cols - j);
        }
    if (streams) stream_fence();
}

// A cache line of each output row at a time: rows of a large output compete for a few sets of the caches, and
// a line that is written by halves may have been evicted between them.
template <class T>
static void transpose(const T* src, long src_row, long rows, long cols, T* dst, long dst_row, bool streams) {
    constexpr long kLine = 64 / sizeof(T), kVectors = kLine / kLanes<T>;
    for (long i = 0; i < rows; i += kLine)
        for (long j = 0; j < cols; j += kLanes<T>) {
            if (!streams)  // prefetch the next block while this one is transposed
                for (long l = j + kLanes<T>; l < cols && l < j + 2 * kLanes<T>; ++l)
                    prefetch_write<T, kVectors>(dst + l * dst_row + i);
            for (long b = i; b < rows && b < i + kLine; b += kLanes<T>)
                transpose_block<T, false>(src + b * src_row + j, src_row,
                                          rows - b < kLanes<T> ? rows - b : (long)kLanes<T>,
                                          cols - j < kLanes<T> ? cols - j : (long)kLanes<T>,
                                          dst + j * dst_row + b, dst_row, streams);
        }
    if (streams) stream_fence();
}

// Prefetches the rows that are read some 16 KiB later into L2, in memory order. Packing reads faster than
// out-of-order execution can hide the latency of memory, and it jumps between rows, which hardware
// prefetchers do not follow. Prefetches past the end of the matrix do nothing.
template <class T>
RK_INLINE void prefetch_rows(const T* src, long row, long rows, long cols) {
    constexpr long kAhead = 16 << 10, kLine = 64 / sizeof(T);
    const long width = cols * (long)sizeof(T);
    const std::uintptr_t from =
        (std::uintptr_t)(src) + (std::uintptr_t)((kAhead / width + 1) * row * (long)sizeof(T));
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < cols; j += kLine)
            __builtin_prefetch((const void*)(from + (std::uintptr_t)((i * row + j) * (long)sizeof(T))), 0, 2);
}

// Columns of unit stride: rows are copied, a few at a time into all panels, so that each is read once.
template <class T>
RK_INLINE void pack_rows(const T* src, long depth_stride, long depth, long cols, T* panels,
                         long panel_stride) {
    constexpr long kRows = 8;
    for (long k0 = 0; k0 < depth; k0 += kRows) {
        prefetch_rows(src + k0 * depth_stride, depth_stride, depth - k0 < kRows ? depth - k0 : kRows, cols);
        for (long j = 0; j < cols; j += kPanel<T>) {
            T* panel = panels + j / kPanel<T> * panel_stride;
            for (long k = k0; k < depth && k < k0 + kRows; ++k)
                for (long v = 0; v < kPanelVectors; ++v) {
                    const long left = cols - j - v * kLanes<T>;
                    store(panel + k * kPanel<T> + v * kLanes<T>,
                          left > 0 ? load_first(src + k * depth_stride + j + v * kLanes<T>, left) : V<T>{});
                }
        }
    }
}

template <class T>
static void pack(const T* src, long depth_stride, long col_stride, long depth, long cols, T* panels,
                 long panel_stride) {
    if (col_stride == 1) return pack_rows(src, depth_stride, depth, cols, panels, panel_stride);
    for (long j = 0; j < cols; j += kPanel<T>, panels += panel_stride) {
        const T* column = src + j * col_stride;
        const long width = cols - j < kPanel<T> ? cols - j : (long)kPanel<T>;
        if (depth_stride == 1) {
            for (long v = 0; v < kPanelVectors; ++v) {
                const long left = width - v * kLanes<T>;
                const long rows = left < 0 ? 0 : left < kLanes<T> ? left : (long)kLanes<T>;
                prefetch_rows(column + v * kLanes<T> * col_stride, col_stride, rows, depth);
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
