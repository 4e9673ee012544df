// dF = scale dR G and dG = scale dR^T F. csrc/relation_matrix_vjp.cpp on a device.
//
// Both are products with the gradient as rows and the transposed features as columns. The gradient is met a
// slab of rows at a time where it must be copied or transposed, so workspace is bounded.
#include "product.cuh"

namespace rk::cuda {

template <class A>
void relation_matrix_vjp(const Context& context, const Array& f, const Array& g, const Array& grad,
                         double scale, long heads, const Array& grad_f, const Array& grad_g) {
    // Heads are one more leading dimension of everything.
    const auto by_head = [&](const Array& a) {
        Array split = a;
        if (heads == 1) return split;
        const long width = a.dim(1) / heads, at = a.ndim() - 2;
        split.shape.back() = width;
        split.shape.insert(split.shape.begin() + at, heads);
        split.stride.insert(split.stride.begin() + at, width * a.step(1));
        return split;
    };
    const Array rows = by_head(f), columns = by_head(g);
    multiply<A>(context, grad, transposed(columns), scale, by_head(grad_f), "relation_matrix_vjp");
    multiply<A>(context, transposed(grad), transposed(rows), scale, by_head(grad_g), "relation_matrix_vjp");
}

#define RK_INSTANTIATE(A)                                                                                  \
    template void relation_matrix_vjp<A>(const Context&, const Array&, const Array&, const Array&, double, \
                                         long, const Array&, const Array&);
RK_INSTANTIATE(Fma<float>)
RK_INSTANTIATE(Fma<double>)

}  // namespace rk::cuda
