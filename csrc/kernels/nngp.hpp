// The recursion of nngp_kernel over a tile of pairs, and over the points themselves.
//
// A pair is carried from layer to layer by its covariance, its angle (kernels/dual.hpp) and, for the NTK, its
// tangent. It starts from its inner product; where that says the angle is near 0 or pi, sin(theta)^2 is found
// from the points instead (Kahan): |u -+ v|^2 = 4 sin(theta/2)^2 for unit vectors. A pair's result depends
// on its two points alone, and not on their order.
#pragma once

#include "kernels/dual_series.hpp"
#include "kernels/dual_sigma_1.hpp"
#include "kernels/table.hpp"

namespace rk::RK_ISA {

// Below this sin^2, 1 - cos^2 has lost five digits or more: a few pairs in a thousand of directions at random
// in the plane, none to speak of in more dimensions.
static constexpr double kNearSin2 = 1e-5;

// sin^2 of the angle of K(0) between two points, from the nearer of u - v and u + v.
RK_INLINE double near_sin2(const NngpSpec& spec, const double* x, const double* y, double inverse_x,
                           double inverse_y, bool opposed) {
    const double root = __builtin_sqrt(spec.weight_variance / (double)spec.dim);
    const double fx = root * inverse_x, fy = root * inverse_y;
    Vd sum{};
    for (long k = 0; k < spec.dim; k += kLanes<double>) {
        const Vd u = load_first(x + k, spec.dim - k) * fx, v = load_first(y + k, spec.dim - k) * fy;
        const Vd d = opposed ? u + v : u - v;
        sum = fma(d, d, sum);
    }
    double squared = sum_lanes<double>(sum);
    if (spec.bias_variance > 0) {
        const double bias = opposed ? inverse_x + inverse_y : inverse_x - inverse_y;
        squared += spec.bias_variance * bias * bias;
    }
    return squared * (1 - squared / 4);
}

// c times the inverse roots of two variances, whose product overflows if both are below 1e-308.
RK_INLINE Vd over_roots(Vd c, Vd inverse_a, Vd inverse_b) {
    const Vd product = inverse_a * inverse_b;
    const Id tiny = product > broadcast<double>(0x1p1000);
    if (!any(tiny)) return c * product;
    return tiny ? (c * 0x1p512) * ((inverse_a * 0x1p-256) * (inverse_b * 0x1p-256)) : c * product;
}

// Columns of a row that go through a layer together: their chains of operations are independent, and the
// values kept between layers (4 x 1 KiB) stay in L1.
static constexpr long kNngpColumns = 128;

template <class D>
RK_INLINE void nngp_rows(const D& dual, const NngpSpec& spec, const NngpPoints& a, long i0,
                         const NngpPoints& b, long j0, const double* r, long ld, long rows, long cols,
                         const auto& write) {
    const double weight = spec.weight_variance, bias = spec.bias_variance;
    const double mixed = __builtin_sqrt(weight) * __builtin_sqrt(bias);
    double covariance[kNngpColumns], cosine[kNngpColumns], sine2[kNngpColumns], tangent[kNngpColumns];
    for (long i = 0; i < rows; ++i)
        for (long first = 0; first < cols; first += kNngpColumns) {
            const long count = cols - first < kNngpColumns ? cols - first : kNngpColumns;
            const auto row = [&](long l, int field)
                                 RK_LAMBDA_INLINE { return broadcast<double>(a.at(l, field)[i0 + i]); };
            const Vd inverse_a = row(0, NngpPoints::inverse_root);
            for (long j = 0; j < count; j += kLanes<double>) {
                const long n = count - j, at = j0 + first + j;
                const Vd c = load_first(r + i * ld + first + j, n) + bias;
                const Vd inverse_b = load_first(b.at(0, NngpPoints::inverse_root) + at, n);
                const Vd cos = over_roots(c, inverse_a, inverse_b);
                Vd sin2 = (1.0 - cos) * (1.0 + cos);
                if (std::uint32_t near = bits((Id)(sin2 < broadcast<double>(kNearSin2))))
                    for (; near; near &= near - 1) {
                        const int l = __builtin_ctz(near);
                        sin2[l] = near_sin2(spec, a.x + (i0 + i) * spec.dim, b.x + (at + l) * spec.dim,
                                            inverse_a[l], inverse_b[l], cos[l] < 0);
                    }
                store(covariance + j, c);
                store(cosine + j, cos);
                store(sine2 + j, sin2);
                store(tangent + j, c);
            }
            for (long l = 0; l < spec.depth; ++l) {
                const Vd next_a = row(l + 1, NngpPoints::inverse_root);
                for (long j = 0; j < count; j += kLanes<double>) {
                    const long n = count - j, at = j0 + first + j;
                    const auto column = [&](long layer, int field) RK_LAMBDA_INLINE {
                        return load_first(b.at(layer, field) + at, n);
                    };
                    Vd c = load(covariance + j);
                    Angle t{load(cosine + j), load(sine2 + j)};
                    const Vd next_b = column(l + 1, NngpPoints::inverse_root);
                    Vd slope{};
                    if constexpr (D::kHomogeneous) {
                        const Vd theta = t.theta(), eta = dual.eta(t, theta);
                        const Vd from = row(l, NngpPoints::amplitude), to = column(l, NngpPoints::amplitude);
                        const Vd both = from * to * weight;
                        c = fma(both, 1.0 - eta, broadcast<double>(bias));
                        if (spec.ntk)
                            slope = row(l, NngpPoints::slope) * column(l, NngpPoints::slope) *
                                    (1.0 - dual.eta_slope(t, theta));
                        // variance variance' sin^2 = bias weight (amplitude - amplitude')^2
                        //                            + 2 bias both eta + both^2 eta (2 - eta)
                        const Vd inverse = min(broadcast<double>(__DBL_MAX__), next_a * next_b);
                        const Vd radial = (from - to) * mixed * inverse;
                        const Vd share = over_roots(both, next_a, next_b);
                        t.sin2 =
                            fma(radial, radial, share * eta * fma(share, 2.0 - eta, 2.0 * bias * inverse));
                        t.cos = over_roots(c, next_a, next_b);
                    } else {
                        Vd mean;
                        Id same{};
                        if constexpr (D::kSeries) {
                            mean = dual.means(a, i0 + i, b, at, n, l, c, t, slope);
                        } else {
                            const Marginal p{row(l, NngpPoints::variance), row(l, NngpPoints::root)};
                            const Marginal q{column(l, NngpPoints::variance), column(l, NngpPoints::root)};
                            mean = dual.means(p, q, c, t, slope);
                            if constexpr (D::kKinks) same = (t.sin2 == Vd{}) & (p.variance == q.variance);
                        }
                        c = fma(mean, broadcast<double>(weight), broadcast<double>(bias));
                        t.cos = over_roots(c, next_a, next_b);
                        const Vd sin2 = (1.0 - t.cos) * (1.0 + t.cos);
                        t.sin2 = ((sin2 < Vd{}) | same) != Id{} ? Vd{} : sin2;
                    }
                    store(covariance + j, c);
                    store(cosine + j, t.cos);
                    store(sine2 + j, t.sin2);
                    if (spec.ntk) store(tangent + j, fma(slope * weight, load(tangent + j), c));
                }
            }
            for (long j = 0; j < count; j += kLanes<double>)
                write(i, first + j, count - j, load((spec.ntk ? tangent : covariance) + j));
        }
}

// f(dual) with the functor that a spec names.
template <class F>
RK_INLINE void with_dual(const NngpSpec& spec, F f) {
    switch (spec.dual) {
        case Dual::step: return f(StepDual(spec));
        case Dual::relu: return f(ReluDual(spec));
        case Dual::relu_squared: return f(ReluSquaredDual(spec));
        case Dual::leaky_relu: return f(LeakyReluDual(spec));
        case Dual::relu_power: return f(ReluPowerDual(spec));
        case Dual::erf: return f(ErfDual(spec));
        case Dual::gelu: return f(GeluDual(spec));
        case Dual::sin: return f(SinDual(spec));
        case Dual::cos: return f(CosDual(spec));
        case Dual::gaussian: return f(GaussianDual(spec));
        case Dual::sigma_1: return f(Sigma1Dual(spec));
        case Dual::series: return f(SeriesDual(spec));
    }
}

// out(i, j) <- kernel of points i0 + i of a and j0 + j of b, whose weighted inner products are r.
template <class T>
static void nngp_tile(const NngpSpec& spec, const NngpPoints& a, long i0, const NngpPoints& b, long j0,
                      const double* r, long ld, long rows, long cols, T* out, long out_row) {
    with_dual(spec, [&](auto dual) RK_LAMBDA_INLINE {
        nngp_rows(dual, spec, a, i0, b, j0, r, ld, rows, cols,
                  [&](long i, long j, long n, Vd k) RK_LAMBDA_INLINE {
                      T* to = out + i * out_row + j;
                      if constexpr (sizeof(T) == 8) {
                          store_first(to, k, n);
                      } else {
                          for (int l = 0; l < kLanes<double>; ++l)
                              if (l < n) to[l] = (T)k[l];
                      }
                  });
    });
}

// Variances of layer 0, K(0)(x, x), of the points [first, first + count).
static void nngp_variances(const NngpSpec& spec, const NngpPoints& p, long first, long count) {
    const double weight = spec.weight_variance / (double)spec.dim;
    for (long i = first; i < first + count; ++i) {
        const double* x = p.x + i * spec.dim;
        Vd sum{};
        for (long k = 0; k < spec.dim; k += kLanes<double>) {
            const Vd v = load_first(x + k, spec.dim - k);
            sum = fma(v, v, sum);
        }
        p.at(0, NngpPoints::variance)[i] = spec.bias_variance + weight * sum_lanes<double>(sum);
    }
}

// E[a(u)^2] and, for the NTK, E[a'(u)^2] of points at .. at + n - 1, whose other fields are written.
template <class D>
RK_INLINE Vd nngp_square_means(const D& dual, const NngpSpec& spec, const NngpPoints& p, long l, long at,
                               long n, const Marginal& m, Vd& slope) {
    if constexpr (D::kHomogeneous) {
        const Vd amplitude = dual.amplitude(m);
        store_first(p.at(l, NngpPoints::amplitude) + at, amplitude, n);
        if (spec.ntk) {
            slope = dual.slope(m);
            store_first(p.at(l, NngpPoints::slope) + at, slope, n);
            slope *= slope;
        }
        return amplitude * amplitude;
    } else if constexpr (D::kSeries) {
        return dual.square_means(p, at, n, l, m, slope);
    } else {
        return dual.means(m, m, m.variance, Angle{broadcast<double>(1.0), Vd{}}, slope);
    }
}

// Fields of the points [first, first + count) in layer l, whose variances are there, and the variances of
// layer l + 1 if there is one. tangent, unless null, holds the diagonal of the NTK and is updated.
static void nngp_layer(const NngpSpec& spec, const NngpPoints& p, long l, long first, long count,
                       double* tangent) {
    const Vd weight = broadcast<double>(spec.weight_variance), bias = broadcast<double>(spec.bias_variance);
    with_dual(spec, [&](auto dual) RK_LAMBDA_INLINE {
        for (long i = first; i < first + count; i += kLanes<double>) {
            const long n = first + count - i;
            Marginal m;
            m.variance = load_first(p.at(l, NngpPoints::variance) + i, n);
            m.root = sqrt(m.variance);
            store_first(p.at(l, NngpPoints::root) + i, m.root, n);
            store_first(p.at(l, NngpPoints::inverse_root) + i, m.variance == Vd{} ? Vd{} : 1.0 / m.root, n);
            if (tangent && l == 0) store_first(tangent + i, m.variance, n);
            if (l == spec.depth) continue;
            Vd slope{};
            const Vd mean = nngp_square_means(dual, spec, p, l, i, n, m, slope);
            const Vd next = fma(mean, weight, bias);
            store_first(p.at(l + 1, NngpPoints::variance) + i, next, n);
            if (tangent) store_first(tangent + i, fma(slope * weight, load_first(tangent + i, n), next), n);
        }
    });
}

}  // namespace rk::RK_ISA
