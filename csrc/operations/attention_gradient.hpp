// Gradients of attention (Dao et al. 2022, FlashAttention, algorithm 4), on features F, G and values v:
//
//   S = cap(R + bias),  P = exp(S - lse),  dP_ij = <dO_i, v_j>,  D_i = <dO_i, O_i> - dlse_i
//   dR = P * (dP - D) * cap'(R + bias), which is also the gradient of the bias
//   dF = scale dR G,   dG = scale dR^T F,    dv = P^T dO,    dscale = sum_i <f_i, (dR G)_i>
//
// and of the scores A = P alone, where dP is given and D_i = sum_j A_ij dA_ij.
//
// R is recomputed from F and G, once: five products of n m d multiply-adds. Tiles of kRows queries and
// kColumns keys add to the gradients of both sides. The keys are cut into at most kLanes lanes, each a range
// of blocks of them. A lane is the only one that adds to dG, to dv and to the bias of its keys, and adds dF,
// and terms that all keys share, to its own partial sums.
//
// Order of sums (invariant): within a tile as the kernels fix it; the tiles of a lane in order; lanes merged
// in order. Lanes depend on m alone, so that dF of a query depends neither on threads nor on other queries.
//
// Memory: partial sums and packed blocks of queries for a super-block of rows, 16 MiB each.
#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/pairs.hpp"
#include "walk/scoring.hpp"

namespace rk {

// Gradients to add to, row-major without gaps. Of the features before they are multiplied by the scale.
// rows: row sums of the gradient of the bias; may be null.
template <class T>
struct Sums {
    T *queries, *keys, *values, *rows = nullptr;
};

// A value for each pair, of any strides.
template <class T>
struct PairMatrix {
    T* data = nullptr;
    long row = 0, col = 0;

    T* at(long i, long j) const { return data + i * row + j * col; }
    void copy(long i0, long n, long j0, long m, std::remove_const_t<T>* to, long ld) const {
        for (long i = 0; i < n; ++i)
            for (long j = 0; j < m; ++j) to[i * ld + j] = *at(i0 + i, j0 + j);
    }
};

template <class T>
PairMatrix<T> pair_matrix(const Array<T>& a, long item) {
    return a.empty() ? PairMatrix<T>{} : PairMatrix<T>{a.item(item, 2), a.step(2), a.step(1)};
}

// The gradients of one item of a batch. Of attention: `of_out` is dO. Of its scores: `of_scores` is dA, and v
// and dO have no columns.
template <class T>
struct AttentionGradient {
    Points<T> f, g, v, of_out;
    const T *lse, *delta;
    ItemScoring<T> scoring;
    T scale;
    PairMatrix<const T> of_scores;
    PairMatrix<T> to_bias;  // a null pointer: not computed
    const Kernels<T>& k = kernels<T>();

    static constexpr long kRows = 128, kColumns = 128;  // of a tile: with its operands, 288 KiB for 64 floats
    static constexpr long kLanes = 32;

    long width() const { return f.dim; }
    long values_width() const { return v.dim; }
    // Blocks of a side, packed.
    long size_of_queries() const {
        return kRows * (round_up(width(), k.nr) + round_up(values_width(), k.nr));
    }
    long size_of_keys() const {
        return round_up(kColumns, k.nr) * (width() + values_width()) + kColumns * round_up(width(), k.nr);
    }
    // F and dO as values.
    void pack_queries(long i, long n, T* to) const {
        pack_values(f, i, n, to);
        if (values_width() > 0) pack_values(of_out, i, n, to + kRows * round_up(width(), k.nr));
    }
    // G and v as columns, and G as values.
    void pack_keys(long j, long m, T* to) const {
        k.pack(g.at(j), g.col, g.row, width(), m, to, k.nr * width());
        to += round_up(kColumns, k.nr) * width();
        if (values_width() > 0) k.pack(v.at(j), v.col, v.row, values_width(), m, to, k.nr * values_width());
        pack_values(g, j, m, to + round_up(kColumns, k.nr) * values_width());
    }
    void pack_values(const Points<T>& p, long first, long count, T* to) const {
        k.pack(p.at(first), p.row, p.col, count, p.dim, to, count * k.nr);
    }

