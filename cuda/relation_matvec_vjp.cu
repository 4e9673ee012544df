// Gradients of sum(grad * u) with u = link(R) v: those of features and scale by walks over either side
// (link_gradient.hpp), and dv = link(R)^T grad, a product with the transposed relation. Mirrors
// csrc/operations/relation_matvec_vjp.cpp.
#include "link_gradient.hpp"

namespace rk::cuda {

template <class A>
void relation_matvec_vjp(const Context& context, const Relation<A>& relation, const Array& values,
                         const Array& grad, Link link, const Array& grad_f, const Array& grad_g,
                         const Array& grad_v, const Array& grad_scale) {
    using Sum = typename A::Sum;
    const Array &f = relation.rows, &g = relation.columns;
    const Upstream upstream = {grad, values, {}};
    link_gradient<Sum>(context, link, relation.scale, f, g, upstream, grad_f,
                       reinterpret_cast<Sum*>(grad_scale.data));
    link_gradient<Sum>(context, link, relation.scale, g, f, upstream.transposed(), grad_g, nullptr);
    relation_matvec<A>(context, {g, f, nullptr, nullptr, relation.scale}, grad, link, grad_v);
    check_launch("relation_matvec_vjp");
}

#define RK_INSTANTIATE(A)                                                                                   \
    template void relation_matvec_vjp(const Context&, const Relation<A>&, const Array&, const Array&, Link, \
                                      const Array&, const Array&, const Array&, const Array&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

}  // namespace rk::cuda
