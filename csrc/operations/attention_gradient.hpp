// Gradients of attention (Dao et al. 2022, FlashAttention, algorithm 4), on features F, G and values v:
//
//   S = cap(R + bias),  P = exp(S - lse),  dP_ij = <dO_i, v_j>,  D_i = <dO_i, O_i> - dlse_i
//   dR = P * (dP - D) * cap'(R + bias), which is also the gradient of the bias
//   dF = scale dR G,   dG = scale dR^T F,    dv = P^T dO,    dscale = sum_i <f_i, (dR G)_i>
//
// and of the scores A = P alone, where dP is given and D_i = sum_j A_ij dA_ij.
//
// R is recomputed from F and G, once: five products of n m d multiply-adds (walk/lanes.hpp). Members of a
// group share the keys: dG and dv are sums over all of them. Each part of the members has its own, unless the
// gradient of a bias is computed, which members may share too: there is one part then.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/lanes.hpp"
#include "walk/scoring.hpp"

namespace rk {

// A value for each pair, with any strides.
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

// The queries of one member of a group, and where their gradients go. Of attention: `of_out` is dO. Of its
// scores: `of_scores` is dA, and dO has no columns.
template <class T>
struct Queries {
    Points<T> f, of_out;
    const T *lse, *delta;
    ItemScoring<T> scoring;
    T* to;                          // dF, row-major without gaps
    double* scale_parts = nullptr;  // null: not computed
    PairMatrix<const T> of_scores = {};
    PairMatrix<T> to_bias = {};  // a null pointer: not computed
    T* bias_rows = nullptr;      // row sums of the gradient of a bias whose columns share their terms
};

// The gradients of a group of items. Of scores, v has no columns.
template <class T>
struct AttentionGradient {
    std::vector<Queries<T>> members;
    Points<T> g, v;
    T scale;
    T *to_keys, *to_values;    // dG and dv, row-major without gaps
    T* later_parts = nullptr;  // dG, then dv, of each part after the first
    const Kernels<T>& k = kernels<T>();

    const Queries<T>& of(const LaneBlock& b) const { return members[std::size_t(b.member)]; }
    long width() const { return g.dim; }
    long values_width() const { return v.dim; }

    struct State {
        T *queries, *bias;  // dF without the scale; row sums of the bias
    };
    State make(Space& space, long rows) const {
        return {space.take<T>(rows * width()), space.take<T>(members[0].bias_rows ? rows : 0)};
    }

    // F and dO as values.
    long size_of_rows() const {
        return kLaneRows * (round_up(width(), k.nr) + round_up(values_width(), k.nr));
    }
    void pack_rows(const LaneBlock& b, T* to) const {
        pack_values(of(b).f, b.first, b.rows, to);
        if (values_width() > 0)
            pack_values(of(b).of_out, b.first, b.rows, to + kLaneRows * round_up(width(), k.nr));
    }
    // G and v as columns, and G as values.
    long size_of_columns() const {
        return round_up(kLaneColumns, k.nr) * (width() + values_width()) +
               kLaneColumns * round_up(width(), k.nr);
    }
    void pack_columns(long j, long m, T* to) const {
        k.pack(g.at(j), g.col, g.row, width(), m, to, k.nr * width());
        to += round_up(kLaneColumns, k.nr) * width();
        if (values_width() > 0) k.pack(v.at(j), v.col, v.row, values_width(), m, to, k.nr * values_width());
        pack_values(g, j, m, to + round_up(kLaneColumns, k.nr) * values_width());
    }
    void pack_values(const Points<T>& p, long first, long count, T* to) const {
        k.pack(p.at(first), p.row, p.col, count, p.dim, to, count * k.nr);
    }

    // The sums of key j in a part.
    long size_of_part() const { return g.count * (width() + values_width()); }
    T* keys_of(long part, long j) const {
        return (part == 0 ? to_keys : later_parts + (part - 1) * size_of_part()) + j * width();
    }
    T* values_of(long part, long j) const {
        if (part == 0) return to_values + j * values_width();
        return later_parts + (part - 1) * size_of_part() + g.count * width() + j * values_width();
    }

