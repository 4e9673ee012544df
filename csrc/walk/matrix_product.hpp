// Products of matrices in the caller's memory. B is packed a block at a time, just before use: for matrices
// that are used once, such as the weights of a training step, packing all of B first would be one more pass
// over memory, which costs more than the products themselves if there are few rows.
//
// Order of sums: blocks of kChainDepth depths in order, each one chain, as Products::product has them. An
// element has one owner, so the number of threads changes nothing.
#pragma once

#include <algorithm>
#include <numeric>

#include "base/arrays.hpp"
#include "base/threads.hpp"
#include "kernels/table.hpp"

namespace rk {

inline constexpr long kShallow = 64;  // products of fewer depths are bound by writing C

// Row stride of an internal block of rows: whole cache lines, and never a multiple of 4096 bytes, at
// which the rows of a micro-tile would compete for the same few sets of L1.
template <class T>
long padded_row(long width) {
    const long line = 64 / long(sizeof(T));
    const long row = round_up(width, line);
    return row * long(sizeof(T)) % 4096 == 0 ? row + line : row;
}

template <class T>
struct Strided {
    T* data;
    long row, col;  // strides

    Strided transposed() const { return {data, col, row}; }
};

// multiply for a few rows, which read B once: in place.
template <class T>
void multiply_in_place(const Strided<const T>& a, const Strided<const T>& b, long rows, long cols, long depth,
                       T* c, long c_row, const T* bias, T floor) {
    const Kernels<T>& k = kernels<T>();
    if (b.row == 1)
        return k.product_of_rows(a.data, a.row, a.col, b.data, Storage::own, b.col, rows, cols, depth, c,
                                 c_row, {.floor = floor});
    for (long i = 0; i < rows; ++i) {
        T* to = c + i * c_row;
        std::fill_n(to, cols, T(0));
        for (long d = 0; d < depth; d += kChainDepth)
            k.weighted_rows(a.data + i * a.row + d, a.row, b.data + d * b.row, Storage::own, b.row, 1,
                            std::min(kChainDepth, depth - d), cols, to, cols, Mask{}, 0, 0);
        for (long j = 0; j < cols; ++j) {
            const T sum = to[j] + (bias ? bias[j] : T(0));
            to[j] = sum < floor ? floor : sum;
        }
    }
}

// C <- A B + bias for C of rows x cols, not below `floor`. bias is contiguous, or null. done(i, n, j, m) is
// called for each finished block of n rows and m columns of C, on the thread that computed it.
template <class T, class Done>
void multiply(const Team& team, const Strided<const T>& a, const Strided<const T>& b, long rows, long cols,
              long depth, T* c, long c_row, const T* bias, T floor, const Done& done) {
    constexpr long kStrip = 96, kOneStrip = 192;  // rows of A that stay in L2 while columns of B pass by
    constexpr long kFewBytes = 128 << 10;         // packed bytes of B that stay in L2 beside them
    constexpr long kManyBytes = 1 << 20;          // packed bytes of B that several strips read from L3
    constexpr long kAlone = 1L << 21;             // multiply-adds, 50 us: waking a thread would cost more
    if (rows == 0 || cols == 0) return;
    if (depth == 0) {  // an empty product is not written
        for (long i = 0; i < rows; ++i)
            for (long j = 0; j < cols; ++j) c[i * c_row + j] = bias ? std::max(floor, bias[j]) : T(0);
        return done(0, rows, 0, cols);
    }
    const Kernels<T>& k = kernels<T>();
    const long block = std::min(depth, kChainDepth);
    const int threads = rows * cols * depth < kAlone ? 1 : team.size();
    const auto columns_in = [&](long bytes) {
        return std::max(bytes / long(sizeof(T)) / block / k.nr * k.nr, long(k.nr));
    };
    const bool one_strip = rows <= kOneStrip && block >= kShallow;
    // Columns of a task, and of those the columns that are packed at a time.
    const long share = round_up(std::max(ceil_div(cols, threads), std::min(cols, 128L)), k.nr);
    const long group = one_strip ? share : std::min(share, columns_in(kManyBytes));
    const long packed = one_strip ? std::min(group, columns_in(kFewBytes)) : group;
    // For a shallow product whole rows of C are written one after the other.
    const long strip = round_up(one_strip          ? rows
                                : block < kShallow ? std::clamp(24576 / group, 1L, kStrip)
                                                   : kStrip,
                                k.mr);
    // Parts of the rows, if there are too few groups of columns for the threads.
    const long groups = ceil_div(cols, group);
    const long wanted = threads > 1 && !one_strip ? ceil_div(2L * threads, groups) : 1;
    const long part = round_up(ceil_div(rows, std::clamp(wanted, 1L, std::max(rows / kStrip, 1L))), k.mr);
    const long parts = ceil_div(rows, part);
    const bool copies = rows > 2 * k.mr && cols >= 4 * k.nr && block >= kShallow;
    const long copied_row = padded_row<T>(block), copied_col = padded_row<T>(strip);

    if (rows <= kFewRows && depth >= kShallow && ((b.row == 1 && !bias) || (b.col == 1 && a.col == 1)))
        return Team(threads).for_each(groups, [&](long task) {
            const long j = task * group, m = std::min(group, cols - j);
            multiply_in_place(a, {b.data + j * b.col, b.row, b.col}, rows, m, depth, c + j, c_row,
                              bias ? bias + j : nullptr, floor);
            done(0, rows, j, m);
        });
    if (depth == 1 && a.row == 1 && b.col == 1 && !bias && floor == Finish<T>{}.floor) {
        // Rows of one entry: whole rows of C are written, not tiles.
        const Buffer<std::int32_t> columns(rows);
        const Buffer<std::int64_t> offsets(rows + 1);
        std::fill_n(columns.get(), rows, 0);
        std::iota(offsets.get(), offsets.get() + rows + 1, std::int64_t(0));
        k.gather({a.data, columns.get(), nullptr, offsets.get(), rows}, 0, rows, b.data, cols, cols, c, c_row,
                 {});
        return done(0, rows, 0, cols);
    }
    Team(threads).for_each(groups * parts, [&](long task) {
        const long j0 = task / parts * group, j1 = std::min(j0 + group, cols);
        const long i0 = task % parts * part, i1 = std::min(i0 + part, rows);
        Arena::Scope scratch;
        T* panels = scratch.take<T>(packed * block);
        T* rows_of_a = copies ? scratch.take<T>(std::max(strip * copied_row, block * copied_col)) : nullptr;
        T* padded_bias = nullptr;
        if (bias) {
            padded_bias = scratch.take<T>(round_up(j1 - j0, k.nr));
            std::fill_n(std::copy_n(bias + j0, j1 - j0, padded_bias), round_up(j1 - j0, k.nr) - (j1 - j0),
                        T(0));
        }
        for (long d = 0; d < depth; d += block) {
            poll();
            const long n = std::min(block, depth - d);
            const bool last = d + n == depth;
            // Rows of A without gaps: rows a multiple of 4096 bytes apart would compete for the same sets.
            const auto compact = [&](long i, long count) -> Strided<const T> {
                const Strided<const T> from{a.data + i * a.row + d * a.col, a.row, a.col};
                if (!copies || (a.col != 1 && a.row != 1)) return from;
                if (a.col == 1) {
                    k.copy(from.data, a.row, count, n, rows_of_a, copied_row, false);
                    return {rows_of_a, copied_row, 1};
                }
                k.copy(from.data, a.col, n, count, rows_of_a, copied_col, false);
                return {rows_of_a, 1, copied_col};
            };
            const auto pack = [&](long j, long m) {
                k.pack(b.data + d * b.row + j * b.col, b.row, b.col, n, m, panels, n * k.nr);
            };
            const auto product = [&](const Strided<const T>& strip_of_a, long i, long count, long j, long m) {
                Finish<T> finish{.accumulate = d > 0, .fetch = block >= 8};
                if (last) {
                    finish.bias = bias ? padded_bias + (j - j0) : nullptr;
                    finish.floor = floor;
                }
                k.product(strip_of_a.data, strip_of_a.row, strip_of_a.col, panels, n * k.nr, count, m, n,
                          c + i * c_row + j, c_row, finish);
                if (last) done(i, count, j, m);
            };
            if (one_strip) {
                const Strided<const T> strip_of_a = compact(i0, i1 - i0);
                for (long j = j0; j < j1; j += packed) {
                    const long m = std::min(packed, j1 - j);
                    pack(j, m);
                    product(strip_of_a, i0, i1 - i0, j, m);
                }
            } else {
                pack(j0, j1 - j0);
                for (long i = i0; i < i1; i += strip) {
                    const long count = std::min(strip, i1 - i);
                    product(compact(i, count), i, count, j0, j1 - j0);
                }
            }
        }
    });
}

}  // namespace rk