    // Adds what queries [i, i + n) and keys [j, j + m) give each other. `sums` are those of query i and of
    // key j.
    void tile(long i, long n, long j, long m, const T* queries, const T* keys, const Sums<T>& sums) const {
        if (band_columns(scoring.mask.band, i, n, j, m).empty()) return;
        poll();
        constexpr long ld = kColumns + 16;  // rows, read as columns too, would otherwise share sets of L1
        Arena::Scope scratch;
        T *p = scratch.take<T>(n * ld), *dp = scratch.take<T>(n * ld);
        T* slope = scoring.cap == T(0) ? nullptr : scratch.take<T>(n * ld);
        const T* v_columns = keys + round_up(kColumns, k.nr) * width();
        const T* g_values = v_columns + round_up(kColumns, k.nr) * values_width();
        k.product(f.at(i), f.row, f.col, keys, k.nr * width(), n, m, width(), p, ld, {.scale = scale});
        if (of_scores.data)
            of_scores.copy(i, n, j, m, dp, ld);
        else if (values_width() == 0)  // an empty product is not written
            std::fill_n(dp, n * ld, T(0));
        else
            k.product(of_out.at(i), of_out.row, of_out.col, v_columns, k.nr * values_width(), n, m,
                      values_width(), dp, ld, {});
        const Mask here = scoring.score(p, ld, i, n, j, m, slope, scratch);
        k.softmax_vjp(p, dp, slope, ld, n, m, lse + i, delta + i);
        if (!here.empty()) {
            k.mask_tile(p, ld, n, m, here, 0, 0, T(0));
            k.mask_tile(dp, ld, n, m, here, 0, 0, T(0));
        }
        add(dp, ld, 1, n, m, g_values, width(), here, sums.queries);
        add(dp, 1, ld, m, n, queries, width(), transposed(here), sums.keys);
        if (values_width() > 0)
            add(p, 1, ld, m, n, queries + kRows * round_up(width(), k.nr), values_width(), transposed(here),
                sums.values);
        if (to_bias.data) add_to_bias(dp, ld, i, n, j, m, sums.rows);
    }

    // The gradient of the bias of a tile. If all columns share a term, it is added to `row_sums`, a part of
    // the lane's.
    void add_to_bias(const T* dp, long ld, long i, long n, long j, long m, T* row_sums) const {
        if (to_bias.col == 0) {
            std::array<T, kColumns> ones;
            ones.fill(T(1));
            return k.link_dot(Link::identity, dp, ld, n, m, ones.data(), row_sums);
        }
        if (to_bias.row == 0) return k.add_column_sums(dp, ld, n, m, to_bias.at(0, j));
        for (long r = 0; r < n; ++r) k.add(to_bias.at(i + r, j), dp + r * ld, m);
    }

    // to(r, :) += sum_c weights(r, c) values(c, :). Pairs that the mask forbids contribute nothing, even
    // where their values are NaN or infinite.
    void add(const T* weights, long row, long col, long rows, long count, const T* values, long columns,
             const Mask& allowed, T* to) const {
        bool clean = allowed.empty();
        for (long c = 0; !clean; c += k.nr) {
            if (c >= columns)
                clean = true;
            else if (!k.all_finite(values + c * count, count * k.nr))
                break;
        }
        if (clean)
            return k.product(weights, row, col, values, count * k.nr, rows, columns, count, to, columns,
                             {.accumulate = true});
        Arena::Scope scratch;
        if (col != 1) {
            T* turned = scratch.take<T>(rows * count);
            k.transpose(weights, col, count, rows, turned, count, false);
            weights = turned;
            row = count;
        }
        k.masked_product(weights, row, values, count * k.nr, rows, columns, count, to, columns, allowed, 0,
                         0);
    }

