// Inner-product micro-kernel: C(r, j) = sum over k of A(r, k) B(k, j) for a block of registers.
//
// Tile shapes (rows x columns, columns in vectors of one register):
//   AVX-512   12 x 2   24 accumulators + 2 columns of B, of 32 registers
//   AVX2       6 x 2   12 accumulators + 2 + 1 broadcast, of 16 registers
//   NEON      12 x 2   24 accumulators + 2 + 1 broadcast, of 32
//   portable   4 x 2    8 accumulators + 2 + 1 broadcast + 1 product (no fused multiply-add), of 16
// With at most three rows left (a call with one query, say), four panels are processed at a time, because
// two accumulators per row do not hide the latency of the multiply-add.
//
// Contract: A is read by broadcast from any strides and only in rows that exist; B is packed and
// padded (table.hpp), so whole vectors of it are read; C is written only in columns that exist.
// Invariant: an element of C is one chain of multiply-adds in the order of k inside blocks of kChainDepth,
// and blocks are added in order. Its value does not depend on the tile that held it.
#pragma once

#include "kernels/table.hpp"
#include "simd/simd.hpp"

namespace rk::RK_ISA {

static constexpr int kPanelVectors = 2;
template <class T>
static constexpr int kPanel = kPanelVectors * kLanes<T>;

// How a finished chain is written to C.
template <class T>
struct Epilogue {
    Finish<T> finish;
    const T* bias;  // of the tile's first column, or null
    bool add_to_c;  // C already holds a previous block of depth, or the caller's values (accumulate)
    bool last;      // scale, bias and floor apply
};

// Hides p's origin from the optimizer. Otherwise it precomputes the addresses of all rows of C once per call
// (150 instructions), although most calls have a single tile.
template <class T>
RK_INLINE void hide(T*& p) {
    asm("" : "+r"(p));
}

// Prefetches every line of p[0 .. n kLanes) for writing.
template <class T, int n>
RK_INLINE void prefetch_write(const T* p) {
#pragma GCC unroll 8
    for (int v = 0; v < n; ++v) __builtin_prefetch(p + v * kLanes<T>, 1, 3);
    __builtin_prefetch(p + n * kLanes<T> - 1, 1, 3);
}
template <class T, int R, int N>
RK_INLINE void prefetch_tile(const T* c, long c_row) {
    hide(c);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r, c += c_row) prefetch_write<T, N>(c);
}

// Prefetches the bytes at the same offset 8 KiB ahead, which belong to a later panel. Packed columns come
// from beyond L2 when a block of rows first uses them, and the hardware's prefetchers stop at page
// boundaries. Without this, products of depth 64 against 16 MiB of columns lose a quarter (2 strips) or 6 %
// (8 strips).
RK_INLINE void prefetch_panels(const void* panel, int bytes) {
    constexpr int kAhead = 8 << 10, kLine = 64;
    for (int i = 0; i < bytes; i += kLine) __builtin_prefetch((const char*)panel + kAhead + i, 0, 2);
}

