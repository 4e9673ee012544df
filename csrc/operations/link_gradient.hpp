// Gradients of functions of link(R), streaming: neither R nor its gradient is written.
//
//   z = scale r,  r_ij = <f_i, g_j> or |f_i - g_j|^2,   q = gradient of link(R),   w = q link'(z)
//
//   inner products   df_i = scale sum_j w_ij g_j
//   distances        df_i = 2 scale (f_i sum_j w_ij - sum_j w_ij g_j)
//   both             dscale = sum_ij w_ij r_ij
//
// q_ij is <above_i, values_j>, or a matrix that is given. Each side has its own walk, over its rows: each
// result has one owner.
//
// The two sums of a distance would cancel where points are far from the origin, so both have the mean of the
// g_j subtracted. It depends on the columns of the walk alone: a row's gradient does not depend on other
// rows.
#pragma once

#include <algorithm>
#include <cmath>

#include "operations/operations.hpp"
#include "walk/pairs.hpp"

namespace rk {

// The gradient of link(R).
template <class T>
struct Upstream {
    Points<T> above, values;   // its element (i, j) is <above_i, values_j>, or
    const T* given = nullptr;  // given[i * row + j * col]
    long row = 0, col = 0;

    Upstream transposed() const { return {values, above, given, col, row}; }
};

// Results of a walk over f. Those that are null are not computed.
template <class T>
struct LinkGradientOut {
    T* features;
    long features_row;
    T* above = nullptr;  // gradient of above: sum_j link(R_ij) values_j
    long above_row = 0;
    double* scale = nullptr;  // each row's part is added
};

template <class T>
struct LinkGradient {
    static constexpr bool kOrderFree = false;
    static constexpr long kRowBlock = rk::kRowBlock;
    Link link;
    T scale;
    Points<T> f;
    const T* centre;
    Upstream<T> q;
    LinkGradientOut<T> out;

    struct State {
        T *features, *totals, *above;
        double* slopes;
    };
    long above_width() const { return out.above ? q.above.dim : 0; }
    State make(Space& space, long rows) const {
        return {space.take<T>(rows * f.dim), space.take<T>(rows), space.take<T>(rows * above_width()),
                space.take<double>(rows)};
    }
    void init(State& s, long rows) const {
        std::fill_n(s.features, rows * f.dim, T(0));
        std::fill_n(s.totals, rows, T(0));
        std::fill_n(s.above, rows * above_width(), T(0));
        std::fill_n(s.slopes, rows, 0.0);
    }
    Span met(long, long, long, long cols) const { return {0, cols}; }
    template <class A>
    void destination(Tile<A>&, Finish<T>& finish) const {
        finish.distances = is_of_distance(link);
    }
    template <class A>
    void accept(State& s, const Tile<A>& t) const {
        Arena::Scope scratch;
        T* upstream = scratch.take<T>(t.rows * t.ld);
        read_upstream(t, upstream);
        kernels<T>().link_vjp(link, scale, t.r, upstream, t.ld, t.rows, t.cols, s.totals + t.first,
                              s.slopes + t.first);
        const std::size_t values = q.given ? 1 : 2;
        add_weighted(upstream, t.ld, t, values, f.dim, Mask{}, s.features + t.first * f.dim, f.dim);
        if (above_width())
            add_weighted(t.r, t.ld, t, values + 1, above_width(), Mask{}, s.above + t.first * above_width(),
                         above_width());
    }
    void merge(State& a, const State& b, long rows) const {
        const Kernels<T>& k = kernels<T>();
        k.add(a.features, b.features, rows * f.dim);
        k.add(a.totals, b.totals, rows);
        k.add(a.above, b.above, rows * above_width());
        for (long i = 0; i < rows; ++i) a.slopes[i] += b.slopes[i];
    }
    void finish(State& s, long i0, long rows) const {
        for (long i = 0; i < rows; ++i) {
            const T *sum = s.features + i * f.dim, *own = f.at(i0 + i);
            T* to = out.features + (i0 + i) * out.features_row;
            for (long c = 0; c < f.dim; ++c)
                to[c] = centre ? 2 * scale * ((own[c * f.col] - centre[c]) * s.totals[i] - sum[c])
                               : scale * sum[c];
            if (out.above)
                std::copy_n(s.above + i * q.above.dim, q.above.dim, out.above + (i0 + i) * out.above_row);
            if (out.scale) out.scale[i0 + i] += s.slopes[i];
        }
    }

   private:
    // The strip of q that belongs to a strip of R.
    template <class A>
    void read_upstream(const Tile<A>& t, T* to) const {
        const Kernels<T>& k = kernels<T>();
        const T* from = q.given + t.i0 * q.row + t.j0 * q.col;
        if (!q.given && q.above.dim == 0)  // an empty product is not written
            std::fill_n(to, t.rows * t.ld, T(0));
        else if (!q.given)
            t.operands[1].product(q.above.at(t.i0), q.above.row, q.above.col, 0, t.rows, t.cols, q.above.dim,
                                  to, t.ld, {});
        else if (q.row == 1 && q.col != 1)
            k.transpose(from, q.col, t.cols, t.rows, to, t.ld, false);
        else if (q.col == 1)
            k.copy(from, q.row, t.rows, t.cols, to, t.ld, false);
        else
            for (long i = 0; i < t.rows; ++i)
                for (long j = 0; j < t.cols; ++j) to[i * t.ld + j] = from[i * q.row + j * q.col];
    }
};

// The mean of the finite values of each coordinate, and the points less it.
template <class T>
struct Centred {
    Buffer<T> mean, values;
    Points<T> points;

    explicit Centred(const Points<T>& p)
        : mean(p.dim), values(p.count * p.dim), points{values.get(), p.count, p.dim, p.dim, 1} {
        for (long c = 0; c < p.dim; ++c) {
            double sum = 0;
            long count = 0;
            for (long i = 0; i < p.count; ++i) {
                const T x = p.at(i)[c * p.col];
                if (std::isfinite(x)) sum += double(x), ++count;
            }
            mean.get()[c] = count ? T(sum / double(count)) : T(0);
        }
        for (long i = 0; i < p.count; ++i)
            for (long c = 0; c < p.dim; ++c) values.get()[i * p.dim + c] = p.at(i)[c * p.col] - mean.get()[c];
    }
};

// A walk over f, with g as the columns.
template <class T>
void link_gradient(const Team& team, Link link, T scale, const Points<T>& f, const Points<T>& g,
                   const Upstream<T>& q, const LinkGradientOut<T>& out) {
    using A = Full<T>;
    std::vector<Operand<A>> operands = {{g, Operand<A>::columns}};
    if (!q.given) operands.push_back({q.values, Operand<A>::columns});
    const auto walk = [&](const Points<T>& values, const T* centre) {
        operands.push_back({values, Operand<A>::values});
        if (out.above) operands.push_back({q.values, Operand<A>::values});
        walk_pairs(team, f, operands, T(1), 1, LinkGradient<T>{link, scale, f, centre, q, out});
    };
    if (!is_of_distance(link)) return walk(g, nullptr);
    const Centred<T> centred(g);
    walk(centred.points, centred.mean.get());
}

}  // namespace rk
