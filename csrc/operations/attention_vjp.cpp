// Gradients of attention (Dao et al. 2022, FlashAttention, algorithm 4), on features F, G and values v:
//
//   P = exp(R - lse),  dP_ij = <dO_i, v_j>,  D_i = <dO_i, O_i>,  dR = P * (dP - D)
//   dF = scale dR G,   dG = scale dR^T F,    dv = P^T dO,    dscale = sum_i <f_i, (dR G)_i>
//
// R is recomputed from F and G, once: five products of n m d multiply-adds. Tiles of kRows queries and
// kColumns keys add to the gradients of both sides. The keys are cut into at most kLanes lanes, each a range
// of blocks of them. A lane is the only one that adds to dG and dv of its keys, and adds dF to its own
// partial sums.
//
// Order of sums (invariant): within a tile as the kernels fix it; the tiles of a lane in order; lanes merged
// in order. Lanes depend on m alone, so that dF of a query depends neither on threads nor on other queries.
//
// Memory: partial sums and packed blocks of queries for a super-block of rows, 16 MiB each.
#include <algorithm>
#include <limits>

#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/masks.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

constexpr long kRows = 128, kColumns = 128;  // of a tile: with its operands, 288 KiB for 64 floats
constexpr long kLanes = 32;

// Gradients to add to, row-major without gaps. Of the features before they are multiplied by the scale.
template <class T>
struct Sums {
    T *queries, *keys, *values;
};

template <class T>
struct AttentionGradient {
    Points<T> f, g, v, above;  // above: dO
    const T *lse, *delta;
    Mask mask;
    T scale;
    const Kernels<T>& k = kernels<T>();

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
        pack_values(above, i, n, to + kRows * round_up(width(), k.nr));
    }
    // G and v as columns, and G as values.
    void pack_keys(long j, long m, T* to) const {
        k.pack(g.at(j), g.col, g.row, width(), m, to, k.nr * width());
        to += round_up(kColumns, k.nr) * width();
        k.pack(v.at(j), v.col, v.row, values_width(), m, to, k.nr * values_width());
        pack_values(g, j, m, to + round_up(kColumns, k.nr) * values_width());
    }
    void pack_values(const Points<T>& p, long first, long count, T* to) const {
        k.pack(p.at(first), p.row, p.col, count, p.dim, to, count * k.nr);
    }

    // Adds what queries [i, i + n) and keys [j, j + m) give each other. `sums` are those of query i and of
    // key j.
    void tile(long i, long n, long j, long m, const T* queries, const T* keys, const Sums<T>& sums) const {
        if (band_columns(mask.band, i, n, j, m).empty()) return;
        poll();
        constexpr long ld = kColumns + 16;  // rows, read as columns too, would otherwise share sets of L1
        Arena::Scope scratch;
        T *p = scratch.take<T>(n * ld), *dp = scratch.take<T>(n * ld);
        const T* v_columns = keys + round_up(kColumns, k.nr) * width();
        const T* g_values = v_columns + round_up(kColumns, k.nr) * values_width();
        k.product(f.at(i), f.row, f.col, keys, k.nr * width(), n, m, width(), p, ld, {.scale = scale});
        if (values_width() == 0)  // an empty product is not written
            std::fill_n(dp, n * ld, T(0));
        else
            k.product(above.at(i), above.row, above.col, v_columns, k.nr * values_width(), n, m,
                      values_width(), dp, ld, {});
        k.softmax_vjp(p, dp, ld, n, m, lse + i, delta + i);
        const Mask here = mask_in(mask, i, n, j, m);
        if (!here.empty()) {
            k.mask_tile(p, ld, n, m, here, i, j, T(0));
            k.mask_tile(dp, ld, n, m, here, i, j, T(0));
        }
        add(dp, ld, 1, n, m, g_values, width(), here, i, j, sums.queries);
        add(dp, 1, ld, m, n, queries, width(), transposed(here), j, i, sums.keys);
        add(p, 1, ld, m, n, queries + kRows * round_up(width(), k.nr), values_width(), transposed(here), j, i,
            sums.values);
    }

    // to(r, :) += sum_c weights(r, c) values(c, :). Pairs that the mask forbids contribute nothing, even
    // where their values are NaN or infinite.
    void add(const T* weights, long row, long col, long rows, long count, const T* values, long columns,
             const Mask& allowed, long r0, long c0, T* to) const {
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
        k.masked_product(weights, row, values, count * k.nr, rows, columns, count, to, columns, allowed, r0,
                         c0);
    }

    // All tiles. `to` holds zeros.
    void run(const Team& team, const Sums<T>& to) const {
        // Few keys are cut finer, so that there is work for several threads.
        const long each = std::min(kColumns, std::max(round_up(ceil_div(g.count, 8), k.nr), 32L));
        const long key_blocks = ceil_div(g.count, each);
        const long of_lane = std::max(ceil_div(key_blocks, kLanes), 1L);
        const long lanes = ceil_div(key_blocks, of_lane);
        const long fit =
            kWorkspace / long(sizeof(T)) / std::max(std::max(lanes * width() * kRows, size_of_queries()), 1L);
        const long most = std::min(std::max(fit, 1L) * kRows, round_up(f.count, kRows));
        const Buffer<T> packed(most / kRows * size_of_queries()), partials(lanes * most * width());
        for (long first = 0; first < f.count; first += most) {
            const long rows = std::min(most, f.count - first), blocks = ceil_div(rows, kRows);
            const auto of_block = [&](long b) { return std::min(kRows, rows - b * kRows); };
            team.for_each(blocks, [&](long b) {
                pack_queries(first + b * kRows, of_block(b), packed.get() + b * size_of_queries());
            });
            team.for_each(lanes, [&](long lane) {
                T* own = partials.get() + lane * most * width();
                std::fill_n(own, rows * width(), T(0));
                Arena::Scope scratch;
                T* keys = scratch.take<T>(size_of_keys());
                const long end = std::min((lane + 1) * of_lane, key_blocks);
                for (long block = lane * of_lane; block < end; ++block) {
                    const long j = block * each, m = std::min(each, g.count - j);
                    pack_keys(j, m, keys);
                    for (long b = 0; b < blocks; ++b)
                        tile(first + b * kRows, of_block(b), j, m, packed.get() + b * size_of_queries(), keys,
                             {own + b * kRows * width(), to.keys + j * width(),
                              to.values + j * values_width()});
                }
            });
            // The lanes in order; the threads take blocks of rows.
            team.for_each(blocks, [&](long b) {
                for (long lane = 0; lane < lanes; ++lane)
                    k.add(to.queries + (first + b * kRows) * width(),
                          partials.get() + (lane * most + b * kRows) * width(), of_block(b) * width());
            });
        }
    }
};

}  // namespace

