// E[a(u) a(v)] and E[a'(u) a'(v)] for (u, v) normal with variances p, q and correlation cos(theta).
//
// A pair is known by its covariance c and by both cos(theta) and sin(theta)^2, each to full precision: where
// points nearly coincide the sine cannot be computed from the cosine, and 1 - cos is computed from the sine.
// No formula below subtracts nearly equal values, so angles keep an absolute error of a few ulp of one
// through any number of layers, and nothing is ever the arc cosine of more than 1.
//
// Homogeneous activations, a(tz) = t^n a(z) for t > 0: E = amplitude_p amplitude_q (1 - eta(theta)),
// amplitude_p = sqrt(E[a(u)^2]); with J_n of Cho & Saul (2009), eta = 1 - J_n(theta) / J_n(0). The sine of
// the next layer follows from eta. Others are smooth in c, where the sine may come from the cosine. Sources:
// erf, Williams (1997); sin and cos, Rahimi & Recht (2007); gaussian, a normal integral; gelu, Stein's lemma
// twice, with B = E[phi(u) phi(v)] = 1 / (2 pi t):
//   E[u Phi(u) v Phi(v)] = c E[Phi Phi] + B (pq - c^2 + c^2 (1/(1+p) + 1/(1+q))),
//   E[Phi Phi] = 1/4 + atan2(c, t) / (2 pi),  t^2 = (1+p)(1+q) - c^2,
// whose derivative by c is E[a' a'] (Price's theorem).
#pragma once

#include "kernels/math_trig.hpp"
#include "kernels/nngp_spec.hpp"