// Writes R rows x N vectors of finished chains to C. Only the first `cols` columns exist. Conditions are
// tested once per tile: a branch for each vector would cost a tenth of the products of 64 depths.
template <class T, int R, int N>
RK_INLINE void finish_tile(V<T> (&acc)[R][N], T* c, long c_row, long cols, const Epilogue<T>& e) {
    const auto each = [&](auto f) RK_LAMBDA_INLINE {
        T* row = c;
        hide(row);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r, row += c_row)
#pragma GCC unroll 8
            for (int v = 0; v < N; ++v) f(acc[r][v], row + v * kLanes<T>, v);
    };
    const bool whole = cols >= N * kLanes<T>;
    if (e.add_to_c && whole)
        each([&](V<T>& x, const T* from, int) RK_LAMBDA_INLINE { x = load(from) + x; });
    else if (e.add_to_c)
        each([&](V<T>& x, const T* from, int v) RK_LAMBDA_INLINE {
            if (v * kLanes<T> < cols) x = load_first(from, cols - v * kLanes<T>) + x;
        });
    if (e.last) {
        const V<T> scale = broadcast<T>(e.finish.scale), floor = broadcast<T>(e.finish.floor);
        if (e.finish.scale != T(1)) each([&](V<T>& x, T*, int) RK_LAMBDA_INLINE { x *= scale; });
        if (e.bias) each([&](V<T>& x, T*, int v) RK_LAMBDA_INLINE { x += load(e.bias + v * kLanes<T>); });
        if (e.finish.floor > -kInfinity<T>)
            each([&](V<T>& x, T*, int) RK_LAMBDA_INLINE { x = max(floor, x); });
    }
    if (!whole)
        each([&](V<T>& x, T* to, int v) RK_LAMBDA_INLINE {
            if (v * kLanes<T> < cols) store_first(to, x, cols - v * kLanes<T>);
        });
    else if (e.last && e.finish.stream)
        each([&](V<T>& x, T* to, int) RK_LAMBDA_INLINE { stream(to, x); });
    else
        each([&](V<T>& x, T* to, int) RK_LAMBDA_INLINE { store(to, x); });
}

// One step of a chain: sum + x y, or sum + (x - y)^2 (Finish::distances).
template <class T, bool distances>
RK_INLINE V<T> chained(V<T> x, V<T> y, V<T> sum) {
    if constexpr (!distances) return fma(x, y, sum);
    const V<T> difference = x - y;
    return fma(difference, difference, sum);
}

// R rows x (P panels of W vectors). cols counts the columns that exist from the first panel on.
template <class T, int R, int P, int W, bool distances = false>
RK_INLINE void micro_tile(const T* a, long a_row, long a_depth, const T* b, long panel_stride, long depth,
                          T* c, long c_row, long cols, const Epilogue<T>& e) {
    V<T> acc[R][P * W];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < P * W; ++v) acc[r][v] = V<T>{};

    // One base pointer for four rows: x86 addresses base + {0, 1, 2, 3} * stride with two index registers.
    const T* row[(R + 3) / 4];
#pragma GCC unroll 4
    for (int g = 0; g < (R + 3) / 4; ++g) row[g] = a + 4 * g * a_row;

    if (e.finish.fetch) prefetch_tile<T, R, P * W>(c, c_row);

    for (long k = 0; k < depth; ++k) {
        V<T> column[P * W];
#pragma GCC unroll 8
        for (int v = 0; v < P * W; ++v) column[v] = load(b + (v / W) * panel_stride + (v % W) * kLanes<T>);
        if constexpr (P == 1) prefetch_panels(b, kPanel<T> * sizeof(T));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const V<T> x = broadcast<T>(row[r / 4][(r % 4) * a_row]);
#pragma GCC unroll 8
            for (int v = 0; v < P * W; ++v) acc[r][v] = chained<T, distances>(x, column[v], acc[r][v]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < (R + 3) / 4; ++g) row[g] += a_depth;
        b += kPanel<T>;
    }

    finish_tile<T, R, P * W>(acc, c, c_row, cols, e);
}

// The rows of one strip of columns: full micro-tiles, then the remaining rows. Up to half a tile more than a
// full one are halved instead: a tile of one or two rows has too few chains to hide the latency of the
// multiply-add, and costs as much as one of four.
template <class T, int P, int W, int R, bool distances = false>
static void row_strip(const T* a, long a_row, long a_depth, const T* b, long panel_stride, long rows,
                      long depth, T* c, long c_row, long cols, const Epilogue<T>& e) {
    for (; rows == R || rows >= R + R / 2; rows -= R, a += R * a_row, c += R * c_row)
        micro_tile<T, R, P, W, distances>(a, a_row, a_depth, b, panel_stride, depth, c, c_row, cols, e);
    if constexpr (R > 1) {
        if (rows > R) {
            const long half = (rows + 1) / 2;
            row_strip<T, P, W, R - 1, distances>(a, a_row, a_depth, b, panel_stride, half, depth, c, c_row,
                                                 cols, e);
            rows -= half, a += half * a_row, c += half * c_row;
        }
        if (rows > 0)
            row_strip<T, P, W, R - 1, distances>(a, a_row, a_depth, b, panel_stride, rows, depth, c, c_row,
                                                 cols, e);
    }
}

