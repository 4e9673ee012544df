// What moves values between the lanes of a register: shuffles, tables, and reductions in a fixed tree order.
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

// Lane l of the result is lane index[l] of the table, whose size is the power of two below; higher bits of
// the index count for nothing. No bits: there is no such instruction.
#if defined(RK_ISA_AVX512)
template <class T>
inline constexpr int kTableBits = sizeof(T) == 4 ? 4 : 3;
RK_INLINE Vf lookup(Vf table, If index) {
    return (Vf)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index, (__m512)table);
}
RK_INLINE Vd lookup(Vd table, Id index) {
    return (Vd)_mm512_maskz_permutexvar_pd(0xff, (__m512i)index, (__m512d)table);
}
#elif defined(RK_ISA_AVX2)
template <class T>
inline constexpr int kTableBits = sizeof(T) == 4 ? 3 : 0;
RK_INLINE Vf lookup(Vf table, If index) {
    return (Vf)_mm256_permutevar8x32_ps((__m256)table, (__m256i)index);
}
#else
template <class T>
inline constexpr int kTableBits = 0;
#endif

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