namespace rk::RK_ISA {

static constexpr double kPi = 3.14159265358979324;

struct Angle {
    Vd cos, sin2;
    RK_INLINE Vd sin() const { return sqrt(sin2); }
    RK_INLINE Vd theta() const { return atan2(sin(), cos); }
    // 1 - cos and 1 + cos
    RK_INLINE Vd versine() const { return cos > Vd{} ? sin2 / (1.0 + cos) : 1.0 - cos; }
    RK_INLINE Vd coversine() const { return cos < Vd{} ? sin2 / (1.0 - cos) : 1.0 + cos; }
};

// One point, or kLanes<double> of them, in one layer.
struct Marginal {
    Vd variance, root;
};

RK_INLINE Vd where_positive(Vd p, double value) {  // NaN stays
    return p > Vd{} ? broadcast<double>(value) : (p == p ? Vd{} : p);
}

// ---- homogeneous: amplitudes, eta of a and of a' --------------------------------------------------------

RK_INLINE Vd eta_step(const Vd& theta) { return theta * (1 / kPi); }
RK_INLINE Vd eta_relu(const Angle& t, Vd theta) {
    return t.versine() - (t.sin() - theta * t.cos) * (1 / kPi);
}

struct StepDual {
    static constexpr bool kHomogeneous = true, kSeries = false;
    RK_INLINE StepDual(const NngpSpec&) {}
    RK_INLINE Vd amplitude(const Marginal& m) const {
        return where_positive(m.variance, 0.70710678118654752);
    }
    RK_INLINE Vd slope(const Marginal&) const { return Vd{}; }
    RK_INLINE Vd eta(const Angle&, Vd theta) const { return eta_step(theta); }
    RK_INLINE Vd eta_slope(const Angle&, Vd) const { return Vd{}; }
};

struct ReluDual {
    static constexpr bool kHomogeneous = true, kSeries = false;
    RK_INLINE ReluDual(const NngpSpec&) {}
    RK_INLINE Vd amplitude(const Marginal& m) const { return m.root * 0.70710678118654752; }
    RK_INLINE Vd slope(const Marginal& m) const { return where_positive(m.variance, 0.70710678118654752); }
    RK_INLINE Vd eta(const Angle& t, Vd theta) const { return eta_relu(t, theta); }
    RK_INLINE Vd eta_slope(const Angle&, Vd theta) const { return eta_step(theta); }
};

// J_2 / J_2(0), J_2(0) = 3 pi; a' = 2 relu.
struct ReluSquaredDual {
    static constexpr bool kHomogeneous = true, kSeries = false;
    RK_INLINE ReluSquaredDual(const NngpSpec&) {}
    RK_INLINE Vd amplitude(const Marginal& m) const { return m.variance * 1.22474487139158905; }
    RK_INLINE Vd slope(const Marginal& m) const { return m.root * 1.41421356237309505; }
    RK_INLINE Vd eta(const Angle& t, Vd theta) const {
        return (2.0 * (kPi - theta) * t.sin2 + 3.0 * (theta - t.sin() * t.cos)) * (1 / (3 * kPi));
    }
    RK_INLINE Vd eta_slope(const Angle& t, Vd theta) const { return eta_relu(t, theta); }
};

// a(z) = s z + (1 - s) relu(z), the identity for s = 1: E = s c + (1 - s)^2 E[relu relu].
struct LeakyReluDual {
    static constexpr bool kHomogeneous = true, kSeries = false;
    double s, total, plain, bent;
    RK_INLINE LeakyReluDual(const NngpSpec& spec)
        : s(spec.parameter),
          total((1 + s * s) / 2),
          plain(s / total),
          bent((1 - s) * (1 - s) / (2 * total)) {}
    RK_INLINE Vd amplitude(const Marginal& m) const { return m.root * sqrt(broadcast<double>(total)); }
    RK_INLINE Vd slope(const Marginal& m) const {
        return m.variance == m.variance ? sqrt(broadcast<double>(total)) : m.variance;
    }
    RK_INLINE Vd eta(const Angle& t, Vd theta) const {
        return t.versine() * plain + eta_relu(t, theta) * bent;
    }
    RK_INLINE Vd eta_slope(const Angle&, Vd theta) const { return eta_step(theta) * bent; }
};

// Table over the angle (nngp_spec.hpp). Angles below the first octave take its lower end times angle / end.
RK_INLINE Vd eta_of_table(const double* table, Vd theta) {
    const Vd rest = kPi - theta;
    const Id far = theta > broadcast<double>(kPi / 2);
    const Vd smallest = broadcast<double>(1.0 / double(1ll << (kAngleOctaves - 1)));
    const Vd near = far ? rest : theta;
    const Id below = near < smallest;
    const Vd a = near > smallest ? near : smallest;
    const Id octave = ((Id)a >> 52) - (1023 - kAngleOctaves + 1);
    const Vd mantissa = (Vd)(((Id)a & 0xfffffffffffffll) | 0x3ff0000000000000ll);
    const Vd t = mantissa + mantissa - 3.0;
    const Id first = (octave + (far ? Id{} + kAngleOctaves : Id{})) * kAngleTerms;
    Vd sum{};
    for (int k = kAngleTerms - 1; k >= 0; --k) {
        Vd c;
        for (int l = 0; l < kLanes<double>; ++l) c[l] = table[first[l] + k];
        sum = fma(sum, t, c);
    }
    sum = (below & ~far) != Id{} ? sum * (theta / smallest) : sum;
    return theta == theta ? sum : theta;
}

struct ReluPowerDual {
    static constexpr bool kHomogeneous = true, kSeries = false;
    const NngpSpec& spec;
    RK_INLINE ReluPowerDual(const NngpSpec& s) : spec(s) {}
    RK_INLINE Vd amplitude(const Marginal& m) const {
        return m.variance > Vd{}
                   ? pow<double>(m.root, spec.parameter) * sqrt(broadcast<double>(spec.square_mean))
                   : m.root;
    }
    RK_INLINE Vd slope(const Marginal& m) const {
        return m.variance > Vd{}
                   ? pow<double>(m.root, spec.parameter - 1) * sqrt(broadcast<double>(spec.slope_square_mean))
                   : m.root;
    }
    RK_INLINE Vd eta(const Angle&, Vd theta) const { return eta_of_table(spec.eta, theta); }
    RK_INLINE Vd eta_slope(const Angle&, Vd theta) const { return eta_of_table(spec.eta_slope, theta); }
};

// ---- others: E[a a] and E[a' a'] ------------------------------------------------------------------------

// (1 + s p)(1 + s q) - s^2 c^2 = (side / shrunk)^2, shrunk = 1 / sqrt((1 + s p)(1 + s q)), and cos = s c
// shrunk, without products that overflow.
struct NormalPair {
    Vd shrunk, side, cos;
    RK_INLINE NormalPair(const Marginal& p, const Marginal& q, const Angle& t, double s) {
        const Vd rest_p = 1.0 / (1.0 + s * p.variance), rest_q = 1.0 / (1.0 + s * q.variance);
        const Vd root_p = sqrt(rest_p), root_q = sqrt(rest_q);
        const Vd both = (p.root * root_p) * (q.root * root_q) * s;
        shrunk = root_p * root_q;
        cos = both * t.cos;
        side = sqrt(((rest_p + rest_q) - rest_p * rest_q) + both * both * t.sin2);
    }
};
static constexpr double kHuge = 1e300;  // products of variances above it may overflow when added

struct ErfDual {
    static constexpr bool kHomogeneous = false, kSeries = false, kKinks = false;
    RK_INLINE ErfDual(const NngpSpec&) {}
    // (2/pi) arcsin(2c / sqrt((1+2p)(1+2q))) and (4/pi) / sqrt((1+2p)(1+2q) - 4c^2)
    RK_INLINE Vd means(const Marginal& p, const Marginal& q, Vd c, const Angle& t, Vd& slope) const {
        const Vd both = p.variance * q.variance, gram = both * t.sin2;
        const Vd side = sqrt(1.0 + 2.0 * (p.variance + q.variance) + 4.0 * gram);
        slope = (4 / kPi) / side;
        const Vd mean = atan2(c + c, side) * (2 / kPi);
        const Id huge = both > broadcast<double>(kHuge);
        if (!any(huge)) return mean;
        const NormalPair pair(p, q, t, 2);
        slope = huge ? pair.shrunk * (4 / kPi) / pair.side : slope;
        return huge ? atan2(pair.cos, pair.side) * (2 / kPi) : mean;
    }
};

struct GaussianDual {
    static constexpr bool kHomogeneous = false, kSeries = false, kKinks = false;
    RK_INLINE GaussianDual(const NngpSpec&) {}
    // 1 / sqrt((1+p)(1+q) - c^2) and its derivative by c
    RK_INLINE Vd means(const Marginal& p, const Marginal& q, Vd c, const Angle& t, Vd& slope) const {
        const NormalPair pair(p, q, t, 1);
        const Vd mean = pair.shrunk / pair.side;
        slope = c * mean * mean * mean;
        return mean;
    }
};

struct GeluDual {
    static constexpr bool kHomogeneous = false, kSeries = false, kKinks = false;
    RK_INLINE GeluDual(const NngpSpec&) {}
    RK_INLINE Vd means(const Marginal& p, const Marginal& q, Vd c, const Angle& t, Vd& slope) const {
        const Id large = (p.variance > broadcast<double>(kLarge)) | (q.variance > broadcast<double>(kLarge));
        Vd far{}, far_slope{};
        if (any(large)) far = far_means(p, q, c, t, far_slope);
        const Vd gram = p.variance * q.variance * t.sin2;
        const Vd side2 = 1.0 + (p.variance + q.variance) + gram;
        const Vd side = sqrt(side2);
        const Vd k = 1.0 / (1.0 + p.variance) + 1.0 / (1.0 + q.variance);
        const Vd both = 0.25 + atan2(c, side) * (0.5 / kPi);
        const Vd density = (0.5 / kPi) / side;
        const Vd weight = gram + c * c * k;
        slope = both + c * density * (weight / side2 + 2.0 * k - 1.0);
        slope = large ? far_slope : slope;
        return large ? far : c * both + density * weight;
    }