    void tile(State& s, bool first, const LaneBlock& block, long j, long m, const T* queries,
              const T* keys) const {
        const auto& [f, of_out, lse, delta, scoring, to, scale_parts, of_scores, to_bias, bias_rows] =
            of(block);
        const long i = block.first, n = block.rows;
        if (first) {
            std::fill_n(s.queries, n * width(), T(0));
            if (bias_rows) std::fill_n(s.bias, n, T(0));
        }
        if (band_columns(scoring.mask.band, i, n, j, m).empty()) return;
        constexpr long ld = kLaneColumns + 16;  // rows, read as columns too, would otherwise share sets of L1
        Arena::Scope scratch;
        T *p = scratch.take<T>(n * ld), *dp = scratch.take<T>(n * ld);
        T* slope = scoring.cap == T(0) ? nullptr : scratch.take<T>(n * ld);
        const T* v_columns = keys + round_up(kLaneColumns, k.nr) * width();
        const T* g_values = v_columns + round_up(kLaneColumns, k.nr) * values_width();
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
        add(dp, ld, 1, n, m, g_values, width(), here, s.queries);
        add(dp, 1, ld, m, n, queries, width(), transposed(here), keys_of(block.part, j));
        if (values_width() > 0)
            add(p, 1, ld, m, n, queries + kLaneRows * round_up(width(), k.nr), values_width(),
                transposed(here), values_of(block.part, j));
        if (to_bias.data) add_to_bias(to_bias, dp, ld, i, n, j, m, s.bias);
    }
    void merge(State& a, const State& b, long n) const {
        k.add(a.queries, b.queries, n * width());
        if (members[0].bias_rows) k.add(a.bias, b.bias, n);
    }
    void finish(const State& s, const LaneBlock& b) const {
        const Queries<T>& q = of(b);
        for (long r = 0; r < b.rows; ++r) {
            const T* sum = s.queries + r * width();
            const long i = b.first + r;
            // A row with nothing to attend to has no part, even where its features are NaN or infinite.
            if (q.scale_parts)
                q.scale_parts[i] =
                    q.lse[i] == -std::numeric_limits<T>::infinity() ? 0.0 : product_with(q.f, i, sum);
            for (long c = 0; c < width(); ++c) q.to[i * width() + c] = scale * sum[c];
        }
        if (q.bias_rows) std::copy_n(s.bias, b.rows, q.bias_rows + b.first);
    }
    void merge_columns(long part, long j, long m) const {
        k.add(keys_of(0, j), keys_of(part, j), m * width());
        k.add(values_of(0, j), values_of(part, j), m * values_width());
    }
    void finish_columns(long j, long m) const {
        T* sums = keys_of(0, j);
        for (long c = 0; c < m * width(); ++c) sums[c] *= scale;
    }

    // The gradient of the bias of a tile. If all columns share a term, it is added to `row_sums`, a part of
    // the lane's.
    void add_to_bias(const PairMatrix<T>& to_bias, const T* dp, long ld, long i, long n, long j, long m,
                     T* row_sums) const {
        if (to_bias.col == 0) {
            std::array<T, kLaneColumns> ones;
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

    void run(const Team& team) {
        std::vector<long> rows;
        long total = 0;
        for (const Queries<T>& q : members) {
            rows.push_back(q.f.count);
            total += q.f.count;
            if (g.count > 0) continue;
            std::fill_n(q.to, q.f.count * width(), T(0));
            if (q.scale_parts) std::fill_n(q.scale_parts, q.f.count, 0.0);
        }
        std::fill_n(to_keys, g.count * width(), T(0));
        std::fill_n(to_values, g.count * values_width(), T(0));
        const PairMatrix<T> bias = members[0].to_bias;
        const bool by_rows = bias.data && bias.col == 0 && g.count > 0;
        const Buffer<T> bias_rows(by_rows ? total : 0);
        T* next = bias_rows.get();
        for (Queries<T>& q : members)
            if (by_rows) q.bias_rows = std::exchange(next, next + q.f.count);
        const long parts = bias.data ? 1 : Lanes<T>{g.count}.parts(long(members.size()));
        const Buffer<T> later((parts - 1) * size_of_part());
        std::fill_n(later.get(), (parts - 1) * size_of_part(), T(0));
        later_parts = later.get();
        walk_lanes<T>(team, rows, g.count, parts, *this);
        // Members may share the bias: in their order.
        for (const Queries<T>& q : members)
            for (long i = 0; q.bias_rows && i < q.f.count; ++i) *q.to_bias.at(i, 0) += q.bias_rows[i];
    }
};

// The gradient of the bias, of zeros, repeated over the pairs of all items.
template <class T>
Array<T> cleared(const Array<T>& to_bias, const Relation<T>& features) {
    if (to_bias.empty()) return to_bias;
    Dims shape = features.rows.shape;
    shape.back() = features.columns.dim(2);
    std::fill_n(to_bias.data, to_bias.batch(0), T(0));
    return to_bias.repeated(shape);
}

}  // namespace rk
