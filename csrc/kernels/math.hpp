// Elementary functions on vectors: exp, log, tanh, sigmoid, softplus, erf, erfc.
//
// Accuracy: at most 2 ulp over the whole range in float32 and float64, on every instruction set, with
// or without fused multiply-add (tests/test_math.py measures it); infinities, NaN and signed zeros as
// in the C library. Every lane is computed alone: a value does not depend on its neighbours.
//
// Polynomials are near-minimax: interpolation at Chebyshev nodes in 60-digit arithmetic, with the
// largest error of the exact polynomial given beside each. Ranges are reduced as in Cody & Waite,
// Software Manual for the Elementary Functions (1980); the constants subtracted have trailing zeros, so
// that their products with small integers are exact without a fused multiply-add.
#pragma once

#include "simd/lanes.hpp"

namespace rk::RK_ISA {

// c0 + c1 x + c2 x^2 + ... by Horner's rule.
template <class T>
RK_INLINE V<T> polynomial(V<T>, T c) {
    return broadcast<T>(c);
}
template <class T, class... More>
RK_INLINE V<T> polynomial(V<T> x, T c, More... more) {
    return fma(polynomial<T>(x, T(more)...), x, broadcast<T>(c));
}

template <class T>
struct Format;
template <>
struct Format<float> {
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static constexpr float exp_low = -104.0f, exp_high = 89.0f;  // exp is 0 from here on, inf from here on
    static constexpr float normal_low = -87.0f, normal_high = 88.0f;  // exp is neither subnormal nor infinite
    static constexpr float subnormal_low = -87.34f;                   // exp is subnormal below, and rounded
    static constexpr float least_power = 149, whole = 0x1p23f;        // 2^-149 is the least number
    static constexpr float smallest_normal = 0x1p-126f, denormal_scale = 0x1p25f;
    static constexpr int denormal_shift = 25;
    static constexpr float far = 11.0f;  // erfc of it underflows
};
template <>
struct Format<double> {
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double magic = 6755399441055744.0;
    static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr double exp_low = -746.0, exp_high = 710.0;
    static constexpr double normal_low = -708.0, normal_high = 709.0;
    static constexpr double subnormal_low = -708.4;
    static constexpr double least_power = 1074, whole = 0x1p52;
    static constexpr double smallest_normal = 0x1p-1022, denormal_scale = 0x1p54;
    static constexpr int denormal_shift = 54;
    static constexpr double far = 27.5;
};

// x * 2^floor(k) = x * 2^n for a power given as a float and as an integer, in the range that a product of two
// powers of two reaches: subnormal results included.
template <class T>
RK_INLINE V<T> scale_by_power(V<T> x, [[maybe_unused]] V<T> k, [[maybe_unused]] I<T> n) {
#if defined(RK_ISA_AVX512)
    if constexpr (sizeof(T) == 4)
        return (V<T>)_mm512_maskz_scalef_ps(0xffff, (__m512)x, (__m512)k);
    else
        return (V<T>)_mm512_maskz_scalef_pd(0xff, (__m512d)x, (__m512d)k);
#else
    using F = Format<T>;
    const I<T> half = n >> 1;
    const V<T> a = (V<T>)((half + F::bias) << F::mantissa);
    const V<T> b = (V<T>)((n - half + F::bias) << F::mantissa);
    return x * a * b;
#endif
}

// Nearest integer of a value below 2^22 (2^51) in magnitude: as a float and as an integer.
template <class T>
RK_INLINE V<T> nearest(V<T> x, I<T>& n) {
    const V<T> shifted = x + Format<T>::magic;
    const V<T> magic = broadcast<T>(Format<T>::magic);
    n = (I<T>)shifted - (I<T>)magic;
    return shifted - magic;
}

// 2^(i / 16)
static constexpr double kPowers[16] = {1.0,
                                       1.0442737824274138403,
                                       1.0905077326652576592,
                                       1.1387886347566916537,
                                       1.1892071150027210667,
                                       1.2418578120734840486,
                                       1.2968395546510096659,
                                       1.3542555469368927283,
                                       1.4142135623730950488,
                                       1.4768261459394993114,
                                       1.5422108254079408236,
                                       1.6104903319492543082,
                                       1.6817928305074290861,
                                       1.7562521603732994831,
                                       1.8340080864093424635,
                                       1.9152065613971472939};

// exp(r) for |r| <= ln 2 / 2N: r + r^2 p(r) = exp(r) - 1.
template <class T>
RK_INLINE V<T> exp_minus_one_near_zero(V<T> r) {
    constexpr int bits = kTableBits<T>;
    V<T> p;
    if constexpr (sizeof(T) == 4 && bits == 4)  // 4.6e-9
        p = polynomial<T>(r, T(0.500009775), T(0.166668622));
    else if constexpr (sizeof(T) == 4 && bits == 3)  // 3.3e-10
        p = polynomial<T>(r, T(0.5), T(0.166678397), T(0.0416686217));
    else if constexpr (sizeof(T) == 4)  // 1.5e-9
        p = polynomial<T>(r, T(0.500000001), T(0.166666667), T(0.0416664568), T(0.00833331002),
                          T(0.00139345419), T(0.000198919813));
    else if constexpr (bits == 3)  // 9.6e-18
        p = polynomial<T>(r, T(0.50000000000000512), T(0.16666666666666724), T(0.041666666617526458),
                          T(0.0083333333278733400), T(0.0013889587108239542), T(0.00019842045637239259));
    else  // 1.6e-18
        p = polynomial<T>(r, T(0.5), T(0.16666666666666671), T(0.04166666666666667), T(0.0083333333333255447),
                          T(0.0013888888888883327), T(0.00019841269876864355), T(2.4801587327007187e-5),
                          T(2.755725283351691e-6), T(2.75572718102198e-7), T(2.5106274733573295e-8),
                          T(2.0915442297780115e-9));
    return fma(r * r, p, r);
}

// kScalesAtOnce: scale_by_power is one instruction, which overflows to infinity. is_exp_normal: exp of no
// lane is subnormal or 0 nor, without such an instruction, infinite.
#if defined(RK_ISA_AVX512)
static constexpr bool kScalesAtOnce = true;
template <class T>
RK_INLINE bool is_exp_normal(V<T> x) {
    return bits_not_at_most(x, broadcast<T>(Format<T>::normal_low)) == (1u << kLanes<T>)-1u;
}
#else
static constexpr bool kScalesAtOnce = false;
template <class T>
RK_INLINE bool is_exp_normal(V<T> x) {
    return all((x > broadcast<T>(Format<T>::normal_low)) & (x < broadcast<T>(Format<T>::normal_high)));
}
#endif

// scale_by_power, 0 in some lanes and subnormal results in others: those are integers times the least number,
// and are rounded to them as integers are, beside 2^mantissa.
template <class T>
RK_INLINE V<T> scale_down(V<T> x, V<T> k, I<T> n, I<T> zero, I<T> subnormal) {
    using F = Format<T>;
    k += subnormal ? broadcast<T>(F::least_power) : V<T>{};
    n += subnormal & (I<T>{} + (int)F::least_power);
    const V<T> scaled = scale_by_power<T>(x, k, n), whole = broadcast<T>(F::whole);
    const I<T> number = (I<T>)(scaled + whole) - (I<T>)whole;
    return zero ? V<T>{} : subnormal ? (V<T>)number : scaled;
}

// exp(x) = 2^k exp(r), k = round(x / ln 2) to a multiple of 1 / N, |r| <= ln 2 / 2N. N = 2^bits is the size
// of a table that one instruction looks up, for the fraction of k, or 1 (Tang 1989).
//
// Where all results are normal, 2^k is made by adding k's integer part to the exponent of the table's value
// or of the result: with clamping and two factors (scale_by_power), exp took 1.4 times as long on AVX2. The
// results are the same, since scaling by a power of two is exact there.
//
// Intel's processors take 150 cycles for an instruction with a subnormal result, or one that would be without
// rounding to 0, in any lane. Scores that a mask forbids are -inf, and values of a Gaussian kernel between
// far points underflow: they would take ten times as long as others. So lanes whose result is 0 are set
// aside, and subnormal results are made of integers.
template <class T>
RK_INLINE V<T> exp(V<T> x) {
    using F = Format<T>;
    constexpr int bits = kTableBits<T>, fraction = F::mantissa - bits;
    const bool normal = is_exp_normal<T>(x);
    I<T> zero{}, subnormal{};
    if (__builtin_expect(!normal, 0)) {
        zero = (I<T>)(x <= broadcast<T>(F::exp_low));
        if (all(zero)) return V<T>{};
        subnormal = (I<T>)(x <= broadcast<T>(F::subnormal_low)) & ~zero;
        x = zero ? V<T>{} : x;
    }
    if (kScalesAtOnce || __builtin_expect(!normal, 0)) x = min(broadcast<T>(F::exp_high), x);  // NaN stays
    const V<T> magic = broadcast<T>(F::magic / (1 << bits));
    const V<T> shifted = fma(x, broadcast<T>(T(1.4426950408889634)), magic);  // k N in its low bits
    const V<T> k = shifted - magic;
    const V<T> r = fma(k, broadcast<T>(-F::ln2_low), fma(k, broadcast<T>(-F::ln2_high), x));
    const V<T> part = exp_minus_one_near_zero<T>(r);
    const I<T> exponent = (I<T>)shifted << fraction;  // with k's fraction below it
    const I<T> n = ((I<T>)shifted - (I<T>)magic) >> bits;
    V<T> power = part + T(1);
    if constexpr (bits > 0) {
        V<T> table{};
        for (int l = 0; l < 1 << bits; ++l) table[l] = T(kPowers[l << (4 - bits)]);
        if (!kScalesAtOnce && __builtin_expect(normal, 1)) {
            const V<T> less_fraction = (V<T>)((I<T>)table - (iota<T>() << fraction));
            power = (V<T>)((I<T>)lookup(less_fraction, (I<T>)shifted) + exponent);
            return fma(power, part, power);
        }
        power = lookup(table, (I<T>)shifted);
        power = fma(power, part, power);
    } else {
        if (__builtin_expect(normal, 1)) return (V<T>)((I<T>)power + exponent);
    }
    if (__builtin_expect(normal, 1)) return scale_by_power<T>(power, k, n);
    return scale_down<T>(power, k, n, zero, subnormal);
}

// log(x) = k ln 2 + log(m), m in [sqrt(1/2), sqrt(2)); with f = m - 1 and s = f / (2 + f),
// log(1 + f) = f - f^2/2 + s (f^2/2 + z p(z)), z = s^2 (the atanh series, as in FreeBSD's msun).
template <class T>
RK_INLINE V<T> log(V<T> x) {
    using F = Format<T>;
    const V<T> input = x;
    const I<T> tiny = x < broadcast<T>(F::smallest_normal);
    x = tiny ? x * F::denormal_scale : x;
    // Exponent of x / sqrt(1/2), so that the mantissa falls in [sqrt(1/2), sqrt(2)).
    const V<T> root = broadcast<T>(T(0.70710678118654752));
    const I<T> exponent = ((I<T>)x - (I<T>)root) >> F::mantissa;
    const V<T> m = (V<T>)((I<T>)x - (exponent << F::mantissa));
    const I<T> k = exponent - (tiny ? I<T>{} + F::denormal_shift : I<T>{});
    // k as a float: small integers are exact beside the magic number.
    const V<T> magic = broadcast<T>(F::magic);
    const V<T> e = (V<T>)((I<T>)magic + k) - magic;
    const V<T> f = m - T(1);
    const V<T> s = f / (f + T(2));
    const V<T> z = s * s;
    V<T> p;
    if constexpr (sizeof(T) == 4)  // 1.2e-9
        p = polynomial<T>(z, T(0.666666666), T(0.400001239), T(0.28550587), T(0.23336811));
    else  // 2.2e-18
        p = polynomial<T>(z, T(0.66666666666666666), T(0.40000000000000912), T(0.28571428570782208),
                          T(0.22222222396552981), T(0.18181795124476754), T(0.15386267672882225),
                          T(0.13268026140428739), T(0.13094416666525344));
    const V<T> half_square = f * f * T(0.5);
    V<T> r = e * F::ln2_high - ((half_square - fma(s, fma(z, p, half_square), e * F::ln2_low)) - f);
    const V<T> infinity = broadcast<T>(T(__builtin_inff()));
    r = input == infinity ? infinity : r;
    r = input == V<T>{} ? -infinity : r;
    return input < V<T>{} ? broadcast<T>(T(__builtin_nanf(""))) : (input == input ? r : input);
}

// n / d for d rounded from d + d_low: one step of correction keeps the division near half an ulp.
template <class T>
RK_INLINE V<T> divide(V<T> n, V<T> d, V<T> d_low) {
    const V<T> q = n / d;
    return fma(-q, d_low / d, q);
}

// Small |x|: x + x^3 p(x^2); else 1 - 2 / (exp(2 |x|) + 1), whose subtrahend is below 1/2.
template <class T>
RK_INLINE V<T> tanh(V<T> x) {
    const V<T> a = abs(x);
    const V<T> z = x * x;
    V<T> p;
    if constexpr (sizeof(T) == 4)  // 3.8e-10
        p = polynomial<T>(z, T(-0.333333333), T(0.133333242), T(-0.0539646961), T(0.0218184037),
                          T(-0.0085261408), T(0.0025261092));
    else  // 2.2e-19
        p = polynomial<T>(z, T(-0.33333333333333333), T(0.13333333333333312), T(-0.053968253968220271),
                          T(0.021869488534068168), T(-0.0088632354629846868), T(0.0035921267673025662),
                          T(-0.0014558190700396024), T(0.00058990512006748429), T(-0.00023847198564355908),
                          T(9.4549417589351517e-5), T(-3.3718010044053526e-5), T(7.8725195848760261e-6));
    const V<T> small = fma(x * z, p, x);
    const V<T> large = T(1) - T(2) / (exp<T>(a + a) + T(1));
    return copysign(a < broadcast<T>(T(0.55)) ? small : large, x);
}

// exp(-|x|) / (1 + exp(-|x|)) or 1 / (1 + exp(-|x|)): no overflow, and small values keep their digits.
template <class T>
RK_INLINE V<T> sigmoid(V<T> x) {
    const V<T> e = exp<T>(-abs(x));
    const V<T> d = e + T(1);
    return divide<T>(x < V<T>{} ? e : broadcast<T>(T(1)), d, e - (d - T(1)));
}

// log(1 + u) for u in [0, 1]: the rounding of 1 + u is put back to first order.
template <class T>
RK_INLINE V<T> log1p_unit(V<T> u) {
    const V<T> s = u + T(1);
    return log<T>(s) + (u - (s - T(1))) / s;
}

// log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))
template <class T>
RK_INLINE V<T> softplus(V<T> x) {
    const V<T> tail = log1p_unit<T>(exp<T>(-abs(x)));
    return x > V<T>{} ? x + tail : tail + (x - x < V<T>{} ? x : V<T>{});
}

// erfc(a) for a >= 0, as exp(-a^2) g(t) / (1 + 2a), t = (a - 2) / (a + 2): g is smooth and near 1
// (Schonfelder 1978). Relative error some a^2 ulp, which is that of exp(-a^2).
template <class T>
RK_INLINE V<T> erfc_positive(V<T> a) {
    const V<T> far = broadcast<T>(Format<T>::far);
    a = a > far ? far : a;
    const V<T> t = (a - T(2)) / (a + T(2));
    V<T> g;
    if constexpr (sizeof(T) == 4)  // 1.5e-8
        g = polynomial<T>(t, T(1.2769784), T(-0.0927638961), T(-0.166031603), T(0.164052876), T(-0.054202406),
                          T(-0.00804040137), T(0.00862958718), T(0.0012557605), T(-0.00124893996),
                          T(-0.000342583568), T(3.67332953e-5));
    else  // 7.2e-18
        g = polynomial<T>(t, T(1.2769783815525287), T(-0.092763826585746055), T(-0.16603039761529129),
                          T(0.16405128003344844), T(-0.054220000991899347), T(-0.0080340150826701),
                          T(0.0087226538717628493), T(0.0012713389703157081), T(-0.0014568138877137612),
                          T(-0.00045434087359338291), T(0.00020636667867790451), T(0.00015103941573631825),
                          T(-1.5067788893614248e-6), T(-3.6424081957745205e-5), T(-1.3504585693286145e-5),
                          T(3.7115250708687341e-6), T(5.2537981948360543e-6), T(1.5063589774327874e-6),
                          T(-7.4644026710634221e-7), T(-8.4591299051751181e-7), T(-2.0661142005177401e-7),
                          T(1.5780021524569815e-7), T(1.2505058099757192e-7), T(8.5278224932666851e-9),
                          T(-2.0226260194345578e-8), T(-6.5492176680558837e-9), T(-2.68899874232115e-10));
    return exp<T>(-a * a) * (g / (a + a + T(1)));
}

// |x| < 1: x p(x^2); else 1 - erfc(|x|), erfc(1) = 0.157.
template <class T>
RK_INLINE V<T> erf(V<T> x) {
    const V<T> a = abs(x);
    const V<T> z = x * x;
    V<T> p;
    if constexpr (sizeof(T) == 4)  // 1.3e-9
        p = polynomial<T>(z, T(0.128379167), T(-0.376126267), T(0.112835947), T(-0.026854212),
                          T(0.00518908742), T(-0.000801686429), T(7.87587506e-5));
    else  // 2.2e-21
        p = polynomial<T>(z, T(0.1283791670955126), T(-0.37612638903183752), T(0.1128379167095512),
                          T(-0.026866170645129841), T(0.0052239776254232983), T(-0.00085483270219348296),
                          T(0.00012055332902888735), T(-1.4925647567519332e-5), T(1.6462045441468419e-6),
                          T(-1.6364642158167615e-7), T(1.4792401209404813e-8), T(-1.216456005728345e-9),
                          T(8.7090451290531067e-11), T(-4.2309458242953378e-12));
    const V<T> small = fma(x, p, x);  // 2/sqrt(pi) = 1 + 0.128...: the 1 is added last
    const V<T> large = copysign(T(1) - erfc_positive<T>(a), x);
    return a < broadcast<T>(T(1)) ? small : (x == x ? large : x);
}

}  // namespace rk::RK_ISA
