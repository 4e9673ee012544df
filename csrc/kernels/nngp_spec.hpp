// Dual activations E[a(u) a(v)] of pairs of Gaussians, and the data of points that the kernel of a wide
// network uses: the types that nngp_kernel.cpp and kernels/nngp.hpp share.
#pragma once

#include "base/names.hpp"

namespace rk {

// eta(angle) = 1 - dual(angle) / dual(0) of a homogeneous activation, as polynomials on the intervals
// [2^e, 2^(e+1)] of the angle (e = -kAngleOctaves + 1 .. 0), then of pi minus the angle. An interval's
// coefficients, lowest power first, are in 2 angle / 2^e - 3, which is in [-1, 1].
inline constexpr int kAngleOctaves = 53, kAngleTerms = 24;

// K(0) = bias + weight x.y / D, K(l+1) = bias + weight E[a(u) a(v)], depth times; with ntk, also
// T(0) = K(0), T(l+1) = K(l+1) + weight E[a'(u) a'(v)] T(l).
struct NngpSpec {
    Dual dual = Dual::relu;
    double parameter = 0;  // slope of leaky_relu, exponent of relu_power
    double weight_variance = 1, bias_variance = 0;
    long depth = 1, dim = 1;
    bool ntk = false;
    // relu_power: tables of value and derivative.
    const double* eta = nullptr;
    const double* eta_slope = nullptr;
    // E[a(z)^2] and E[a'(z)^2] at unit variance, of relu_power.
    double square_mean = 0, slope_square_mean = 0;
    // series: E[a a] = constant + linear K + sum of products of coefficients; of a' likewise.
    double constant = 0, linear = 0, slope_constant = 0;
    bool odd = false;  // the series has odd powers of the correlation; that of a' has the others
    long terms = 0;
    // If the variance of a point is above reach, a mixture takes the place of the series (dual_mixture.hpp).
    double reach = __builtin_inf();
    Activation activation = Activation::identity;

    __attribute__((always_inline)) long sets() const { return ntk ? 2 : 1; }
};

// Points and what follows from K(l)(x, x) in each layer l = 0 .. depth.
struct NngpPoints {
    // variance, its root, one over the root (0 for 0), roots of E[a(u)^2] and E[a'(u)^2], terms of the series
    enum Field { variance, root, inverse_root, amplitude, slope, count, kFields };

    const double* x = nullptr;       // rows of dim coordinates
    double* fields = nullptr;        // [layer][field][stride]
    const double* series = nullptr;  // [layer][set][term][stride]
    long stride = 0;

    __attribute__((always_inline)) double* at(long layer, int field) const {
        return fields + (layer * kFields + field) * stride;
    }
    __attribute__((always_inline)) const double* coefficients(const NngpSpec& spec, long layer,
                                                              long set) const {
        return series + (layer * spec.sets() + set) * spec.terms * stride;
    }
};

}  // namespace rk
