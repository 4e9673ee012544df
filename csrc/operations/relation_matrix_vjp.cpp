// dF = scale dR G and dG = scale dR^T F for each head: sums of features with given weights. With a link, dR
// is formed in a walk over the pairs (link_gradient.hpp).
//
// Order of sums without a link: tiles of kTileColumns weights, one chain of multiply-adds each, added in
// order.
#include <algorithm>

#include "base/batches.hpp"
#include "operations/link_gradient.hpp"
#include "operations/operations.hpp"
#include "walk/matrix_product.hpp"
#include "walk/pairs.hpp"

namespace rk {

namespace {

// A block of weights with unit column stride. It is copied unless its rows are close together: rows far apart
// in memory, or columns, would compete for the same sets of L1 in the micro-kernel.
template <class T>
Strided<const T> compact(const Strided<const T>& a, long rows, long cols, T* space) {
    const Kernels<T>& k = kernels<T>();
    if (a.col == 1 && a.row >= 0 && a.row <= kTileColumns) return a;
    if (a.row == 1 && a.col != 1)
        k.transpose(a.data, a.col, cols, rows, space, kTileColumns, false);
    else if (a.col == 1)
        k.copy(a.data, a.row, rows, cols, space, kTileColumns, false);
    else
        for (long r = 0; r < rows; ++r)
            for (long c = 0; c < cols; ++c) space[r * kTileColumns + c] = a.data[r * a.row + c * a.col];
    return {space, kTileColumns, 1};
}

// out(i, :) = scale * sum_j weights(i, j) points(j, :), weights in any strides. To
// element i of `parts`, unless null, is added the inner product of point i of `own` and the same sum without
// the scale.
template <class T>
void weighted_sum(const Team& team, const T* weights, long row, long col, const Points<T>& own,
                  const Points<T>& points, T scale, T* out, long out_row, double* parts) {
    const long rows = own.count;
    const Kernels<T>& k = kernels<T>();
    const Operand<Full<T>> values{points, Operand<Full<T>>::values};
    const long width = points.width();
    const long super = kTileColumns * std::max(1L, kWorkspace / (values.tile_size() * long(sizeof(T))));
    const Buffer<T> packed(values.tile_size() * ceil_div(std::min(super, points.count), kTileColumns));
    if (points.count == 0)
        for (long i = 0; i < rows; ++i) std::fill_n(out + i * out_row, width, T(0));
    for (long j0 = 0; j0 < points.count; j0 += super) {
        const long m = std::min(super, points.count - j0);
        team.for_each(ceil_div(m, kTileColumns), [&](long t) {
            values.pack(j0 + t * kTileColumns, std::min(kTileColumns, m - t * kTileColumns),
                        packed.get() + t * values.tile_size());
        });
        team.for_each(ceil_div(rows, kRowBlock), [&](long b) {
            const long i = b * kRowBlock, n = std::min(kRowBlock, rows - i);
            Arena::Scope scratch;
            T* space = scratch.take<T>(n * kTileColumns);
            for (long t = 0; t < m; t += kTileColumns) {
                poll();
                const long cols = std::min(kTileColumns, m - t);
                const Strided<const T> a =
                    compact({weights + i * row + (j0 + t) * col, row, col}, n, cols, space);
                k.product(a.data, a.row, 1, packed.get() + t / kTileColumns * values.tile_size(),
                          values.panel_stride(), n, width, cols, out + i * out_row, out_row,
                          {.accumulate = j0 + t > 0});
            }
            for (long r = i; j0 + m == points.count && r < i + n; ++r) {
                T* sum = out + r * out_row;
                if (parts) parts[r] += product_with(own, r, sum);
                if (scale == T(1)) continue;  // a twentieth of the time of 64 x 64 weights
                for (long c = 0; c < width; ++c) sum[c] *= scale;
            }
        });
    }
}

}  // namespace

template <class T>
void relation_matrix_vjp(const Relation<T>& features, Link link, long heads, const Array<const T>& grad,
                         const RelationGradient<T>& to) {
    const Array<const T>&f = features.rows, &g = features.columns;
    const int core = heads > 1 ? 3 : 2;
    const long head = heads > 1 ? grad.step(3) : 0;
    const double of_link = link == Link::identity ? 0 : double(f.dim(1)) + kWorkOfExp;
    for_each_item(f.batch(2), 2 * features.work(of_link), [&](const Team& team, long item) {
        const long depth = f.dim(1) / heads, n = f.dim(2);
        double* parts = to.scale ? to.scale + item * n : nullptr;
        if (parts) std::fill_n(parts, n, 0.0);
        for (long h = 0; h < heads; ++h) {
            const auto slice = [&](const Array<const T>& a) {
                Points<T> p = points_of<T>(a, item, nullptr);
                p.data += h * depth * p.col;
                p.dim = depth;
                return p;
            };
            const T* weights = grad.item(item, core) + h * head;
            const long row = grad.step(2), col = grad.step(1);
            T* of_rows = to.rows.empty() ? nullptr : to.rows.item(item, 2) + h * depth;
            T* of_columns = to.columns.empty() ? nullptr : to.columns.item(item, 2) + h * depth;
            if (of_rows && link == Link::identity)
                weighted_sum(team, weights, row, col, slice(f), slice(g), features.scale, of_rows,
                             to.rows.step(2), parts);
            else if (of_rows)
                link_gradient<T>(team, link, features.scale, slice(f), slice(g), {{}, {}, weights, row, col},
                                 {of_rows, to.rows.step(2), nullptr, 0, parts});
            if (of_columns && link == Link::identity)
                weighted_sum<T>(team, weights, col, row, slice(g), slice(f), features.scale, of_columns,
                                to.columns.step(2), nullptr);
            else if (of_columns)
                link_gradient<T>(team, link, features.scale, slice(g), slice(f), {{}, {}, weights, col, row},
                                 {of_columns, to.columns.step(2)});
        }
    });
}

#define RK_INSTANTIATE(T)                                                                    \
    template void relation_matrix_vjp(const Relation<T>&, Link, long, const Array<const T>&, \
                                      const RelationGradient<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
