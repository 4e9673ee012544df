#include "operations/attention_gradient.hpp"

namespace rk {

template <class T>
void attention_vjp(const Relation<T>& features, const Array<const T>& values, const Scoring<T>& scoring,
                   const AttentionResult<T>& result, const AttentionResult<T>& grad,
                   const RelationGradient<T>& to, const Array<T>& to_values, const Array<T>& to_bias) {
    // Items whose gradients of columns are separate are in separate groups.
    const Groups groups(features.segments, features.columns, values, to.columns, to_values);
    const Array<T> bias = cleared(to_bias, features);
    const Array<const T> log_sums = result.lse.as_columns(), of_log_sums = grad.lse.as_columns();
    const Array<double> scale_parts{to.scale, log_sums.shape, log_sums.stride};
    // R and dP take d + d_v multiply-adds a pair, and the sums 2 d + d_v.
    const auto work = [&](long group) {
        return 3 * features.work_of(groups, group, double(values.dim(1)) + scoring.work());
    };
    const auto compute = [&](const Team& team, long group) {
        const auto rows_of = [&](const auto& a) { return groups.rows(a, group); };
        const auto columns_of = [&](const auto& a) { return groups.columns(a, group); };
        const auto points = [](const Array<const T>& a, long item) { return points_of<T>(a, item, nullptr); };
        const Array<const T> queries = rows_of(features.rows), of_out = rows_of(grad.out);
        const Array<const T> out = rows_of(result.out), lse = rows_of(log_sums),
                             of_lse = rows_of(of_log_sums);
        const Array<double> parts = rows_of(scale_parts);
        const Array<T> to_rows = rows_of(to.rows), bias_of_group = rows_of(bias);
        AttentionGradient<T> gradient{.members = {},
                                      .g = points(columns_of(features.columns), 0),
                                      .v = points(columns_of(values), 0),
                                      .scale = features.scale,
                                      .to_keys = columns_of(to.columns).data,
                                      .to_values = columns_of(to_values).data};
        const long n = queries.dim(2), items = queries.batch(2);
        const Scoring<T> scoring_of_group = scoring.of_group(groups, group, n, gradient.g.count);
        const Buffer<T> deltas(items * n);
        for (long item = 0; item < items; ++item) {
            const Points<T> above = points(of_out, item), o = points(out, item);
            T* delta = deltas.get() + item * n;
            for (long i = 0; i < n; ++i) {
                delta[i] = T(product_with(above, i, o.at(i), o.col));
                if (!of_lse.empty()) delta[i] -= of_lse.item(item, 2)[i * of_lse.step(2)];
            }
            gradient.members.push_back({.f = points(queries, item),
                                        .of_out = above,
                                        .lse = lse.item(item, 2),
                                        .delta = delta,
                                        .scoring = scoring_of_group.of_item(item),
                                        .to = to_rows.item(item, 2),
                                        .scale_parts = to.scale ? parts.item(item, 2) : nullptr,
                                        .to_bias = pair_matrix(bias_of_group, item)});
        }
        gradient.run(team);
    };
    if (bias.empty()) return for_each_item(groups.count(), work, compute);
    for_each_adding_item(
        groups.count(), work, [&](long group) { return groups.rows(bias, group).data; }, compute);
}

#define RK_INSTANTIATE(T)                                                                     \
    template void attention_vjp(const Relation<T>&, const Array<const T>&, const Scoring<T>&, \
                                const AttentionResult<T>&, const AttentionResult<T>&,         \
                                const RelationGradient<T>&, const Array<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
