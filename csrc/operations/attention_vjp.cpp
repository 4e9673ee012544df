#include "operations/attention_gradient.hpp"

namespace rk {

template <class T>
void attention_vjp(const Relation<T>& features, const Array<const T>& values, const Scoring<T>& scoring,
                   const AttentionResult<T>& result, const AttentionResult<T>& grad,
                   const RelationGradient<T>& to, const Array<T>& to_values, const Array<T>& to_bias) {
    const Array<T> bias = cleared(to_bias, features);
    // Two walks: R and dP, then what sums them, in each.
    const double work = 3 * features.work(double(values.dim(1)) + scoring.work());
    for_each_adding_item(features.rows.batch(2), work, bias, [&](const Team& team, long item) {
        const auto side = [&](const Array<const T>& a) { return points_of<T>(a, item, nullptr); };
        const Points<T> rows = side(features.rows), of_out = side(grad.out), out = side(result.out);
        const Buffer<T> delta(rows.count);
        for (long i = 0; i < rows.count; ++i) {
            delta.get()[i] = T(product_with(of_out, i, out.at(i), out.col));
            if (!grad.lse.empty()) delta.get()[i] -= grad.lse.item(item, 1)[i * grad.lse.step(1)];
        }
        const AttentionGradient<T> gradient{.f = rows,
                                            .g = side(features.columns),
                                            .v = side(values),
                                            .of_out = of_out,
                                            .lse = result.lse.item(item, 1),
                                            .delta = delta.get(),
                                            .scoring = scoring.of_item(item),
                                            .scale = features.scale,
                                            .of_scores = {},
                                            .to_bias = pair_matrix(bias, item)};
        gradient.run(team, {to.rows.item(item, 2), to.columns.item(item, 2), to_values.item(item, 2)},
                     to.scale ? to.scale + item * rows.count : nullptr);
    });
}

#define RK_INSTANTIATE(T)                                                                     \
    template void attention_vjp(const Relation<T>&, const Array<const T>&, const Scoring<T>&, \
                                const AttentionResult<T>&, const AttentionResult<T>&,         \
                                const RelationGradient<T>&, const Array<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
