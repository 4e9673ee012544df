// Gradients of functions of link(R), streaming: neither R nor its gradient is written. Mirrors
// csrc/operations/link_gradient.hpp, which has the formulas.
#pragma once

#include "operations.hpp"

namespace rk::cuda {

// The gradient of link(R): its element (i, j) is <above_i, values_j>, or given.
struct Upstream {
    Array above, values, given;

    Upstream transposed() const { return {values, above, given.empty() ? given : cuda::transposed(given)}; }
};

// Writes the gradient with respect to the rows of f to `out`, f and g having the same leading dimensions.
// `parts` (items, rows), contiguous, receives each row's part of the derivative with respect to `scale`;
// null: it is not computed.
template <class Sum>
void link_gradient(const Context& context, Link link, double scale, const Array& f, const Array& g,
                   const Upstream& upstream, const Array& out, Sum* parts);

}  // namespace rk::cuda