    // The gradients of the features, of the scale (null: not computed) and of the values.
    void run(const Team& team, const Sums<T>& to, double* parts) const {
        const long n = f.count, m = g.count;
        std::fill_n(to.queries, n * width(), T(0));
        std::fill_n(to.keys, m * width(), T(0));
        std::fill_n(to.values, m * values_width(), T(0));
        add_tiles(team, to);
        // A row with nothing to attend to has no part, even where its features are NaN or infinite.
        for (long i = 0; parts && i < n; ++i)
            parts[i] = lse[i] == -std::numeric_limits<T>::infinity()
                           ? 0.0
                           : product_with(f, i, to.queries + i * width());
        for (long i = 0; i < n * width(); ++i) to.queries[i] *= scale;
        for (long i = 0; i < m * width(); ++i) to.keys[i] *= scale;
    }

    // All tiles. `to` holds zeros.
    void add_tiles(const Team& team, const Sums<T>& to) const {
        // Few keys are cut finer, so that there is work for several threads.
        const long each = std::min(kColumns, std::max(round_up(ceil_div(g.count, 8), k.nr), 32L));
        const long key_blocks = ceil_div(g.count, each);
        const long of_lane = std::max(ceil_div(key_blocks, kLanes), 1L);
        const long lanes = ceil_div(key_blocks, of_lane);
        const long fit =
            kWorkspace / long(sizeof(T)) / std::max(std::max(lanes * width() * kRows, size_of_queries()), 1L);
        const long most = std::min(std::max(fit, 1L) * kRows, round_up(f.count, kRows));
        const Buffer<T> packed(most / kRows * size_of_queries()), partials(lanes * most * width());
        const Buffer<T> row_sums(to_bias.data && to_bias.col == 0 ? lanes * most : 0);
        for (long first = 0; first < f.count; first += most) {
            const long rows = std::min(most, f.count - first), blocks = ceil_div(rows, kRows);
            const auto of_block = [&](long b) { return std::min(kRows, rows - b * kRows); };
            team.for_each(blocks, [&](long b) {
                pack_queries(first + b * kRows, of_block(b), packed.get() + b * size_of_queries());
            });
            team.for_each(lanes, [&](long lane) {
                T* own = partials.get() + lane * most * width();
                std::fill_n(own, rows * width(), T(0));
                T* of_rows = row_sums.get() ? row_sums.get() + lane * most : nullptr;
                if (of_rows) std::fill_n(of_rows, rows, T(0));
                Arena::Scope scratch;
                T* keys = scratch.take<T>(size_of_keys());
                const long end = std::min((lane + 1) * of_lane, key_blocks);
                for (long block = lane * of_lane; block < end; ++block) {
                    const long j = block * each, m = std::min(each, g.count - j);
                    pack_keys(j, m, keys);
                    for (long b = 0; b < blocks; ++b)
                        tile(first + b * kRows, of_block(b), j, m, packed.get() + b * size_of_queries(), keys,
                             {own + b * kRows * width(), to.keys + j * width(),
                              to.values + j * values_width(), of_rows ? of_rows + b * kRows : nullptr});
                }
            });
            // The lanes in order; the threads take blocks of rows.
            team.for_each(blocks, [&](long b) {
                for (long lane = 0; lane < lanes; ++lane)
                    k.add(to.queries + (first + b * kRows) * width(),
                          partials.get() + (lane * most + b * kRows) * width(), of_block(b) * width());
            });
            for (long lane = 0; row_sums.get() && lane < lanes; ++lane)
                for (long i = 0; i < rows; ++i) *to_bias.at(first + i, 0) += row_sums.get()[lane * most + i];
        }
    }
};

// The gradient of the bias, of zeros, repeated over the pairs of all items.
template <class T>
Array<T> cleared(const Array<T>& to_bias, const Relation<T>& features) {
    if (to_bias.empty()) return to_bias;
    std::vector<long> shape = features.rows.shape;
    shape.back() = features.columns.dim(2);
    std::fill_n(to_bias.data, to_bias.batch(0), T(0));
    return to_bias.repeated(shape);
}

}  // namespace rk
