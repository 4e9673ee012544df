// Used by the gradients: plain matrix products C = scale A B^T for every item of a batch, of arrays with any
// strides (the walk over pairs with the consumer of relation_matrix.cu), and the factor `scale` of gradients.
#pragma once

#include "operations.hpp"

namespace rk::cuda {

// Rows [first, first + count) of every item.
inline Array row_slab(const Array& a, long first, long count) {
    Array s = a;
    s.data = a.at(first * a.step(2));
    s.shape[s.shape.size() - 2] = count;
    return s;
}

// c (..., n, m) <- scale a (..., n, depth) b (..., m, depth)^T. Each sum is a single chain over the depth, in
// order.
template <class A>
void multiply(const Context& context, const Array& a, const Array& b, double scale, const Array& c,
              const char* call);

// For gradients grad_f (..., n, d) of features f that still lack the factor `scale`: writes <f_i, grad_f_i>,
// whose sum is the derivative with respect to `scale`, to `parts` (items, n), contiguous, then multiplies
// grad_f by `scale`. If lse (items, n) is not null, rows where it is -inf contribute zero.
template <class Sum>
void scale_gradient(const Context& context, const Array& f, const Array& grad_f, double scale, const Sum* lse,
                    const Array& parts);

}  // namespace rk::cuda
