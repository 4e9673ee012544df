// Links, functions of an inner product r or of a squared distance t >= 0, with their derivatives; and the
// arithmetic of distances. Mirrors csrc/kernels/links.hpp, which has their table.
#pragma once

#include "arithmetic.cuh"
#include "base/names.hpp"

namespace rk::cuda {

// Squared distances in place of inner products: sums of squared differences, as on the CPU, which lose no
// digits where points are far from the origin. They are not products of matrices, so they take multiply-adds
// in the dtype of the sums, also for 16-bit arrays.
template <class T>
struct Distances : Fma<T> {
    using Vector = typename Fma<T>::Vector;

    template <int G>
    RK_DEVICE static void multiply(T (&acc)[4 * G][8], const T* a, int a_pitch, const T* b, int b_pitch,
                                   int depth) {
        constexpr int kVector = Fma<T>::kVector;
        const int lane = lane_index();
        b += lane % 8 * b_pitch;
        for (int k = 0; k < depth; k += kVector) {
            Vector x[4 * G];
#pragma unroll
            for (int i = 0; i < 4 * G; ++i)
                x[i] = *reinterpret_cast<const Vector*>(a + Fma<T>::row_of(lane, i) * a_pitch + k);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const Vector y = *reinterpret_cast<const Vector*>(b + 8 * j * b_pitch + k);
#pragma unroll
                for (int v = 0; v < kVector; ++v)
#pragma unroll
                    for (int i = 0; i < 4 * G; ++i) {
                        const T difference = x[i].v[v] - y.v[v];
                        acc[i][j] = fma(difference, difference, acc[i][j]);
                    }
            }
        }
    }
};

template <class T>
struct SecondProduct<Distances<T>> {
    using Type = Fma<T>;
};

template <class A>
inline constexpr bool has_distances = false;
template <class T>
inline constexpr bool has_distances<Distances<T>> = true;

// Value and derivative of a link.
template <class Sum>
struct Linked {
    Sum value, slope;
};

// s = sqrt(factor t), at most 1e4, where exp(-s) is 0: an infinite s would make s exp(-s) NaN.
template <class Sum>
RK_DEVICE Sum root(Sum t, double factor) {
    const Sum square = t * Sum(factor);
    return sqrt(square > Sum(1e8) ? Sum(1e8) : square);
}

// Of the links of distances or of the others: no kernel needs both.
template <bool Distance, class Sum>
RK_DEVICE Linked<Sum> value_and_slope(Link link, Sum r) {
    if constexpr (!Distance) {
        if (link == Link::exp) {
            const Sum e = exp(r);
            return {e, e};
        }
        if (link == Link::relu) return {r < Sum(0) ? Sum(0) : r, r <= Sum(0) ? Sum(0) : r == r ? Sum(1) : r};
        if (link == Link::square) return {r * r, r + r};
        return {r, Sum(1)};  // identity
    } else {
        if (link == Link::gaussian) {
            const Sum e = exp(r * Sum(-0.5));
            return {e, e * Sum(-0.5)};
        }
        if (link == Link::matern12) {
            const Sum s = root(r, 1), e = exp(-s);
            return {e, r == Sum(0) ? Sum(0) : e * Sum(-0.5) / s};
        }
        if (link == Link::matern32) {
            const Sum s = root(r, 3), e = exp(-s);
            return {(s + Sum(1)) * e, e * Sum(-1.5)};
        }
        const Sum s = root(r, 5), e = exp(-s), linear = s + Sum(1);  // matern52
        return {fma(s * s, Sum(1.0 / 3), linear) * e, linear * e * Sum(-5.0 / 6)};
    }
}

template <bool Distance, class Sum>
RK_DEVICE_CALL Linked<Sum> call_with_slope(Link link, Sum r) {
    return value_and_slope<Distance>(link, r);
}
template <bool Distance, class Sum>
RK_DEVICE_CALL Sum call_for_value(Link link, Sum r) {
    return value_and_slope<Distance>(link, r).value;
}

// Inlined where it is a few instructions for each of a thread's 32 pairs.
template <bool Distance, class Sum>
RK_DEVICE Linked<Sum> linked_with_slope(Link link, Sum r) {
    if constexpr (Distance || sizeof(Sum) == 8)
        return call_with_slope<Distance>(link, r);
    else
        return value_and_slope<Distance>(link, r);
}

template <bool Distance, class Sum>
RK_DEVICE Sum linked(Link link, Sum r) {
    if constexpr (sizeof(Sum) == 8)
        return call_for_value<Distance>(link, r);
    else
        return value_and_slope<Distance>(link, r).value;
}

}  // namespace rk::cuda
