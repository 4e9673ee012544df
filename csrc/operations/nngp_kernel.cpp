// Kernels of wide random networks: the recursion K(l+1) = bias + weight E[a(u) a(v)] on every pair of points.
//
// Inner products come from the walk over pairs; the consumer takes each tile through all layers and writes
// it. Everything is computed in double, also for float inputs and outputs: correlations near 1 need the
// digits, and the recursion costs several times the product. Points are loaded a super-block at a time
// (nngp_points.hpp).
//
// Symmetric kernel: tiles below the diagonal are left out and those on and above it mirrored.
#include "base/batches.hpp"
#include "base/threads.hpp"
#include "operations/nngp_points.hpp"
#include "operations/operations.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

template <class T>
struct Recursion {
    static constexpr bool kOrderFree = true;
    static constexpr long kRowBlock = rk::kRowBlock;
    const NngpSpec& spec;
    const NngpPoints &a, &b;
    T* out;  // of the first of the points a and b
    long row;
    bool symmetric;
    // Of the first points a and b in the whole matrix; mirrored is its element (first b, first a).
    long first_a, first_b;
    T* mirrored;

    struct State {};
    State make(Space&, long) const { return {}; }
    void init(State&, long) const {}
    Span met(long i0, long, long j0, long cols) const {
        const bool below = symmetric && first_b + j0 + cols <= first_a + i0;
        return {0, below ? 0 : cols};
    }
    template <class A>
    void destination(Tile<A>&, Finish<double>&) const {}
    template <class A>
    void accept(State&, const Tile<A>& t) const {
        const Kernels<T>& k = kernels<T>();
        T* to = out + t.i0 * row + t.j0;
        if (!symmetric) {
            k.nngp_tile(spec, a, t.i0, b, t.j0, t.r, t.ld, t.rows, t.cols, to, row);
            return;
        }
        T* mirror = mirrored + t.j0 * row + t.i0;
        const long below =
            first_a + t.i0 - (first_b + t.j0);  // columns left of the diagonal in the first row
        if (below + t.rows <= 0) {
            k.nngp_tile(spec, a, t.i0, b, t.j0, t.r, t.ld, t.rows, t.cols, to, row);
            k.transpose(to, row, t.rows, t.cols, mirror, row, false);
            return;
        }
        // Across the diagonal: elements below it are copied from their mirror images in some tile.
        Arena::Scope scratch;
        T* values = scratch.take<T>(t.rows * t.cols);
        k.nngp_tile(spec, a, t.i0, b, t.j0, t.r, t.ld, t.rows, t.cols, values, t.cols);
        for (long i = 0; i < t.rows; ++i)
            for (long j = std::max(0L, below + i); j < t.cols; ++j) {
                to[i * row + j] = values[i * t.cols + j];
                mirror[j * row + i] = values[i * t.cols + j];
            }
    }
    void merge(State&, const State&, long) const {}
    void finish(State&, long, long) const {}
};

template <class T>
void one_item(const Team& team, const Points<T>& x, const Points<T>* y, const NngpSpec& spec,
              const NngpSeries* series, T* out, long row) {
    const Points<T>& other = y ? *y : x;
    const long most = LoadedPoints::most(spec);
    LoadedPoints rows(spec, series, std::min(most, x.count));
    LoadedPoints more(spec, series, y || x.count > most ? std::min(most, other.count) : 0);
    const double scale = spec.weight_variance / double(spec.dim);
    for (long i = 0; i < x.count; i += most) {
        rows.load(team, x.sub(i, std::min(most, x.count - i)));
        for (long j = y ? 0 : i; j < other.count; j += most) {
            const bool same = !y && i == j;
            if (!same) more.load(team, other.sub(j, std::min(most, other.count - j)));
            const LoadedPoints& columns = same ? rows : more;
            const auto as_points = [&](const LoadedPoints& p) {
                return Points<double>{p.points().x, p.count(), spec.dim, spec.dim, 1, nullptr};
            };
            using Columns = Operand<Full<double>>;
            const std::vector<Columns> operands = {{as_points(columns), Columns::columns}};
            walk_pairs(team, as_points(rows), operands, scale, 1,
                       Recursion<T>{spec, rows.points(), columns.points(), out + i * row + j, row, !y, i, j,
                                    out + j * row + i});
        }
    }
}

template <class T>
double work_of_item(const Array<const T>& x, const Array<const T>& y, const NngpSpec& spec,
                    const NngpSeries* series) {
    const double n = double(x.dim(2)), m = y.empty() ? 0 : double(y.dim(2));
    const double terms = double(spec.sets()) * double(spec.terms);
    const double pair = double(spec.dim) + double(spec.depth) * (LoadedPoints::kWorkOfLayer + terms);
    return (n + m) * LoadedPoints::work(spec, series) + n * (y.empty() ? n / 2 : m) * pair;
}

}  // namespace

template <class T>
void nngp_kernel(const Array<const T>& x, const Array<const T>& y, const NngpSpec& spec,
                 const NngpSeries* series, const Array<T>& out) {
    for_each_item(x.batch(2), work_of_item(x, y, spec, series), [&](const Team& team, long item) {
        const Points<T> rows = points_of<T>(x, item, nullptr);
        if (y.empty()) {
            one_item<T>(team, rows, nullptr, spec, series, out.item(item, 2), out.step(2));
        } else {
            const Points<T> columns = points_of<T>(y, item, nullptr);
            one_item<T>(team, rows, &columns, spec, series, out.item(item, 2), out.step(2));
        }
    });
}

template <class T>
void nngp_diagonal(const Array<const T>& x, const NngpSpec& spec, const NngpSeries* series,
                   const Array<T>& out) {
    const Team team = team_for(double(x.dim(2)) * LoadedPoints::work(spec, series));
    for (long item = 0; item < x.batch(2); ++item) {
        const Points<T> all = points_of<T>(x, item, nullptr);
        T* to = out.item(item, 1);
        const long most = std::min(LoadedPoints::most(spec), all.count);
        const Buffer<double> tangent(spec.ntk ? most : 0);
        LoadedPoints points(spec, series, most);
        for (long i = 0; i < all.count; i += most) {
            const long n = std::min(most, all.count - i);
            points.load(team, all.sub(i, n), tangent.get());
            const NngpPoints& p = points.points();
            const double* last = spec.ntk ? tangent.get() : p.at(spec.depth, NngpPoints::variance);
            for (long k = 0; k < n; ++k) to[i + k] = T(last[k]);
        }
    }
}

#define RK_INSTANTIATE(T)                                                                    \
    template void nngp_kernel(const Array<const T>&, const Array<const T>&, const NngpSpec&, \
                              const NngpSeries*, const Array<T>&);                           \
    template void nngp_diagonal(const Array<const T>&, const NngpSpec&, const NngpSeries*, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
