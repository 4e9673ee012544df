// Plain products of matrices, for the gradients: C = scale A B^T of every item of a batch, arrays of any
// strides. The walk over pairs with the consumer of relation_matrix.cu.
#pragma once

#include "operations.hpp"

namespace rk::cuda {

// The last two dimensions exchanged.
inline Array transposed(const Array& a) {
    Array t = a;
    std::swap(t.shape[t.shape.size() - 1], t.shape[t.shape.size() - 2]);
    std::swap(t.stride[t.stride.size() - 1], t.stride[t.stride.size() - 2]);
    return t;
}

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

}  // namespace rk::cuda
