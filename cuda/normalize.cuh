// Rows divided by their Euclidean length, and the gradient of that. Mirrors csrc/kernels/normalize.hpp.
#pragma once

#include "factors.cuh"

namespace rk::cuda {

// For every item, to(r, c) <- from(r, c) / |from(r, :)| for c < columns and zero for columns <= c < padded,
// computed in float64 if `from` is, else in float32. A row of zeros stays as it is.
void normalize_rows(const Context& context, const Lead& lead, long rows, long columns, long padded,
                    const Strided& from, const Strided& to);

// For every item and f = z / |z|, to(r, :) <- (grad - f <f, grad>) / |z|, and zero where z is zero. `to` may
// be `grad`.
void normalize_rows_vjp(const Context& context, const Lead& lead, long rows, long columns, const Strided& z,
                        const Strided& grad, const Strided& to);

}  // namespace rk::cuda
