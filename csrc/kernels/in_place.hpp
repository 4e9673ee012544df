// Products of a few rows with operands that are read once, in place: packing them would double the traffic
// through the caches, which bounds the speed of one query over many keys.
//
// Invariant: each element is the chain that product and product with accumulate would make of packed operands
// (micro_kernel.hpp), to the last bit. Operands in float16 (B = float16) are widened as they are loaded.
#pragma once

#include "kernels/half.hpp"
#include "kernels/pack.hpp"

namespace rk::RK_ISA {

// The cache lines of rows that will be read later, some 16 KiB ahead, in the order of memory. They are
// prefetched into L2, a few with each block of the present rows: all at once they would wait for each other,
// and the hardware's prefetchers do not follow a tile's jumps between rows.
template <class T, class B>
class LinesAhead {
   public:
    LinesAhead(const B* rows, long row, long depth)
        : width_(depth * (long)sizeof(B)), row_(row * (long)sizeof(B)) {
        if (row_ <= kLine) width_ = row_ = kLine;  // several rows in a line
        at_ = (std::uintptr_t)rows + (std::uintptr_t)((kAhead / width_ + 1) * row_);
    }

    // As many lines as a block of kLanes x kLanes values has.
    RK_INLINE void prefetch_block() {
        constexpr long kBlock = kLanes<T> * kLanes<T> * sizeof(B);
        for (long i = 0; i < kBlock; i += kLine) {
            __builtin_prefetch((const void*)(at_ + (std::uintptr_t)column_), 0, 2);
            column_ += kLine;
            if (column_ >= width_) column_ = 0, at_ += (std::uintptr_t)row_;
        }
    }

   private:
    static constexpr long kLine = 64, kAhead = 16 << 10;
    long width_, row_;  // in bytes
    std::uintptr_t at_;
    long column_ = 0;
};

// R rows against at most kLanes columns, which are rows of b: kLanes x kLanes values of these are transposed
// in registers, and used there.
template <class T, class B, int R, bool distances>
static void few_rows_tile(const T* a, long a_row, long a_depth, const B* b, long b_row, long cols, long depth,
                          T* c, long c_row, const Epilogue<T>& e, LinesAhead<T, B>& ahead) {
    V<T> acc[R][1] = {};
    for (long k0 = 0; k0 < depth; k0 += kLanes<T>, b += kLanes<T>) {
        const long n = depth - k0 < kLanes<T> ? depth - k0 : (long)kLanes<T>;
        ahead.prefetch_block();
        V<T> v[kLanes<T>];
        if (n == kLanes<T> && cols >= kLanes<T>) {
#pragma GCC unroll 16
            for (int j = 0; j < kLanes<T>; ++j) v[j] = load(b + j * b_row);
        } else {
#pragma GCC unroll 16
            for (int j = 0; j < kLanes<T>; ++j) v[j] = j < cols ? load_first(b + j * b_row, n) : V<T>{};
        }
        transpose_registers<T>(v);
#pragma GCC unroll 16
        for (int k = 0; k < kLanes<T>; ++k) {
            if (k >= n) break;
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r)
                acc[r][0] =
                    chained<T, distances>(broadcast<T>(a[r * a_row + (k0 + k) * a_depth]), v[k], acc[r][0]);
        }
    }
    finish_tile<T, R, 1>(acc, c, c_row, cols, e);
}

template <class T, class B, int R>
static void few_rows_strip(const T* a, long a_row, long a_depth, const B* b, long b_row, long rows, long cols,
                           long depth, T* c, long c_row, const Finish<T>& finish) {
    if constexpr (R > 1)
        if (rows < R)
            return few_rows_strip<T, B, R - 1>(a, a_row, a_depth, b, b_row, rows, cols, depth, c, c_row,
                                               finish);
    LinesAhead<T, B> ahead(b, b_row, depth);
    for (long j = 0; j < cols; j += kLanes<T>) {
        const long left = cols - j;
        for (long k = 0; k < depth; k += kChainDepth) {
            const long block = depth - k < kChainDepth ? depth - k : kChainDepth;
            const Epilogue<T> e{finish, finish.bias ? finish.bias + j : nullptr, finish.accumulate || k > 0,
                                k + block == depth};
            const auto tile = finish.distances ? few_rows_tile<T, B, R, true> : few_rows_tile<T, B, R, false>;
            tile(a + k * a_depth, a_row, a_depth, b + j * b_row + k, b_row, left, block, c + j, c_row, e,
                 ahead);
        }
    }
}

