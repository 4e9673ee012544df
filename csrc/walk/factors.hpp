// The factors of the inner products of a relation: rows read through feature maps, and columns packed tile
// by tile. Strides of the caller's arrays end here.
#pragma once

#include <algorithm>
#include <cstddef>

#include "base/arrays.hpp"
#include "base/threads.hpp"
#include "walk/arithmetic.hpp"
#include "walk/mlp.hpp"

namespace rk {

inline constexpr long kTileColumns = 256;
// Columns [begin, end) of a tile.
struct Span {
    long begin, end;
    bool empty() const { return begin >= end; }
};

// Rows of a matrix, with the feature map that is applied to them, if any.
template <class T>
struct Points {
    const T* data;
    long count, dim;
    long row, col;  // strides
    const Mlp<T>* map = nullptr;
    Storage storage = Storage::own;

    long width() const { return map ? map->outputs() : dim; }
    // True if the features are the points, in T.
    bool are_features() const { return !map && storage == Storage::own; }
    const T* at(long i) const { return advanced(data, i * row, storage); }
    Points sub(long first, long n) const { return {at(first), n, dim, row, col, map, storage}; }
};

template <class T>
Points<T> points_of(const Array<const T>& a, long item, const Mlp<T>* map) {
    return {a.item(item, 2), a.dim(2), a.dim(1), a.step(2), a.step(1), map, a.storage};
}

// Inner product of point i, as it is in memory, and `values`: four chains of double.
template <class T>
double product_with(const Points<T>& p, long i, const T* values, long step = 1) {
    const T* at = p.at(i);
    const auto term = [&](long c) { return double(at[c * p.col]) * double(values[c * step]); };
    double sum[4] = {};  // four chains, as one would wait for each addition
    long c = 0;
    for (; c + 4 <= p.dim; c += 4)
        for (long s = 0; s < 4; ++s) sum[s] += term(c + s);
    for (; c < p.dim; ++c) sum[0] += term(c);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Features of points in any strides: computed into `space`, or the points themselves. Points of 16 bits are
// widened, before a map a block of rows at a time.
template <class A, class T = typename A::Value>
Points<T> features_in(const Points<T>& p, T* space, long space_row) {
    if (p.are_features()) return p;
    if (!p.map) {
        kernels<T>().widen(p.data, p.storage, p.row, p.col, p.count, p.dim, space, space_row);
    } else if (p.storage == Storage::own) {
        p.map->template forward<A>(p.data, p.row, p.col, p.count, space, space_row);
    } else {
        Arena::Scope scratch;
        T* block = scratch.take<T>(std::min(p.count, kRowBlock) * p.dim);
        for (long i = 0; i < p.count; i += kRowBlock) {
            const long rows = std::min(p.count - i, kRowBlock);
            kernels<T>().widen(p.at(i), p.storage, p.row, p.col, rows, p.dim, block, p.dim);
            p.map->template forward<A>(block, p.dim, 1, rows, space + i * space_row, space_row);
        }
    }
    return {space, p.count, p.width(), space_row, 1};
}

// Left factors: heads groups of features of each row.
template <class A>
struct Rows {
    const typename A::Factor* data;
    long row, col;     // strides
    long head_stride;  // from a head's features to the next one's

    const typename A::Factor* at(long i, long head) const { return data + i * row + head * head_stride; }
};

// True if the rows of factors are the caller's points themselves: they need no space.
template <class A>
bool factors_are_points(const Points<typename A::Value>& p) {
    return !A::kConverts && p.are_features();
}

template <class A>
long row_of_factors(long width, long heads) {
    return heads * A::padded(width / heads);
}

// The rows in `space` (row_of_factors values a row), or the points themselves.
template <class A>
Rows<A> rows_in(const Points<typename A::Value>& p, long heads, typename A::Factor* space) {
    using T = typename A::Value;
    const long width = p.width(), depth = width / heads, row = row_of_factors<A>(width, heads);
    if (factors_are_points<A>(p))
        return {static_cast<const typename A::Factor*>(static_cast<const void*>(p.data)), p.row, p.col,
                depth * p.col};
    if constexpr (A::kConverts) {
        Arena::Scope scratch;
        T* own = p.are_features() ? nullptr : scratch.take<T>(p.count * width);
        const Points<T> f = features_in<A>(p, own, width);
        for (long h = 0; h < heads; ++h)
            A::convert(f.data + h * depth * f.col, f.row, f.col, f.count, depth, space + h * A::padded(depth),
                       row);
    } else {
        features_in<A>(p, space, row);
    }
    return {space, row, 1, A::padded(depth)};
}

enum class Role { columns, values };

// The part of an operand in a tile: packed, or in place if there are only a few rows.
template <class A>
struct TileOperand {
    using T = typename A::Value;
    using Factor = typename A::Factor;
    const Factor* data;
    bool packed;
    Role role;
    long stride;                     // of panels, or of rows in place
    Storage storage = Storage::own;  // of values in place: those of factors, or of 16 bits

    // Without the first `column` columns of the tile, a whole number of panels.
    TileOperand from(long column) const {
        TileOperand o = *this;
        o.data = advanced(data,
                          !packed                 ? column * stride
                          : role == Role::columns ? column / A::nr() * stride
                                                  : column * A::nr(),
                          storage);
        return o;
    }
    // C <- products of rows and columns (kernels/table.hpp), with the columns' features from `first` on.
    void product(const Factor* a, long a_row, long a_depth, long first, long rows, long cols, long depth,
                 T* c, long c_row, const Finish<T>& finish) const {
        if (!packed)
            return A::product_of_rows(a, a_row, a_depth, advanced(data, first, storage), storage, stride,
                                      rows, cols, depth, c, c_row, finish);
        A::product(a, a_row, a_depth, data + first * A::nr(), stride, rows, cols, depth, c, c_row, finish);
    }
};

// Columns of the relation, packed tile by tile: as columns to multiply with (depth = features, head by head),
// or as values to sum with weights from a tile of R (depth = the columns of the tile).
template <class A>
struct Operand {
    using T = typename A::Value;
    using Factor = typename A::Factor;
    static constexpr Role columns = Role::columns, values = Role::values;
    Points<T> points;
    Role role;
    long heads = 1;

    long depth() const { return role == columns ? row_of_factors<A>(points.width(), heads) : kTileColumns; }
    // True if only a few rows use the columns: reading them once in place costs less than packing them.
    bool read_in_place(long rows) const {
        return !points.map && points.col == 1 && rows <= kFewRows && A::reads_in_place(points.storage) &&
               (heads == 1 || depth() == points.dim);  // heads that begin where they do in packed columns
    }
    long tile_size() const {
        return depth() * (role == columns ? kTileColumns : round_up(points.width(), A::nr()));
    }
    long panel_stride() const { return A::nr() * depth(); }
    // The part of a tile that begins at column j0: packed in `tile`, or in place.
    TileOperand<A> in_tile(const Factor* tile, bool in_place, long j0) const {
        if (in_place)
            return {static_cast<const Factor*>(static_cast<const void*>(points.at(j0))), false, role,
                    points.row, A::kConverts ? Storage::own : points.storage};
        return {tile, true, role, panel_stride()};
    }

    void pack(long j0, long cols, Factor* tile) const {
        Arena::Scope scratch;
        const long width = points.width();
        if (width == 0) return;
        T* space = points.are_features() ? nullptr : scratch.take<T>(cols * width);
        const Points<T> f = features_in<A>(points.sub(j0, cols), space, width);
        if (role == values) return A::pack(f.data, f.row, f.col, cols, width, tile, panel_stride());
        const long each = width / heads;
        for (long h = 0; h < heads; ++h)
            A::pack(f.data + h * each * f.col, f.col, f.row, each, cols, tile + h * A::padded(each) * A::nr(),
                    panel_stride());
    }
};

// A strip of a tile of R, with the operands it was made from, in the order given to the walk.
template <class A>
struct Tile {
    typename A::Value* r;
    long ld;
    long i0, rows, j0, cols;
    long first;  // place of the strip in its block of rows: consumers' states are for whole blocks
    long head;
    const TileOperand<A>* operands;
    long stride = 0;  // from a product to the next, for consumers that receive them together

    // The tile of product p.
    Tile of_product(long p) const {
        Tile t = *this;
        t.r += p * stride;
        t.head = p;
        return t;
    }
};

// Panels, in scratch memory, of values that are read in place by an arithmetic that converts.
template <class A>
const typename A::Factor* packed_values(const typename A::Factor* values, long row, long count, long width,
                                        Arena::Scope& scratch, long& panel_stride) {
    using T = typename A::Value;
    T* wide = scratch.take<T>(count * width);
    const T* stored = static_cast<const T*>(static_cast<const void*>(values));
    kernels<T>().widen(stored, Storage::bfloat16, row, 1, count, width, wide, width);
    panel_stride = A::nr() * A::padded(count);
    auto* panels = scratch.take<typename A::Factor>(ceil_div(width, A::nr()) * panel_stride);
    A::pack(wide, width, 1, count, width, panels, panel_stride);
    return panels;
}

// acc(i, :) += sum_j p(i, j) values(j, :) for a strip p and an operand of values. Pairs that the mask forbids
// contribute nothing, even where their values are NaN or infinite; its pair (0, 0) is the first of the strip.
// acc_row: `width`, except in full precision.
template <class A>
void add_weighted(const typename A::Value* p, long ld, const Tile<A>& t, std::size_t operand, long width,
                  const Mask& mask, typename A::Value* acc, long acc_row) {
    using Factor = typename A::Factor;
    const TileOperand<A>& o = t.operands[operand];
    const Factor* values = o.data;
    if constexpr (!A::kConverts)
        if (!o.packed)
            return kernels<typename A::Value>().weighted_rows(p, ld, values, o.storage, o.stride, t.rows,
                                                              t.cols, width, acc, acc_row, mask, 0, 0);
    long stride = o.stride;
    Arena::Scope scratch;
    const Factor* a;
    if constexpr (A::kConverts) {
        Factor* space = scratch.take<Factor>(t.rows * A::padded(t.cols));
        A::convert(p, ld, 1, t.rows, t.cols, space, A::padded(t.cols));
        a = space;
        ld = A::padded(t.cols);
        if (!o.packed && mask.empty())
            return A::weighted_rows(a, ld, values, o.stride, t.rows, t.cols, width, acc);
        // What the mask forbids may not be multiplied; the products that see to it take panels.
        if (!o.packed) values = packed_values<A>(values, stride, t.cols, width, scratch, stride);
    } else {
        a = p;
    }
    bool clean = mask.empty();
    for (long j = 0; !clean && j < width; j += A::nr())
        if (!A::all_finite(values + j / A::nr() * stride, A::padded(t.cols) * A::nr()))
            return A::masked_product(a, ld, values, stride, t.rows, width, t.cols, acc, acc_row, mask, 0, 0);
    A::product(a, ld, 1, values, stride, t.rows, width, t.cols, acc, acc_row, {.accumulate = true});
}

}  // namespace rk