    // With s^2 = c^2 / ((1+p)(1+q)) and side^2 = 1 - s^2 as a sum of positive terms, the derivative is free
    // of the difference of nearly equal values above, which is multiplied by sqrt(p); no product overflows
    // before c does.
    static constexpr double kLarge = 1e4;
    RK_INLINE static Vd far_means(const Marginal& p, const Marginal& q, Vd c, const Angle& t, Vd& slope) {
        const NormalPair pair(p, q, t, 1);
        const Vd rest_p = 1.0 / (1.0 + p.variance), rest_q = 1.0 / (1.0 + q.variance), k = rest_p + rest_q;
        const Vd both = 0.25 + atan2(pair.cos, pair.side) * (0.5 / kPi);
        const Vd density = pair.shrunk * (0.5 / kPi) / pair.side, roots = p.root * q.root;
        slope = both + c * density * (k + rest_p * rest_q / (pair.side * pair.side));
        return c * both + ((density * roots) * (roots * t.sin2) + (density * c) * (c * k));
    }
};

// E[sin sin], E[cos cos] = (exp(-|u-v|^2 / 2) -+ exp(-|u+v|^2 / 2)) / 2, where |u-v|^2 is the variance of the
// difference; for small c the first is exp(-(p+q)/2) sinh(c) with sinh by its series.
RK_INLINE Vd sin_mean(const Marginal& p, const Marginal& q, Vd c, const Angle& t) {
    const Vd d = p.root - q.root, both = 2.0 * p.root * q.root;
    const Vd apart = exp<double>((d * d + both * t.versine()) * -0.5);
    const Vd opposed = exp<double>((d * d + both * t.coversine()) * -0.5);
    const Vd z = c * c;
    const Vd tail = polynomial<double>(z, 1.0 / 6, 1.0 / 120, 1.0 / 5040, 1.0 / 362880, 1.0 / 39916800,
                                       1.0 / 6227020800, 1.0 / 1307674368000);
    const Vd small = exp<double>((p.variance + q.variance) * -0.5) * fma(c * z, tail, c);
    return abs(c) < broadcast<double>(0.5) ? small : (apart - opposed) * 0.5;
}
RK_INLINE Vd cos_mean(const Marginal& p, const Marginal& q, const Angle& t) {
    const Vd d = p.root - q.root, both = 2.0 * p.root * q.root;
    const Vd apart = exp<double>((d * d + both * t.versine()) * -0.5);
    return (apart + exp<double>((d * d + both * t.coversine()) * -0.5)) * 0.5;
}

struct SinDual {
    static constexpr bool kHomogeneous = false, kSeries = false, kKinks = false;
    RK_INLINE SinDual(const NngpSpec&) {}
    RK_INLINE Vd means(const Marginal& p, const Marginal& q, Vd c, const Angle& t, Vd& slope) const {
        slope = cos_mean(p, q, t);
        return sin_mean(p, q, c, t);
    }
};

struct CosDual {
    static constexpr bool kHomogeneous = false, kSeries = false, kKinks = false;
    RK_INLINE CosDual(const NngpSpec&) {}
    RK_INLINE Vd means(const Marginal& p, const Marginal& q, Vd c, const Angle& t, Vd& slope) const {
        slope = sin_mean(p, q, c, t);
        return cos_mean(p, q, t);
    }
};

}  // namespace rk::RK_ISA
