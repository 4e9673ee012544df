// E[a(u) a(v)] of tanh and of the activations made of it, at variances where the series of dual_series.hpp
// has too many terms.
//
// tanh(z) = E erf(z / (S sqrt 2)) with S of Kolmogorov's distribution, as the logistic law is a mixture of
// normal laws (Stefanski 1991). Gauss's rule with 14 nodes for the law of log S gives tanh(z) = sum over i of
// w_i erf(b_i z), w_i > 0, to 1.4e-10 in z; the error oscillates, and of means under normal laws of variance
// 25 or more, in one of the two points, it leaves less than 1e-15.
//
// With alpha^2 = 2 b_i^2 p / (1 + 2 b_i^2 p), beta likewise of b_j and q, and s = alpha beta cos(theta):
//   E[erf erf]     = (2/pi) asin(s)                                (Williams 1997)
//   E[erf' erf']   = (4/pi) (b_i / sqrt(1 + 2 b_i^2 p)) (b_j / sqrt(1 + 2 b_j^2 q)) / sqrt(1 - s^2) = D
//   E[u erf v erf] = c E[erf erf] + D (p q sin^2 + c^2 k),   k = 1/(1 + 2 b_i^2 p) + 1/(1 + 2 b_j^2 q)
// (Stein's lemma twice, as for gelu), and the mean of the integrals of erf is the product of their means plus
// the integral of (2/pi) asin over c. 1 - s^2 is a sum of positive terms, and none overflows before c does.
//   sigmoid(z) = 1/2 + tanh(z/2) / 2,  silu(z) = z/2 + z tanh(z/2) / 2,
//   softplus(z) = z/2 + log(2 cosh(z/2)):
// what is computed here is the second summand, which is odd for sigmoid and even for the other two.
#pragma once

#include "kernels/dual.hpp"

namespace rk::RK_ISA {

static constexpr int kNormals = 14;
static constexpr double kNormalSlopes[kNormals] = {
    2.740687194183099532,  2.285826685076512870,  1.921570348930920837,  1.611028687308807457,
    1.341828737800040538,  1.108910065720265553,  0.9100107186129270586, 0.7437005551289045308,
    0.6080806311570132210, 0.4996918520670440879, 0.4135945219193660072, 0.3446068166495610993,
    0.2879797310724096426, 0.2388070853830742130};
static constexpr double kNormalWeights[kNormals] = {
    6.077562610404654229e-7,   0.0000883218117465255726, 0.002254695776331619427, 0.01999636656279342969,
    0.08239507072423321295,    0.1864269762491454235,    0.2586069002276632443,   0.2358294428105469535,
    0.1441729020862705091,     0.05630047166203429417,   0.01254167517624523743,  0.001335762411399454925,
    0.00005046658856265828768, 3.401567663966644779e-7};

// Of a point and each erf(b z): 1 / (1 + 2 b^2 p), alpha, and b / sqrt(1 + 2 b^2 p).
struct NormalUnits {
    Vd rest[kNormals], alpha[kNormals], slope[kNormals];
    RK_INLINE NormalUnits(const Marginal& m, double scale) {
        for (int i = 0; i < kNormals; ++i) {
            const double b = kNormalSlopes[i] * scale;
            rest[i] = 1.0 / (1.0 + m.variance * (2 * b * b));
            const Vd root = sqrt(rest[i]);
            alpha[i] = m.root * root * (b * 1.41421356237309505);
            slope[i] = root * b;
        }
    }
};

// Not inlined, as sigma_1_means.
static __attribute__((noinline)) void mixture_means(Activation activation, const Marginal& p,
                                                    const Marginal& q, const Vd& c, const Angle& t, Vd& value,
                                                    Vd& slope) {
    const bool is_tanh = activation == Activation::tanh, is_softplus = activation == Activation::softplus;
    const bool is_silu = activation == Activation::silu;
    const double scale = is_tanh ? 1.0 : 0.5, part = is_tanh ? 2 / kPi : 0.5 / kPi;
    const NormalUnits of_p(p, scale), of_q(q, scale);
    const Vd roots = p.root * q.root;
    // Adds the terms of unit i of p and j of q, and of j and i: bit for bit the same if p and q are
    // exchanged.
    Vd values{}, slopes{};
    for (int i = 0; i < kNormals; ++i)
        for (int j = 0; j <= i; ++j) {
            Vd pair{}, tilt{};
            for (int order = 0; order < (i == j ? 1 : 2); ++order) {
                const int k = order ? j : i, l = order ? i : j;
                const Vd both = of_p.alpha[k] * of_q.alpha[l], s = both * t.cos;
                const Vd product = of_p.rest[k] * of_q.rest[l], sum = of_p.rest[k] + of_q.rest[l];
                const Vd side2 = (sum - product) + both * both * t.sin2, side = sqrt(side2);
                const Vd angle = atan2(s, side), density = of_p.slope[k] * of_q.slope[l] / side;
                if (is_softplus) {
                    pair += c * (angle - s / (1.0 + side));
                    tilt += angle;
                } else if (is_silu) {
                    pair +=
                        c * angle + 2.0 * ((density * roots) * (roots * t.sin2) + (density * c) * (c * sum));
                    tilt += angle + 2.0 * c * density * (sum + product / side2);
                } else {
                    pair += angle;
                    tilt += 2.0 * density;
                }
            }
            const double weight = kNormalWeights[i] * kNormalWeights[j];
            values += pair * weight;
            slopes += tilt * weight;
        }
    value = values * part;
    slope = slopes * part;
    if (!is_softplus) return;
    // The mean of the integral z erf(b z) + exp(-b^2 z^2) / (b sqrt pi) is sqrt(1 + 2 b^2 p) / (b sqrt pi).
    Vd mean_p{}, mean_q{};
    for (int i = 0; i < kNormals; ++i) {
        mean_p += kNormalWeights[i] / of_p.slope[i];
        mean_q += kNormalWeights[i] / of_q.slope[i];
    }
    value += mean_p * mean_q * (0.25 / kPi);
}

}  // namespace rk::RK_ISA
