// What moves values between the lanes of a register: shuffles and reductions in a fixed tree order.
#pragma once

#include "simd/simd.hpp"

namespace rk::RK_ISA {

// Lane l of the result is lane lanes[l] of a and b, one after the other. Clang has no shuffle by a vector of
// lanes, and makes the same instructions of the loop: the lanes are constants once this is inlined.
template <class T>
RK_INLINE V<T> shuffle(V<T> a, V<T> b, I<T> lanes) {
#if defined(__clang__)
    V<T> r{};
    for (int l = 0; l < kLanes<T>; ++l)
        r[l] = lanes[l] < kLanes<T> ? a[lanes[l] % kLanes<T>] : b[lanes[l] % kLanes<T>];
    return r;
#else
    return __builtin_shuffle(a, b, lanes);
#endif
}

// Lane l of the result is lane l ^ distance of v.
template <int distance>
RK_INLINE Vf swap_lanes(Vf v) {
    return shuffle<float>(v, v, iota<float>() ^ distance);
}
template <int distance>
RK_INLINE Vd swap_lanes(Vd v) {
    return shuffle<double>(v, v, iota<double>() ^ (std::int64_t)distance);
}

template <class T>
RK_INLINE T sum_lanes(V<T> v) {
    if constexpr (kLanes<T> > 8) v += swap_lanes<8>(v);
    if constexpr (kLanes<T> > 4) v += swap_lanes<4>(v);
    if constexpr (kLanes<T> > 2) v += swap_lanes<2>(v);
    return (v + swap_lanes<1>(v))[0];
}

template <class T>
RK_INLINE T max_lanes(V<T> v) {
    if constexpr (kLanes<T> > 8) v = max(v, swap_lanes<8>(v));
    if constexpr (kLanes<T> > 4) v = max(v, swap_lanes<4>(v));
    if constexpr (kLanes<T> > 2) v = max(v, swap_lanes<2>(v));
    return max(v, swap_lanes<1>(v))[0];
}

}  // namespace rk::RK_ISA
