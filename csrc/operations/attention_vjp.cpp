// Gradients of attention (Dao et al. 2022, FlashAttention, algorithm 4), on features F, G and values v:
//
//   P = exp(R - lse),  dP_ij = <dO_i, v_j>,  D_i = <dO_i, O_i>,  dR = P * (dP - D)
//   dF = scale dR G,   dG = scale dR^T F,    dv = P^T dO,    dscale = sum_i <f_i, (dR G)_i>
//
// R is recomputed from F and G. There are two walks, over the rows of the queries for dF and over the rows of
// the keys for dG and dv: each result has one owner, so no thread waits for another and the order of sums is
// fixed. This costs one product of R more than a single walk with shared sums.
#include <algorithm>
#include <limits>

#include "base/batches.hpp"
#include "operations/operations.hpp"
#include "walk/masks.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

// Each side of a walk: features, and what the values' gradient pairs with them (dO with F, v with G).
template <class T>
struct GradientOfPairs {
    static constexpr bool kOrderFree = false;
    static constexpr long kRowBlock = rk::kRowBlock;
    Points<T> rows_of;  // the features that the walk's rows are
    Points<T> partner;  // of the rows: dO or v
    const T *lse, *delta;
    bool rows_are_queries;
    Mask mask;  // of the relation as walked
    T scale;
    long width, values_width;
    T* grad_features;    // contiguous
    T* grad_values;      // contiguous; null in the walk over queries
    double* grad_scale;  // a part for each row; null in the walk over keys, or if not wanted

    // operands: 0 features as columns, 1 partner as columns, 2 features as values, 3 partner as values
    struct State {
        T* features;  // rows x width
        T* values;    // rows x values_width; not used in the walk over queries
    };
    long values_kept() const { return grad_values ? values_width : 0; }
    State make(Space& space, long rows) const {
        return {space.take<T>(rows * width), space.take<T>(rows * values_kept())};
    }
    void init(State& s, long rows) const {
        std::fill_n(s.features, rows * width, T(0));
        std::fill_n(s.values, rows * values_kept(), T(0));
    }
    Span met(long i0, long rows, long j0, long cols) const {
        return band_columns(mask.band, i0, rows, j0, cols);
    }
    template <class A>
    void destination(Tile<A>&, Finish<T>&) const {}
    template <class A>
    void accept(State& s, const Tile<A>& t) const {
        const Kernels<T>& k = kernels<T>();
        Arena::Scope scratch;
        T* dp = scratch.take<T>(t.rows * kTileColumns);
        if (values_width == 0)  // an empty product is not written
            std::fill_n(dp, t.rows * kTileColumns, T(0));
        else
            t.operands[1].product(partner.at(t.i0), partner.row, partner.col, 0, t.rows, t.cols, values_width,
                                  dp, kTileColumns, {});
        // Both tiles have rows of kTileColumns: R is in the walk's scratch.
        const long at = rows_are_queries ? t.i0 : t.j0;
        k.softmax_vjp(t.r, dp, kTileColumns, t.rows, t.cols, lse + at, delta + at, rows_are_queries);
        const Mask m = mask_in(mask, t.i0, t.rows, t.j0, t.cols);
        if (!m.empty()) {
            k.mask_tile(t.r, kTileColumns, t.rows, t.cols, m, t.i0, t.j0, T(0));
            k.mask_tile(dp, kTileColumns, t.rows, t.cols, m, t.i0, t.j0, T(0));
        }
        add_weighted(dp, kTileColumns, t, 2, width, m, s.features + t.first * width);
        if (grad_values)
            add_weighted(t.r, kTileColumns, t, 3, values_width, m, s.values + t.first * values_width);
    }
    void merge(State& a, const State& b, long rows) const {
        kernels<T>().add(a.features, b.features, rows * width);
        kernels<T>().add(a.values, b.values, rows * values_kept());
    }
    void finish(State& s, long i0, long rows) const {
        for (long i = 0; i < rows * width; ++i) grad_features[i0 * width + i] = scale * s.features[i];
        // A row with nothing to attend to has no part, even where its features are NaN or infinite.
        for (long i = 0; grad_scale && i < rows; ++i)
            grad_scale[i0 + i] = lse[i0 + i] == -std::numeric_limits<T>::infinity()
                                     ? 0.0
                                     : product_with(rows_of, i0 + i, s.features + i * width);
        if (grad_values) std::copy_n(s.values, rows * values_width, grad_values + i0 * values_width);
    }
};

}  // namespace

template <class T>
void attention_vjp(const Relation<T>& features, const Array<const T>& values, const Allowed& allowed,
                   const AttentionResult<T>& result, const Array<const T>& grad,
                   const RelationGradient<T>& to, const Array<T>& to_values) {
    constexpr Role as_columns = Role::columns, as_values = Role::values;
    const T scale = features.scale;
    // Two walks: R and dP, then what sums them, in each.
    const double work = 3 * features.work(double(values.dim(1)) + kWorkOfExp);
    for_each_item(features.rows.batch(2), work, [&](const Team& team, long item) {
        const auto side = [&](const Array<const T>& a) { return points_of<T>(a, item, nullptr); };
        const Points<T> rows = side(features.rows), keys = side(features.columns);
        const Points<T> value = side(values), above = side(grad), out = side(result.out);
        const long n = rows.count, width = rows.dim, values_width = value.dim;
        const Buffer<T> delta(n);
        for (long i = 0; i < n; ++i) delta.get()[i] = T(product_with(above, i, out.at(i), out.col));
        const Mask mask = allowed.of_item(item);
        const T* lse = result.lse.item(item, 1);

        const std::vector<Operand<Full<T>>> of_keys = {
            {keys, as_columns}, {value, as_columns}, {keys, as_values}};
        walk_pairs(
            team, rows, of_keys, scale, 1,
            GradientOfPairs<T>{rows, above, lse, delta.get(), true, mask, scale, width, values_width,
                               to.rows.item(item, 2), nullptr, to.scale ? to.scale + item * n : nullptr});
        const std::vector<Operand<Full<T>>> of_queries = {
            {rows, as_columns}, {above, as_columns}, {rows, as_values}, {above, as_values}};
        walk_pairs(
            team, keys, of_queries, scale, 1,
            GradientOfPairs<T>{keys, value, lse, delta.get(), false, transposed(mask), scale, width,
                               values_width, to.columns.item(item, 2), to_values.item(item, 2), nullptr});
    });
}

#define RK_INSTANTIATE(T)                                                                  \
    template void attention_vjp(const Relation<T>&, const Array<const T>&, const Allowed&, \
                                const AttentionResult<T>&, const Array<const T>&,          \
                                const RelationGradient<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
