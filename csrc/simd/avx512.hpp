// AVX-512 (F, DQ, BW, VL): 64-byte registers, and a mask register for each lane-wise condition.
#pragma once

#include <immintrin.h>

#include "simd/vectors.hpp"

namespace rk::RK_ISA {

// Rows of a micro-tile (micro_kernel.hpp): with 2 vectors of columns, 24 accumulators + 2 columns of B, of 32
// registers.
static constexpr int kTileRows = 12;
// Micro-tiles in a strip of rows (walk/pairs.hpp): one reads 10.7 bytes of packed columns a cycle, of the 64
// that L2 delivers.
static constexpr int kStripTiles = 1;
// Relations of more bytes than this are written past the caches.
static constexpr long kStreamBytes = 12L << 20;

// Stores that bypass the caches, p on a multiple of the vector's size; stream_fence() must follow before
// another thread reads the values.
RK_INLINE void stream(float* p, Vf v) { _mm512_stream_ps(p, (__m512)v); }
RK_INLINE void stream(double* p, Vd v) { _mm512_stream_pd(p, (__m512d)v); }
RK_INLINE void stream_fence() { _mm_sfence(); }

// Lanes from n on are zero and not read.
RK_INLINE Vf load_first(const float* p, long n) {
    if (n >= kLanes<float>) return load(p);
    return (Vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}
RK_INLINE Vd load_first(const double* p, long n) {
    if (n >= kLanes<double>) return load(p);
    return (Vd)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1u), p);
}

// Lanes from n on are not written.
RK_INLINE void store_first(float* p, Vf v, long n) {
    if (n >= kLanes<float>) return store(p, v);
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), (__m512)v);
}
RK_INLINE void store_first(double* p, Vd v, long n) {
    if (n >= kLanes<double>) return store(p, v);
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1u), (__m512d)v);
}

// a * b + c, rounded once.
RK_INLINE Vf fma(Vf a, Vf b, Vf c) { return (Vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
RK_INLINE Vd fma(Vd a, Vd b, Vd c) { return (Vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }

// True if fma() rounds once; double-double arithmetic may rely on it.
inline constexpr bool kFusedMultiplyAdd = true;

RK_INLINE Vf sqrt(Vf a) { return (Vf)_mm512_maskz_sqrt_ps(0xffff, (__m512)a); }
RK_INLINE Vd sqrt(Vd a) { return (Vd)_mm512_maskz_sqrt_pd(0xff, (__m512d)a); }

// The larger of a and b, and the smaller; b where either is NaN or both are zero (the rule of x86 MAXPS).
RK_INLINE Vf max(Vf a, Vf b) { return (Vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
RK_INLINE Vd max(Vd a, Vd b) { return (Vd)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b); }
RK_INLINE Vf min(Vf a, Vf b) { return (Vf)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
RK_INLINE Vd min(Vd a, Vd b) { return (Vd)_mm512_maskz_min_pd(0xff, (__m512d)a, (__m512d)b); }

// Bit l set where lane l of the mask is true.
RK_INLINE std::uint32_t bits(If mask) { return _mm512_movepi32_mask((__m512i)mask); }
RK_INLINE std::uint32_t bits(Id mask) { return _mm512_movepi64_mask((__m512i)mask); }
// Bit l set where not a <= b in lane l: where a is greater, or one of them is NaN.
RK_INLINE std::uint32_t bits_not_at_most(Vf a, Vf b) {
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
}
RK_INLINE std::uint32_t bits_not_at_most(Vd a, Vd b) {
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
}

// Lane l of the result is lane index[l] of a table of 2^kTableBits values; higher bits of the index are
// ignored.
template <class T>
inline constexpr int kTableBits = sizeof(T) == 4 ? 4 : 3;
RK_INLINE Vf lookup(Vf table, If index) {
    return (Vf)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index, (__m512)table);
}
RK_INLINE Vd lookup(Vd table, Id index) {
    return (Vd)_mm512_maskz_permutexvar_pd(0xff, (__m512i)index, (__m512d)table);
}

// Products of the low 32 bits of lanes, as 64 bits.
RK_INLINE Id product_of_words(Id a, std::uint32_t b) {
    const Id m = Id{} + (std::int64_t)b;
    return (Id)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)m);
}

}  // namespace rk::RK_ISA
