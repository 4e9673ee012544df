// sin, cos, atan2 and powers with a real exponent, on vectors. Accuracy as in math.hpp.
//
// Float32 goes through float64, where argument reduction and logarithm have bits to spare. In float64 the
// rare lanes beyond the reach of the reduction, and powers, are taken one at a time from the C library.
#pragma once

#include "kernels/math.hpp"

namespace rk::RK_ISA {

// f applied to float lanes widened to double.
template <class F>
RK_INLINE Vf through_double(Vf x, const F& f) {
    typedef float Half __attribute__((vector_size(RK_VECTOR_BYTES / 2)));
    Half part[2];
    __builtin_memcpy(part, &x, sizeof x);
    for (int h = 0; h < 2; ++h)
        part[h] = __builtin_convertvector(f(__builtin_convertvector(part[h], Vd)), Half);
    __builtin_memcpy(&x, part, sizeof x);
    return x;
}

// Largest argument the reduction below takes: n < 2^20, so that n times 33 bits is exact in double.
static constexpr double kTrigReach = 1.0e6;

// x = n pi/2 + (r + r_low), |r| <= pi/4: pi/2 in parts of 33, 33 and 53 bits (Cody & Waite).
RK_INLINE Vd reduce_angle(Vd x, Vd& r_low, Id& n) {
    const Vd k = nearest<double>(x * 0.63661977236758134, n);
    const Vd a = x - k * 0x1.921fb544p+0;  // exact
    const Vd w = k * 0x1.0b4611a6p-34;     // exact
    const Vd b = a - w;
    const Vd t = k * 0x1.3198a2e037073p-69 - ((a - b) - w);
    const Vd r = b - t;
    r_low = (b - r) - t;
    return r;
}

// sin(r + low) and cos(r + low) for |r| <= pi/4, errors 1.2e-20 and 6.7e-22.
RK_INLINE Vd sin_kernel(Vd r, Vd low) {
    const Vd z = r * r, cube = z * r;
    const Vd p = polynomial<double>(z, 0.0083333333333333314, -0.00019841269841264942, 2.7557319219243675e-6,
                                    -2.5052106199361818e-8, 1.6058526388142103e-10, -7.5863895547052155e-13);
    return r - ((z * (low * 0.5 - cube * p) - low) - cube * -0.16666666666666667);
}
RK_INLINE Vd cos_kernel(Vd r, Vd low) {
    const Vd z = r * r;
    const Vd p = polynomial<double>(z, 0.041666666666666667, -0.0013888888888888888, 2.4801587301584578e-5,
                                    -2.7557319221349734e-7, 2.0876755772685473e-9, -1.1470457979362018e-11,
                                    4.745700902269626e-14);
    const Vd half = z * 0.5;
    const Vd w = 1.0 - half;
    return w + (((1.0 - w) - half) + (z * z * p - r * low));
}

// sin(x + quarter pi/2), quarter = 0 or 1.
RK_INLINE Vd sin_or_cos(Vd x, int quarter) {
    const Id reach = abs(x) <= broadcast<double>(kTrigReach);
    Vd low;
    Id n;
    const Vd r = reduce_angle(reach ? x : Vd{}, low, n);
    n += quarter;
    const Vd s = (n & 1) != Id{} ? cos_kernel(r, low) : sin_kernel(r, low);
    Vd result = (n & 2) != Id{} ? -s : s;
    if (quarter == 0) result = x == Vd{} ? x : result;  // sin(-0) = -0
    if (any(~reach))
        for (int l = 0; l < kLanes<double>; ++l)
            if (!reach[l]) result[l] = quarter ? __builtin_cos(x[l]) : __builtin_sin(x[l]);
    return result;
}

template <class T>
RK_INLINE V<T> sin(V<T> x) {
    if constexpr (sizeof(T) == 4)
        return through_double(x, [](Vd d) RK_LAMBDA_INLINE { return sin_or_cos(d, 0); });
    else
        return sin_or_cos(x, 0);
}

template <class T>
RK_INLINE V<T> cos(V<T> x) {
    if constexpr (sizeof(T) == 4)
        return through_double(x, [](Vd d) RK_LAMBDA_INLINE { return sin_or_cos(d, 1); });
    else
        return sin_or_cos(x, 1);
}

// The angle of the point (x, y) in (-pi, pi], as in the C library. With b / a the smaller of |x|, |y| over
// the larger: atan(b/a) = t + t^3 p(t^2) for b/a <= tan(pi/8), else pi/4 + the same of t = (b-a)/(b+a);
// p to 1.8e-19. Quadrants add k pi/4, whose high part (40 bits) makes exact products with k <= 4.
RK_INLINE Vd atan2(Vd y, Vd x) {
    const Vd one = broadcast<double>(1.0), inf = broadcast<double>(__builtin_inf());
    const Vd u = abs(x), v = abs(y);
    const Id swapped = v > u;
    Vd a = swapped ? v : u, b = swapped ? u : v;
    b = a == inf ? (b == inf ? one : Vd{}) : b;
    a = a == inf ? one : a;
    const Id huge = a > broadcast<double>(0x1p1000);
    a = huge ? a * 0x1p-8 : a;
    b = huge ? b * 0x1p-8 : b;
    const Id reduced = b > a * 0.41421356237309503;
    const Vd over = reduced ? a + b : a;
    const Vd t = (reduced ? b - a : b) / (over == Vd{} ? one : over);
    const Vd z = t * t;
    const Vd p = polynomial<double>(z, -0.333333333333333332, 0.199999999999998043, -0.142857142856597778,
                                    0.111111111051505879, -0.0909090875325911294, 0.0769229636804229712,
                                    -0.0666642476020052014, 0.0587892755447380676, -0.0523044364068694771,
                                    0.0455154473402216165, -0.0345693150633260898, 0.0162843750500433944);
    // Eighths of a turn and the sign of t.
    Vd k = reduced ? one : Vd{}, sign = one;
    k = swapped ? 2.0 - k : k;
    sign = swapped ? -sign : sign;
    const Id left = (Id)x < Id{};  // -0 included
    k = left ? 4.0 - k : k;
    sign = left ? -sign : sign;
    const Vd low = fma(sign * t * z, p, k * 0x1.a308d313198a3p-42);
    const Vd angle = fma(k, broadcast<double>(0x1.921fb54442p-1), fma(sign, t, low));
    return ((x == x) & (y == y)) ? copysign(angle, y) : x + y;
}

// x^r for x >= 0 and any real r, with the conventions of the C library.
template <class T>
RK_INLINE V<T> pow(V<T> x, T r) {
    if (r == T(1)) return x;
    if (r == T(2)) return x * x;
    if (r == T(0)) return broadcast<T>(T(1));
    if constexpr (sizeof(T) == 4) {
        const double exponent = r;
        return through_double(x,
                              [&](Vd d) RK_LAMBDA_INLINE { return exp<double>(log<double>(d) * exponent); });
    } else {
        for (int l = 0; l < kLanes<T>; ++l) x[l] = __builtin_pow(x[l], r);
        return x;
    }
}

}  // namespace rk::RK_ISA