// C <- squared distances, finished: product with another step of the chain.
template <class T>
static void distances(const T* a, long a_row, long a_depth, const T* panels, long panel_stride, long rows,
                      long cols, long depth, T* c, long c_row, const Finish<T>& finish) {
    for (long k = 0; k < depth; k += kChainDepth) {
        const long block = depth - k < kChainDepth ? depth - k : kChainDepth;
        for (long j = 0; j < cols; j += kPanel<T>) {
            const Epilogue<T> e{finish, nullptr, k > 0, k + block == depth};
            row_strip<T, 1, kPanelVectors, kTileRows, true>(
                a + k * a_depth, a_row, a_depth, panels + j / kPanel<T> * panel_stride + k * kPanel<T>,
                panel_stride, rows, block, c + j, c_row, cols - j, e);
        }
    }
    if (finish.stream) stream_fence();
}

template <class T>
static void product(const T* a, long a_row, long a_depth, const T* panels, long panel_stride, long rows,
                    long cols, long depth, T* c, long c_row, const Finish<T>& finish) {
    if (finish.distances)
        return distances(a, a_row, a_depth, panels, panel_stride, rows, cols, depth, c, c_row, finish);
    constexpr long kWide = 4;  // panels at a time for a few rows
    for (long k = 0; k < depth; k += kChainDepth) {
        const long block = depth - k < kChainDepth ? depth - k : kChainDepth;
        const T* a_block = a + k * a_depth;
        const T* b_block = panels + k * kPanel<T>;
        for (long j = 0; j < cols;) {
            const T* b = b_block + (j / kPanel<T>)*panel_stride;
            const Epilogue<T> e{finish, finish.bias ? finish.bias + j : nullptr, finish.accumulate || k > 0,
                                k + block == depth};
            const long left = cols - j;
            if (rows <= kFewRows && left > (kWide - 1) * kPanel<T>) {
                row_strip<T, kWide, kPanelVectors, kFewRows>(a_block, a_row, a_depth, b, panel_stride, rows,
                                                             block, c + j, c_row, left, e);
                j += kWide * kPanel<T>;
            } else if (rows == kTileRows &&
                       left > kLanes<T>) {  // a strip of a walk: the call is worth saving
                micro_tile<T, kTileRows, 1, kPanelVectors>(a_block, a_row, a_depth, b, panel_stride, block,
                                                           c + j, c_row, left, e);
                j += kPanel<T>;
            } else if (left > kLanes<T>) {
                row_strip<T, 1, kPanelVectors, kTileRows>(a_block, a_row, a_depth, b, panel_stride, rows,
                                                          block, c + j, c_row, left, e);
                j += kPanel<T>;
            } else {
                row_strip<T, 1, 1, kTileRows>(a_block, a_row, a_depth, b, panel_stride, rows, block, c + j,
                                              c_row, left, e);
                j += kPanel<T>;
            }
        }
    }
    if (finish.stream) stream_fence();
}

// The same chains as product with accumulate and depth <= kChainDepth, one element at a time.
template <class T>
static void masked_product(const T* a, long a_row, const T* panels, long panel_stride, long rows, long cols,
                           long depth, T* c, long c_row, const Mask& mask, long i0, long j0) {
    for (long r = 0; r < rows; ++r)
        for (long j = 0; j < cols; j += kLanes<T>) {
            const T* b = panels + (j / kPanel<T>)*panel_stride + j % kPanel<T>;
            V<T> acc{};
            for (long k = 0; k < depth; ++k) {
                if (!mask.allows(i0 + r, j0 + k)) continue;
                acc = fma(broadcast<T>(a[r * a_row + k]), load(b + k * kPanel<T>), acc);
            }
            T* to = c + r * c_row + j;
            store_first(to, load_first(to, cols - j) + acc, cols - j);
        }
}

}  // namespace rk::RK_ISA
