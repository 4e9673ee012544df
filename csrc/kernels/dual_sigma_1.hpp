// E[a(u) a(v)] and E[a'(u) a'(v)] of a(z) = relu(z) - relu(z - 1), which cuts z to [0, 1].
//
// In polar coordinates u = r alpha, v = r beta, where r has the density r exp(-r^2 / 2) and the direction is
// uniform on the circle. Both are positive in a wedge of angle pi - theta, which the direction u = v divides.
// Where alpha >= beta > 0, with A = 1 / alpha and B = 1 / beta, the integrals over r are
//   of a a      beta (2 alpha (1 - exp(-A^2/2)) + sqrt(pi/2) (erf(B / sqrt 2) - erf(A / sqrt 2)))
//   of a' a'    1 - exp(-A^2/2)
// whose terms are all positive, so that no variance costs digits. Between u = v and the side where v = 0,
// alpha = sqrt(p) sin(y + theta) and beta = sqrt(q) sin(y) for y from 0 to atan2(sqrt(p) sin(theta),
// sqrt(q) - sqrt(p) cos(theta)), the angle of a triangle; the other part has p and q exchanged.
//
// At large variances the integrand changes near the ends, within an angle of 1 / sqrt(q). With the angle
// y = end / (1 + exp(-x)) every scale of it takes equally many nodes of the trapezoidal rule. The integrand
// exp(-1/(2 y^2)) grows for |Im x| > pi / 4: with step 3/16 the error is exp(-pi^2 / 2 / step) = 4e-12 of a
// term that is itself small; measured, it is below 1e-14 for variances from 1e-2 to 1e8. The ends x = +-36
// leave 3e-16.
#pragma once

#include "kernels/dual.hpp"

namespace rk::RK_ISA {

static constexpr double kWedgeStep = 3.0 / 16;
static constexpr int kWedgeNodes = 192;  // on either side of 0

// The part of the wedge between u = v and the side where the variable with root b vanishes: its angle is
// `end`, that of the other part `beyond`.
struct WedgePart {
    Vd a, b, end, beyond, theta, value{}, slope{};
    RK_INLINE void add(double share, double rest, double weight) {
        const Vd y = end * share, from_far = end * rest + beyond, turned = y + theta;
        const Vd beta = b * sin<double>(y);
        const Vd alpha = a * sin<double>(turned < from_far ? turned : from_far);
        const Vd A = 1.0 / alpha;
        const Vd h = tanh<double>(A * A * 0.25), inside = 2.0 * h / (1.0 + h);  // 1 - exp(-A^2/2)
        const Vd between = erf<double>(0.70710678118654752 / beta) - erf<double>(A * 0.70710678118654752);
        value += weight * (beta * (2.0 * alpha * inside + between * 1.2533141373155003));
        slope += weight * inside;
    }
};

// Not inlined: a call is nothing beside the sum, and the compiler takes long over it.
static __attribute__((noinline)) void sigma_1_means(const Marginal& p, const Marginal& q, const Angle& t,
                                                    Vd& value, Vd& slope) {
    const Vd theta = t.theta(), sine = t.sin(), versine = t.versine(), difference = q.root - p.root;
    // sqrt(q) - sqrt(p) cos(theta) without cancellation
    Vd end_p = atan2(p.root * sine, difference + p.root * versine);
    Vd end_q = atan2(q.root * sine, q.root * versine - difference);
    const Id same = (sine == Vd{}) & (difference == Vd{}) & (t.cos > Vd{});
    end_p = same ? broadcast<double>(kPi / 2) : end_p;
    end_q = same ? broadcast<double>(kPi / 2) : end_q;
    WedgePart below{p.root, q.root, end_p, end_q, theta}, above{q.root, p.root, end_q, end_p, theta};
    for (int k = -kWedgeNodes; k <= kWedgeNodes; ++k) {
        const double e = exp<double>(broadcast<double>(kWedgeStep * (k < 0 ? k : -k)))[0];
        const double large = 1 / (1 + e), small = e / (1 + e), weight = kWedgeStep * (large * small);
        const double share = k < 0 ? small : large, rest = k < 0 ? large : small;
        below.add(share, rest, weight);
        above.add(share, rest, weight);
    }
    const Id zero = (p.variance == Vd{}) | (q.variance == Vd{});
    const Vd mean = (below.value * end_p + above.value * end_q) * (0.5 / kPi);
    const Vd tilt = (below.slope * end_p + above.slope * end_q) * (0.5 / kPi);
    value = zero ? Vd{} : mean;
    slope = zero ? Vd{} : tilt;
}

struct Sigma1Dual {
    // E[a' a'] falls like the angle, which of coinciding points is 0 in every layer, without the rounding of
    // a cosine.
    static constexpr bool kHomogeneous = false, kSeries = false, kKinks = true;
    RK_INLINE Sigma1Dual(const NngpSpec&) {}
    RK_INLINE Vd means(const Marginal& p, const Marginal& q, Vd, const Angle& t, Vd& slope) const {
        Vd value;
        sigma_1_means(p, q, t, value, slope);
        return value;
    }
};

}  // namespace rk::RK_ISA
