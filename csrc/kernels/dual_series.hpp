// E[a(u) a(v)] by Mehler's expansion, for activations that have no closed form.
//
// With h_k(p) = E[a(sqrt(p) z) He_k(z)] / sqrt(k!), E = sum over k of h_k(p) h_k(q) cos(theta)^k: a table of
// one dimension a point instead of one of three dimensions a layer. Each such activation is a constant or a
// linear function plus one of a single parity, so half of the coefficients vanish and are left out.
//
// A pair takes as many terms as the longer of its points needs (field `count`), and stops where the power of
// the cosine is below 1e-19; both depend on the pair alone. If a point's variance is beyond the reach of the
// series, and there is a mixture, the pair takes that: such a point has no terms.
#pragma once

#include "kernels/dual_mixture.hpp"

namespace rk::RK_ISA {

struct SeriesDual {
    static constexpr bool kHomogeneous = false, kSeries = true;
    const NngpSpec& spec;
    RK_INLINE SeriesDual(const NngpSpec& s) : spec(s) {}

    static constexpr long kGroup = 4;  // terms between two tests for the end
    static constexpr double kNothing = 1e-19;

    // sum over m < count of h_m(p) h_m(q) power z^m. Lanes that are done are not touched.
    template <class Row, class Column>
    RK_INLINE Vd sum(const Row& row, const Column& column, Vd count, Vd power, Vd z) const {
        Vd total{};
        Id active = count > Vd{};
        for (long m = 0; m < spec.terms; m += kGroup) {
            active &= (count > broadcast<double>((double)m)) & (abs(power) > broadcast<double>(kNothing));
            if (!any(active)) break;
            Vd part = row(m + kGroup - 1) * column(m + kGroup - 1);
            for (long k = kGroup - 2; k >= 0; --k) part = fma(part, z, row(m + k) * column(m + k));
            total = active ? fma(part, power, total) : total;
            power *= (z * z) * (z * z);
        }
        return total;
    }

    // Points i of a and j .. j + n - 1 of b.
    RK_INLINE Vd means(const NngpPoints& a, long i, const NngpPoints& b, long j, long n, long l, Vd c,
                       const Angle& t, Vd& slope) const {
        const Vd cos = t.cos;
        const Vd count = max(broadcast<double>(a.at(l, NngpPoints::count)[i]),
                             load_first(b.at(l, NngpPoints::count) + j, n));
        const auto set = [&](long s, bool odd) RK_LAMBDA_INLINE {
            const double *from = a.coefficients(spec, l, s) + i, *to = b.coefficients(spec, l, s) + j;
            const auto row = [&](long m) RK_LAMBDA_INLINE { return broadcast<double>(from[m * a.stride]); };
            const auto column = [&](long m) RK_LAMBDA_INLINE { return load_first(to + m * b.stride, n); };
            return sum(row, column, count, odd ? cos : broadcast<double>(1.0), cos * cos);
        };
        const Marginal p{broadcast<double>(a.at(l, NngpPoints::variance)[i]),
                         broadcast<double>(a.at(l, NngpPoints::root)[i])};
        const Marginal q{load_first(b.at(l, NngpPoints::variance) + j, n),
                         load_first(b.at(l, NngpPoints::root) + j, n)};
        Vd value = set(0, spec.odd), tilt = spec.ntk ? set(1, !spec.odd) : Vd{};
        mix(p, q, c, t, value, tilt);
        if (spec.ntk) slope = nan_of(c, spec.slope_constant + tilt);
        return nan_of(c, fma(c, broadcast<double>(spec.linear), spec.constant + value));
    }

    // Points at .. at + n - 1 with themselves.
    RK_INLINE Vd square_means(const NngpPoints& p, long at, long n, long l, const Marginal& m,
                              Vd& slope) const {
        const Vd count = load_first(p.at(l, NngpPoints::count) + at, n), one = broadcast<double>(1.0);
        const auto set = [&](long s) RK_LAMBDA_INLINE {
            const double* from = p.coefficients(spec, l, s) + at;
            const auto h = [&](long m) RK_LAMBDA_INLINE { return load_first(from + m * p.stride, n); };
            return sum(h, h, count, one, one);
        };
        Vd value = set(0), tilt = spec.ntk ? set(1) : Vd{};
        mix(m, m, m.variance, Angle{one, Vd{}}, value, tilt);
        if (spec.ntk) slope = nan_of(m.variance, spec.slope_constant + tilt);
        return nan_of(m.variance, fma(m.variance, broadcast<double>(spec.linear), spec.constant + value));
    }

    // Replaces the sums of pairs with a point beyond the reach.
    RK_INLINE void mix(const Marginal& p, const Marginal& q, Vd c, const Angle& t, Vd& value,
                       Vd& slope) const {
        const Vd reach = broadcast<double>(spec.reach);
        const Id far = (p.variance > reach) | (q.variance > reach);
        if (!any(far)) return;
        Vd mixed, tilt;
        mixture_means(spec.activation, p, q, c, t, mixed, tilt);
        value = far ? mixed : value;
        slope = far ? tilt : slope;
    }

    // x, but NaN where c is: lanes with NaN have no terms.
    RK_INLINE static Vd nan_of(Vd c, Vd x) { return c == c ? x : c; }
};

}  // namespace rk::RK_ISA
