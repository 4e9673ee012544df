// AVX2 with FMA: 32-byte registers.
#pragma once

#include <immintrin.h>

#include <limits>

#include "simd/vectors.hpp"

namespace rk::RK_ISA {

// Rows of a micro-tile (micro_kernel.hpp): with 2 vectors of columns, 12 accumulators + 2 + 1 broadcast, of
// 16 registers.
static constexpr int kTileRows = 6;
// Micro-tiles in a strip of rows (walk/pairs.hpp). One would read 10.7 bytes of packed columns a cycle from
// L2, a third of what it delivers at best, and was 5 to 12 % slower; with four, three of which find a panel
// in L1, it is 2.7.
static constexpr int kStripTiles = 4;
// No relation is written past the caches: on Zen 3, 32-byte stores past them cost 10 to 30 % more than the
// read of each line that they save, and twice that in pages that the system has just cleared in the caches.
static constexpr long kStreamBytes = std::numeric_limits<long>::max();

// Stores that bypass the caches, p on a multiple of the vector's size; stream_fence() must follow before
// another thread reads the values.
RK_INLINE void stream(float* p, Vf v) { _mm256_stream_ps(p, (__m256)v); }
RK_INLINE void stream(double* p, Vd v) { _mm256_stream_pd(p, (__m256d)v); }
RK_INLINE void stream_fence() { _mm_sfence(); }

// Lanes from n on are zero and not read.
RK_INLINE Vf load_first(const float* p, long n) {
    if (n >= kLanes<float>) return load(p);
    return (Vf)_mm256_maskload_ps(p, (__m256i)first_lanes<float>(n));
}
RK_INLINE Vd load_first(const double* p, long n) {
    if (n >= kLanes<double>) return load(p);
    return (Vd)_mm256_maskload_pd(p, (__m256i)first_lanes<double>(n));
}

// Lanes from n on are not written.
RK_INLINE void store_first(float* p, Vf v, long n) {
    if (n >= kLanes<float>) return store(p, v);
    _mm256_maskstore_ps(p, (__m256i)first_lanes<float>(n), (__m256)v);
}
RK_INLINE void store_first(double* p, Vd v, long n) {
    if (n >= kLanes<double>) return store(p, v);
    _mm256_maskstore_pd(p, (__m256i)first_lanes<double>(n), (__m256d)v);
}

// a * b + c, rounded once.
RK_INLINE Vf fma(Vf a, Vf b, Vf c) { return (Vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
RK_INLINE Vd fma(Vd a, Vd b, Vd c) { return (Vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }

// True if fma() rounds once; double-double arithmetic may rely on it.
inline constexpr bool kFusedMultiplyAdd = true;

RK_INLINE Vf sqrt(Vf a) { return (Vf)_mm256_sqrt_ps((__m256)a); }
RK_INLINE Vd sqrt(Vd a) { return (Vd)_mm256_sqrt_pd((__m256d)a); }

// The larger of a and b, and the smaller; b where either is NaN or both are zero (the rule of x86 MAXPS).
RK_INLINE Vf max(Vf a, Vf b) { return (Vf)_mm256_max_ps((__m256)a, (__m256)b); }
RK_INLINE Vd max(Vd a, Vd b) { return (Vd)_mm256_max_pd((__m256d)a, (__m256d)b); }
RK_INLINE Vf min(Vf a, Vf b) { return (Vf)_mm256_min_ps((__m256)a, (__m256)b); }
RK_INLINE Vd min(Vd a, Vd b) { return (Vd)_mm256_min_pd((__m256d)a, (__m256d)b); }

// Bit l set where lane l of the mask is true.
RK_INLINE std::uint32_t bits(If mask) { return (std::uint32_t)_mm256_movemask_ps((__m256)mask); }
RK_INLINE std::uint32_t bits(Id mask) { return (std::uint32_t)_mm256_movemask_pd((__m256d)mask); }
// Bit l set where not a <= b in lane l: where a is greater, or one of them is NaN.
RK_INLINE std::uint32_t bits_not_at_most(Vf a, Vf b) { return bits((If) ~(a <= b)); }
RK_INLINE std::uint32_t bits_not_at_most(Vd a, Vd b) { return bits((Id) ~(a <= b)); }

// Lane l of the result is lane index[l] of a table of 2^kTableBits values; higher bits of the index are
// ignored. 0: there is no such instruction for this type.
template <class T>
inline constexpr int kTableBits = sizeof(T) == 4 ? 3 : 0;
RK_INLINE Vf lookup(Vf table, If index) {
    return (Vf)_mm256_permutevar8x32_ps((__m256)table, (__m256i)index);
}

// Products of the low 32 bits of lanes, as 64 bits.
RK_INLINE Id product_of_words(Id a, std::uint32_t b) {
    const Id m = Id{} + (std::int64_t)b;
    return (Id)_mm256_mul_epu32((__m256i)a, (__m256i)m);
}

}  // namespace rk::RK_ISA
