// What the gradients share: plain products of matrices, C = scale A B^T of every item of a batch, arrays of
// any strides (the walk over pairs with the consumer of relation_matrix.cu), and the factor `scale` itself.
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

// c (..., n, m) <- scale a (..., n, depth) b (..., m, depth)^T. A sum is one chain over the depth, in order.
template <class A>
void multiply(const Context& context, const Array& a, const Array& b, double scale, const Array& c,
              const char* call);

// For gradients (..., n, d) of features f that lack the factor `scale`: they are multiplied with it, and
// before that `parts` (items, n), contiguous, receives <f_i, grad_f_i>, of which the derivative with respect
// to `scale` is the sum. Rows whose lse (items, n), where it is not null, is -inf have none.
template <class Sum>
void scale_gradient(const Context& context, const Array& f, const Array& grad_f, double scale, const Sum* lse,
                    const Array& parts);

}  // namespace rk::cuda
