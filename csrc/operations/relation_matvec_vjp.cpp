// Gradients of sum(grad * u) with u = link(R) v, on features F and G: those of F, G and the scale by way of
// dR_ij = <grad_i, v_j> link'(R_ij) (link_gradient.hpp), and dv = link(R)^T grad.
//
// Two walks, each of them n m (2 d + c) multiply-adds and n m links; the one over G also sums dv, n m c more.
#include "base/batches.hpp"
#include "operations/link_gradient.hpp"

namespace rk {

template <class T>
void relation_matvec_vjp(const Relation<T>& features, const Array<const T>& values,
                         const Array<const T>& grad, Link link, const RelationGradient<T>& to,
                         const Array<T>& to_values) {
    const double per_pair = double(features.rows.dim(1)) + 2 * double(values.dim(1)) + kWorkOfExp;
    for_each_item(features.rows.batch(2), 2 * features.work(per_pair), [&](const Team& team, long item) {
        const auto side = [&](const Array<const T>& a) { return points_of<T>(a, item, nullptr); };
        const Points<T> f = side(features.rows), g = side(features.columns);
        const Upstream<T> q{side(grad), side(values)};
        double* parts = to.scale ? to.scale + item * f.count : nullptr;
        if (parts) std::fill_n(parts, f.count, 0.0);
        if (!to.rows.empty())
            link_gradient<T>(team, link, features.scale, f, g, q,
                             {to.rows.item(item, 2), to.rows.step(2), nullptr, 0, parts});
        if (!to.columns.empty())
            link_gradient<T>(team, link, features.scale, g, f, q.transposed(),
                             {to.columns.item(item, 2), to.columns.step(2), to_values.item(item, 2),
                              to_values.empty() ? 0 : to_values.step(2)});
    });
}

#define RK_INSTANTIATE(T)                                                                               \
    template void relation_matvec_vjp(const Relation<T>&, const Array<const T>&, const Array<const T>&, \
                                      Link, const RelationGradient<T>&, const Array<T>&);
RK_INSTANTIATE(float)
RK_INSTANTIATE(double)

}  // namespace rk
