// The scores of attention from inner products, s_ij = cap(r_ij + bias_ij) with cap(s) = c tanh(s / c), and
// the pairs that have a score.
#pragma once

#include <limits>

#include "base/arrays.hpp"
#include "base/batches.hpp"
#include "base/threads.hpp"
#include "kernels/table.hpp"
#include "walk/factors.hpp"
#include "walk/masks.hpp"

namespace rk {

// The scoring of one item of a batch.
template <class T>
struct ItemScoring {
    Mask mask;
    T cap = 0;
    const T* bias = nullptr;
    long bias_row = 0, bias_col = 0;
    Storage bias_storage = Storage::own;

    // Replaces rows x cols inner products at r, of the pairs from (i0, j0) on, by their scores; slope as in
    // kernels/table.hpp. Returns the mask of these pairs, whose pair (0, 0) is (i0, j0); scores of pairs that
    // it forbids are not valid. It points into `scratch` or into the caller's mask.
    Mask score(T* r, long ld, long i0, long rows, long j0, long cols, T* slope, Arena::Scope& scratch) const {
        Mask here = mask_in(mask, i0, rows, j0, cols);
        if (here.data) here.data += i0 * here.row_stride + j0 * here.col_stride;
        if (!here.band.unlimited()) here.band = {here.band.least + i0 - j0, here.band.greatest + i0 - j0};
        if (bias || cap != T(0)) {
            const Bias<T> terms = bias_of(i0, rows, j0, cols, scratch);
            if (kernels<T>().score(r, ld, rows, cols, terms, cap, slope))
                here = without_forbidden(here, terms, rows, cols, scratch);
        }
        return here;
    }
    // The same for a strip, where forbidden pairs get -inf.
    template <class A>
    Mask apply(const Tile<A>& t, Arena::Scope& scratch) const {
        const Mask here = score(t.r, t.ld, t.i0, t.rows, t.j0, t.cols, nullptr, scratch);
        if (!here.empty())
            kernels<T>().mask_tile(t.r, t.ld, t.rows, t.cols, here, 0, 0,
                                   -std::numeric_limits<T>::infinity());
        return here;
    }

   private:
    // The bias of a tile: in place, or widened from 16 bits. An element that all rows or all columns share is
    // widened once.
    Bias<T> bias_of(long i0, long rows, long j0, long cols, Arena::Scope& scratch) const {
        if (!bias) return {};
        const T* first = advanced(bias, i0 * bias_row + j0 * bias_col, bias_storage);
        if (bias_storage == Storage::own) return {first, bias_row, bias_col};
        const long n = bias_row ? rows : 1, m = bias_col ? cols : 1;
        T* wide = scratch.take<T>(n * m);
        kernels<T>().widen(first, bias_storage, bias_row, bias_col, n, m, wide, m);
        return {wide, bias_row ? m : 0, bias_col ? 1L : 0L};
    }

    static Mask without_forbidden(const Mask& mask, const Bias<T>& bias, long rows, long cols,
                                  Arena::Scope& scratch) {
        auto* allowed = scratch.take<std::uint8_t>(rows * cols);
        for (long i = 0; i < rows; ++i) {
            std::uint8_t* row = allowed + i * cols;
            const T* terms = bias.data + i * bias.row;
            for (long j = 0; j < cols; ++j)
                row[j] = terms[j * bias.col] != -std::numeric_limits<T>::infinity();
            if (!mask.data) continue;
            const std::uint8_t* given = mask.data + i * mask.row_stride;
            for (long j = 0; j < cols; ++j) row[j] &= given[j * mask.col_stride] != 0;
        }
        return {allowed, cols, 1, mask.band};
    }
};

// Everything beyond the relation that makes scores. Without a bias and with a cap of 0, scores are the inner
// products.
template <class T>
struct Scoring {
    Allowed allowed;
    T cap = 0;
    Array<const T> bias = {};

    bool plain() const { return bias.empty() && cap == T(0); }
    // Of a pair, in multiply-adds (base/threads.hpp).
    double work() const { return kWorkOfExp * (cap == T(0) ? 1 : 2); }
    // Of a group of items (base/batches.hpp).
    Scoring of_group(const Groups& groups, long group, long n, long m) const {
        return {allowed.of_group(groups, group, n, m), cap, groups.rows(bias, group)};
    }
    ItemScoring<T> of_item(long item) const {
        ItemScoring<T> one{.mask = allowed.of_item(item), .cap = cap};
        if (bias.empty()) return one;
        one.bias = bias.item(item, 2);
        one.bias_row = bias.step(2), one.bias_col = bias.step(1);
        one.bias_storage = bias.storage;
        return one;
    }
};

// The same as for a mask (masks.hpp), where the rows of the bias must continue too.
template <class T, class... Arrays>
void join_members(Groups& groups, const Scoring<T>& scoring, long n, long m, const Arrays&... arrays) {
    join_members(groups, scoring.allowed, n, m, scoring.bias, arrays...);
}

}  // namespace rk