// f(b as it is stored): in float16, or in T.
template <class T, class F>
RK_INLINE void as_stored(const T* b, Storage storage, const F& f) {
    if constexpr (std::is_same_v<T, float>)
        if (storage == Storage::float16) return f((const float16*)b);
    f(b);
}

template <class T>
static void product_of_rows(const T* a, long a_row, long a_depth, const T* b, Storage storage, long b_row,
                            long rows, long cols, long depth, T* c, long c_row, const Finish<T>& finish) {
    as_stored(b, storage, [&]<class B>(const B* stored) RK_LAMBDA_INLINE {
        for (; rows > 0; rows -= kFewRows, a += kFewRows * a_row, c += kFewRows * c_row)
            few_rows_strip<T, B, kFewRows>(a, a_row, a_depth, stored, b_row, rows, cols, depth, c, c_row,
                                           finish);
    });
}

// A group of G vectors of columns for one row: enough chains to hide the latency of the multiply-add. Rows of
// values are prefetched 16 KiB and at least 16 rows ahead: far apart, as those of a wide matrix are, they are
// in other pages, where the hardware's prefetchers stop.
template <class T, class B, int G, bool whole>
static void weighted_group(const T* p, const B* values, long values_row, long count, long width, T* acc,
                           const Mask& mask, long i, long j0) {
    constexpr long kAhead = 16 << 10, kRowsAhead = 16, kLine = 64 / sizeof(B);
    const std::uintptr_t stride = (std::uintptr_t)(values_row) * sizeof(B);
    const std::uintptr_t ahead = kRowsAhead * stride > kAhead ? kRowsAhead * stride : kAhead;
    V<T> sum[G];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) sum[g] = V<T>{};
    const bool all = mask.empty();
    for (long j = 0; j < count; ++j) {
        if (!all && !mask.allows(i, j0 + j)) continue;
        const V<T> weight = broadcast<T>(p[j]);
        const B* row = values + j * values_row;
#pragma GCC unroll 8
        for (long l = 0; l < G * kLanes<T>; l += kLine)
            __builtin_prefetch((const void*)((std::uintptr_t)(row + l) + ahead), 0, 2);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            const long left = width - g * kLanes<T>;
            if (whole)
                sum[g] = fma(weight, load(row + g * kLanes<T>), sum[g]);
            else if (left > 0)
                sum[g] = fma(weight, load_first(row + g * kLanes<T>, left), sum[g]);
        }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
        const long left = width - g * kLanes<T>;
        if (left > 0) store_first(acc + g * kLanes<T>, load_first(acc + g * kLanes<T>, left) + sum[g], left);
    }
}

template <class T>
static void weighted_rows(const T* p, long p_row, const T* values, Storage storage, long values_row,
                          long rows, long count, long width, T* acc, long acc_row, const Mask& mask, long i0,
                          long j0) {
    constexpr int kWide = 8, kGroup = 4;
    as_stored(values, storage, [&]<class B>(const B* stored) RK_LAMBDA_INLINE {
        for (long i = 0; i < rows; ++i)
            for (long c = 0; c < width;) {
                const long left = width - c;
                const bool wide = left >= kWide * kLanes<T>;
                const auto group = wide                         ? weighted_group<T, B, kWide, true>
                                   : left >= kGroup * kLanes<T> ? weighted_group<T, B, kGroup, true>
                                                                : weighted_group<T, B, kGroup, false>;
                group(p + i * p_row, stored + c, values_row, count, left, acc + i * acc_row + c, mask, i0 + i,
                      j0);
                c += (wide ? kWide : kGroup) * kLanes<T>;
            }
    });
}

}  // namespace rk::RK_ISA