template <class T>
void attention_vjp(const Relation<T>& features, const Array<const T>& values, const Allowed& allowed,
                   const AttentionResult<T>& result, const Array<const T>& grad,
                   const RelationGradient<T>& to, const Array<T>& to_values) {
    const T scale = features.scale;
    // Two walks: R and dP, then what sums them, in each.
    const double work = 3 * features.work(double(values.dim(1)) + kWorkOfExp);
    for_each_item(features.rows.batch(2), work, [&](const Team& team, long item) {
        const auto side = [&](const Array<const T>& a) { return points_of<T>(a, item, nullptr); };
        const Points<T> rows = side(features.rows), keys = side(features.columns);
        const Points<T> value = side(values), above = side(grad), out = side(result.out);
        const long n = rows.count, m = keys.count, width = rows.dim;
        const Buffer<T> delta(n);
        for (long i = 0; i < n; ++i) delta.get()[i] = T(product_with(above, i, out.at(i), out.col));
        const T* lse = result.lse.item(item, 1);
        const Sums<T> sums{to.rows.item(item, 2), to.columns.item(item, 2), to_values.item(item, 2)};
        std::fill_n(sums.queries, n * width, T(0));
        std::fill_n(sums.keys, m * width, T(0));
        std::fill_n(sums.values, m * value.dim, T(0));
        const AttentionGradient<T> gradient{rows, keys, value, above, lse, delta.get(), allowed.of_item(item),
                                            scale};
        gradient.run(team, sums);

        double* parts = to.scale ? to.scale + item * n : nullptr;
        // A row with nothing to attend to has no part, even where its features are NaN or infinite.
        for (long i = 0; parts && i < n; ++i)
            parts[i] = lse[i] == -std::numeric_limits<T>::infinity()
                           ? 0.0
                           : product_with(rows, i, sums.queries + i * width);
        for (long i = 0; i < n * width; ++i) sums.queries[i] *= scale;
        for (long i = 0; i < m * width; ++i) sums.keys[i] *= scale;
    });
}

#define RK_INSTANTIATE(T)                                                                  \
    template void attention_vjp(const Relation<T>&, const Array<const T>&, const Allowed&, \
                                const AttentionResult<T>&, const Array<const T>&,          \
                                const RelationGradient<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
