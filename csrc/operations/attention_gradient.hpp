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
// Members of a group (base/batches.hpp) share the keys: dG and dv are sums over all of them. Few lanes leave
// little work for several threads, so the members are then cut into parts, each with its own dG and dv. With
// the gradient of a bias, which members may share too, there is one part.
//
// Order of sums (invariant): within a tile as the kernels fix it; the tiles of a lane in order; lanes merged
// in order. Lanes depend on m alone, so that dF of a query depends neither on threads nor on other queries.
// Parts depend on m and the number of members, and are merged in order too.
//
// Memory: partial sums and packed blocks of queries for a super-block of rows, 16 MiB each.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

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
};

// The gradients of a group of items. Of scores, v has no columns.
template <class T>
struct AttentionGradient {
    std::vector<Queries<T>> members;
    Points<T> g, v;
    T scale;
    const Kernels<T>& k = kernels<T>();

    static constexpr long kRows = 128, kColumns = 128;  // of a tile: with its operands, 288 KiB for 64 floats
    static constexpr long kLanes = 32;

    long width() const { return g.dim; }
    long values_width() const { return v.dim; }
    // Blocks of a side, packed.
    long size_of_queries() const {
        return kRows * (round_up(width(), k.nr) + round_up(values_width(), k.nr));
    }
    long size_of_keys() const {
        return round_up(kColumns, k.nr) * (width() + values_width()) + kColumns * round_up(width(), k.nr);
    }
    // F and dO as values.
    void pack_queries(const Queries<T>& of, long i, long n, T* to) const {
        pack_values(of.f, i, n, to);
        if (values_width() > 0) pack_values(of.of_out, i, n, to + kRows * round_up(width(), k.nr));
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

    // Adds what queries [i, i + n) of a member and keys [j, j + m) give each other. `sums` are those of query
    // i and of key j.
    void tile(const Queries<T>& of, long i, long n, long j, long m, const T* queries, const T* keys,
              const Sums<T>& sums) const {
        const auto& [f, of_out, lse, delta, scoring, to, scale_parts, of_scores, to_bias] = of;
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
        if (to_bias.data) add_to_bias(to_bias, dp, ld, i, n, j, m, sums.rows);
    }

    // The gradient of the bias of a tile. If all columns share a term, it is added to `row_sums`, a part of
    // the lane's.
    void add_to_bias(const PairMatrix<T>& to_bias, const T* dp, long ld, long i, long n, long j, long m,
                     T* row_sums) const {
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

    // The gradients of the features, of the scale and of the values. Those of keys and values are given by
    // their first rows.
    void run(const Team& team, T* to_keys, T* to_values) const {
        for (const Queries<T>& of : members) std::fill_n(of.to, of.f.count * width(), T(0));
        std::fill_n(to_keys, g.count * width(), T(0));
        std::fill_n(to_values, g.count * values_width(), T(0));
        add_tiles(team, to_keys, to_values);
        for (const Queries<T>& of : members) {
            // A row with nothing to attend to has no part, even where its features are NaN or infinite.
            for (long i = 0; of.scale_parts && i < of.f.count; ++i)
                of.scale_parts[i] = of.lse[i] == -std::numeric_limits<T>::infinity()
                                        ? 0.0
                                        : product_with(of.f, i, of.to + i * width());
            for (long i = 0; i < of.f.count * width(); ++i) of.to[i] *= scale;
        }
        for (long i = 0; i < g.count * width(); ++i) to_keys[i] *= scale;
    }

   private:
    // Rows of a member, in one part.
    struct Block {
        const Queries<T>* of;
        long first, rows, part;
    };
    std::vector<Block> blocks(long parts) const {
        std::vector<Block> all;
        const long count = long(members.size());
        for (long i = 0; i < count; ++i) {
            const Queries<T>& of = members[std::size_t(i)];
            for (long row = 0; row < of.f.count; row += kRows)
                all.push_back({&of, row, std::min(kRows, of.f.count - row), i * parts / count});
        }
        return all;
    }

    // All tiles. The gradients hold zeros.
    void add_tiles(const Team& team, T* to_keys, T* to_values) const {
        // Few keys are cut finer, so that there is work for several threads.
        const long each = std::min(kColumns, std::max(round_up(ceil_div(g.count, 8), k.nr), 32L));
        const long key_blocks = ceil_div(g.count, each);
        const long of_lane = std::max(ceil_div(key_blocks, kLanes), 1L);
        const long lanes = ceil_div(key_blocks, of_lane);
        if (lanes == 0 || members.empty()) return;
        const PairMatrix<T>& to_bias = members.front().to_bias;
        const long parts = to_bias.data ? 1 : std::clamp(kLanes / lanes, 1L, long(members.size()));
        const std::vector<Block> all = blocks(parts);
        const long fit =
            kWorkspace / long(sizeof(T)) / std::max(std::max(lanes * width() * kRows, size_of_queries()), 1L);
        const long most = std::min(std::max(fit, 1L), long(all.size()));
        const Buffer<T> packed(most * size_of_queries()), partials(lanes * most * kRows * width());
        const Buffer<T> row_sums(to_bias.data && to_bias.col == 0 ? lanes * most * kRows : 0);
        const long of_part = g.count * (width() + values_width());  // dG and dv of the parts after the first
        const Buffer<T> others((parts - 1) * of_part);
        std::fill_n(others.get(), (parts - 1) * of_part, T(0));
        for (long first = 0; first < long(all.size()); first += most) {
            const long count = std::min(most, long(all.size()) - first);
            const auto block = [&](long b) -> const Block& { return all[std::size_t(first + b)]; };
            const auto partial = [&](long lane, long b) {
                return partials.get() + (lane * most + b) * kRows * width();
            };
            const auto rows_of = [&](long lane, long b) {
                return row_sums.get() ? row_sums.get() + (lane * most + b) * kRows : nullptr;
            };
            team.for_each(count, [&](long b) {
                pack_queries(*block(b).of, block(b).first, block(b).rows,
                             packed.get() + b * size_of_queries());
            });
            team.for_each(lanes * parts, [&](long task) {
                const long lane = task / parts, part = task % parts;
                const auto find = [&](long p) {
                    const auto from = all.begin() + first, to = from + count;
                    return long(std::find_if(from, to, [p](const Block& b) { return b.part >= p; }) - from);
                };
                const long begin = find(part), end = find(part + 1);
                if (begin == end) return;
                T* to_g = part == 0 ? to_keys : others.get() + (part - 1) * of_part;
                T* to_v = part == 0 ? to_values : to_g + g.count * width();
                for (long b = begin; b < end; ++b) {
                    std::fill_n(partial(lane, b), block(b).rows * width(), T(0));
                    if (T* sums = rows_of(lane, b)) std::fill_n(sums, block(b).rows, T(0));
                }
                Arena::Scope scratch;
                T* keys = scratch.take<T>(size_of_keys());
                const long last = std::min((lane + 1) * of_lane, key_blocks);
                for (long at = lane * of_lane; at < last; ++at) {
                    const long j = at * each, m = std::min(each, g.count - j);
                    pack_keys(j, m, keys);
                    for (long b = begin; b < end; ++b)
                        tile(*block(b).of, block(b).first, block(b).rows, j, m,
                             packed.get() + b * size_of_queries(), keys,
                             {partial(lane, b), to_g + j * width(), to_v + j * values_width(),
                              rows_of(lane, b)});
                }
            });
            // The lanes in order; the threads take blocks of rows.
            team.for_each(count, [&](long b) {
                for (long lane = 0; lane < lanes; ++lane)
                    k.add(block(b).of->to + block(b).first * width(), partial(lane, b),
                          block(b).rows * width());
            });
            for (long b = 0; row_sums.get() && b < count; ++b)
                for (long lane = 0; lane < lanes; ++lane)
                    for (long i = 0; i < block(b).rows; ++i)
                        *block(b).of->to_bias.at(block(b).first + i, 0) += rows_of(lane, b)[i];
        }
        for (long part = 1; part < parts; ++part) {
            const T* from = others.get() + (part - 1) * of_part;
            k.add(to_keys, from, g.count * width());
            k.add(to_values, from + g.count * width(), g.count * values_width());
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
