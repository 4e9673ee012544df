// Products of sparse rows and a dense matrix: each row of the result is a weighted sum of rows of the matrix,
// which are read in place (an embedding bag).
//
// Flops: 2 width per entry. Bytes: width values of the matrix per entry, 256 for 64 floats, from wherever the
// matrix is; the result is written once.
// Invariant: an element of the result is one chain of multiply-adds in the order of the entries inside blocks
// of kChainDepth entries, and blocks are added in order. Its value depends on its own row only.
#pragma once

#include "kernels/micro_kernel.hpp"

namespace rk::RK_ISA {

// Vectors of a row that are summed at a time, in registers: two multiply-adds per cycle with a latency of
// four need eight chains.
static constexpr int kGathered = 8;

// Rows of a matrix of ids are in no order that the hardware could prefetch. Prefetching those of the eighth
// entry ahead saves a third of the time from memory (500,000 x 64 floats) and costs a tenth from L2.
static constexpr long kGatherAhead = 8;

template <int bytes>
RK_INLINE void prefetch_row(const void* p) {
    constexpr int kLine = 64;
    for (int i = 0; i < bytes; i += kLine) __builtin_prefetch((const char*)p + i, 0, 3);
}

// N vectors of one row of the result, of which only the first `cols` columns exist: the sum over the first
// `count` entries. `left` entries can be read, for prefetching.
template <class T, class Index, int N>
static void gather_vectors(const T* values, const Index* columns, long count, long left, const T* matrix,
                           long matrix_row, T* c, long cols, const Epilogue<T>& e) {
    if constexpr (N > 1)
        if (cols <= (N - 1) * kLanes<T>)
            return gather_vectors<T, Index, N - 1>(values, columns, count, left, matrix, matrix_row, c, cols,
                                                   e);
    constexpr long kLast = (N - 1) * kLanes<T>;
    V<T> acc[1][N];
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) acc[0][v] = V<T>{};
    const auto sum = [&](auto load_last) RK_LAMBDA_INLINE {
        for (long k = 0; k < count; ++k) {
            const T* row = matrix + long(columns[k]) * matrix_row;
            const long ahead = k + kGatherAhead < left ? k + kGatherAhead : left - 1;
            prefetch_row<N * RK_VECTOR_BYTES>(matrix + long(columns[ahead]) * matrix_row);
            const V<T> x = broadcast<T>(values[k]);
#pragma GCC unroll 8
            for (int v = 0; v < N - 1; ++v) acc[0][v] = fma(x, load(row + v * kLanes<T>), acc[0][v]);
            acc[0][N - 1] = fma(x, load_last(row + kLast), acc[0][N - 1]);
        }
    };
    if (cols >= N * kLanes<T>)
        sum([](const T* p) RK_LAMBDA_INLINE { return load(p); });
    else
        sum([&](const T* p) RK_LAMBDA_INLINE { return load_first(p, cols - kLast); });
    finish_tile<T, 1, N>(acc, c, 0, cols, e);
}

template <class T, class Index>
static void gather_rows(const SparseRows<T>& x, const Index* columns, long first, long rows, const T* matrix,
                        long matrix_row, long cols, T* c, long c_row, const Finish<T>& finish) {
    const long last = x.offsets[first + rows];
    for (long i = first; i < first + rows; ++i, c += c_row) {
        long from = x.offsets[i];
        const long end = x.offsets[i + 1];
        if (finish.accumulate && from == end) continue;
        bool add_to_c = finish.accumulate;
        do {
            const long count = end - from < kChainDepth ? end - from : kChainDepth;
            for (long j = 0; j < cols; j += kGathered * kLanes<T>)
                gather_vectors<T, Index, kGathered>(
                    x.values + from, columns + from, count, last - from, matrix + j, matrix_row, c + j,
                    cols - j,
                    {finish, finish.bias ? finish.bias + j : nullptr, add_to_c, from + count == end});
            from += count;
            add_to_c = true;
        } while (from < end);
    }
}

template <class T>
static void gather(const SparseRows<T>& x, long first, long rows, const T* matrix, long matrix_row, long cols,
                   T* c, long c_row, const Finish<T>& finish) {
    if (x.columns)
        gather_rows(x, x.columns, first, rows, matrix, matrix_row, cols, c, c_row, finish);
    else
        gather_rows(x, x.wide_columns, first, rows, matrix, matrix_row, cols, c, c_row, finish);
}

}  // namespace rk::RK_ISA
