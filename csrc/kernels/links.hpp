// Links: functions of an inner product r, or of a squared distance t >= 0 (Finish::distances), with their
// derivatives. NaN stays NaN.
//
//                 value                                    derivative
//   identity      r                                        1
//   exp           exp(r)                                   exp(r)
//   relu          max(r, 0)                                [r > 0]
//   square        r^2                                      2 r
//   gaussian      exp(-t / 2)                              -exp(-t / 2) / 2
//   matern12      exp(-s),  s = sqrt(t)                    -exp(-s) / (2 s), and 0 at t = 0
//   matern32      (1 + s) exp(-s),  s = sqrt(3 t)          -3/2 exp(-s)
//   matern52      (1 + s + s^2 / 3) exp(-s),  s = sqrt(5 t)   -5/6 (1 + s) exp(-s)
//
// matern12 has a kink at t = 0: as a function of a point, its slopes there in opposite directions have
// opposite signs, and 0 is their mean (a subgradient).
#pragma once

#include "kernels/math.hpp"
#include "kernels/micro_kernel.hpp"

namespace rk::RK_ISA {

// Value and derivative of a link at one vector.
template <class T>
struct Linked {
    V<T> value, slope;
};

// s = sqrt(factor t), at most 1e4, where exp(-s) is 0: an infinite s would make s exp(-s) NaN.
template <class T>
RK_INLINE V<T> root(V<T> t, double factor) {
    return sqrt(min(broadcast<T>(T(1e8)), t * T(factor)));
}

template <class T, Link link>
RK_INLINE Linked<T> linked_with_slope(V<T> r) {
    const V<T> one = broadcast<T>(T(1));
    if constexpr (link == Link::identity) return {r, one};
    if constexpr (link == Link::exp) {
        const V<T> e = exp<T>(r);
        return {e, e};
    }
    if constexpr (link == Link::relu)
        return {r < V<T>{} ? V<T>{} : r, r <= V<T>{} ? V<T>{} : (r == r ? one : r)};
    if constexpr (link == Link::square) return {r * r, r + r};
    if constexpr (link == Link::gaussian) {
        const V<T> e = exp<T>(r * T(-0.5));
        return {e, e * T(-0.5)};
    }
    if constexpr (link == Link::matern12) {
        const V<T> s = root<T>(r, 1), e = exp<T>(-s);
        return {e, r == V<T>{} ? V<T>{} : e * T(-0.5) / s};
    }
    if constexpr (link == Link::matern32) {
        const V<T> s = root<T>(r, 3), e = exp<T>(-s);
        return {(s + T(1)) * e, e * T(-1.5)};
    }
    if constexpr (link == Link::matern52) {
        const V<T> s = root<T>(r, 5), e = exp<T>(-s), linear = s + T(1);
        return {fma(s * s, broadcast<T>(T(1.0 / 3)), linear) * e, linear * e * T(-5.0 / 6)};
    }
}

template <class T, Link link>
RK_INLINE V<T> linked(V<T> r) {
    return linked_with_slope<T, link>(r).value;
}

template <class T, Link link>
RK_INLINE void link_tile(T* r, long ld, long rows, long cols) {
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < cols; j += kLanes<T>) {
            T* at = r + i * ld + j;
            store_first(at, linked<T, link>(load_first(at, cols - j)), cols - j);
        }
}

// acc[i] += sum_j link(r_ij) v_j: chains by lane, then across lanes.
template <class T, Link link>
RK_INLINE void link_dot_tile(const T* r, long ld, long rows, long cols, const T* v, T* acc) {
    for (long i = 0; i < rows; ++i) {
        const T* row = r + i * ld;
        V<T> sum{};
        long j = 0;
        for (; j + kLanes<T> <= cols; j += kLanes<T>)
            sum = fma(linked<T, link>(load(row + j)), load(v + j), sum);
        if (j < cols) {
            const V<T> term =
                fma(linked<T, link>(load_first(row + j, cols - j)), load_first(v + j, cols - j), sum);
            sum = first_lanes<T>(cols - j) ? term : sum;
        }
        acc[i] += sum_lanes<T>(sum);
    }
}

template <class T, Link link>
RK_INLINE void link_vjp_tile(T scale, T* r, T* q, long ld, long rows, long cols, T* totals, double* slopes) {
    for (long i = 0; i < rows; ++i) {
        V<T> total{}, slope{};
        for (long j = 0; j < cols; j += kLanes<T>) {
            const long n = cols - j;
            T *const at_r = r + i * ld + j, *const at_q = q + i * ld + j;
            const V<T> x = load_first(at_r, n);
            const Linked<T> l = linked_with_slope<T, link>(x * scale);
            const V<T> weight = load_first(at_q, n) * l.slope;
            store_first(at_r, l.value, n);
            store_first(at_q, weight, n);
            const I<T> exists = first_lanes<T>(n);
            total += exists ? weight : V<T>{};
            slope += exists ? weight * x : V<T>{};
        }
        totals[i] += sum_lanes<T>(total);
        slopes[i] += (double)sum_lanes<T>(slope);
    }
}

// Calls f with the link as a constant: f.operator()<link>().
template <class F>
RK_INLINE void with_link(Link link, const F& f) {
    switch (link) {
#define RK_WITH(Enum, member) \
    case Link::member: return f.template operator()<Link::member>();
        RK_LINKS(RK_WITH)
#undef RK_WITH
    }
}

template <class T>
static void link(Link kind, T* r, long ld, long rows, long cols) {
    if (kind == Link::identity) return;
    with_link(kind, [&]<Link which>() RK_LAMBDA_INLINE { link_tile<T, which>(r, ld, rows, cols); });
}

template <class T>
static void link_dot(Link kind, const T* r, long ld, long rows, long cols, const T* v, T* acc) {
    with_link(kind,
              [&]<Link which>() RK_LAMBDA_INLINE { link_dot_tile<T, which>(r, ld, rows, cols, v, acc); });
}

template <class T>
static void link_vjp(Link kind, T scale, T* r, T* q, long ld, long rows, long cols, T* totals,
                     double* slopes) {
    with_link(kind, [&]<Link which>() RK_LAMBDA_INLINE {
        link_vjp_tile<T, which>(scale, r, q, ld, rows, cols, totals, slopes);
    });
}

}  // namespace rk::RK_ISA
